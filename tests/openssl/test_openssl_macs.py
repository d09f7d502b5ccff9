"""MACs through the provider: the same tags as without it, whoever computes them."""

from __future__ import annotations

import pytest
from hosts import Host

KEY = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
DATA = bytes(range(256)) * 33

OURS = [
    "-digest SHA256 -macopt hexkey:00112233 HMAC",
    "-digest sha512-256 -macopt key:abc HMAC",
    "-digest 2.16.840.1.101.3.4.2.2 -macopt key:abc HMAC",
    "-digest BLAKE2b512 -macopt key:abc HMAC",
    f"-cipher aes-128-cbc -macopt hexkey:{KEY[:32]} CMAC",
    f"-cipher AES256 -macopt hexkey:{KEY} CMAC",
    f"-cipher AES-256-GCM -macopt hexkey:{KEY} -macopt hexiv:{KEY[:22]} GMAC",
    f"-cipher id-aes192-GCM -macopt hexkey:{KEY[:48]} -macopt hexiv:{KEY[:40]} GMAC",
    f"-macopt hexkey:{KEY} POLY1305",
    f"-macopt hexkey:{KEY} -macopt size:20 -macopt hexsalt:0011 -macopt custom:xx BLAKE2BMAC",
    f"-macopt hexkey:{KEY} BLAKE2SMAC",
]

#: Ours by name, but not over these: the host's own does it.
HOSTS = [
    "-digest RIPEMD160 -macopt key:abc HMAC",
    "-digest md5-sha1 -macopt key:abc HMAC",
    f"-cipher camellia-192-cbc -macopt hexkey:{KEY[:48]} CMAC",
    f"-cipher aria-128-cbc -macopt hexkey:{KEY[:32]} CMAC",
]


@pytest.mark.parametrize("arguments", [*OURS, *HOSTS])
def test_openssl_mac(whole: Host, arguments: str) -> None:
    command = ("openssl", "mac", *arguments.split())
    wanted = whole.run(*command, given=DATA, OPENSSL_CONF="/dev/null")
    assert len(wanted) > 16
    assert whole.run(*command, given=DATA) == wanted
    nobody = {"CRYPTOFD_DISABLE": "software,kernel"}
    whole.run(*command, given=DATA, fails=arguments in OURS, **nobody)


PYCA = """
    from cryptography.hazmat.primitives import cmac, hashes, hmac, poly1305
    from cryptography.hazmat.primitives.ciphers import algorithms
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.exceptions import InvalidSignature
    data = bytes(range(256)) * 33
    for hash in (hashes.SHA256(), hashes.SHA3_512(), hashes.SM3(), hashes.SHA512_224()):
        one = hmac.HMAC(b"key" * 40, hash)
        one.update(data[:77])
        two = one.copy()
        one.update(data[77:])
        print(one.finalize().hex(), two.finalize().hex())
    for cipher in (algorithms.AES(b"k" * 32), TripleDES(b"k" * 8 + b"l" * 8 + b"m" * 8)):
        one = cmac.CMAC(cipher)
        one.update(data[:77])
        two = one.copy()
        one.update(data[77:])
        print(one.finalize().hex(), two.finalize().hex())
    print(poly1305.Poly1305.generate_tag(b"k" * 32, data).hex())
    wrong = hmac.HMAC(b"key", hashes.SHA256())
    try:
        wrong.verify(bytes(32))
    except InvalidSignature:
        print("refused")
"""


def test_pycas_wheel(whole: Host) -> None:
    said = whole.python(PYCA)
    assert said == whole.python(PYCA, OPENSSL_CONF="/dev/null")
    assert "refused" in said
    whole.python(PYCA, fails=True, CRYPTOFD_DISABLE="software,kernel")

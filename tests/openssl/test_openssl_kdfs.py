"""Key derivation and random bytes through the provider."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosts import Host

HASH = "-kdfopt digest:SHA256 -kdfopt key:abc -kdfopt salt:def -kdfopt info:ghi"
KBKDF = f"{HASH} -kdfopt mac:HMAC"
SCRYPT = "-kdfopt pass:abc -kdfopt salt:def -kdfopt n:1024 -kdfopt r:8 -kdfopt p:2"

OURS = [
    f"-keylen 40 {HASH} HKDF",
    f"-keylen 40 {KBKDF} KBKDF",
    f"-keylen 77 {KBKDF} -kdfopt use-l:0 KBKDF",
    f"-keylen 77 {KBKDF} -kdfopt use-separator:0 KBKDF",
    "-keylen 40 -kdfopt digest:SHA1 -kdfopt pass:abc -kdfopt salt:def -kdfopt iter:5000 PBKDF2",
    "-keylen 40 -kdfopt pass:abc -kdfopt salt:def -kdfopt iter:77 PBKDF2",
    f"-keylen 40 {SCRYPT} SCRYPT",
]

#: Ours by name, but not so: the host's own does it.
HOSTS = [
    f"-keylen 40 {HASH} -kdfopt mode:EXPAND_ONLY HKDF",
    f"-keylen 32 {HASH} -kdfopt mode:EXTRACT_ONLY HKDF",
    f"-keylen 77 {KBKDF} -kdfopt mode:feedback KBKDF",
    "-keylen 40 -kdfopt digest:ripemd160 -kdfopt pass:a -kdfopt salt:d -kdfopt iter:50 PBKDF2",
]


@pytest.mark.parametrize("arguments", [*OURS, *HOSTS])
def test_openssl_kdf(whole: Host, arguments: str) -> None:
    command = ("openssl", "kdf", *arguments.split())
    wanted = whole.run(*command, OPENSSL_CONF="/dev/null")
    assert len(wanted) > 90
    assert whole.run(*command) == wanted
    if arguments in OURS:
        whole.run(*command, fails=True, CRYPTOFD_DISABLE="software,kernel")


def test_the_hosts_limits_stay(whole: Host) -> None:
    command = f"openssl kdf -keylen 40 {SCRYPT} -kdfopt maxmem_bytes:1000 SCRYPT"
    assert b"memory limit exceeded" in whole.run(*command.split(), fails=True)


UNKNOWN = """
    import ctypes
    from libcrypto import Param, function
    pointer = ctypes.c_void_p
    fetch = function("EVP_KDF_fetch", pointer, ctypes.c_char_p, ctypes.c_char_p, result=pointer)
    fresh = function("EVP_KDF_CTX_new", pointer, result=pointer)
    ask = function("EVP_KDF_CTX_get_params", pointer, pointer)
    for name in (b"HKDF", b"KBKDF", b"PBKDF2", b"SCRYPT"):
        kdf = fetch(None, name, b"provider=cryptofd")
        value = ctypes.c_int(7)
        asked = (Param * 2)(Param(b"nobody-knows", 1, ctypes.addressof(value), 4, 2**64 - 1))
        assert ask(fresh(kdf), asked) == 1, name
        assert (value.value, asked[0].return_size) == (7, 2**64 - 1), name
"""


def test_what_is_not_known_is_left(whole: Host) -> None:
    """Some of the host's own say -2 then, which is no failure."""
    whole.python(UNKNOWN, PYTHONPATH=str(Path(__file__).parent))


PYCA = """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf import hkdf, pbkdf2, scrypt
    for hash in (hashes.SHA256(), hashes.SHA512_224(), hashes.SM3()):
        print(hkdf.HKDF(hash, 77, b"salt", b"info").derive(b"key").hex())
        print(hkdf.HKDFExpand(hash, 33, b"info").derive(b"key" * 20).hex())
        print(pbkdf2.PBKDF2HMAC(hash, 33, b"salt", 1000).derive(b"key").hex())
    print(scrypt.Scrypt(b"salt", 33, 1024, 8, 2).derive(b"key").hex())
"""


def test_pycas_wheel(whole: Host) -> None:
    assert whole.python(PYCA) == whole.python(PYCA, OPENSSL_CONF="/dev/null")


def test_random_bytes(whole: Host) -> None:
    host = Host(whole.file.parent)
    text = host.file.read_text()
    text = text.replace("[providers]", "random = generators\n[providers]", 1)
    host.file = host.file.with_name("random.cnf")
    host.file.write_text(text + "[generators]\nrandom = CRYPTOFD-RAND\n")
    got = {host.run("openssl", "rand", "-hex", "100000") for _ in range(3)}
    assert len(got) == 3
    assert {len(one.strip()) for one in got} == {200_000}
    said = host.run("openssl", "rand", "4", fails=True, CRYPTOFD_DISABLE="software,kernel")
    assert b"no engine serves stdrng" in said

"""Digests through the provider, in hashlib and in the OpenSSL that PyCA's wheel has in it."""

from __future__ import annotations

import hashlib
import json

from hosts import Host

#: hashlib's names, without those whose state OpenSSL keeps in two (md5-sha1).
NAMES = [
    "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha512_256", "sha3_224", "sha3_256",
    "sha3_384", "sha3_512", "shake_128", "shake_256", "sm3", "blake2b512", "blake2s256",
]  # fmt: skip

DATA = bytes(range(256)) * 40

HASHLIB = """
    import _hashlib, json
    data = bytes(range(256)) * 40
    out = {}
    for name in %r:
        size = (77,) if name.startswith("shake") else ()
        running = _hashlib.new(name)
        for cut in range(0, len(data), 97):
            running.update(data[cut : cut + 97])
            if cut == 970:
                copy = running.copy()
        out[name] = [
            running.hexdigest(*size), running.hexdigest(*size), copy.hexdigest(*size),
            _hashlib.new(name).hexdigest(*size), _hashlib.new(name, data).hexdigest(*size),
        ]
    print(json.dumps(out))
"""


def reference(name: str, data: bytes) -> str:
    match name:
        case "blake2b512":
            return hashlib.blake2b(data).hexdigest()
        case "blake2s256":
            return hashlib.blake2s(data).hexdigest()
        case "shake_128" | "shake_256":
            return hashlib.new(name, data).hexdigest(77)  # type: ignore[call-arg]
    return hashlib.new(name, data).hexdigest()


def test_hashlib(only: Host) -> None:
    got = json.loads(only.python(HASHLIB % (NAMES,)))
    for name in NAMES:
        whole = reference(name, DATA)
        wanted = [whole, whole, reference(name, DATA[:1067]), reference(name, b""), whole]
        assert got[name] == wanted, name


def test_hashlib_is_ours(only: Host) -> None:
    only.python("import _hashlib; _hashlib.new('sha256')", fails=True, CRYPTOFD_DISABLE="software")


PYCA = """
    from cryptography.hazmat.primitives import hashes
    data = bytes(range(256)) * 40
    one = hashes.Hash(hashes.SHA256())
    one.update(data[:1000])
    two = one.copy()
    one.update(data[1000:])
    print(one.finalize().hex(), two.finalize().hex())
    xof = hashes.Hash(hashes.SHAKE256(77))
    xof.update(data)
    print(xof.finalize().hex())
"""


def test_the_openssl_in_pycas_wheel(whole: Host) -> None:
    said = whole.python(PYCA).split()
    assert said == [
        reference("sha256", DATA), reference("sha256", DATA[:1000]), reference("shake_256", DATA)
    ]  # fmt: skip
    whole.python(PYCA, fails=True, CRYPTOFD_DISABLE="software,kernel")


SQUEEZED = """
    import hashlib, random, sys
    from cryptography.hazmat.primitives import hashes
    for name, kind in (("shake_128", hashes.SHAKE128), ("shake_256", hashes.SHAKE256)):
        one, rng = hashes.XOFHash(kind(digest_size=sys.maxsize)), random.Random(1)
        one.update(b"message")
        pieces = [one.squeeze(rng.choice((0, 1, 7, 300, 5000))) for _ in range(100)]
        copied = one.copy()
        assert copied.squeeze(100) == one.squeeze(100)
        made = b"".join(pieces)
        assert hashlib.new(name, b"message").digest(len(made)) == made
    print("fine")
"""


def test_an_xof_gives_piece_by_piece(only: Host) -> None:
    """EVP_DigestSqueeze, which came with OpenSSL 3.3."""
    assert only.python(SQUEEZED).strip() == "fine"

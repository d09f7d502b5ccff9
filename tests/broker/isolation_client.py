"""Processes of test_isolation.py.

``isolation_client.py import SOCKET``: makes a key of each kind, imports it, and prints pieces of
each, in hexadecimal: enough to look for.
``isolation_client.py use SOCKET``: works with all of them, says so, and waits.
``isolation_client.py near``: works with keys of its own in process, prints pieces, and waits.
"""

from __future__ import annotations

import collections
import json
import os
import sys
from typing import Any

import cryptofd
from cryptofd import _core
from cryptofd.broker.client import Connection

SECRET = {
    "gcm(aes)": 32, "ccm(aes)": 32, "gcm-siv(aes)": 32, "rfc7539(chacha20,poly1305)": 32,
    "cbc(aes)": 32, "ctr(aes)": 32, "xts(aes)": 64, "chacha20": 32, "hmac(sha256)": 32,
    "cmac(aes)": 32, "hkdf(sha256)": 32, "kdf108-ctr(hmac(sha256))": 32, "kw(aes)": 32,
    "kwp(aes)": 32,
}  # fmt: skip
PAIRS = {
    "rsa": {"sign", "sign-digest", "verify", "encrypt", "decrypt"},
    "ecdsa-nist-p256": {"sign", "verify"},
    "ecdsa-nist-p521": {"sign", "verify"},
    "ed25519": {"sign", "verify"},
    "ecdh-nist-p256": {"derive", "derive-bytes"},
    "x25519": {"derive", "derive-bytes"},
    "ml-kem-768": {"derive-bytes"},
    "ml-dsa-65": {"sign", "verify"},
}
BYTES = {"hkdf(sha256)", "kdf108-ctr(hmac(sha256))"}
IV = bytes(16)
#: Engines besides the one that is best.
OTHERS = ("openssl", "kernel")


def usage(algorithm: str) -> set[str] | None:
    return {"derive", "derive-bytes"} if algorithm in BYTES else PAIRS.get(algorithm)


def pieces(algorithm: str, key: bytes) -> list[bytes]:
    """What betrays a key: pieces of its secret numbers, in both orders of bytes."""
    if algorithm in SECRET:
        return [key[:16], key[-16:]]
    from cryptography.hazmat.primitives import serialization

    if algorithm.startswith("ml-"):
        # The seed is the end of the DER that begins as it.
        return [key[-16:]]
    private: Any = serialization.load_der_private_key(key, None)
    if algorithm == "rsa":
        numbers = private.private_numbers()
        found = [numbers.p, numbers.q, numbers.d]
    elif algorithm.startswith("ec"):
        found = [private.private_numbers().private_value]
    else:
        raw = private.private_bytes_raw()
        return [raw[:16], raw[16:]]
    whole = [number.to_bytes((number.bit_length() + 7) // 8, "big") for number in found]
    return [one[8:24] for one in whole] + [one[8:24][::-1] for one in whole]


def made(algorithm: str) -> bytes:
    if algorithm in SECRET:
        return os.urandom(SECRET[algorithm])
    private, _ = _core.generate(algorithm, 2048 if algorithm == "rsa" else None)
    return private


def offered(broker: Connection | None) -> list[str]:
    """Kinds of keys that this broker keeps."""
    return [*SECRET, *PAIRS]


def bring(socket: str) -> None:
    broker = Connection(socket)
    told = {}
    for algorithm in offered(broker):
        key = made(algorithm)
        broker.keys.import_key(label(algorithm), algorithm, key, usage=usage(algorithm))
        told[algorithm] = [piece.hex() for piece in pieces(algorithm, key)]
    print(json.dumps(told), flush=True)


def label(algorithm: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in algorithm).strip("-")


def work(algorithm: str, fd: cryptofd.CryptoFD, brokered: bool) -> list[Any]:
    """Every way of using it; what has to live on."""
    kept: list[Any] = [fd]
    if algorithm in ("gcm(aes)", "ccm(aes)", "gcm-siv(aes)", "rfc7539(chacha20,poly1305)"):
        if brokered:
            assert fd.unseal(fd.seal(b"data", aad=b"h"), aad=b"h") == b"data"
        else:
            fd.encrypt(b"data", iv=IV[:12])
        kept.append(fd.clone())
    elif algorithm in ("cbc(aes)", "ctr(aes)", "xts(aes)", "chacha20"):
        box = fd.encrypt(bytes(64), iv=IV)
        assert fd.decrypt(box, iv=IV) == bytes(64)
        if algorithm != "xts(aes)":
            stream = fd.stream("encrypt", iv=IV)
            stream.update(bytes(32))
            kept.append(stream)
    elif algorithm in ("hmac(sha256)", "cmac(aes)"):
        fd.update(b"data")
        kept.append(fd.clone())
        fd.digest()
        fd.update(b"more")
    elif algorithm in BYTES:
        fd.derive(32, info=b"x")
    elif algorithm == "rsa":
        fd.verify(
            fd.sign(b"data", hash="sha256", scheme="pss"), b"data", hash="sha256", scheme="pss"
        )
        box = fd.encrypt(b"data", hash="sha256", scheme="oaep")
        assert fd.decrypt(box, hash="sha256", scheme="oaep") == b"data"
    elif algorithm.startswith("ecdsa"):
        fd.verify(fd.sign(b"data", hash="sha256"), b"data", hash="sha256")
    elif algorithm in ("ed25519", "ml-dsa-65"):
        fd.verify(fd.sign(b"data"), b"data")
    elif algorithm in ("ecdh-nist-p256", "x25519"):
        _, public = _core.generate(algorithm)
        assert public is not None
        fd.agree(public)
    elif algorithm == "ml-kem-768":
        box, secret = fd.encapsulate()
        assert fd.decapsulate(box) == secret
    return kept


def use(socket: str) -> None:
    broker = Connection(socket)
    kept = []
    served: collections.Counter[str] = collections.Counter()
    for algorithm in offered(broker):
        if algorithm in ("kw(aes)", "kwp(aes)"):
            # They work inside: for the broker's calls.
            box = broker.keys.wrap(
                "lent", by=label(algorithm), format=algorithm[: algorithm.index("(")]
            )  # type: ignore[arg-type]
            assert box
            continue
        fd = cryptofd.open(algorithm, key=f"cryptofd:{label(algorithm)}", broker=broker)
        kept += work(algorithm, fd, True)
        for engine in OTHERS:
            try:
                fd = cryptofd.open(
                    algorithm, key=f"cryptofd:{label(algorithm)}", broker=broker, engine=engine
                )
            except cryptofd.CryptoFDError:
                continue
            kept += work(algorithm, fd, True)
            served[engine] += 1
    print("ready", json.dumps(served), flush=True)
    sys.stdin.read()


def near() -> None:
    kept, told = [], {}
    for algorithm in offered(None):
        key = made(algorithm)
        fd = cryptofd.open(algorithm, key=key)
        if algorithm not in ("kw(aes)", "kwp(aes)"):
            kept += work(algorithm, fd, False)
        kept.append(fd)
        told[algorithm] = [piece.hex() for piece in pieces(algorithm, key)]
    print(json.dumps(told), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    {"import": bring, "use": use, "near": near}[sys.argv[1]](*sys.argv[2:])

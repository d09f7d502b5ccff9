"""Single calls from Python: AES-256-GCM against PyCA's AESGCM, SHA-256 against hashlib."""

from __future__ import annotations

import hashlib
import os

import cryptofd
from bench.measure import Effort, Figure, batch, figure, in_turns

GCM_TARGETS = {16: 2.0, 1024: 1.8, 16 << 10: 1.2, 1 << 20: 1.0}
SHA_TARGETS = {16: 1.0, 1 << 20: 1.0}


def size(number: int) -> str:
    """16 B, 1 KiB, 1 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or number % 1024:
            return f"{number} {unit}"
        number //= 1024
    return f"{number} TiB"


def gcm(effort: Effort) -> list[Figure]:
    """One-shot encryption, both with a fresh bytes object as the result."""
    import cryptography
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key, iv, aad = os.urandom(32), os.urandom(12), b"header"
    ours, theirs = cryptofd.open("gcm(aes)", key=key).encrypt, AESGCM(key).encrypt
    name = f"PyCA {cryptography.__version__} AESGCM"
    figures = []
    for length, target in GCM_TARGETS.items():
        data = os.urandom(length)
        if ours(data, iv, aad) != theirs(iv, data, aad):
            raise SystemExit("bench: the two disagree on AES-256-GCM")
        pairs = in_turns(
            batch(lambda data=data: ours(data, iv, aad), effort.seconds),  # type: ignore[misc]
            batch(lambda data=data: theirs(iv, data, aad), effort.seconds),  # type: ignore[misc]
            effort.pairs,
        )
        figures.append(figure(f"AES-256-GCM, {size(length)}", name, target, pairs))
    return figures


def sha256(effort: Effort) -> list[Figure]:
    """``sha256(data).digest()``."""
    import ssl

    from cryptofd.doors import hashlib as door

    figures = []
    ours, theirs = door.sha256, hashlib.sha256
    for length, target in SHA_TARGETS.items():
        data = os.urandom(length)
        if ours(data).digest() != theirs(data).digest():
            raise SystemExit("bench: the two disagree on SHA-256")
        pairs = in_turns(
            batch(lambda data=data: ours(data).digest(), effort.seconds),  # type: ignore[misc]
            batch(lambda data=data: theirs(data).digest(), effort.seconds),  # type: ignore[misc]
            effort.pairs,
        )
        name = f"hashlib ({ssl.OPENSSL_VERSION.rsplit(maxsplit=3)[0]})"
        figures.append(
            figure(f"SHA-256 by doors.hashlib, {size(length)}", name, target, pairs, repr(ours()))
        )
    return figures

"""Digests and random numbers in one call."""

from __future__ import annotations

import functools
from typing import Final

from cryptofd._core import HashFactory
from cryptofd.doors.nss.arguments import integer, octets, takes, unsigned
from cryptofd.doors.nss.error import failure
from cryptofd.doors.nss.library import require
from cryptofd.doors.nss.mechanisms import Mechanism, mechanism_of_tag, served
from cryptofd.doors.nss.oids import TAGS, description, is_known
from cryptofd.errors import CryptoFDError


@functools.cache
def factory(algorithm: str) -> HashFactory:
    """The session of a hash, which every context starts from."""
    return HashFactory(algorithm)


def hash_of_tag(tag: int) -> Mechanism | None:
    """The hash that is served under this tag; None where there is none."""
    number = mechanism_of_tag(tag)
    known = served(number) if number is not None else None
    return known if known and known.kind == "hash" else None


def _digest(tag: int, data: bytes) -> bytes:
    require("SEC_ERROR_NO_MODULE")
    known = hash_of_tag(tag)
    if known is None:
        raise failure("SEC_ERROR_NO_MODULE")
    try:
        return factory(known.algorithm).digest(data)
    except CryptoFDError as error:
        raise failure("SEC_ERROR_NO_MODULE", str(error)) from error


#: Hashes that NSS has and nobody here: it is their computing that fails, not their size.
_OTHERS: Final = frozenset({TAGS["SEC_OID_MD2"]})


@takes(unsigned, octets)
def hash_buf(hash_alg: int, data: bytes) -> bytes:
    """The digest of ``data``; the hash by its tag (SEC_OID_*)."""
    # A tag is a C enumeration: of a longer number, its low bits.
    hash_alg &= 0xFFFFFFFF
    if hash_of_tag(hash_alg) is None and hash_alg not in _OTHERS:
        raise failure(
            "SEC_ERROR_INVALID_ALGORITHM" if is_known(hash_alg) else "SEC_ERROR_UNRECOGNIZED_OID",
            f"unable to determine resulting hash length for hash_alg = {description(hash_alg)}",
        )
    return _digest(hash_alg, data)


@takes(octets)
def md5_digest(data: bytes) -> bytes:
    """MD5: 16 bytes."""
    return _digest(TAGS["SEC_OID_MD5"], data)


@takes(octets)
def sha1_digest(data: bytes) -> bytes:
    """SHA-1: 20 bytes."""
    return _digest(TAGS["SEC_OID_SHA1"], data)


@takes(octets)
def sha256_digest(data: bytes) -> bytes:
    """SHA-256: 32 bytes."""
    return _digest(TAGS["SEC_OID_SHA256"], data)


@takes(octets)
def sha512_digest(data: bytes) -> bytes:
    """SHA-512: 64 bytes."""
    return _digest(TAGS["SEC_OID_SHA512"], data)


def random_bytes(size: int) -> bytes:
    """So many random bytes, of the session that serves them."""
    import cryptofd

    try:
        with cryptofd.open("stdrng") as session:
            return session.read(size) if size else b""
    except CryptoFDError as error:
        raise failure("SEC_ERROR_NEED_RANDOM", str(error)) from error


@takes(integer)
def generate_random(num_bytes: int) -> bytes:
    """So many random bytes."""
    if num_bytes < 0:
        raise ValueError("byte count must be non-negative")
    require("SEC_ERROR_NO_TOKEN")
    return random_bytes(num_bytes)

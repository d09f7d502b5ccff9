"""The standard hmac's interface, on cryptofd's engines.

``from cryptofd.doors import hmac`` and the program goes on as before. ``digestmod`` may be a name,
a constructor of ``cryptofd.doors.hashlib`` or of the standard hashlib: all are served by a session
of ``hmac(...)``. A constructor of somebody else's keeps working: the standard module runs HMAC over
it.
"""

from __future__ import annotations

import hmac as _standard
from collections.abc import Callable
from hmac import compare_digest, trans_5C, trans_36
from typing import TYPE_CHECKING, Any, Self

from cryptofd._core import Hasher, HashFactory
from cryptofd.doors import hashlib as _hashlib
from cryptofd.errors import CryptoFDError, UnknownAlgorithm

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["HMAC", "compare_digest", "digest", "digest_size", "new", "trans_5C", "trans_36"]

#: Depends on the hash: ask the HMAC object.
digest_size = None

# Beyond this HMAC's own first step (RFC 2104, section 2: a long key is hashed) is done here.
_LONGEST_KEY = 1 << 20


def _hash_of(digestmod: Any) -> str | None:
    """The table's name of the hash that is meant; None for a constructor of somebody else's."""
    if isinstance(digestmod, str):
        return _hashlib.kernel_name(digestmod)
    if isinstance(digestmod, HashFactory):
        return digestmod.algorithm
    maker = getattr(digestmod, "__self__", None)
    if isinstance(maker, HashFactory):
        return maker.algorithm
    if digestmod is _hashlib.blake2b or digestmod is _hashlib.blake2s:
        return digestmod.name
    import hashlib

    for name in hashlib.algorithms_guaranteed:
        if digestmod is getattr(hashlib, name, None):
            return _hashlib.kernel_name(name)
    return None


def _session(key: Buffer, name: str) -> HashFactory:
    if memoryview(key).nbytes > _LONGEST_KEY:
        key = _hashlib.new(name, key).digest()
    try:
        return HashFactory(f"hmac({name})", key)
    except UnknownAlgorithm as error:
        raise ValueError(f"unsupported hash type {name} for HMAC") from error
    except CryptoFDError as error:
        raise ValueError(f"unsupported hash type {name}: {error.strerror}") from error


class HMAC:
    """A running HMAC (RFC 2104)."""

    #: The block size that is assumed for a constructor that tells none.
    blocksize = 64

    __slots__ = ("_hmac", "block_size", "digest_size")

    _hmac: Hasher | _standard.HMAC
    block_size: int
    digest_size: int

    def __init__(
        self, key: bytes | bytearray, msg: Buffer | None = None, digestmod: Any = ""
    ) -> None:
        if not isinstance(key, (bytes, bytearray)):
            raise TypeError(f"key: expected bytes or bytearray, but got {type(key).__name__!r}")
        if not digestmod:
            raise TypeError("Missing required parameter 'digestmod'.")
        if _hash_of(digestmod) is None:
            self._init_old(key, msg, digestmod)
        else:
            self._init_hmac(key, msg, digestmod)

    # The names are those of the standard module's two ways.
    def _init_hmac(self, key: bytes | bytearray, msg: Buffer | None, digestmod: Any) -> None:
        name = _hash_of(digestmod)
        if name is None:
            raise ValueError(f"{digestmod!r} is no hash of cryptofd's")
        self._take(_session(key, name)(msg))

    def _init_old(self, key: bytes | bytearray, msg: Buffer | None, digestmod: Any) -> None:
        if isinstance(digestmod, str):
            name = digestmod

            def digestmod(data: Buffer = b"") -> Any:
                return _hashlib.new(name, data)

        self._take(_standard.HMAC(key, msg, digestmod))

    def _take(self, running: Hasher | _standard.HMAC) -> None:
        self._hmac = running
        self.digest_size = running.digest_size
        self.block_size = running.block_size

    @property
    def name(self) -> str:
        """As ``hmac-sha256``."""
        return self._hmac.name

    def update(self, msg: Buffer) -> None:
        """Takes more of the message."""
        self._hmac.update(msg)

    def copy(self) -> Self:
        """An independent copy."""
        other = self.__class__.__new__(self.__class__)
        other._hmac = self._hmac.copy()
        other.digest_size = self.digest_size
        other.block_size = self.block_size
        return other

    def digest(self) -> bytes:
        """The MAC of what was taken so far."""
        return self._hmac.digest()

    def hexdigest(self) -> str:
        """The MAC in hexadecimal."""
        return self._hmac.hexdigest()


def new(key: bytes | bytearray, msg: Buffer | None = None, digestmod: Any = "") -> HMAC:
    """A running HMAC; ``digestmod`` is required in spite of its place."""
    return HMAC(key, msg, digestmod)


def digest(key: Buffer, msg: Buffer, digest: str | Callable[..., Any]) -> bytes:
    """The HMAC of ``msg``, all at once."""
    name = _hash_of(digest)
    if name is None:
        return _standard.digest(key, msg, digest)  # type: ignore[arg-type]
    return _session(key, name).digest(msg)

"""Cryptography as a file descriptor: one descriptor does one job with one key.

>>> import cryptofd
>>> fd = cryptofd.open("gcm(aes)", key=bytes(32))
>>> box = fd.encrypt(b"hello", iv=bytes(12), aad=b"header")
>>> fd.decrypt(box, iv=bytes(12), aad=b"header")
b'hello'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptofd._core import NONBLOCK, Completion, CryptoFD, KeyringKey, Stream, adopt, generate, open
from cryptofd.errors import (
    BadSignature,
    BadTag,
    Closed,
    CryptoFDError,
    InvalidArgument,
    KeyRevoked,
    NoEngine,
    NotReady,
    Refused,
    StaleStream,
    TooLarge,
    UnknownAlgorithm,
    Unsupported,
)
from cryptofd.version import __version__

if TYPE_CHECKING:
    import os

    from cryptofd.broker.client import Connection
    from cryptofd.description import Algorithm, Candidate, EngineInfo

__all__ = [
    "NONBLOCK",
    "BadSignature",
    "BadTag",
    "Closed",
    "Completion",
    "CryptoFD",
    "CryptoFDError",
    "InvalidArgument",
    "KeyRevoked",
    "KeyringKey",
    "NoEngine",
    "NotReady",
    "Refused",
    "StaleStream",
    "Stream",
    "TooLarge",
    "UnknownAlgorithm",
    "Unsupported",
    "__version__",
    "adopt",
    "algorithms",
    "connect",
    "engines",
    "explain",
    "generate",
    "open",
]


def algorithms() -> list[Algorithm]:
    """Every algorithm of the table, with its sizes, strength and names."""
    import json

    from cryptofd._core import algorithms as listed
    from cryptofd.description import Algorithm

    return [Algorithm.of(values) for values in json.loads(listed())]


def engines() -> list[EngineInfo]:
    """The engines, best first, with their version or why they are not there."""
    import json

    from cryptofd._core import engines as listed
    from cryptofd.description import EngineInfo

    return [EngineInfo.of(values) for values in json.loads(listed())]


def explain(algorithm: str, **options: Any) -> list[Candidate]:
    """Who would serve ``open(algorithm, **options)``, and why not the others."""
    import json

    from cryptofd._core import explain as asked
    from cryptofd.description import Candidate

    return [Candidate.of(values) for values in json.loads(asked(algorithm, **options))]


def connect(
    address: str | os.PathLike[str] | int | None = None, *, start: bool = True
) -> Connection:
    """A connection to the broker: at a path, over an inherited descriptor, or (None) wherever the
    environment says, the user's own, or the system's. Where nobody listens and the environment
    names none, a private broker of this user's is started (``start``)."""
    from cryptofd.broker.client import connect as connected

    return connected(address, start=start)


def __getattr__(name: str) -> Any:
    # What few programs need costs nothing until they do.
    if name in {"Info", "EngineInfo", "Algorithm", "Candidate", "Reason", "Counts"}:
        from cryptofd import description

        return getattr(description, name)
    if name in {"aio", "control", "doors"}:
        import importlib

        return importlib.import_module(f"cryptofd.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

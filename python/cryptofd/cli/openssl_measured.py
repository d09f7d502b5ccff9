"""What profile `bulk` of the OpenSSL provider finds worth its way on this host."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptofd.cli.openssl_configuration import libcrypto
from cryptofd.cli.output import size


@dataclass(frozen=True)
class Measured:
    """One algorithm."""

    name: str
    #: From how many bytes on it is ours, if ever.
    start: int | None
    #: OpenSSL's time for long messages through ours.
    gain: float

    def __str__(self) -> str:
        start = f" from {size(self.start)} on" if self.start else ""
        return f"{self.name}{start} ({self.gain:g}x)"


class _Param(ctypes.Structure):
    """OSSL_PARAM."""

    _fields_ = [
        ("key", ctypes.c_char_p), ("data_type", ctypes.c_uint), ("data", ctypes.c_void_p),
        ("data_size", ctypes.c_size_t), ("return_size", ctypes.c_size_t),
    ]  # fmt: skip


_TEXT = 4


@contextmanager
def _variables(**values: str | None) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}

    def put(them: dict[str, str | None]) -> None:
        for name, value in them.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(values)
    try:
        yield
    finally:
        put(before)


def measured(library: Path, *, again: bool = False, everybodys: bool = False) -> list[Measured]:
    """All algorithms that were measured, now or before; the programs that come later know it then.
    ``everybodys``: for the system's users, by root."""
    crypto = libcrypto()
    if crypto is None:
        return []
    pointer = ctypes.c_void_p
    for name in ("OSSL_LIB_CTX_new", "OSSL_PROVIDER_load", "EVP_MD_fetch"):
        getattr(crypto, name).restype = pointer
    variables: dict[str, str | None] = {"CRYPTOFD_OPENSSL_PROFILE": "bulk"}
    if again:
        variables["CRYPTOFD_OPENSSL_MEASURE"] = "again"
    if everybodys:
        variables["XDG_CACHE_HOME"] = None
    with _variables(**variables):
        context = pointer(crypto.OSSL_LIB_CTX_new())
        loaded = [
            pointer(crypto.OSSL_PROVIDER_load(context, os.fsencode(one)))
            for one in ("default", library)
        ]
        try:
            if not all(loaded):
                return []
            # The first question has everything measured.
            crypto.EVP_MD_free(pointer(crypto.EVP_MD_fetch(context, b"SHA2-256", None)))
            text = ctypes.create_string_buffer(1 << 16)
            asked = (_Param * 2)(
                _Param(b"measured", _TEXT, ctypes.addressof(text), len(text), 0), _Param()
            )
            if crypto.OSSL_PROVIDER_get_params(loaded[1], asked) != 1 or not text.value:
                return []
        finally:
            for one in loaded:
                if one:
                    crypto.OSSL_PROVIDER_unload(one)
            crypto.OSSL_LIB_CTX_free(context)
    known: dict[str, dict[str, float | None]] = json.loads(text.value)
    return [
        Measured(name, None if one["from"] is None else int(one["from"]), one["gain"] or 1.0)
        for name, one in known.items()
    ]


def summary(all_of: list[Measured]) -> str:
    """For people."""
    if not all_of:
        return "nothing was measured, as there is no place to keep it: OpenSSL does all"
    ours = [str(one) for one in all_of if one.start is not None]
    count = f"{len(ours)} of {len(all_of)} algorithms are faster here"
    return f"{count}: {', '.join(ours)}" if ours else count

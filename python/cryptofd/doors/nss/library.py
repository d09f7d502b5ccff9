"""Starting and ending: what NSS opens databases and modules for, and here little is left of.

Certificates and NSS's own key database are none of this door's; keys that outlive a program are the
broker's. So a database's directory is looked at, and not opened.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptofd.doors.nss.arguments import a, anything, encoded, integer, takes, text, unsigned
from cryptofd.doors.nss.constants import OTHERS
from cryptofd.doors.nss.data import Line, indented, label
from cryptofd.doors.nss.error import failure

#: The version of NSS whose behaviour this is.
VERSION: Final = "3.87.1"

#: What nobody gave.
_MISSING: Final = object()

_lock = threading.Lock()
_globally = False
_contexts: weakref.WeakSet[InitContext] = weakref.WeakSet()

# As python-nss has it: each thread sets its own.
_callbacks = threading.local()


@takes()
def nss_is_initialized() -> bool:
    """Whether one of the ways to start was gone, and not yet back."""
    return _globally or bool(_contexts)


def require(error: str) -> None:
    """Raises ``error`` unless NSS is started."""
    if not (_globally or _contexts):
        raise failure(error)


def _look_at(directory: str, flags: int) -> None:
    if flags & OTHERS["NSS_INIT_NOCERTDB"]:
        return
    if flags & OTHERS["NSS_INIT_FORCEOPEN"]:
        return
    if not directory:
        return
    kind, _, path = directory.rpartition(":")
    if kind not in {"", "sql", "dbm", "extern", "rdb", "multiaccess"}:
        path = directory
    readable = os.access(path, os.R_OK | os.X_OK)
    if flags & OTHERS["NSS_INIT_READONLY"]:
        readable = readable and any(
            (Path(path) / name).exists() for name in ("cert9.db", "cert8.db")
        )
    if not readable:
        raise failure("SEC_ERROR_BAD_DATABASE")


def _start() -> None:
    global _globally
    with _lock:
        _globally = True


@takes(encoded)
def nss_init(cert_dir: str) -> None:
    """Starts, with a directory that has a database; NSPRError where it has none."""
    if not nss_is_initialized():
        _look_at(cert_dir, OTHERS["NSS_INIT_READONLY"])
    _start()


@takes(encoded)
def nss_init_read_write(cert_dir: str) -> None:
    """Starts, with a directory that can be read."""
    if not nss_is_initialized():
        _look_at(cert_dir, 0)
    _start()


@takes()
def nss_init_nodb() -> None:
    """Starts without a database."""
    _start()


@takes(encoded, encoded, encoded, encoded, unsigned, optional=5, keywords=True)
def nss_initialize(
    cert_dir: str = "",
    cert_prefix: str = "",
    key_prefix: str = "",
    secmod_name: str = "",
    flags: int = 0,
) -> None:
    """Starts as the flags (NSS_INIT_*) say; prefixes and module names are NSS's database's."""
    if not nss_is_initialized():
        _look_at(cert_dir, flags)
    _start()


class InitParameters:
    """How a context starts: what NSS calls its tokens and asks of their passwords."""

    _names = (
        "password_required",
        "min_password_len",
        "manufacturer_id",
        "library_description",
        "crypto_token_description",
        "db_token_description",
        "fips_token_description",
        "crypto_slot_description",
        "db_slot_description",
        "fips_slot_description",
    )
    _labels = (
        "Password Required",
        "Minimum Password Length",
        "Manufacturer ID",
        "Library Description",
        "Crypto Token Description",
        "Database Token Description",
        "FIPS Token Description",
        "Crypto Slot Description",
        "Database Slot Description",
        "FIPS Slot Description",
    )

    password_required: bool
    min_password_len: int
    manufacturer_id: str | None
    library_description: str | None
    crypto_token_description: str | None
    db_token_description: str | None
    fips_token_description: str | None
    crypto_slot_description: str | None
    db_slot_description: str | None
    fips_slot_description: str | None

    @takes(*[anything] * 10, optional=10, keywords=True, name="InitParameters")
    def __init__(
        self,
        password_required: Any = _MISSING,
        min_password_len: Any = _MISSING,
        manufacturer_id: Any = _MISSING,
        library_description: Any = _MISSING,
        crypto_token_description: Any = _MISSING,
        db_token_description: Any = _MISSING,
        fips_token_description: Any = _MISSING,
        crypto_slot_description: Any = _MISSING,
        db_slot_description: Any = _MISSING,
        fips_slot_description: Any = _MISSING,
    ) -> None:
        given = locals()
        usual = {"password_required": False, "min_password_len": 0}
        for name in self._names:
            object.__setattr__(self, name, usual.get(name))
            if given[name] is not _MISSING:
                setattr(self, name, given[name])

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "password_required":
            value = bool(value)
        elif name == "min_password_len":
            if not isinstance(value, int):
                raise TypeError(f"The {name} attribute value must be an integer")
        elif name in self._names and not isinstance(value, str):
            raise TypeError(f"argument 1 must be str, not {type(value).__name__}")
        super().__setattr__(name, value)

    @takes(integer, optional=1, keywords=True)
    def format_lines(self, level: int = 0) -> list[Line]:
        """Lines for ``indented_format``."""
        return [
            label(level, what, getattr(self, name))
            for what, name in zip(self._labels, self._names, strict=True)
        ]

    @takes(integer, integer, optional=2, keywords=True)
    def format(self, level: int = 0, indent_len: int = 4) -> str:
        """Its lines, indented."""
        return indented(self.format_lines(level), indent_len)

    def __str__(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._names)


class InitContext:
    """One of several users of NSS in a process: it is started as long as this is kept."""

    def __init__(self) -> None:
        _contexts.add(self)

    @takes()
    def shutdown(self) -> None:
        """Ends this use."""
        if self not in _contexts:
            raise failure("SEC_ERROR_NOT_INITIALIZED")
        if len(_contexts) == 1 and not _globally:
            _end()
        _contexts.discard(self)


@takes(encoded, encoded, encoded, encoded, a(InitParameters), unsigned, optional=6, keywords=True)
def nss_init_context(
    cert_dir: str = "",
    cert_prefix: str = "",
    key_prefix: str = "",
    secmod_name: str = "",
    init_params: InitParameters | None = None,
    flags: int = 0,
) -> InitContext:
    """Starts, for one user in the process; as ``nss_initialize``."""
    if not nss_is_initialized():
        _look_at(cert_dir, flags)
    return InitContext()


@takes(a(InitContext))
def nss_shutdown_context(context: InitContext) -> None:
    """Ends one use."""
    context.shutdown()


def _end() -> None:
    """The last one goes: tells who wanted to know."""
    callback = getattr(_callbacks, "shutdown", None)
    if callback is None:
        return
    _callbacks.shutdown = None
    function, arguments = callback
    try:
        result = function({}, *arguments)
    except Exception:
        # As in NSS: nobody is there to catch it.
        sys.stderr.write("exception in shutdown callback\n")
        sys.excepthook(*sys.exc_info())
        return
    if result is not True:
        raise failure("SEC_ERROR_LIBRARY_FAILURE")


@takes()
def nss_shutdown() -> None:
    """Ends; NSPRError where it had not begun, or the callback says no."""
    global _globally
    if not _globally:
        raise failure("SEC_ERROR_NOT_INITIALIZED")
    with _lock:
        _globally = False
    _end()


@takes(anything, rest=True)
def set_shutdown_callback(callback: Callable[..., bool] | None, *user_data: Any) -> None:
    """Has ``callback({}, *user_data)`` called when this thread ends NSS; None: nothing any more.
    It returns True unless ending is to fail."""
    if callback is None:
        _callbacks.shutdown = None
        return
    if not callable(callback):
        raise TypeError("callback must be callable")
    _callbacks.shutdown = callback, user_data


@takes(anything)
def set_password_callback(callback: Callable[..., str | None]) -> None:
    """Keeps ``callback(slot, retry, *user_data)``; nobody calls it, for no slot here has a
    password: the broker knows its clients by their credentials."""
    if not callable(callback):
        raise TypeError("callback must be callable")
    _callbacks.password = callback


@takes()
def nss_get_version() -> str:
    """The version of NSS whose behaviour this is."""
    return VERSION


def _numbers(version: str) -> list[int]:
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits or 0))
        if len(digits) < len(part):
            break
    return numbers


@takes(text)
def nss_version_check(version: str) -> bool:
    """Whether a program that wants this version of NSS may go on: the same major, not newer."""
    wanted = [*_numbers(version), 0, 0, 0][:4]
    mine = [*_numbers(VERSION), 0, 0, 0][:4]
    return wanted[0] == mine[0] and wanted <= mine


_FLAGS: Final = (
    "READONLY",
    "NOCERTDB",
    "NOMODDB",
    "FORCEOPEN",
    "NOROOTINIT",
    "OPTIMIZESPACE",
    "PK11THREADSAFE",
    "PK11RELOAD",
    "NOPK11FINALIZE",
    "RESERVED",
)


@takes(integer, keywords=True)
def nss_init_flags(flags: int) -> list[str]:
    """The names of the flags (NSS_INIT_*) that are set."""
    names = [f"NSS_INIT_{name}" for name in _FLAGS]
    found = sorted(name for name in names if flags & OTHERS[name])
    rest = flags & ~sum(OTHERS[name] for name in names)
    return [*found, f"unknown bit flags {rest:#x}"] if rest else found

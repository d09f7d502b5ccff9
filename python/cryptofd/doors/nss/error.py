"""``nss.error``: NSPRError, and the errors of NSS and NSPR by name."""

from __future__ import annotations

from typing import Any

from cryptofd.doors.nss.error_table import NUMBERS, TEXTS
from cryptofd.errors import BadTag, CryptoFDError, KeyRevoked, NoEngine, Refused, Unsupported

_NAMES = {number: name for name, number in NUMBERS.items()}


def get_nspr_error_string(number: int, /) -> str | None:
    """What an error says; None for one that is never raised here."""
    return TEXTS.get(_NAMES.get(number, ""))


class NSPRError(Exception):
    """What NSS would have failed with.

    ``errno`` (``error_code``): NSS's number. ``strerror`` (``error_desc``): its name and text.
    ``error_message``: more about this very case, or None. Where the work behind it failed, the
    cause (``__cause__``) is cryptofd's own error, with its way out.
    """

    errno: int
    strerror: str
    error_message: str | None

    def __init__(self, error_message: str | None = None, error_code: int | None = None) -> None:
        self.errno = 0 if error_code is None else error_code
        self.error_message = error_message
        name = _NAMES.get(self.errno)
        text = get_nspr_error_string(self.errno)
        if name is None:
            self.strerror = f"error ({self.errno}) unknown"
        else:
            self.strerror = f"({name}) {text}" if text else f"({name})"

    @property
    def error_code(self) -> int:
        """The number of the error."""
        return self.errno

    @property
    def error_desc(self) -> str:
        """Its name and text."""
        return self.strerror

    def __str__(self) -> str:
        if self.error_message is not None:
            return f"{self.error_message}: {self.strerror}"
        return self.strerror

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.error_message, self.errno)


def failure(name: str, message: str | None = None) -> NSPRError:
    """The error of this name, to be raised."""
    return NSPRError(error_message=message, error_code=NUMBERS[name])


def told(why: CryptoFDError) -> NSPRError:
    """What NSS calls an error of a session: to be raised from it."""
    if isinstance(why, BadTag):
        return failure("SEC_ERROR_BAD_DATA")
    if isinstance(why, (Refused, KeyRevoked, Unsupported)):
        return failure("SEC_ERROR_INVALID_KEY", str(why))
    if isinstance(why, NoEngine):
        return failure("SEC_ERROR_PKCS11_DEVICE_ERROR", str(why))
    return failure("SEC_ERROR_BAD_DATA", str(why))


def __getattr__(name: str) -> int:
    try:
        return NUMBERS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *NUMBERS})

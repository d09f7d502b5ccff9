"""A refusal: an errno and a sentence that names the object, the limit and the way out."""

from __future__ import annotations

import errno

from cryptofd.errors import CryptoFDError, InvalidArgument, KeyRevoked, Refused, Unsupported


class NoSuchKey(CryptoFDError, LookupError):
    """No key of this name that the caller may know of (ENOKEY)."""


class KeyExists(CryptoFDError):
    """The label is taken (EEXIST)."""


class OverLimit(CryptoFDError):
    """More than the policy allows (EDQUOT)."""


_CLASSES: dict[int, type[CryptoFDError]] = {
    errno.EPERM: Refused,
    errno.EINVAL: InvalidArgument,
    errno.ENOKEY: NoSuchKey,
    errno.EEXIST: KeyExists,
    errno.EDQUOT: OverLimit,
    errno.EKEYEXPIRED: KeyRevoked,
    errno.EKEYREVOKED: KeyRevoked,
    errno.EOPNOTSUPP: Unsupported,
}


def refusal(number: int, sentence: str) -> CryptoFDError:
    """The typed error of ``number``."""
    return _CLASSES.get(number, CryptoFDError)(number, sentence)


def refused(sentence: str) -> CryptoFDError:
    """EPERM."""
    return refusal(errno.EPERM, sentence)


def invalid(sentence: str) -> CryptoFDError:
    """EINVAL."""
    return refusal(errno.EINVAL, sentence)

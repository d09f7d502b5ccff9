"""Parameters of authenticated encryption: an extension, for python-nss has none.

PKCS#11 gives GCM, CCM and ChaCha20-Poly1305 a parameter of addresses in memory; a SecItem holds
bytes. So here it holds the values themselves, in an order of its own.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from cryptofd.doors.nss.arguments import a_or_none, integer, takes, unsigned
from cryptofd.doors.nss.data import SecItem
from cryptofd.doors.nss.error import failure
from cryptofd.doors.nss.mechanisms import Mechanism, served

_MARK: Final = b"cryptofd AEAD\0"
_SIZES: Final = struct.Struct("!III")


class Parameters(NamedTuple):
    """What an AEAD takes beside key and data. Without a nonce (None) it is chosen; a tag's length
    of None is the usual one."""

    iv: bytes | None
    aad: bytes
    tag_length: int | None


@takes(unsigned, a_or_none(SecItem), a_or_none(SecItem), integer, optional=2, keywords=True)
def param_from_aead(
    mechanism: int, iv: SecItem | None, aad: SecItem | None = None, tag_length: int = 0
) -> SecItem:
    """The parameter of an AEAD mechanism: nonce, data that are authenticated only, and the bytes of
    the tag (0: as usual). Without a nonce one is chosen, and stands in the result as ``seal`` puts
    it. An extension."""
    known = served(mechanism)
    if known is None or known.kind != "aead" or tag_length < 0:
        raise failure("SEC_ERROR_INVALID_ARGS")
    extra = aad.data if aad else b""
    nonce = iv.data if iv else b""
    sizes = _SIZES.pack(len(nonce), len(extra), tag_length)
    return SecItem.of(_MARK + sizes + nonce + extra)


def parameters(mechanism: Mechanism, param: SecItem) -> Parameters:
    """What a parameter says; a plain one is the nonce, with nothing beside it, and an empty one
    nothing at all."""
    data = param.data
    if not data.startswith(_MARK):
        return Parameters(data or None, b"", None)
    start = len(_MARK) + _SIZES.size
    if len(data) < start:
        raise failure("SEC_ERROR_BAD_DATA")
    iv, aad, tag = _SIZES.unpack_from(data, len(_MARK))
    if len(data) != start + iv + aad:
        raise failure("SEC_ERROR_BAD_DATA")
    return Parameters(data[start : start + iv] or None, data[start + iv :], tag or None)

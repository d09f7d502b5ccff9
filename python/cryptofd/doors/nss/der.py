"""As much DER (X.690) as keys and their parameters are written in."""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptofd.doors.nss.error import failure

INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
SEQUENCE: Final = 0x30


class Element(NamedTuple):
    """One element, and what stands after it."""

    tag: int
    content: bytes
    rest: bytes


def element(der: bytes, tag: int | None = None) -> Element:
    """The first element; NSPRError where there is none, or one of another tag."""
    if len(der) < 2 or tag not in {None, der[0]}:
        raise failure("SEC_ERROR_BAD_DER")
    size, start = der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start], "big")
    if len(der) < start + size:
        raise failure("SEC_ERROR_BAD_DER")
    return Element(der[0], der[start : start + size], der[start + size :])


def encoded(tag: int, content: bytes) -> bytes:
    """An element of this content."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def sequence(*elements: bytes) -> bytes:
    """A sequence of elements."""
    return encoded(SEQUENCE, b"".join(elements))


def number(value: int) -> bytes:
    """An integer that is not negative."""
    return encoded(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def identifier(dotted: str) -> bytes:
    """An object identifier, of its dotted decimal."""
    first, second, *others = map(int, dotted.split("."))
    octets = b""
    for part in (40 * first + second, *others):
        septets = [part & 0x7F]
        while part := part >> 7:
            septets.insert(0, 0x80 | part & 0x7F)
        octets += bytes(septets)
    return encoded(OBJECT_IDENTIFIER, octets)

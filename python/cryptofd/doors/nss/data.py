"""SecItem and the ways between bytes and text: hexadecimal, base64, lines of labels and values."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptofd.doors.nss.arguments import (
    a,
    anything,
    as_bytes,
    integer,
    octets_or_text,
    takes,
    text,
    text_or_none,
)
from cryptofd.doors.nss.error import failure

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: What stands between two octets in hexadecimal.
HEX_SEPARATOR_DEFAULT = ":"

_PEM_BEGIN = "-----BEGIN"
_PEM_END = "-----END"

Line = tuple[int] | tuple[int, str] | tuple[int, str, str]


def _hex(data: bytes, octets_per_line: int, separator: str | None) -> str | list[str]:
    if separator is None:
        separator = ""
    if octets_per_line <= 0:
        return separator.join(f"{octet:02x}" for octet in data)
    lines = [
        separator.join(f"{octet:02x}" for octet in data[start : start + octets_per_line])
        for start in range(0, len(data), octets_per_line)
    ]
    # A line that another follows ends with a separator.
    return [line + separator for line in lines[:-1]] + lines[-1:]


@takes(anything, integer, text_or_none, optional=2, keywords=True, name="cert_data_to_hex")
def data_to_hex(
    data: Buffer, octets_per_line: int = 0, separator: str | None = HEX_SEPARATOR_DEFAULT
) -> str | list[str]:
    """Bytes in hexadecimal: one string, or a list of lines of so many octets."""
    try:
        content = as_bytes(data)
    except TypeError:
        raise TypeError("object must support the buffer protocol") from None
    return _hex(content, octets_per_line, separator)


@takes(text, text, optional=1, keywords=True)
def read_hex(input: str, separators: str = " ,:\t\n") -> bytes:
    """The bytes that are written in hexadecimal: pairs of digits, each after any separators and
    ``0x``; ValueError tells where it is something else."""
    data = bytearray()
    place = 0
    while True:
        while place < len(input) and input[place] in separators:
            place += 1
        if place == len(input):
            return bytes(data)
        if input[place : place + 2] in {"0x", "0X"}:
            place += 2
        pair = input[place : place + 2]
        if not re.fullmatch("[0-9a-fA-F]{2}", pair):
            raise ValueError(
                f'invalid hexadecimal string beginning at offset {place} "{input[place:]}"'
            )
        data.append(int(pair, 16))
        place += 2


def _of_base64(armoured: str) -> bytes:
    """As NSS reads it: between PEM's lines where there are any; what is no digit is passed over,
    and the padding may be missing."""
    if (begin := armoured.find(_PEM_BEGIN)) >= 0:
        line_end = armoured.find("\n", begin)
        if line_end < 0:
            line_end = armoured.find("\r", begin)
        if line_end < 0:
            raise ValueError("no line ending after PEM BEGIN")
        end = armoured.find(_PEM_END, line_end + 1)
        if end < 0:
            raise ValueError("no PEM END found")
        armoured = armoured[line_end + 1 : end]
    digits, _, after = re.sub(r"[^A-Za-z0-9+/=]", "", armoured).partition("=")
    if len(digits) % 4 == 1 or not digits or after.strip("="):
        raise failure("SEC_ERROR_INVALID_ARGS", "Could not base64 decode")
    return base64.b64decode(digits + "=" * (-len(digits) % 4))


class SecItem:
    """A block of bytes with a type.

    ``data``: bytes, or text; with ``ascii``, base64 or PEM. It is a buffer (from Python 3.12 on),
    and it has a length and slices.
    """

    __slots__ = ("_data", "_type")

    _data: bytes
    _type: int

    @takes(octets_or_text, integer, integer, optional=3, keywords=True, name="SecItem")
    def __init__(
        self, data: Buffer | str | None = None, type: int = 0, ascii: bool | int = False
    ) -> None:
        # What was given is bytes by now.
        content: Any = data
        if content is None:
            content, type = b"", 0
        elif ascii:
            content = _of_base64(content.decode("latin-1"))
        self._data, self._type = content, type

    @classmethod
    def of(cls, data: bytes, type: int = 0) -> SecItem:
        """Of bytes, without a question."""
        self = object.__new__(cls)
        self._data, self._type = data, type
        return self

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self._data

    @property
    def len(self) -> int:
        """How many bytes there are."""
        return len(self._data)

    @property
    def type(self) -> int:
        """What kind of data it says it is."""
        return self._type

    @takes(integer, text_or_none, optional=2, keywords=True)
    def to_hex(
        self, octets_per_line: int = 0, separator: str | None = HEX_SEPARATOR_DEFAULT
    ) -> str | list[str]:
        """As ``data_to_hex``."""
        return _hex(self._data, octets_per_line, separator)

    @takes(integer, text, optional=2, keywords=True)
    def to_base64(self, chars_per_line: int = 64, pem_type: str | None = None) -> str | list[str]:
        """Base64: a list of lines of so many characters, or (0) one string; with ``pem_type``,
        between PEM's lines."""
        encoded = base64.b64encode(self._data).decode()
        # As NSS: a line's end after each 64 digits, whatever lines are asked for.
        encoded = "\r\n".join(encoded[at : at + 64] for at in range(0, len(encoded), 64))
        if not encoded:
            raise failure("SEC_ERROR_INVALID_ARGS", "unable to encode SECItem to base64")
        if pem_type is not None and chars_per_line == 0:
            chars_per_line = 64
        if chars_per_line == 0:
            return encoded
        if chars_per_line < 0:
            chars_per_line = len(encoded)
        lines = [
            encoded[start : start + chars_per_line]
            for start in range(0, len(encoded), chars_per_line)
        ]
        if pem_type is not None:
            lines = [f"-----BEGIN {pem_type}-----", *lines, f"-----END {pem_type}-----"]
        return lines

    @takes(integer, text_or_none, optional=2, keywords=True)
    def der_to_hex(
        self, octets_per_line: int = 0, separator: str | None = HEX_SEPARATOR_DEFAULT
    ) -> str | list[str]:
        """The content of a DER value, without tag and length, in hexadecimal."""
        start = 2
        if len(self._data) >= 2 and self._data[1] & 0x80:
            start += self._data[1] & 0x7F
        if len(self._data) < start:
            raise ValueError("malformed ASN.1 DER data")
        return _hex(self._data[start:], octets_per_line, separator)

    @takes()
    def get_integer(self) -> int:
        """The bytes as one signed number, the highest first."""
        return int.from_bytes(self._data, "big", signed=True)

    @takes(integer, optional=1, keywords=True)
    def format_lines(self, level: int = 0) -> list[Line]:
        """Lines for ``indented_format``."""
        return [(level, "Data:"), *hex_lines(level + 1, self._data)]

    @takes(integer, integer, optional=2, keywords=True)
    def format(self, level: int = 0, indent_len: int = 4) -> str:
        """Its lines, indented."""
        return indented(self.format_lines(level), indent_len)

    def __bytes__(self) -> bytes:
        return self._data

    def __buffer__(self, flags: int, /) -> memoryview:
        return memoryview(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> bytes:
        if isinstance(index, slice):
            return self._data[index]
        if not hasattr(index, "__index__"):
            raise TypeError(f"SecItem indices must be integers, not {type_name(index)}")
        place = index.__index__()
        if place < 0:
            place += len(self._data)
        if not 0 <= place < len(self._data):
            raise IndexError("SecItem index out of range")
        return self._data[place : place + 1]

    def __str__(self) -> str:
        return str(_hex(self._data, 0, HEX_SEPARATOR_DEFAULT))

    def _compared(self, other: object, by: Callable[[int, int], bool]) -> bool:
        if not isinstance(other, SecItem):
            raise TypeError("Bad type, must be SecItem")
        mine, its = self._data, other._data
        order = (mine > its) - (mine < its)
        return by(order, 0)

    def __eq__(self, other: object) -> bool:
        return self._compared(other, int.__eq__)

    def __ne__(self, other: object) -> bool:
        return self._compared(other, int.__ne__)

    def __lt__(self, other: object) -> bool:
        return self._compared(other, int.__lt__)

    def __le__(self, other: object) -> bool:
        return self._compared(other, int.__le__)

    def __gt__(self, other: object) -> bool:
        return self._compared(other, int.__gt__)

    def __ge__(self, other: object) -> bool:
        return self._compared(other, int.__ge__)

    # python-nss compares by content and hashes by identity; here what is equal hashes equal.
    def __hash__(self) -> int:
        return hash(self._data)


def type_name(value: object) -> str:
    """The name of a value's type."""
    return type(value).__name__


@takes(text, keywords=True)
def base64_to_binary(text: str) -> SecItem:
    """A SecItem of the bytes that are written in base64, or in PEM."""
    return SecItem.of(_of_base64(text))


@takes(anything, integer, optional=1, keywords=True)
def read_der_from_file(file: Any, ascii: int = 0) -> SecItem:
    """A SecItem of a file's bytes (a path, or an open binary file); with ``ascii``, of base64 or
    PEM."""
    if isinstance(file, str):
        content: Any = Path(file).read_bytes()
    elif hasattr(file, "read"):
        content = file.read()
    else:
        raise TypeError("Bad file, must be pathname or file like object with read() method")
    if not isinstance(content, bytes):
        raise TypeError(f"expected file contents to be bytes, not {type_name(content)}")
    return SecItem.of(_of_base64(content.decode("latin-1")) if ascii else content)


@takes(integer, anything, keywords=True)
def make_line_fmt_tuples(level: int, obj: Any) -> list[Line]:
    """One line for each member of a list or tuple, or for the object that it is."""
    members = obj if isinstance(obj, (list, tuple)) else [obj]
    return [(level, str(each)) for each in members]


def label(level: int, what: str, value: object) -> Line:
    """A line with a label and a value."""
    return level, f"{what}:", str(value)


def hex_lines(level: int, data: bytes) -> list[Line]:
    """Lines of 16 octets."""
    return [(level, line) for line in _hex(data, 16, HEX_SEPARATOR_DEFAULT)]


@takes(a(list), integer, optional=1, keywords=True)
def indented_format(lines_pairs: list[Line], indent_len: int = 4) -> str:
    """Lines of (level), (level, label) and (level, label, value) as text, the values of what
    stands together at one level in one column."""
    return indented(lines_pairs, indent_len)


def _checked(lines: list[Line]) -> Iterator[tuple[int, str, str]]:
    for place, line in enumerate(lines):
        if not isinstance(line, tuple):
            raise TypeError(f"line_fmt_tuples[{place}] must be a tuple, not {type_name(line)}")
        if not 1 <= len(line) <= 3:
            raise TypeError(
                f"line_fmt_tuples[{place}] tuple must have 1-3 items, not {len(line)} items"
            )
        where = f"in the tuple at line_fmt_tuples[{place}] list must be"
        level: Any = line[0]
        if not isinstance(level, int):
            raise TypeError(f"item[0] {where} an integer, not {type_name(level)}")
        if level < 0:
            raise TypeError(f"item[0] {where} a non-negative integer, not {level}")
        for item, part in enumerate(line[1:], 1):
            if not isinstance(part, str):
                raise TypeError(f"item[{item}] {where} a string, not {type_name(part)}")
        words = [str(part) for part in line[1:]]
        yield level, words[0] if words else "", words[1] if len(words) > 1 else ""


def indented(lines: list[Line], indent_len: int) -> str:
    """What ``indented_format`` gives, for lines that are known to be right as for others."""
    parts = list(_checked(lines))
    shown = []
    start = 0
    while start < len(parts):
        end = start
        indent = parts[start][0] * indent_len
        while end < len(parts) and parts[end][0] * indent_len == indent:
            end += 1
        group = parts[start:end]
        # The column of the values: octets, as C counts them.
        column = max((len(label.encode()) for _, label, value in group if value), default=0) + 1
        for level, label_, value in group:
            gap = " " * (column - len(label_.encode()) if column > 1 else 0) if value else ""
            shown.append(f"{' ' * (level * indent_len)}{label_}{gap}{value}")
        start = end
    return "\n".join(shown)

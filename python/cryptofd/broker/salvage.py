"""Rows out of the pages of a damaged SQLite file, whatever became of the tree above them.

Reads the file format (sqlite.org/fileformat2.html, sections 1.5, 1.6 and 2): every page that looks
like a leaf of a table, every cell in it, its overflow pages. The caller knows by their checksum
which rows are whole.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

_LEAF = 0x0D
_LARGEST_PAYLOAD = 1 << 20


class _Bad(Exception):
    """Not what the format says."""


def salvage(path: pathlib.Path) -> Iterator[tuple[int, list[Any]]]:
    """Row id and values of every row that can be read."""
    data = path.read_bytes()
    size = int.from_bytes(data[16:18], "big")
    size = 65536 if size == 1 else size
    if size < 512 or size & (size - 1):
        size = 4096
    usable = size - (data[20] if len(data) > 20 and data[20] <= 32 else 0)
    for start in range(0, len(data) - size + 1, size):
        page = data[start : start + size]
        head = 100 if start == 0 else 0
        if page[head] != _LEAF:
            continue
        cells = int.from_bytes(page[head + 3 : head + 5], "big")
        for index in range(min(cells, size // 4)):
            at = head + 8 + 2 * index
            offset = int.from_bytes(page[at : at + 2], "big")
            try:
                yield _cell(data, page, offset, size, usable)
            except (_Bad, IndexError, ValueError):
                continue


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(9):
        byte = data[at + count]
        if count == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            return value, at + count + 1
    raise _Bad


def _cell(data: bytes, page: bytes, offset: int, size: int, usable: int) -> tuple[int, list[Any]]:
    length, at = _varint(page, offset)
    rowid, at = _varint(page, at)
    if not 0 < length <= _LARGEST_PAYLOAD:
        raise _Bad
    most = usable - 35
    if length <= most:
        payload = page[at : at + length]
    else:
        least = (usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (usable - 4)
        local = local if local <= most else least
        payload = page[at : at + local]
        following = int.from_bytes(page[at + local : at + local + 4], "big")
        while len(payload) < length and following:
            start = (following - 1) * size
            overflow = data[start : start + usable]
            if len(overflow) < usable:
                raise _Bad
            following = int.from_bytes(overflow[:4], "big")
            payload += overflow[4 : 4 + length - len(payload)]
    if len(payload) != length:
        raise _Bad
    return rowid, _record(payload)


def _record(payload: bytes) -> list[Any]:
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if at != end or len(kinds) > 64:
        raise _Bad
    values: list[Any] = []
    value: Any
    for kind in kinds:
        if kind == 0:
            length, value = 0, None
        elif kind in (8, 9):
            length, value = 0, kind - 8
        elif 1 <= kind <= 6:
            length = (1, 2, 3, 4, 6, 8)[kind - 1]
            value = int.from_bytes(payload[at : at + length], "big", signed=True)
        elif kind >= 12:
            length = (kind - 12) // 2
            raw = payload[at : at + length]
            value = raw.decode() if kind % 2 else raw
        else:
            raise _Bad
        if at + length > len(payload):
            raise _Bad
        at += length
        values.append(value)
    return values

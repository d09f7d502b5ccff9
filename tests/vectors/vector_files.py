"""Reads the files of cryptography-vectors: NIST's .rsp and what was written after them."""

from __future__ import annotations

import re
from pathlib import Path

import cryptography_vectors

ROOT = Path(cryptography_vectors.__file__).parent

Record = dict[str, str]


def read(path: str) -> str:
    """The text of a file."""
    return (ROOT / path).read_text(encoding="utf-8")


def under(*patterns: str) -> list[str]:
    """The files that match, in order."""
    found = {file for pattern in patterns for file in ROOT.glob(pattern) if file.is_file()}
    return sorted(str(file.relative_to(ROOT)) for file in found)


def records(path: str, starter: str) -> list[Record]:
    """The records of a file, each of which begins with a line ``starter = ...``.

    Names are in lower case. What stands in brackets (``[IVlen = 96]``, ``[ENCRYPT]`` as ``mode``),
    and what stands between brackets and the first record, belongs to all records up to the next
    brackets. A line FAIL gives ``fail``.
    """
    found: list[Record] = []
    shared: Record = {}
    current: Record | None = None
    for line in read(path).splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            for part in line.strip("[]").split(","):
                name, equals, value = part.partition("=")
                if equals:
                    shared[name.strip().lower()] = value.strip()
                else:
                    shared["mode"] = name.strip()
            current = None
            continue
        if line.upper().startswith("FAIL"):
            assert current is not None, f"{path}: FAIL without a record"
            current["fail"] = ""
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip().lower(), value.strip()
        if not equals:
            continue
        if name == starter:
            current = dict(shared)
            found.append(current)
        (shared if current is None else current)[name] = value
    return found


def count(path: str, starter: str) -> int:
    """How many records there must be, counted without the parser."""
    return len(re.findall(rf"(?mi)^[ \t]*{starter}\s*=", read(path)))


def unhex(text: str) -> bytes:
    """Hexadecimal, or text in double quotes."""
    if text.startswith('"'):
        return text.strip('"').encode()
    return bytes.fromhex(text)

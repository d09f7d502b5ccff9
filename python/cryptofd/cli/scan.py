"""Looks for bytes in another process's memory: whatever its maps say can be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = 1 << 20


@dataclass
class Scan:
    """What was read, and where something was found: each place with the mapping's line."""

    pid: int
    mappings: int = 0
    size: int = 0
    #: Mappings that nobody can read: the kernel's own, or secret memory.
    closed: int = 0
    found: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        from cryptofd.cli.output import size

        closed = f" ({self.closed} more are closed to all)" if self.closed else ""
        return f"{self.mappings} mappings, {size(self.size)}{closed}"


def scan(pid: int, needles: Sequence[bytes]) -> Scan:
    """Reads all memory of a process, by /proc/PID/mem; EPERM where ptrace(2) would give it."""
    result = Scan(pid)
    longest = max(map(len, needles))
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line, start, end in _mappings(pid):
            read = 0
            before, ends = b"", start
            for place, block in _blocks(memory.fileno(), start, end):
                if place != ends:
                    before = b""
                # What lies across two blocks is seen too, and nothing twice.
                text = before + block
                for needle in needles:
                    at = text.find(needle)
                    while at >= 0:
                        if at + len(needle) > len(before):
                            result.found.append(f"{place - len(before) + at:#x} in {line}")
                        at = text.find(needle, at + 1)
                before, ends = text[-(longest - 1) :], place + len(block)
                read += len(block)
            result.mappings += bool(read)
            result.closed += not read
            result.size += read
    return result


def _mappings(pid: int) -> Iterator[tuple[str, int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, rights, *_ = line.split()
        if rights.startswith("r"):
            start, end = (int(part, 16) for part in place.split("-"))
            yield line, start, end


def _blocks(memory: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """What can be read, and where."""
    while start < end:
        try:
            block = os.pread(memory, min(_BLOCK, end - start), start)
        except OverflowError:
            # The vsyscall page lies beyond off_t.
            return
        except OSError:
            # EIO: nothing is behind this page, or nobody may read it. What follows may be readable.
            start += os.sysconf("SC_PAGE_SIZE")
            continue
        if not block:
            return
        yield start, block
        start += len(block)

"""The search in memory that the tour shows: it finds what is there, wherever it lies, and once."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys

from cryptofd.cli.scan import scan

BLOCK = 1 << 20


def address(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def places(needle: bytes, begin: int, size: int) -> list[int]:
    found = [int(line.split()[0], 16) for line in scan(os.getpid(), [needle]).found]
    return sorted(place - begin for place in found if begin <= place < begin + size)


def test_what_lies_across_blocks_and_behind_holes_is_found_once() -> None:
    size = 4 * BLOCK
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    needle = os.urandom(32)
    begin = address(area)
    wanted = [0, BLOCK - 16, 2 * BLOCK - 31, 3 * BLOCK + 5, size - 32]
    for place in wanted:
        area[place : place + 32] = needle
    assert places(needle, begin, size) == wanted


def test_pages_that_cannot_be_read_hide_nothing_before_them() -> None:
    """The last pages of a mapping lie beyond the end of its file: reading them is EIO."""
    page = mmap.PAGESIZE
    fd = os.memfd_create("scan")
    os.truncate(fd, 4 * page)
    area = mmap.mmap(fd, 4 * page, flags=mmap.MAP_SHARED)
    needle = os.urandom(32)
    area[page - 32 : page] = needle
    os.truncate(fd, page)
    os.close(fd)
    assert places(needle, address(area), 4 * page) == [page - 32]


def test_another_process() -> None:
    program = "import sys; key = sys.stdin.buffer.readline(); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin
        assert child.stdout
        key = os.urandom(32).hex().encode()
        before = scan(child.pid, [key])
        child.stdin.write(key + b"\n")
        child.stdin.flush()
        child.stdout.readline()
        after = scan(child.pid, [key])
        child.stdin.write(b"\n")
    assert not before.found
    assert after.found
    assert after.mappings > 10
    assert after.size > 1 << 20

"""Files as the commands read and write them: whole at the end, or not there at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptofd.errors import CryptoFDError


@contextlib.contextmanager
def opened(path: str) -> Iterator[io.FileIO]:
    """A file to read, unbuffered; `-` is standard input."""
    if path == "-":
        yield io.FileIO(sys.stdin.fileno(), "rb", closefd=False)
        return
    with io.FileIO(path, "rb") as file:
        yield file


def size_of(file: io.FileIO) -> int | None:
    """Bytes of a regular file."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextlib.contextmanager
def made(path: str, force: bool = False) -> Iterator[io.FileIO]:
    """A file to write, mode 0600, that gets its name when the block has ended well; `-`: stdout.

    Until then it has no name at all where the file system can do that (O_TMPFILE), so even a
    killed process leaves nothing; elsewhere it has a name of its own beside the target, removed on
    an error.
    """
    if path == "-":
        sys.stdout.flush()
        yield io.FileIO(sys.stdout.fileno(), "wb", closefd=False)
        return
    target = Path(path)
    if not force and os.path.lexists(target):
        raise CryptoFDError(errno.EEXIST, "exists; --force replaces it", path)
    if target.exists() and not target.is_file():
        # A device or a pipe cannot be replaced, and nobody could mean that.
        with io.FileIO(os.open(target, os.O_WRONLY | os.O_CLOEXEC), "wb") as file:
            yield file
        return
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _unnamed(directory, target.name, force) as file:
            yield file
    except FileExistsError:
        raise CryptoFDError(errno.EEXIST, "exists now; --force replaces it", path) from None
    finally:
        os.close(directory)


@contextlib.contextmanager
def _unnamed(directory: int, target: str, force: bool) -> Iterator[io.FileIO]:
    """A file in this directory that is called `target` when the block has ended well."""
    flags = os.O_WRONLY | os.O_CLOEXEC
    name = f".{target[:200]}.{os.urandom(8).hex()}"
    try:
        fd, named = os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=directory), False
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            raise
        fd, named = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory), True
    try:
        with io.FileIO(fd, "wb") as file:
            yield file
            if not named:
                # Only with a directory's descriptor does os.link follow the symbolic link.
                os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=directory, dst_dir_fd=directory)
                named = True
        if not force:
            try:
                os.link(name, target, src_dir_fd=directory, dst_dir_fd=directory)
                return
            except OSError as error:
                # Some file systems know no second names; there a rename must do.
                if error.errno not in {errno.EPERM, errno.EOPNOTSUPP}:
                    raise
        os.replace(name, target, src_dir_fd=directory, dst_dir_fd=directory)
        named = False
    finally:
        if named:
            os.unlink(name, dir_fd=directory)

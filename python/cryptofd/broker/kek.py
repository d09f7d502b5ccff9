"""Where the key-encryption key comes from. The broker passes descriptors on and reads none of them.

Sources: ``file`` (0600, made on first need by the kernel, byte by byte past this process),
``credential`` (systemd's $CREDENTIALS_DIRECTORY), ``keyring`` (a serial of the kernel's), and
``passphrase`` (scrypt's parameters are kept, the passphrase travels through a descriptor).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptofd.broker.refusal import invalid, refusal
from cryptofd.broker.store import Store

#: Bytes of a file: the key's number (u32, little-endian), then the key; a credential is the key.
BYTES = 32
ENTRY = 4 + BYTES
CREDENTIAL = "cryptofd.kek"
_FACT = "kek"

#: RFC 7914; 128 MiB and about half a second.
_SCRYPT = {"n": 1 << 17, "r": 8, "p": 1}


@dataclass(frozen=True)
class Source:
    """Of one key-encryption key: its number in the blobs, its kind, and what else finds it."""

    number: int
    kind: str
    about: dict[str, Any]

    def fields(self) -> dict[str, Any]:
        """As the supervisor is told."""
        return {"number": self.number, "source": self.kind, **self.about}

    @classmethod
    def of(cls, values: Any) -> Source:
        number, kind = values["number"], values["source"]
        about = {name: value for name, value in values.items() if name not in ("number", "source")}
        return cls(int(number), str(kind), about)


def sources(store: Store) -> list[Source]:
    """Of all keys that blobs may be wrapped with, newest last."""
    kept = store.fact(_FACT)
    return [] if kept is None else [Source.of(one) for one in json.loads(kept)]


def keep(store: Store, found: list[Source]) -> None:
    """Remember them: the newest is last."""
    store.keep_fact(_FACT, json.dumps([one.fields() for one in found], sort_keys=True))


def under(blob: bytes) -> int:
    """The number of the key-encryption key that a blob is under: it stands before the blob."""
    return int.from_bytes(blob[4:8], "little")


def needed(store: Store, found: list[Source], sessions: Iterable[int] = ()) -> list[Source]:
    """Those that a stored key or a session's recipe is under, and the newest; the others are
    forgotten by whoever had them."""
    used = {under(stored.blob) for stored in store} | {*sessions}
    return [one for one in found[:-1] if one.number in used] + found[-1:]


def new_source(number: int, text: str) -> Source:
    """Of ``file[:NAME]``, ``credential[:NAME]``, ``keyring:SERIAL`` or ``passphrase``."""
    kind, _, rest = text.partition(":")
    if kind in ("file", "credential"):
        fallback = (
            CREDENTIAL if kind == "credential" else ("kek" if number == 1 else f"kek{number}")
        )
        name = rest or fallback
        if "/" in name or name in (".", ".."):
            raise invalid(f"{name[:64]!r}: the {kind} is named without a path")
        return Source(number, kind, {"name": name})
    if kind == "keyring":
        if not rest.isdigit():
            raise invalid("keyring:SERIAL names a key of the kernel's keyring by its number")
        return Source(number, kind, {"serial": int(rest)})
    if kind == "passphrase" and not rest:
        return Source(number, kind, {**_SCRYPT, "salt": secrets.token_hex(16)})
    raise invalid(f"{text[:64]!r}: file, credential, keyring:SERIAL or passphrase")


def opened(source: Source, state: pathlib.Path, passphrase: int | None = None) -> int | None:
    """A descriptor from which a worker reads the key (or passphrase); None for the keyring."""
    if source.kind == "keyring":
        return None
    if source.kind == "passphrase":
        if passphrase is None:
            raise refusal(
                errno.ENOKEY,
                "the store is under a passphrase: name its descriptor in CRYPTOFD_PASSPHRASE_FD",
            )
        return os.dup(passphrase)
    if source.kind == "credential":
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise refusal(
                errno.ENOKEY,
                "the store is under a systemd credential, and there is no CREDENTIALS_DIRECTORY",
            )
        path = pathlib.Path(folder) / source.about["name"]
    else:
        path = state / source.about["name"]
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise refusal(errno.ENOKEY, f"the key-encryption key {path}: {error.strerror}") from None
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_size not in (BYTES, ENTRY):
        os.close(fd)
        raise refusal(errno.EBADMSG, f"{path} is not a file of {BYTES} or {ENTRY} bytes")
    if about.st_mode & 0o077 or about.st_uid not in {0, os.geteuid()}:
        os.close(fd)
        raise refusal(errno.EPERM, f"{path} can be read or written by others: chmod 600 it")
    return fd


def make(state: pathlib.Path, name: str, number: int = 1) -> None:
    """Make a file of random bytes, whole or not at all. They never pass through this process."""
    path = state / name
    fresh = state / f".{name}.{os.getpid()}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, number.to_bytes(4, "little"))
            _pour(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        # link, not rename: a key that is there is never replaced.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()
    folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _pour(fd: int) -> None:
    random = os.open("/dev/urandom", os.O_RDONLY | os.O_CLOEXEC)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        # The kernel moves them; since 5.19 /dev/urandom can be spliced again.
        left = BYTES
        while left:
            left -= os.splice(random, writing, left)
        left = BYTES
        while left:
            left -= os.splice(reading, fd, left)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        import subprocess

        subprocess.run(["head", "-c", str(BYTES), "/dev/urandom"], stdout=fd, check=True)
    finally:
        for one in (random, reading, writing):
            os.close(one)
    if os.fstat(fd).st_size != ENTRY:
        raise refusal(errno.EIO, "the kernel gave no random bytes")

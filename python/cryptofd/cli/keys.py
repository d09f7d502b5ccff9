"""Where a key comes from: a file, the environment, a descriptor, keyring or broker; never argv."""

from __future__ import annotations

import argparse
import binascii
import errno
import os
import stat
import sys
from pathlib import Path

from cryptofd import KeyringKey
from cryptofd.errors import InvalidArgument

#: Longer than any key of the table.
MOST = 1 << 20

ABOUT = """\
where a key comes from (never the argument list, which every user of the host can read):
  file:PATH            the bytes of a file, all of them
  env:NAME             an environment variable, in hexadecimal
  fd:N                 a descriptor that this command inherits, read to its end
  keyring:SERIAL|NAME  a key in the kernel's keyring, by serial number or description; used
                       where it lies (engine kernel, Linux 6.2 and later), never read
  cryptofd:LABEL       one of the broker's (cryptofd key list), used where it lies, never read
A new key: cryptofd random 32 -o KEYFILE
"""


def add_key(parser: argparse.ArgumentParser, about: str = "the key") -> None:
    """The option --key, explained."""
    parser.add_argument("-k", "--key", required=True, metavar="KEY", help=f"{about}: see below")
    parser.epilog = ABOUT


def key_of(text: str) -> bytes | KeyringKey | str:
    """The key that `text` names; one of the broker's stays a reference."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in {"file", "env", "fd", "keyring", "cryptofd"}:
        # What was given may be a key: it is not repeated.
        raise InvalidArgument(
            errno.EINVAL,
            "--key says where the key is: file:PATH, env:NAME, fd:N, keyring:SERIAL|NAME or "
            "cryptofd:LABEL. "
            "If what you gave was the key itself, others may have read it: make a new one",
        )
    match kind:
        case "file":
            return _file(rest)
        case "env":
            return _env(rest)
        case "fd":
            return _fd(rest)
        case "cryptofd":
            return text
        case _:
            return _keyring(rest)


def bytes_of(text: str, what: str) -> bytes:
    """As `key_of`, for work that needs the key's bytes here."""
    key = key_of(text)
    if not isinstance(key, bytes):
        raise InvalidArgument(
            errno.EINVAL, f"{text}: {what}, and that key is never read; use file:, env: or fd:"
        )
    return key


def stream_key(text: str) -> bytes | str:
    """The key of a file: its bytes, or a reference to one of the broker's."""
    key = key_of(text)
    if isinstance(key, str):
        return key
    return bytes_of(text, "a stream derives a key of its own from the key's bytes")


def _file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        key = file.read(MOST + 1)
        mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        print(f"cryptofd: warning: {path}: every user can read this key", file=sys.stderr)
    return _sized(key, f"file:{path}")


def _env(name: str) -> bytes:
    value = os.environ.get(name)
    if value is None:
        raise InvalidArgument(errno.EINVAL, f"env:{name}: there is no such variable")
    try:
        return _sized(binascii.unhexlify(value.strip()), f"env:{name}")
    except binascii.Error:
        raise InvalidArgument(
            errno.EINVAL, f"env:{name}: not an even number of hexadecimal digits"
        ) from None


def _fd(number: str) -> bytes:
    if not number.isdecimal():
        raise InvalidArgument(errno.EINVAL, f"fd:{number}: not the number of a descriptor")
    try:
        with os.fdopen(int(number), "rb", closefd=False) as file:
            return _sized(file.read(MOST + 1), f"fd:{number}")
    except OSError as error:
        raise InvalidArgument(
            errno.EINVAL, f"fd:{number}: {error.strerror}; inherited with e.g. {number}<KEYFILE"
        ) from None


def _sized(key: bytes, where: str) -> bytes:
    if not key:
        raise InvalidArgument(errno.EINVAL, f"{where}: empty")
    if len(key) > MOST:
        raise InvalidArgument(errno.EINVAL, f"{where}: more than {MOST} bytes are no key")
    return key


def _keyring(name: str) -> KeyringKey:
    """A key by serial number, or by description in /proc/keys (what this process may view)."""
    if name.isdecimal():
        return KeyringKey(int(name))
    found = []
    usable = {"user", "logon", "encrypted", "trusted"}
    for line in Path("/proc/keys").read_text(errors="replace").splitlines():
        # serial flags usage timeout permissions uid gid type description
        fields = line.split(None, 8)
        if len(fields) == 9 and fields[7] in usable and fields[8].rsplit(":", 1)[0] == name:
            found.append(int(fields[0], 16))
    if len(found) != 1:
        raise InvalidArgument(
            errno.ENOKEY,
            f"keyring:{name}: {len(found) or 'no'} keys of that name; /proc/keys lists those "
            "that you may view" + (", name one by its serial number" if found else ""),
        )
    return KeyringKey(found[0])

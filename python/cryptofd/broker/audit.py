"""The audit: a JSON object a line, each with a MAC whose key is gone when the line is written.

MAC n = HMAC-SHA256(key n, MAC n-1 ‖ line n), key n+1 = HMAC-SHA256(key n, "cryptofd audit next"),
after Bellare and Yee, "Forward integrity for secure audit logs", 1997. Whoever takes the state can
write lines from then on, but change none before. Checking needs key 0, which the administrator
keeps elsewhere; that nothing is missing at the end needs a head (number and MAC) that went
elsewhere too.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptofd._core import HashFactory
from cryptofd.broker.refusal import refusal

_NEXT = b"cryptofd audit next"
_STATE = 8 + 32 + 32
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
#: Bytes of a line.
_LONGEST = 16384
#: Bytes of the lines of one answer.
_PAGE = 49152
_START = bytes(32)


def members(what: Mapping[str, Any]) -> str:
    """What goes into a line behind number, time and event."""
    return f",{_ENCODER.encode(what)[1:-1]}" if what else ""


def _step(key: bytes, mac: bytes, line: bytes) -> tuple[bytes, bytes]:
    """The MAC of a line, and the key after it."""
    made = HashFactory("hmac(sha256)", key)
    return made.digest(mac + line), made.digest(_NEXT)


@dataclass(frozen=True)
class Head:
    """Where the log ends: number and MAC of the last line."""

    number: int
    mac: str

    def __str__(self) -> str:
        return f"{self.number}:{self.mac}"

    @classmethod
    def of(cls, text: str) -> Head:
        """Of its text; ValueError if it is none."""
        number, _, mac = text.strip().partition(":")
        if len(bytes.fromhex(mac)) != 32:
            raise ValueError(f"{text[:80]!r} is no head: NUMBER:MAC")
        return cls(int(number), mac)


class Audit:
    """The log, open for appending.

    A line is in the file before its call goes on: whatever ends the broker, it stays. sync() brings
    the lines to the disk, about once a second: what a loss of power takes is that second's lines.
    """

    def __init__(
        self, path: pathlib.Path, *, head_out: Callable[[Head], None] = lambda _: None
    ) -> None:
        self.path = path
        #: Key 0 of a log that was begun just now: to be kept elsewhere. Not in any file.
        self.initial_key: bytes | None = None
        #: Why nothing more is logged, and so nothing done.
        self.problem: str | None = None
        self._head_out = head_out
        self._fd = -1
        self._state = -1
        self._dirty = False
        self._number = 0
        self._mac = _START
        self._key = b""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags | os.O_APPEND, 0o600)
        self._state = os.open(path.with_suffix(".state"), flags, 0o600)
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> Head:
        """Number and MAC of the last line."""
        return Head(self._number, self._mac.hex())

    def write(self, event: str, **what: Any) -> None:
        """Append a line. OSError if it did not reach the file: then do not do what it says."""
        self.write_members(event, members(what))

    def write_members(self, event: str, what: str) -> None:
        """As write(), of members() that were made before."""
        if self.problem is not None:
            raise refusal(
                errno.EIO,
                f"{self.problem}; mend the disk, then start the broker again: "
                "nothing is done that is not logged",
            )
        number = self._number + 1
        text = f'{{"n":{number},"t":{round(time.time(), 3)},"event":"{event}"{what}}}'
        # A lone surrogate, which UTF-8 does not have, becomes JSON's own escape.
        line = text.encode("utf-8", "backslashreplace")
        if len(line) > _LONGEST:
            raise refusal(errno.EMSGSIZE, f"an audit line of more than {_LONGEST} bytes")
        mac, key = _step(self._key, self._mac, line)
        whole = line[:-1] + b',"mac":"' + mac.hex().encode() + b'"}\n'
        written = os.write(self._fd, whole)
        if written != len(whole):
            # A full disk in the middle of a line: take the half away.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise refusal(errno.ENOSPC, f"{self.path} is full: nothing is done that is not logged")
        self._number, self._mac, self._key = number, mac, key
        self._keep_state()
        self._dirty = True

    def sync(self) -> None:
        """Bring what was written to the disk, and the head elsewhere."""
        if self._dirty:
            self._dirty = False
            try:
                os.fdatasync(self._fd)
                os.fdatasync(self._state)
            except OSError as error:
                # The kernel forgets what it could not write: a second try would pass for success.
                self.problem = f"{self.path} may lack lines on the disk: {error.strerror}"
                raise
            self._head_out(self.head)

    def close(self) -> None:
        """Sync and close."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.sync()
            os.close(self._fd)
            self._fd = -1
        if self._state >= 0:
            os.close(self._state)
            self._state = -1

    def _keep_state(self) -> None:
        # In place: the key before this one is overwritten.
        os.pwrite(self._state, self._number.to_bytes(8, "little") + self._mac + self._key, 0)

    def _resume(self) -> None:
        state = os.pread(self._state, _STATE, 0)
        if len(state) != _STATE:
            if os.fstat(self._fd).st_size:
                raise refusal(
                    errno.EBADMSG,
                    f"{self.path} has lines, but its state is lost: move it away "
                    "and keep it; a new one begins with a new key",
                )
            self._number, self._mac, self._key = 0, _START, os.urandom(32)
            self.initial_key = self._key
            self._keep_state()
            return
        self._number = int.from_bytes(state[:8], "little")
        self._mac, self._key = state[8:40], state[40:]
        # A broker that died between line and state: the line is there, the key can still make it.
        ahead = 0
        for line in _lines_after(self._fd, self._number):
            body, mac = _split(line)
            if body is None:
                break
            made, key = _step(self._key, self._mac, body)
            if not hmac.compare_digest(made, mac):
                raise refusal(
                    errno.EBADMSG, f"{self.path}: line {self._number + 1} was not written here"
                )
            self._number, self._mac, self._key = self._number + 1, made, key
            ahead += 1
        self._cut_half_line()
        if ahead:
            self._keep_state()

    def _cut_half_line(self) -> None:
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, min(size, 2 * _LONGEST), max(0, size - 2 * _LONGEST))
        if tail and not tail.endswith(b"\n"):
            os.ftruncate(self._fd, size - (len(tail) - tail.rfind(b"\n") - 1))


def _split(line: bytes) -> tuple[bytes | None, bytes]:
    """What the MAC covers, and the MAC."""
    body, mark, rest = line.rstrip(b"\n").rpartition(b',"mac":"')
    if not mark or not rest.endswith(b'"}') or len(rest) != 66:
        return None, b""
    try:
        return body + b"}", bytes.fromhex(rest[:64].decode())
    except ValueError:
        return None, b""


def _lines_after(fd: int, number: int) -> Iterator[bytes]:
    """The whole lines beyond a number, found from the end: a log may be long."""
    size = os.fstat(fd).st_size
    take = min(size, 1 << 16)
    while True:
        tail = os.pread(fd, take, size - take)
        lines = tail.split(b"\n")[:-1]
        if take < size:
            lines = lines[1:]
        first = _number_of(lines[0]) if lines else None
        if take >= size or (first is not None and first <= number + 1):
            break
        take = min(size, take * 4)
    for line in lines:
        found = _number_of(line)
        if found is not None and found > number:
            yield line


def _number_of(line: bytes) -> int | None:
    try:
        found = json.loads(line)["n"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if type(found) is int else None


@dataclass
class Verdict:
    """Of a check: ``bad`` is the number of the first line that is wrong, and ``why``."""

    lines: int
    head: Head
    bad: int | None = None
    why: str | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.bad is None and not self.missing


def verify(path: pathlib.Path, key: bytes, heads: list[Head] | None = None) -> Verdict:
    """Check a log from its first line with key 0; ``heads`` are those that went elsewhere."""
    wanted = {head.number: head for head in heads or []}
    mac, number = _START, 0

    def bad(why: str) -> Verdict:
        return Verdict(number, Head(number, mac.hex()), number + 1, why)

    with path.open("rb") as file:
        for line in file:
            body, said = _split(line)
            if body is None or not line.endswith(b"\n"):
                return bad("it is no whole line of an audit")
            made, key = _step(key, mac, body)
            if not hmac.compare_digest(made, said):
                return bad("it was changed, moved, or one before it is gone")
            if _number_of(line) != number + 1:
                return bad("its number is not the next")
            head = wanted.pop(number + 1, None)
            if head is not None and head.mac != made.hex():
                return bad("it is not the line of which the head was kept")
            number, mac = number + 1, made
    verdict = Verdict(number, Head(number, mac.hex()))
    verdict.missing = [f"line {n} is gone: a head of it was kept" for n in sorted(wanted) if n]
    return verdict


def page(path: pathlib.Path, after: int, most: int) -> list[str]:
    """Up to ``most`` lines with numbers beyond ``after``, as many as an answer takes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found: list[str] = []
        size = 0
        for line in _lines_after(fd, after):
            size += len(line)
            if found and size > _PAGE:
                break
            found.append(line.decode("utf-8", "replace"))
            if len(found) >= most:
                break
        return found
    finally:
        os.close(fd)

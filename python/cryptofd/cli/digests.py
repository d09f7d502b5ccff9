"""Digests of many files: computed on all cores, written and checked in the format of sha256sum."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from itertools import chain, islice
from pathlib import Path
from threading import local
from typing import Any, Protocol, cast

from cryptofd.cli.files import opened
from cryptofd.cli.output import Progress
from cryptofd.errors import BadTag, StaleStream

# Read at a time: what fits the cache beside the hash's state, and the GIL is let go for each.
CHUNK = 256 * 1024

ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


class Running(Protocol):
    """What is asked of a running digest."""

    def update(self, data: Any, /) -> object: ...
    def hexdigest(self, length: int | None = None) -> str: ...


class Comparing(Running, Protocol):
    """One that compares where its key is."""

    def verify(self, tag: bytes) -> None: ...


@dataclass(frozen=True)
class Scheme:
    """What is computed: made once, used by every thread. `length`: bytes, where one may choose."""

    label: str
    factory: Callable[[], Running]
    length: int | None
    size: int
    #: Whether who has the key compares: a key may verify and not sign. Then with `expected`.
    compares: bool = False
    expected: str | None = None

    def against(self, expected: str) -> Scheme:
        """What is computed to be compared with a digest."""
        return replace(self, expected=expected) if self.compares else self


class Computer:
    """Digests of files, each thread with a buffer of its own."""

    def __init__(self, progress: Progress) -> None:
        self._threads = local()
        self._progress = progress

    def digest(self, path: str, scheme: Scheme) -> str:
        """The digest of one file, in hexadecimal; where it was compared, what was expected."""
        try:
            buffer = self._threads.buffer
        except AttributeError:
            buffer = self._threads.buffer = memoryview(bytearray(CHUNK))
        with opened(path) as file:
            with contextlib.suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while True:
                try:
                    return self._whole(file, buffer, scheme)
                except StaleStream:
                    # The worker that had the running state is gone: what can be read again, is.
                    if not file.seekable():
                        raise
                    file.seek(0)

    def _whole(self, file: FileIO, buffer: memoryview, scheme: Scheme) -> str:
        running = scheme.factory()
        while count := file.readinto(buffer):
            running.update(buffer if count == CHUNK else buffer[:count])
            self._progress.add(count)
        if scheme.expected is None:
            return running.hexdigest(scheme.length)
        with contextlib.suppress(BadTag, ValueError):
            cast(Comparing, running).verify(bytes.fromhex(scheme.expected))
            return scheme.expected
        return "different"


def cores() -> int:
    """How many this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def total(paths: Iterable[str]) -> int | None:
    """Bytes of all these, if they are files."""
    sizes = 0
    for path in paths:
        try:
            sizes += Path(path).stat().st_size
        except OSError:
            return None
    return sizes


def in_order(
    tasks: Iterable[tuple[str, Scheme]], what: str, expected: int | None, threads: int | None = None
) -> Iterator[str | OSError]:
    """The digests of files, in the order given; an error in place of a digest where one came."""
    threads = cores() if threads is None else threads
    with Progress(what, expected) as progress:
        computer = Computer(progress)

        def one(path: str, scheme: Scheme) -> str | OSError:
            try:
                return computer.digest(path, scheme)
            except OSError as error:
                return error

        ahead = list(islice(tasks := iter(tasks), 2))
        if len(ahead) < 2 or threads == 1:
            # Nothing to share out: no threads, and Ctrl-C waits for none.
            for path, scheme in chain(ahead, tasks):
                yield one(path, scheme)
            return
        from concurrent.futures import Future, ThreadPoolExecutor

        queue: list[Future[str | OSError]] = []
        pool = ThreadPoolExecutor(threads)
        try:
            for path, scheme in chain(ahead, tasks):
                queue.append(pool.submit(one, path, scheme))
                # Far enough ahead that one long file does not stop the others, and no further.
                if len(queue) >= 64 * threads:
                    yield queue.pop(0).result()
            for future in queue:
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def escaped(name: str) -> tuple[str, str]:
    """A backslash before the line if the name needs it, and the name in one line."""
    if any(character in name for character in ESCAPES):
        return "\\", "".join(ESCAPES.get(character, character) for character in name)
    return "", name


def line(label: str, digest: str, name: str, *, tag: bool, binary: bool, zero: bool) -> str:
    """One line as sha256sum writes it, its end included."""
    before, shown = ("", name) if zero else escaped(name)
    if tag:
        text = f"{before}{label} ({shown}) = {digest}"
    else:
        text = f"{before}{digest} {'*' if binary else ' '}{shown}"
    return text + ("\0" if zero else "\n")


_PLAIN = re.compile(r"(\\?)([0-9A-Fa-f]+) ([ *])(.+)", re.DOTALL)
_TAGGED = (
    re.compile(r"(\\?)([A-Za-z0-9()/,_-]+) \((.+)\) = ([0-9A-Fa-f]+)", re.DOTALL),
    re.compile(r"(\\?)([A-Za-z0-9/_-]+)\((.+)\)= ([0-9A-Fa-f]+)", re.DOTALL),  # openssl dgst
)


@dataclass(frozen=True)
class Listed:
    """One line of a list: the label is None where the line names no algorithm."""

    label: str | None
    digest: str
    name: str


def parsed(text: str) -> Listed | None:
    """A line of a list, or None if it is none."""
    if match := _TAGGED[0].fullmatch(text) or _TAGGED[1].fullmatch(text):
        slash, label, name, digest = match.groups()
    elif match := _PLAIN.fullmatch(text):
        slash, digest, _, name = match.groups()
        label = None
    else:
        return None
    if slash:
        unescaped = re.sub(
            r"\\(.)?", lambda m: {"\\": "\\", "n": "\n", "r": "\r"}.get(m[1] or "", "\0"), name
        )
        if "\0" in unescaped:
            return None
        name = unescaped
    return Listed(label, digest.lower(), name)


@dataclass
class Checking:
    """What was asked of a check, as options of sha256sum."""

    quiet: bool = False
    status: bool = False
    strict: bool = False
    warn: bool = False
    ignore_missing: bool = False
    threads: int | None = None


def check(
    lists: Sequence[str], scheme_of: Callable[[Listed], Scheme | None], asked: Checking
) -> int:
    """Checks the files that each list names; 0 if all is as listed."""
    return max([_check(path, scheme_of, asked) for path in lists], default=0)


def _check(path: str, scheme_of: Callable[[Listed], Scheme | None], asked: Checking) -> int:
    import hmac

    shown = "'standard input'" if path == "-" else quoted(path)
    try:
        with opened(path) as file:
            lines = file.readall().decode("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        complain(f"{shown}: {error.strerror}")
        return 1
    items: list[tuple[Listed, Scheme]] = []
    improper = 0
    for number, text in enumerate(lines, 1):
        text = text.removesuffix("\r")
        if not text or text.startswith("#"):
            continue
        listed = parsed(text)
        scheme = scheme_of(listed) if listed else None
        if listed is None or scheme is None:
            improper += 1
            if asked.warn:
                complain(f"{shown}: {number}: improperly formatted checksum line")
        else:
            items.append((listed, scheme))
    if not items:
        complain(f"{shown}: no properly formatted checksum lines found")
        return 1

    unread = wrong = matched = 0
    tasks = [(listed.name, scheme.against(listed.digest)) for listed, scheme in items]
    results = in_order(tasks, "checking", total(name for name, _ in tasks), asked.threads)
    for (listed, _), result in zip(items, results, strict=True):
        before, name = escaped(listed.name) if "\n" in listed.name else ("", listed.name)
        if isinstance(result, OSError):
            if asked.ignore_missing and isinstance(result, FileNotFoundError):
                continue
            unread += 1
            complain(f"{quoted(listed.name)}: {result.strerror}")
            answer = "FAILED open or read"
        elif hmac.compare_digest(result, listed.digest):
            matched += 1
            answer = "OK"
        else:
            wrong += 1
            answer = "FAILED"
        if not asked.status and not (asked.quiet and answer == "OK"):
            print(f"{before}{name}: {answer}")
    sys.stdout.flush()
    if not asked.status:
        if improper:
            _warn(improper, "line is improperly formatted", "lines are improperly formatted")
        if unread:
            _warn(unread, "listed file could not be read", "listed files could not be read")
        if wrong:
            _warn(wrong, "computed checksum did NOT match", "computed checksums did NOT match")
    if asked.ignore_missing and not matched:
        complain(f"{shown}: no file was verified")
        return 1
    return int(bool(wrong or unread or (improper and asked.strict)))


def quoted(name: str) -> str:
    """A name as it may stand in a message: one line, its ends visible."""
    import shlex

    return shlex.quote(name) if name.isprintable() else f"${name.encode('utf-8', 'replace')!r}"


def complain(text: str) -> None:
    """One line on stderr."""
    sys.stdout.flush()
    print(f"cryptofd: {text}", file=sys.stderr)


def _warn(count: int, one: str, more: str) -> None:
    complain(f"WARNING: {count} {one if count == 1 else more}")

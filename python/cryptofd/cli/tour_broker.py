"""The tour's stop at a broker: a program uses a key that it never has, and its worker dies.

The key is made for the tour and imported, not generated: the tour must know what to look for. The
processes that are searched were started before there was a key, or by exec, so they had no other
way to it than the one that is shown.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cryptofd
from cryptofd import sealed
from cryptofd.broker import private
from cryptofd.broker.client import Connection
from cryptofd.cli.output import size
from cryptofd.cli.scan import scan
from cryptofd.cli.tour_parts import NOBODY, Stop, answer, same, say, tool

LABEL = "tour"
#: Segments of a file that openssl decrypts; of a longer file these many, evenly spread.
CHECKED = 256


def stops(home: Path, inputs: Sequence[tuple[str, Path]]) -> Iterator[Stop]:
    """All of it, with a broker of the tour's own."""
    with _broker(home / "brokered") as (connection, address):
        yield from Visit(home / "brokered", connection, address).stops(inputs)


@contextlib.contextmanager
def _broker(folder: Path) -> Iterator[tuple[Connection, Path]]:
    folder.mkdir(mode=0o700)
    address = folder / "broker"
    process = private.launch(address, folder / "state", folder / "log", os.environ, idle=60)
    try:
        yield Connection(os.fspath(address)), address
    finally:
        process.terminate()
        process.wait()


class Visit:
    """The broker, its key, and what it is looked for in."""

    def __init__(self, folder: Path, connection: Connection, address: Path) -> None:
        self.folder = folder
        self.connection = connection
        self.environment = {**os.environ, "CRYPTOFD_BROKER": os.fspath(address)}
        self.environment.pop("CRYPTOFD_BROKER_FD", None)
        self.empty = folder / "empty"
        self.empty.mkdir()
        status = connection.status()
        say(
            f"a broker: supervisor {status['supervisor']}, broker {status['broker']}, "
            "a worker for each user"
        )
        self.key = os.urandom(32)
        self.found: list[Stop] = []

    def stops(self, inputs: Sequence[tuple[str, Path]]) -> Iterator[Stop]:
        keys = self.connection.keys
        keys.import_key(LABEL, "gcm(aes)", self.key, usage={"encrypt", "decrypt"})
        try:
            keys.export(LABEL)
        except cryptofd.Refused:
            say(f"cryptofd:{LABEL} is not exportable: asked for its bytes, the broker refuses")
        else:
            raise cryptofd.CryptoFDError(errno.EPERM, "the key left, though it is not exportable")
        for number, (name, path) in enumerate(inputs):
            yield self._encrypted(name, path, eventful=not number)
        status = self.connection.status()
        for name in ("broker", "supervisor"):
            self._search(f"{name} (process {status[name]})", status[name], there=False)
        self._compared(inputs[0][1])
        yield from self.found

    def _search(self, where: str, pid: int, there: bool) -> None:
        """Looks for the key in a process, where it should be (``there``) or should not."""
        what = "search for the key, half by half"
        half = len(self.key) // 2
        try:
            result = scan(pid, [self.key[:half], self.key[half:]])
        except PermissionError:
            # The supervisor is not dumpable: then nobody but root looks into it.
            checked = "closed to this user, as to every program of theirs; root can look"
            self.found.append(Stop(what, where, {}, checked, not there))
            return
        times = len(result.found)
        if there:
            checked = f"{times} times in {result}" if times else f"WRONG: not in {result}"
        else:
            checked = f"WRONG: {result.found[0]}" if times else f"not in {result}"
        self.found.append(Stop(what, where, {}, checked, bool(times) == there))

    def _encrypted(self, name: str, path: Path, *, eventful: bool) -> Stop:
        """A file, encrypted by a program that has a descriptor and nothing else."""
        root = os.geteuid() == 0
        made = sealed.fresh(f"cryptofd:{LABEL}", b"", {}, self.connection)
        sink, events = self.folder / "sealed", ""
        with made.session as session:
            asked = {"adopt": session.fileno(), "pauses": eventful, **_layout(made)}
            if root:
                asked |= {"chroot": str(self.empty), "uid": NOBODY}
            with _client(asked, path, sink, [session.fileno()], self.environment) as client:
                if eventful:
                    events = self._worker_dies(client)
                result = _result(client)
        if root and (result["uid"] != NOBODY or result["root"] != 0):
            raise cryptofd.CryptoFDError(errno.EPERM, "the other process was not shut in")
        if eventful:
            events += f", which cost one request {result['slowest'] * 1000:.0f} ms"
        right, checked = self._check(sink, path, made)
        sink.unlink()
        place = f"broker's key, fd, {'chroot, uid 65534' if root else 'another process'}"
        return Stop(f"gcm(aes) of {name}", place, result, checked + events, right)

    def _worker_dies(self, client: subprocess.Popen[bytes]) -> str:
        """Half way: its memory is searched and its worker killed; at the end, searched again."""
        who = f"process {client.pid}"
        at = _pausing(client)["at"]
        self._search(f"client half way ({who})", client.pid, there=False)
        before = self._worker()
        os.kill(before["pid"], signal.SIGKILL)
        say(f"after {size(at)} of it worker {before['pid']} was killed")
        _go_on(client)
        _pausing(client)
        after = self._worker()
        if after["pid"] == before["pid"] or after["epoch"] <= before["epoch"]:
            raise cryptofd.CryptoFDError(errno.EIO, "the worker was not replaced")
        self._search(f"client at the end ({who})", client.pid, there=False)
        _go_on(client)
        return f"; worker {before['pid']} killed half way, {after['pid']} went on"

    def _worker(self) -> dict[str, Any]:
        workers = self.connection.status()["workers"]
        return next(w for w in workers if w["domain"] == f"uid:{os.geteuid()}")

    def _compared(self, path: Path) -> None:
        """The same program with the key in its own memory: there the same search must find it."""
        made = sealed.fresh(f"cryptofd:{LABEL}", b"", {}, self.connection)
        made.session.close()
        reading, writing = os.pipe()
        os.write(writing, self.key)
        os.close(writing)
        asked = {"key_fd": reading, "pauses": True, **_layout(made)}
        sink = self.folder / "compared"
        try:
            with _client(asked, path, sink, [reading], self.environment) as client:
                _pausing(client)
                where = f"the same with a key in process ({client.pid})"
                self._search(where, client.pid, there=True)
                _go_on(client)
                _pausing(client)
                _go_on(client)
                _result(client)
        finally:
            os.close(reading)

    def _check(self, sink: Path, path: Path, made: sealed.Sealed) -> tuple[bool, str]:
        """Two ways back: through the broker, with all tags, and by openssl, with the bytes."""
        back = self.folder / "back"
        _run(["decrypt", "-k", f"cryptofd:{LABEL}", "-o", str(back), str(sink)], self.environment)
        right = same(back, path)
        back.unlink()
        if not right:
            return False, "WRONG: cryptofd decrypts something else"
        wrong, of, count = self._openssl(sink, path, made)
        if wrong:
            return False, f"WRONG: openssl decrypts segment {wrong[0]} to something else"
        some = f"{of} of its {count} segments" if of < count else "all of it"
        return True, f"sha256sum agrees after decrypt; openssl decrypts {some}"

    def _openssl(self, sink: Path, path: Path, made: sealed.Sealed) -> tuple[list[int], int, int]:
        """Which segments differ, how many were compared, and how many there are.

        Inside GCM with an IV of 96 bits is counter mode that begins at 2; openssl enc has no GCM.
        """
        count = -(-sink.stat().st_size // made.segment)
        chosen = sorted({n * count // min(count, CHECKED) for n in range(min(count, CHECKED))})
        wrong = []
        with sink.open("rb") as box, path.open("rb") as plain:
            for number in chosen:
                begin = max(number * made.segment, len(made.header))
                box.seek(begin)
                segment = box.read((number + 1) * made.segment - begin)
                counter = segment[1:13].hex() + "00000002"
                command = ["enc", "-d", "-aes-256-ctr", "-K", self.key.hex(), "-iv", counter]
                plain.seek(begin - len(made.header) - number * made.more)
                expected = plain.read(len(segment) - made.more)
                if tool("openssl", *command, given=segment[13:-16]) != expected:
                    wrong.append(number)
        return wrong, len(chosen), count


def _layout(made: sealed.Sealed) -> dict[str, Any]:
    """What a program must be told that writes such a file; nothing of it is secret."""
    return {"header": made.header.hex(), "segment": made.segment, "more": made.more}


@contextlib.contextmanager
def _client(
    asked: dict[str, Any], path: Path, sink: Path, passed: list[int], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The program that encrypts, with these descriptors and the files'."""
    with path.open("rb") as source, sink.open("wb") as out:
        asked |= {"source_fd": source.fileno(), "sink_fd": out.fileno()}
        client = subprocess.Popen(
            [sys.executable, "-m", "cryptofd.cli.tour_client", json.dumps(asked)],
            pass_fds=[*passed, source.fileno(), out.fileno()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        )  # fmt: skip
    try:
        yield client
    finally:
        if client.poll() is None:
            client.kill()
        client.communicate()


def _pausing(client: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Waits until the client waits."""
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        _, said = client.communicate()
        return answer(line, client.returncode, said)
    return answer(line, 0, b"")


def _go_on(client: subprocess.Popen[bytes]) -> None:
    assert client.stdin is not None
    client.stdin.write(b"\n")
    client.stdin.flush()


def _result(client: subprocess.Popen[bytes]) -> dict[str, Any]:
    output, said = client.communicate()
    return answer(output, client.returncode, said)


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "cryptofd", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise cryptofd.CryptoFDError(errno.EIO, f"cryptofd {arguments[0]}: {lines[-1]}")

"""How long a client waits when the worker that serves it is killed.

One client asks in a loop, one request at a time, on one session after the other, as a program does
that knows nothing of workers. Another thread kills the worker with SIGKILL; the longest wait of the
client around each kill is the takeover as it saw it. 64 sessions, and 1,000.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cryptofd
from bench.measure import Effort, Figure
from cryptofd import daemon
from cryptofd.broker.client import Connection

#: Sessions, and the milliseconds that 99 of 100 kills may take.
TARGETS = {64: 20.0, 1000: 150.0}
KILLS = 40
#: Seconds between kills at least: a client works meanwhile, and another spare worker begins.
BETWEEN = 0.8
DEADLINE = 60.0


@contextmanager
def broker(folder: Path) -> Iterator[Connection]:
    """A broker of our own, in ``folder``."""
    state = folder / "state"
    state.mkdir(mode=0o700)
    environment = {**os.environ, "CRYPTOFD_STATE": str(state)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [str(daemon.path()), "supervisor", "--listen", str(folder / "broker")]
    command += ["--kek", str(state / "kek"), "--", sys.executable, "-m", "cryptofd.broker"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + DEADLINE
        connection = Connection(str(folder / "broker"))
        while True:
            with suppress(OSError):
                connection.status()
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.02)
        yield connection
    finally:
        process.terminate()
        process.wait(DEADLINE)


class Client:
    """Seals in a loop and writes down how long each answer took."""

    def __init__(self, sessions: list[cryptofd.CryptoFD]) -> None:
        self._sessions = sessions
        self._order = random.Random(0)
        self._stop = threading.Event()
        self._waits: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        data = bytes(1024)
        while not self._stop.is_set():
            session = self._order.choice(self._sessions)
            begin = time.perf_counter()
            session.seal(data)
            self._waits.append((begin, time.perf_counter() - begin))

    def longest(self, since: float) -> float:
        """The longest wait that was not over at ``since``, once one has begun after that."""
        while not self._waits or self._waits[-1][0] <= since:
            if not self._thread.is_alive():
                raise RuntimeError("the client's request failed")
            time.sleep(0.001)
        waits, self._waits = self._waits, []
        return max(wait for begin, wait in waits if begin + wait > since)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        self._thread.join()


def _worker(connection: Connection, before: int) -> int:
    """The worker's pid, once it is another than ``before``."""
    while True:
        for worker in connection.status()["workers"]:
            if worker["pid"] != before:
                return int(worker["pid"])
        time.sleep(0.01)


def waits(number: int, kills: int) -> list[float]:
    """Seconds that a client waited at each kill, with ``number`` sessions."""
    found = []
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)) as connection:
        connection.keys.generate("bench", "gcm(aes)", bits=256, usage={"encrypt", "decrypt"})
        sessions = [
            cryptofd.open("gcm(aes)", key="cryptofd:bench", broker=connection)
            for _ in range(number)
        ]
        pid = _worker(connection, 0)
        with Client(sessions) as client:
            for _ in range(kills):
                time.sleep(BETWEEN + random.random() / 10)
                killed = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
                pid = _worker(connection, pid)
                found.append(client.longest(killed))
        for session in sessions:
            session.close()
    return found


def takeover(effort: Effort) -> list[Figure]:
    """The lines of the table: 99 of 100 kills, in milliseconds."""
    kills = KILLS if effort.pairs > 3 else 3
    figures = []
    for number, target in TARGETS.items():
        found = sorted(waits(number, kills))
        at = found[min(len(found) - 1, round(0.99 * (len(found) - 1)))]
        median = statistics.median(found)
        figures.append(
            Figure(
                f"takeover, {number} sessions, p99 of {kills} kills",
                "target",
                target,
                at,
                target / 1000,
                at * 1000,
                found[0] * 1000,
                found[-1] * 1000,
                unit="ms",
                less=True,
                note=f"p50 {median * 1000:.1f} ms",
            )
        )
    return figures

"""TLS 1.3 handshakes of NSS's own server, its key in our token or in NSS's database."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import broker
from bench.door import MODULE
from bench.measure import Effort, Figure, figure, in_turns

#: Of the handshakes a second with the key in NSS's database.
TARGET = 0.9
TOKEN = "cryptofd keys"
#: Handshakes a pair, in threads of the client's.
HANDSHAKES, THREADS = 200, 4


def handshakes(effort: Effort) -> list[Figure]:
    """A P-256 key, full handshakes, server and client on this host."""
    count = HANDSHAKES if effort.pairs > 5 else 10
    with broker.own() as folder, tempfile.TemporaryDirectory() as name:
        os.environ["CRYPTOFD_STATE"] = str(folder / "objects")
        try:
            database = _database(Path(name))
            pairs = in_turns(
                lambda: _seconds(database, f"{TOKEN}:web", count),
                lambda: _seconds(database, "own", count),
                effort.pairs,
            )
        finally:
            del os.environ["CRYPTOFD_STATE"]
    work = "TLS 1.3 handshake of NSS's server, P-256 key of the broker's"
    return [figure(work, "key in NSS's database", TARGET, pairs)]


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: {command[0]}: {done.stderr.strip() or done.stdout.strip()}")


def _database(folder: Path) -> str:
    database = f"sql:{folder}"
    noise = folder / "noise"
    noise.write_bytes(os.urandom(64))
    _run("certutil", "-N", "-d", database, "--empty-password")
    _run("modutil", "-force", "-dbdir", database, "-add", "cryptofd", "-libfile", str(MODULE))
    for number, (nickname, token) in enumerate((("web", ["-h", TOKEN]), ("own", []))):
        _run(
            "certutil", "-S", "-d", database, *token, "-n", nickname, "-s", "CN=localhost", "-x",
            "-t", "C,C,C", "-k", "ec", "-q", "nistp256", "-z", str(noise), "-m", str(77 + number),
        )  # fmt: skip
    return database


@contextlib.contextmanager
def _server(database: str, nickname: str) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = ["selfserv", "-n", nickname, "-p", str(port), "-d", database, "-V", "tls1.3:tls1.3"]
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"bench: selfserv does not serve {nickname}")
            time.sleep(0.02)
        yield port
    finally:
        server.kill()
        server.wait()


def _seconds(database: str, nickname: str, count: int) -> float:
    """Seconds of one handshake."""
    with _server(database, nickname) as port:
        command = [
            "strsclnt", "-q", "-p", str(port), "-d", database, "-c", str(count), "-t", str(THREADS),
            "-N", "-V", "tls1.3:tls1.3", "localhost",
        ]  # fmt: skip
        begun = time.perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        taken = time.perf_counter() - begun
    # Its exit code says nothing: it counts what it did.
    if f"{count} server certificates tested" not in done.stderr + done.stdout:
        raise SystemExit(f"bench: strsclnt: {done.stderr.strip().splitlines()[-1:]}")
    return taken / count

"""TLS 1.3 handshakes of NSS's own server, its key in our token or in NSS's database."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench import broker
from bench.door import MODULE
from bench.measure import Effort, Figure, figure, in_turns
from bench.server import run, serving

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


def _database(folder: Path) -> str:
    database = f"sql:{folder}"
    noise = folder / "noise"
    noise.write_bytes(os.urandom(64))
    run("certutil", "-N", "-d", database, "--empty-password")
    run("modutil", "-force", "-dbdir", database, "-add", "cryptofd", "-libfile", str(MODULE))
    for number, (nickname, token) in enumerate((("web", ["-h", TOKEN]), ("own", []))):
        run(
            "certutil", "-S", "-d", database, *token, "-n", nickname, "-s", "CN=localhost", "-x",
            "-t", "C,C,C", "-k", "ec", "-q", "nistp256", "-z", str(noise), "-m", str(77 + number),
        )  # fmt: skip
    return database


def _seconds(database: str, nickname: str, count: int) -> float:
    """Seconds of one handshake."""

    def selfserv(port: int) -> list[str]:
        return ["selfserv", "-n", nickname, "-p", str(port), "-d", database, "-V", "tls1.3:tls1.3"]

    with serving(selfserv) as port:
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

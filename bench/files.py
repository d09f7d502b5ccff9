"""`cryptofd hash` over many files in the page cache, against `openssl dgst` and `sha256sum`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.calls import size
from bench.measure import Effort, Figure, figure, in_turns

OPENSSL_TARGET, SHA256SUM_TARGET = 1.1, 6.0
COUNT = 256

OURS = [sys.executable, "-m", "cryptofd", "hash"]


def _make(folder: Path, total: int) -> list[str]:
    files = []
    for number in range(COUNT):
        path = folder / f"{number:03}"
        with path.open("wb") as file:
            left = total // COUNT
            while left:
                left -= file.write(os.urandom(min(left, 1 << 20)))
        files.append(str(path))
    return files


def _warm(files: Sequence[str]) -> None:
    buffer = bytearray(1 << 20)
    for name in files:
        with Path(name).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _run(*commands: Sequence[str]) -> float:
    """Seconds until all of them, started together, are done."""
    start = time.perf_counter()
    processes = [subprocess.Popen(c, stdout=subprocess.DEVNULL) for c in commands]
    codes = [process.wait() for process in processes]
    taken = time.perf_counter() - start
    if any(codes):
        raise SystemExit(f"bench: {commands[0][0]} failed")
    return taken


def _agree(files: Sequence[str]) -> None:
    ours, theirs = (
        subprocess.run([*command, *files], check=True, capture_output=True).stdout
        for command in (OURS, ["/usr/bin/sha256sum"])
    )
    if ours != theirs:
        raise SystemExit("bench: cryptofd hash and sha256sum disagree")


def hashing(effort: Effort) -> list[Figure]:
    """Both peers, each in turns with us."""
    folder = Path(tempfile.mkdtemp(prefix="cryptofd-bench-"))
    try:
        files = _make(folder, effort.files)
        _agree(files[:8])
        _warm(files)
        work = f"cryptofd hash, {size(effort.files)} in {COUNT} files"
        half = len(files) // 2
        openssl = ["openssl", "dgst", "-sha256"]
        ours = [*OURS, *files]
        twice = in_turns(
            lambda: _run(ours),
            lambda: _run([*openssl, *files[:half]], [*openssl, *files[half:]]),
            effort.pairs,
        )
        coreutils = in_turns(
            lambda: _run(ours), lambda: _run(["/usr/bin/sha256sum", *files]), effort.pairs
        )
    finally:
        shutil.rmtree(folder)
    return [
        figure(work, "two parallel openssl dgst -sha256", OPENSSL_TARGET, twice),
        figure(work, "/usr/bin/sha256sum", SHA256SUM_TARGET, coreutils),
    ]

"""What ``import cryptofd`` adds to a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.measure import Effort, Figure, in_turns, more_than

TARGET_MS = 40.0


def _start(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def importing(effort: Effort) -> list[Figure]:
    """Milliseconds more than ``python -c pass``."""
    _start("import cryptofd")
    pairs = in_turns(lambda: _start("import cryptofd"), lambda: _start("pass"), effort.pairs)
    work = "import cryptofd, more than bare Python"
    return [more_than(work, "python -c pass", TARGET_MS, pairs, "ms")]

"""What ``import cryptofd`` adds to a bare interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench.measure import Effort, Figure, in_turns, interval

TARGET_MS = 40.0


def _start(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def importing(effort: Effort) -> list[Figure]:
    """Milliseconds more than ``python -c pass``."""
    _start("import cryptofd")
    pairs = in_turns(lambda: _start("import cryptofd"), lambda: _start("pass"), effort.pairs)
    more = [(ours - bare) * 1000 for ours, bare in pairs]
    low, high = interval(more)
    return [
        Figure(
            "import cryptofd, more than bare Python",
            "python -c pass",
            TARGET_MS,
            statistics.median(ours for ours, _ in pairs),
            statistics.median(bare for _, bare in pairs),
            statistics.median(more),
            low,
            high,
            unit="ms",
            less=True,
            pairs=pairs,
        )
    ]

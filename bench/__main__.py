"""`python -m bench`: measures, prints the table and writes bench/results.

Parts that are named take the place of what was measured of them before; the others stay.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from bench import (
    broker,
    calls,
    door,
    files,
    handshakes,
    importing,
    kernel,
    provider,
    report,
    takeover,
)
from bench.measure import Effort

PARTS = {
    "gcm": calls.gcm,
    "sha256": calls.sha256,
    "import": importing.importing,
    "files": files.hashing,
    "kernel": kernel.kernel,
    "afalg": kernel.afalg,
    "broker": broker.broker,
    "signatures": broker.signatures,
    "takeover": takeover.takeover,
    "pkcs11": door.door,
    "handshakes": handshakes.handshakes,
    "provider": provider.provider,
}


def main() -> int:
    """The exit code is 0 whether targets are met or not: the table says."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--short", action="store_true", help="a trial: tiny sizes, three pairs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    effort = Effort(0.002, 3, 8 << 20) if options.short else Effort()
    figures = []
    for name in options.parts or PARTS:
        start = time.monotonic()
        measured = PARTS[name](effort)
        for each in measured:
            each.part, each.load = name, os.getloadavg()[0]
        figures += measured
        print(f"bench: {name}, {time.monotonic() - start:.0f} s", file=sys.stderr)
    if options.parts and not options.short:
        figures += report.others(options.results, options.parts)
        figures.sort(key=lambda each: list(PARTS).index(each.part))
    print(report.write(figures, options.results, options.short))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A live table of the broker's workers and sessions, with rates. q or Ctrl-C ends it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from cryptofd.cli.output import print_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="everybody's, for an administrator")
    parser.add_argument("--once", action="store_true", help="print it once")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS")


def run(options: argparse.Namespace) -> int:
    import cryptofd

    before: dict[int, tuple[int, int]] = {}
    last = time.monotonic()
    with cryptofd.connect(start=False) as broker:
        while True:
            status = broker.status()
            rows = broker.sessions(all=options.all)
            if sys.stdout.isatty() and not options.once:
                print("\x1b[H\x1b[2J", end="")
            print(_head(status))
            now = time.monotonic()
            print_table(
                ("id", "uid", "pid", "algorithm", "key", "domain", "requests", "refused",
                 "requests/s", "MiB/s"),
                (
                    (s.id, s.uid, s.pid, s.algorithm, s.key, s.domain, s.operations, s.refused,
                     *_rates(s.operations, s.bytes, before.get(s.id), now - last))
                    for s in rows
                ),
            )  # fmt: skip
            before, last = {s.id: (s.operations, s.bytes) for s in rows}, now
            if options.once or not sys.stdout.isatty():
                return 0
            time.sleep(options.every)


def _rates(
    operations: int, size: int, before: tuple[int, int] | None, seconds: float
) -> tuple[str, str]:
    """Of one session since the table before; nothing in the first one."""
    if before is None or seconds <= 0:
        return "", ""
    requests = (operations - before[0]) / seconds
    return f"{requests:.0f}", f"{(size - before[1]) / seconds / (1 << 20):.1f}"


def _head(status: dict[str, Any]) -> str:
    workers = ", ".join(
        f"{w['domain']} {w['sessions']} (pid {w['pid']}, epoch {w['epoch']})"
        for w in status["workers"]
    )
    return (
        f"{status['sessions']} sessions, {status['keys']} keys, policy {status['policy']}\n"
        f"workers: {workers or 'none'}"
    )

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

    with cryptofd.connect(start=False) as broker:
        while True:
            status = broker.status()
            rows = broker.sessions(all=options.all)
            if sys.stdout.isatty() and not options.once:
                print("\x1b[H\x1b[2J", end="")
            print(_head(status))
            print_table(
                ("id", "uid", "pid", "algorithm", "key", "domain"),
                ((s.id, s.uid, s.pid, s.algorithm, s.key, s.domain) for s in rows),
            )
            if options.once or not sys.stdout.isatty():
                return 0
            time.sleep(options.every)


def _head(status: dict[str, Any]) -> str:
    workers = ", ".join(
        f"{w['domain']} {w['sessions']} (pid {w['pid']}, epoch {w['epoch']})"
        for w in status["workers"]
    )
    return (
        f"{status['sessions']} sessions, {status['keys']} keys, policy {status['policy']}\n"
        f"workers: {workers or 'none'}"
    )

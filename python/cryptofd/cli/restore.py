"""Adds the keys of a backup to the broker's store, where their labels are free."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")


def run(options: argparse.Namespace) -> int:
    import cryptofd

    with cryptofd.connect() as broker, Path(options.file).open("rb") as file:
        restored = broker.restore(file.fileno())
    print(f"{restored} keys are restored")
    return 0

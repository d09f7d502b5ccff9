"""Writes a consistent copy of the broker's store to a file that only you can read.

Keys stay wrapped: a restored copy is of use only with the key-encryption key.
"""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("-f", "--force", action="store_true", help="replace what is there")


def run(options: argparse.Namespace) -> int:
    import cryptofd
    from cryptofd.cli.files import made

    with cryptofd.connect() as broker, made(options.file, options.force) as file:
        file.flush()
        broker.backup(file.fileno())
    return 0

"""Encrypts a file or a pipe, of any length, so that no change to it goes unnoticed.

Under the bytes of a key the format is Tink's AES256_GCM_HKDF_1MB: Tink in any language decrypts it,
given the same key. Under a key of the broker's (cryptofd:LABEL) each part is sealed by a worker: no
key is ever in this process, and `cryptofd decrypt` finds the version that it was sealed with.
"""

from __future__ import annotations

import argparse
import sys

from cryptofd.cli.keys import add_key, stream_key
from cryptofd.cli.options import add_engine, engine_options

#: What the names of encrypted files end with where nobody says otherwise.
SUFFIX = ".cfd"


def configure(parser: argparse.ArgumentParser) -> None:
    configure_both(parser)
    parser.epilog = f"{parser.epilog}\nThe result of FILE is FILE{SUFFIX}, of a pipe a pipe."


def configure_both(parser: argparse.ArgumentParser) -> None:
    """Options of encrypt and decrypt."""
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="none, or -: a pipe")
    add_key(parser, "32 bytes or more, random, or an AEAD's reference")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to; -: standard output")
    parser.add_argument("-f", "--force", action="store_true", help="replace what is there")
    parser.add_argument(
        "--aad", default="", metavar="TEXT", help="text that is not stored and must be the same"
    )
    add_engine(parser)


def run(options: argparse.Namespace) -> int:
    from cryptofd import streaming
    from cryptofd.cli.files import made, opened, size_of
    from cryptofd.cli.output import Progress

    key = stream_key(options.key)
    output = options.output or ("-" if options.file == "-" else options.file + SUFFIX)
    refuse_terminal(output)
    aad = options.aad.encode()
    with (
        opened(options.file) as source,
        Progress("encrypting", size_of(source)) as progress,
        made(output, options.force) as sink,
        streaming.open_writer(sink, key=key, aad=aad, **engine_options(options)) as writer,
    ):
        writer.take(source, progress.add)
    return 0


def refuse_terminal(output: str) -> None:
    """Ciphertext is nothing for a terminal."""
    import errno

    from cryptofd.errors import InvalidArgument

    if output == "-" and sys.stdout.isatty():
        raise InvalidArgument(errno.EINVAL, "a terminal shows no bytes: -o FILE, or > FILE")

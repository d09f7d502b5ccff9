"""Decrypts what `cryptofd encrypt` or Tink (AES256_GCM_HKDF_1MB) made.

A file appears when all of it is verified, or not at all. On a pipe each segment (1 MiB; under a key
of the broker's 64 KiB) is released when it is verified; whether the end is missing shows at the
end: believe the exit code.
"""

from __future__ import annotations

import argparse
import errno

from cryptofd.cli.encrypt import SUFFIX, configure_both
from cryptofd.cli.keys import stream_key
from cryptofd.cli.options import engine_options


def configure(parser: argparse.ArgumentParser) -> None:
    configure_both(parser)
    parser.epilog = f"{parser.epilog}\nThe result of FILE{SUFFIX} is FILE, of a pipe a pipe."


def run(options: argparse.Namespace) -> int:
    from cryptofd import streaming
    from cryptofd.cli.files import made, opened, size_of
    from cryptofd.cli.output import Progress
    from cryptofd.errors import CryptoFDError, InvalidArgument

    key = stream_key(options.key)
    output = options.output
    if output is None:
        if options.file == "-":
            output = "-"
        elif options.file.endswith(SUFFIX) and options.file != SUFFIX:
            output = options.file.removesuffix(SUFFIX)
        else:
            raise InvalidArgument(
                errno.EINVAL,
                f"its name does not end with {SUFFIX}: say where to with -o",
                options.file,
            )
    with opened(options.file) as source, Progress("decrypting", size_of(source)) as progress:
        try:
            with made(output, options.force) as sink:
                reader = streaming.open_reader(
                    source, key=key, aad=options.aad.encode(), **engine_options(options)
                )
                with reader:
                    for part in reader.segments():
                        progress.add(len(part))
                        while part:
                            part = part[sink.write(part) :]
        except CryptoFDError as error:
            about_file = error.errno in {errno.EBADMSG, errno.ENOKEY}
            if about_file and error.filename is None and options.file != "-":
                error.filename = options.file
            raise
    return 0

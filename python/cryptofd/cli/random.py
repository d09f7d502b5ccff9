"""Random bytes from an engine's generator: raw, in hexadecimal or in base64."""

from __future__ import annotations

import argparse

from cryptofd.cli.options import add_engine, engine_options

# Asked for at a time: a multiple of 3, so that base64 has no padding within.
CHUNK = 48 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "count", type=count, metavar="BYTES", help="how many; K, M and G may follow"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--hex", action="store_true", help="in hexadecimal, with a line's end")
    form.add_argument("--base64", action="store_true", help="in base64, with a line's end")
    parser.add_argument("-o", "--output", default="-", metavar="FILE", help="a new file, mode 0600")
    add_engine(parser)


def count(text: str) -> int:
    """A number of bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes")
    return int(number) * unit


def run(options: argparse.Namespace) -> int:
    import binascii

    import cryptofd
    from cryptofd.cli.encrypt import refuse_terminal
    from cryptofd.cli.files import made

    raw = not (options.hex or options.base64)
    if raw:
        refuse_terminal(options.output)
    left = options.count
    with cryptofd.open("stdrng", **engine_options(options)) as rng, made(options.output) as sink:

        def put(data: bytes) -> None:
            view = memoryview(data)
            while view:
                view = view[sink.write(view) :]

        while left:
            data = rng.read(min(left, CHUNK))
            left -= len(data)
            if options.hex:
                data = binascii.hexlify(data)
            elif options.base64:
                data = binascii.b2a_base64(data, newline=False)
            put(data)
        if not raw:
            put(b"\n")
    return 0

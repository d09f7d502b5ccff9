"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any


def add_engine(parser: argparse.ArgumentParser) -> None:
    """What a caller may ask of the engine."""
    group = parser.add_argument_group("which engine")
    group.add_argument("--engine", metavar="NAME", help="this engine and no other")
    group.add_argument("--driver", metavar="NAME", help="this driver and no other")
    group.add_argument("--hardware", choices=["any", "prefer", "require", "forbid"])
    group.add_argument("--fips", action="store_true", help="a validated module, or nothing")


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """The same, as cryptofd.open takes them."""
    asked: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("engine", "driver", "hardware")
        if getattr(options, name) is not None
    }
    if options.fips:
        asked["fips"] = True
    return asked


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option --json."""
    parser.add_argument("--json", action="store_true", help="JSON, for programs")


def hexadecimal(text: str) -> bytes:
    """An argument in hexadecimal."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not hexadecimal") from None

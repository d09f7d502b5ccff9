"""Who would serve an algorithm, and why not the others."""

from __future__ import annotations

import argparse

from cryptofd.cli.options import add_engine, add_json, engine_options
from cryptofd.cli.output import plain, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("algorithm", metavar="ALG")
    add_engine(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    import cryptofd

    candidates = cryptofd.explain(options.algorithm, **engine_options(options))
    if options.json:
        print_json(plain(candidates))
    else:
        print_table(
            ("engine", "serves", "driver", "by", "fips", "why"),
            (
                (
                    c.engine,
                    "yes" if c.serves else "no",
                    (c.driver or "") + ("" if c.driver_certain else " (likely)"),
                    ("hardware" if c.hardware else "software") if c.offers else "",
                    "yes" if c.fips else "",
                    c.why,
                )
                for c in candidates
            ),
        )
    # Nobody serves it: scripts can tell.
    return 0 if any(c.serves for c in candidates) else 1

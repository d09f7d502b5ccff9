"""Lists the algorithms of the table: sizes in bytes, strength in bits, what speaks against them."""

from __future__ import annotations

import argparse

from cryptofd.cli.options import add_json
from cryptofd.cli.output import plain, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="ALG", help="only these")
    parser.add_argument(
        "--kind", metavar="KIND", help="hash, xof, mac, cipher, aead, wrap, kdf, rng or streaming"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    import errno

    import cryptofd
    from cryptofd.errors import UnknownAlgorithm

    listed = cryptofd.algorithms()
    for name in options.names:
        if not any(name in (a.name, *a.aliases) for a in listed):
            raise UnknownAlgorithm(errno.ENOENT, f"no algorithm {name!r}; `cryptofd algorithms`")
    listed = [
        a
        for a in listed
        if (not options.kind or a.kind == options.kind)
        and (not options.names or {a.name, *a.aliases} & set(options.names))
    ]
    if options.json:
        print_json(plain(listed))
        return 0
    print_table(
        ("algorithm", "kind", "key", "iv", "output", "strength", "fips", "note"),
        (
            (
                a.name,
                a.kind,
                a.key or "",
                a.iv or "",
                a.digest_size or a.tag_size or "",
                a.strength,
                "yes" if a.fips else "",
                a.weak,
            )
            for a in listed
        ),
    )
    return 0

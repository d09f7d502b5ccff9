"""Lists the engines in the order in which they are asked; prefers, disables or enables one.

The choice is written to your preferences (~/.config/cryptofd/cryptofd.toml), with --system to the
host's (/etc/cryptofd/cryptofd.toml), and holds for every session opened from then on.
"""

from __future__ import annotations

import argparse

from cryptofd.cli.options import add_json
from cryptofd.cli.output import plain, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="prefer|disable|enable")
    for verb, about in (
        ("prefer", "ask this engine first"),
        ("disable", "never use this engine"),
        ("enable", "use it again"),
    ):
        sub = verbs.add_parser(verb, help=about, allow_abbrev=False)
        sub.add_argument("name", metavar="NAME")
        sub.add_argument("--for", dest="algorithm", metavar="ALG", help="for this algorithm only")
        sub.add_argument("--system", action="store_true", help="for all users of this host")


def run(options: argparse.Namespace) -> int:
    import cryptofd

    if options.verb is not None:
        return _choose(options)
    engines = cryptofd.engines()
    if options.json:
        print_json(plain(engines))
        return 0
    print_table(
        ("engine", "available", "enabled", "about"),
        (
            (e.name, "yes" if e.available else "no", "yes" if e.enabled else "no", e.about)
            for e in engines
        ),
    )
    for engine in engines:
        for out in engine.quarantined:
            print(f"out of service: {engine.name} for {out['algorithm']}: {out['why']}")
    return 0


def _choose(options: argparse.Namespace) -> int:
    import errno

    import cryptofd
    from cryptofd.cli import preferences
    from cryptofd.errors import InvalidArgument, UnknownAlgorithm

    names = [e.name for e in cryptofd.engines()]
    if options.name not in names:
        raise InvalidArgument(
            errno.EINVAL, f"no engine {options.name!r}; there are {', '.join(names)}"
        )
    algorithm = None
    if options.algorithm is not None:
        table = {n: a.name for a in cryptofd.algorithms() for n in (a.name, *a.aliases)}
        algorithm = table.get(options.algorithm)
        if algorithm is None:
            raise UnknownAlgorithm(
                errno.ENOENT, f"no algorithm {options.algorithm!r}; `cryptofd algorithms`"
            )
    path = preferences.path(options.system)
    preferences.change(path, options.verb, options.name, algorithm)
    scope = f" for {algorithm}" if algorithm else ""
    state = {"prefer": "preferred", "disable": "disabled", "enable": "enabled"}[options.verb]
    print(f"{options.name} is {state}{scope}: {path}")
    return 0

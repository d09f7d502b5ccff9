"""Explains a decision of the broker's policy: which rules spoke, and what each said."""

from __future__ import annotations

import argparse

from cryptofd.cli.options import add_json
from cryptofd.cli.output import plain, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="check", required=True)
    check = verbs.add_parser("check", help="would this be allowed?", allow_abbrev=False)
    check.add_argument("--uid", type=int, metavar="UID", help="default: you")
    check.add_argument("--group", dest="groups", action="append", metavar="GROUP")
    check.add_argument("--unit", metavar="UNIT", help="a system unit, as nginx.service")
    check.add_argument("-a", "--algorithm", metavar="ALG")
    check.add_argument("-k", "--key", metavar="LABEL")
    check.add_argument("--right", choices=["use", "manage", "admin"])
    check.add_argument("--engine", metavar="NAME")
    check.add_argument("--hardware", action="store_true")
    check.add_argument("--direct", action="store_true")
    add_json(check)


def run(options: argparse.Namespace) -> int:
    """0 if it is allowed, 1 if it is not."""
    import cryptofd

    names = ("uid", "groups", "unit", "algorithm", "key", "right", "engine")
    asked = {name: getattr(options, name) for name in names}
    with cryptofd.connect() as broker:
        allowed, rules = broker.check_policy(
            hardware=options.hardware, direct=options.direct, **asked
        )
    if options.json:
        print_json({"allowed": allowed, "rules": plain(rules)})
    else:
        print("allowed" if allowed else "refused")
        print_table(
            ("verdict", "rule", "says", "source"),
            ((r.verdict, r.rule, r.says, r.source) for r in rules),
        )
    return 0 if allowed else 1

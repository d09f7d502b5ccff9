"""Shows the broker's audit; verifies that nothing in it was changed, cut or reordered."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--number", type=int, default=50, metavar="N", help="entries")
    parser.add_argument("--after", type=int, default=0, metavar="N", help="those beyond number N")
    verbs = parser.add_subparsers(dest="verb", metavar="verify")
    verify = verbs.add_parser("verify", help="with the first key, which you keep elsewhere")
    verify.add_argument("log", type=Path, metavar="LOG")
    verify.add_argument("--key", required=True, metavar="KEY", help="file:PATH, env:NAME or fd:N")
    verify.add_argument(
        "--head", action="append", default=[], metavar="NUMBER:MAC", help="one that you noted"
    )


def run(options: argparse.Namespace) -> int:
    if options.verb == "verify":
        return _verify(options)
    import cryptofd

    with cryptofd.connect(start=False) as broker:
        entries, head = broker.audit(after=options.after, most=options.number)
    for entry in entries:
        print(entry.text)
    print(f"head {head}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from cryptofd.broker import audit
    from cryptofd.cli.keys import bytes_of

    key = bytes_of(options.key, "the audit's chain")
    heads = [audit.Head.of(head) for head in options.head]
    verdict = audit.verify(options.log, key, heads)
    print(f"{verdict.lines} lines, head {verdict.head}")
    if verdict.bad is not None:
        print(f"line {verdict.bad}: {verdict.why}")
    for what in verdict.missing:
        print(what)
    return 0 if verdict.good else 1

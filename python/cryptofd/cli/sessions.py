"""Lists the sessions that the broker serves; closes one, or moves it to another engine."""

from __future__ import annotations

import argparse
import datetime

from cryptofd.cli.options import add_json
from cryptofd.cli.output import plain, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="everybody's, for an administrator")
    add_json(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="close|move")
    close = verbs.add_parser("close", help="end a session: its descriptors see POLLHUP")
    move = verbs.add_parser("move", help="serve it by another engine")
    for sub in (close, move):
        sub.add_argument("session", type=int, metavar="ID")
    move.add_argument("engine", metavar="ENGINE")


def run(options: argparse.Namespace) -> int:
    import cryptofd

    with cryptofd.connect(start=False) as broker:
        if options.verb == "close":
            broker.close_session(options.session)
            return 0
        if options.verb == "move":
            broker.move_session(options.session, options.engine)
            return 0
        found = broker.sessions(all=options.all)
    if options.json:
        print_json(plain(found))
        return 0
    print_table(
        ("id", "uid", "pid", "algorithm", "key", "domain", "requests", "refused", "opened"),
        (
            (
                s.id,
                s.uid,
                s.pid,
                s.algorithm,
                s.key,
                f"{s.domain}, direct: not revocable" if s.direct else s.domain,
                s.operations,
                s.refused,
                s.opened and datetime.datetime.fromtimestamp(s.opened).isoformat(" ", "seconds"),
            )
            for s in found
        ),
    )
    return 0

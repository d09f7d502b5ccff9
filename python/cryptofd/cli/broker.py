"""Starts a broker of your own, in the background or (--foreground) here, or tells how it is.

Its store is ~/.local/state/cryptofd. It keeps keys out of other programs' memory, files and core
dumps; it does not stop code that runs as the same user from asking it. The broker of a whole host
is a service: systemctl enable --now cryptofd.socket.
"""

from __future__ import annotations

import argparse

from cryptofd.cli.options import add_json
from cryptofd.cli.output import print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--foreground", action="store_true", help="until Ctrl-C")
    parser.add_argument(
        "--abstract", action="store_true",
        help="listen at an abstract name too, which programs in a chroot can reach",
    )  # fmt: skip
    parser.add_argument(
        "--service", action="store_true", help="the host's, started by the service manager"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="status|stop|rekey")
    status = verbs.add_parser("status", help="processes, workers, problems")
    add_json(status)
    rekey = verbs.add_parser("rekey", help="bring all keys under a new key-encryption key")
    rekey.add_argument(
        "--from",
        dest="source",
        default="file",
        metavar="SOURCE",
        help="file (a fresh one is made), credential:NAME or keyring:SERIAL",
    )
    verbs.add_parser("stop", help="end your own broker; its sessions end")


def run(options: argparse.Namespace) -> int:
    from cryptofd.broker import private

    if options.verb == "status":
        return _status(options)
    if options.verb == "stop":
        return 0 if private.stop() else 1
    if options.verb == "rekey":
        return _rekey(options)
    if options.service:
        from cryptofd.broker import service

        service.run()
    if options.foreground:
        private.foreground(abstract=options.abstract)
        return 0
    print(private.start(abstract=options.abstract))
    return 0


def _rekey(options: argparse.Namespace) -> int:
    import cryptofd

    with cryptofd.connect(start=False) as broker:
        print(f"{broker.rotate_kek(options.source)} keys are under the new key-encryption key")
    return 0


def _status(options: argparse.Namespace) -> int:
    import cryptofd

    with cryptofd.connect(start=False) as broker:
        status = broker.status()
    if options.json:
        print_json(status)
        return 0
    workers = status.pop("workers")
    problems, advice = status.pop("problems"), status.pop("advice")
    print_table(("what", "value"), status.items())
    if workers:
        print()
        print_table(
            ("domain", "pid", "epoch", "sessions"),
            ((w["domain"], w["pid"], w["epoch"], w["sessions"]) for w in workers),
        )
    for problem in problems:
        print(f"problem: {problem}")
    for line in advice:
        print(f"advice: {line}")
    return 1 if problems else 0

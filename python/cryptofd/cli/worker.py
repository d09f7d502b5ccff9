"""Puts new workers in the place of the running ones; sessions go on."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="replace", required=True)
    replace = verbs.add_parser("replace", help="planned: open streams finish first, up to 30 s")
    replace.add_argument("domain", nargs="?", metavar="DOMAIN", help="default: all of them")


def run(options: argparse.Namespace) -> int:
    import cryptofd

    with cryptofd.connect(start=False) as broker:
        before = {w["domain"]: w["pid"] for w in broker.status()["workers"]}
        broker.replace_worker(options.domain)
        for worker in broker.status()["workers"]:
            domain, pid = worker["domain"], worker["pid"]
            if options.domain in {None, domain}:
                print(f"{domain}: worker {before.get(domain)} is replaced by {pid}")
    return 0

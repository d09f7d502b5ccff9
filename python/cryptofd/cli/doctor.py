"""What this host allows cryptofd to do, and what to do about what it does not.

Looks only; changes nothing. Exit code 1 if something is broken rather than merely absent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cryptofd.cli.options import add_json
from cryptofd.cli.output import plain, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nss",
        metavar="DIR",
        type=Path,
        help="only: which slot NSS will ask for which mechanism, with this database",
    )
    add_json(parser)


MARKS = {"ok": "+", "absent": "-", "broken": "!"}


def choices(options: argparse.Namespace) -> int:
    """Foretells PK11_GetBestSlot."""
    from cryptofd.cli.nss_database import Database, mechanisms

    database = Database.read(options.nss)
    rows = [
        (kind.name, "cryptofd" if database.chooses_us(kind) else "another", kind.flag)
        for kind in mechanisms()
    ]
    if options.json:
        names = ("mechanism", "slot", "list")
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        print_table(("mechanism", "slot", "list of NSS's"), rows)
        print("\nA mechanism that no other module has comes to cryptofd wherever it is registered.")
    return 0


def run(options: argparse.Namespace) -> int:
    if options.nss is not None:
        return choices(options)
    from cryptofd.cli.findings import examine

    found = list(examine())
    if options.json:
        print_json(plain(found))
    else:
        topic = None
        for finding in found:
            if finding.topic != topic:
                topic = finding.topic
                print(topic)
            print(f"  {MARKS[finding.state]} {finding.what}")
            for line in finding.todo:
                print(f"      {line}")
        counts = {state: sum(f.state == state for f in found) for state in MARKS}
        print(
            f"\n{counts['ok']} in order (+), {counts['absent']} not there (-), "
            f"{counts['broken']} to mend (!)"
        )
    return int(any(f.state == "broken" for f in found))

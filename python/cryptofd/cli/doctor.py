"""What this host allows cryptofd to do, and what to do about what it does not.

Looks only; changes nothing. Exit code 1 if something is broken rather than merely absent.
"""

from __future__ import annotations

import argparse

from cryptofd.cli.options import add_json
from cryptofd.cli.output import plain, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


MARKS = {"ok": "+", "absent": "-", "broken": "!"}


def run(options: argparse.Namespace) -> int:
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

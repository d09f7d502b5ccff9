"""Lists the kernel's drivers with their priorities; prefers one of them (root).

The driver with the highest priority serves who asks the kernel for its algorithm.
"""

from __future__ import annotations

import argparse

from cryptofd.cli.options import add_json
from cryptofd.cli.output import plain, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algorithm", metavar="ALG", help="only of this algorithm")
    parser.add_argument("--hardware", action="store_true", help="only those that are hardware")
    parser.add_argument("--all", action="store_true", help="also what only other drivers may use")
    add_json(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="prefer")
    prefer = verbs.add_parser(
        "prefer", help="let this driver serve its algorithm", allow_abbrev=False
    )
    prefer.add_argument("driver", metavar="DRIVER")
    prefer.add_argument("--priority", type=int, metavar="N", help="default: above all its rivals")


def run(options: argparse.Namespace) -> int:
    from cryptofd import control

    if options.verb == "prefer":
        priority = control.prefer(options.driver, options.priority)
        print(f"{options.driver} has priority {priority}: new sessions get the highest")
        return 0
    listed = [
        driver
        for driver in control.drivers()
        if (options.all or not driver.internal)
        and (not options.hardware or driver.hardware)
        and options.algorithm in {None, driver.algorithm}
    ]
    listed.sort(key=lambda driver: (driver.algorithm, -driver.priority))
    if options.json:
        print_json(plain(listed))
        return 0
    print_table(
        ("algorithm", "driver", "priority", "kind", "by", "self-test", "module"),
        (
            (
                driver.algorithm,
                driver.name,
                driver.priority,
                driver.kind,
                "hardware" if driver.hardware else "software",
                "passed" if driver.selftest else "not passed",
                driver.module,
            )
            for driver in listed
        ),
    )
    return 0

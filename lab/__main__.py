"""`python -m lab`: kernels and userlands from the command line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from lab import restrict
from lab.common import NAMES, SUITES, LabError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab", description="real kernels for the tests")
    commands = parser.add_subparsers(dest="what", required=True)

    commands.add_parser("setup", help="fetch the kernels and make what boots them")

    for name, about in (
        ("run", "run a command in a kernel, on this checkout"),
        ("pytest", "run pytest in a kernel, on this checkout"),
    ):
        sub = commands.add_parser(name, help=about)
        sub.add_argument("--kernel", choices=NAMES, required=True)
        sub.add_argument("--linux", choices=restrict.LINUX, help="whose AF_ALG answers it gets")
        sub.add_argument("--uid", type=int, default=0)
        sub.add_argument("--hardware", action="store_true", help="a virtio-crypto device (QEMU)")
        sub.add_argument("--timeout", type=float, default=600.0, help="seconds, boot included")
        sub.add_argument("--console", action="store_true", help="show the kernel's console too")
        sub.add_argument("command", nargs="+" if name == "run" else "*")

    sub = commands.add_parser("userland", help="run a command in another suite, on this checkout")
    sub.add_argument("suite", choices=SUITES)
    sub.add_argument("command", nargs="+")

    sub = commands.add_parser("restrict", help="run a command with the answers of a later Linux")
    sub.add_argument("--linux", choices=restrict.LINUX, required=True)
    sub.add_argument("--uid", type=int, help="the user that the command runs as")
    sub.add_argument("command", nargs="+")

    options = parser.parse_args(arguments)
    try:
        match options.what:
            case "setup":
                return _setup()
            case "restrict":
                return restrict.run(options.linux, options.command, uid=options.uid)
            case "userland":
                return _enter(options.suite, options.command)
            case "pytest":
                pytest = ["python", "-m", "pytest", "-p", "no:cacheprovider"]
                return _run(options, [*pytest, *options.command])
            case _:
                return _run(options, options.command)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 125


def _setup() -> int:
    from lab import kernels
    from lab.userland import userland

    for name in NAMES:
        started = time.monotonic()
        kernel = kernels.kernel(name)
        print(f"{name:10} Linux {kernel.release:28} {time.monotonic() - started:5.1f} s")
    if os.geteuid():
        print("userlands need root: none fetched")
        return 0
    started = time.monotonic()
    userland(SUITES[0])  # the others, when they are asked for
    print(f"{SUITES[0]:10} Debian's userland {time.monotonic() - started:22.1f} s")
    return 0


def _enter(suite: str, command: list[str]) -> int:
    from lab.userland import userland

    return subprocess.run(userland(suite).command(*command), check=False).returncode


def _run(options: argparse.Namespace, command: list[str]) -> int:
    from lab import machine

    setting = machine.Setting(options.kernel, options.linux, options.uid, options.hardware)
    with machine.Machine(setting, command, output=sys.stdout.buffer) as running:
        try:
            return running.wait(options.timeout)
        finally:
            if options.console:
                print(running.console(), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""Runs a program with a connection to the broker that reaches only the named keys, to use them.

The program needs no socket in its file system, so it may be in a chroot, and no right of its own:
what it inherits (CRYPTOFD_BROKER_FD) is narrowed before it starts, and never widened again.
"""

from __future__ import annotations

import argparse
import os


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", required=True, metavar="LABEL,…", help="the keys that it may use")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD …")


def run(options: argparse.Namespace) -> int:
    import errno

    import cryptofd
    from cryptofd.errors import InvalidArgument

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise InvalidArgument(errno.EINVAL, "run: which program? cryptofd run --keys LABEL -- CMD")
    broker = cryptofd.connect()
    labels = [label.removeprefix("cryptofd:") for label in options.keys.split(",") if label]
    broker.narrow(labels)
    for label in labels:
        broker.keys.info(label)  # one that is not there is said now
    fd = broker.detach()
    os.set_inheritable(fd, True)
    os.environ["CRYPTOFD_BROKER_FD"] = str(fd)
    os.environ.pop("CRYPTOFD_BROKER", None)
    os.execvp(command[0], command)  # noqa: S606

"""``python -m cryptofd.broker``: started by the supervisor, which hands it its descriptors."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pathlib
import resource
import signal
import socket
import stat
import sys

from cryptofd.broker.policy import SYSTEM
from cryptofd.broker.server import Config, Server
from cryptofd.broker.transport import Limits


def state_directory() -> pathlib.Path:
    """Where store, key-encryption key and audit are."""
    given = os.environ.get("CRYPTOFD_STATE")
    if given:
        return pathlib.Path(given)
    if os.geteuid() == 0:
        return pathlib.Path("/var/lib/cryptofd")
    base = os.environ.get("XDG_STATE_HOME")
    home = pathlib.Path(base) if base else pathlib.Path.home() / ".local" / "state"
    return home / "cryptofd"


def policy_files() -> list[pathlib.Path]:
    """The system's, and for a user's own broker the user's: a user can only narrow."""
    files = [SYSTEM]
    if os.geteuid() != 0:
        base = os.environ.get("XDG_CONFIG_HOME")
        home = pathlib.Path(base) if base else pathlib.Path.home() / ".config"
        files.append(home / "cryptofd" / "policy.toml")
    given = os.environ.get("CRYPTOFD_POLICY")
    if given:
        files.append(pathlib.Path(given))
    return files


def _own_directory(path: pathlib.Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise SystemExit(f"cryptofd broker: {path} is not a directory of uid {os.geteuid()}")
    if about.st_mode & 0o077:
        raise SystemExit(f"cryptofd broker: {path} is open to others: chmod 700 it")


def _descriptor(name: str) -> int:
    value = os.environ.pop(name, "")
    if not value.isdigit():
        raise SystemExit(
            f"cryptofd broker: {name} is not set: the supervisor starts this (cryptofd broker)"
        )
    fd = int(value)
    os.set_inheritable(fd, False)
    return fd


async def _main() -> None:
    supervisor = socket.socket(fileno=_descriptor("CRYPTOFD_SUPERVISOR_FD"))
    listening = []
    for number in os.environ.pop("CRYPTOFD_LISTEN_FDS", "").split(","):
        if number.strip().isdigit():
            os.set_inheritable(int(number), False)
            listening.append(socket.socket(fileno=int(number)))
    state = state_directory()
    _own_directory(state)
    own = frozenset({0, os.geteuid()})
    metrics = os.environ.get("CRYPTOFD_METRICS")
    passphrase = os.environ.get("CRYPTOFD_PASSPHRASE_FD", "")
    server = Server(
        Config(
            state,
            supervisor,
            listening,
            policy_files(),
            own,
            pathlib.Path(metrics) if metrics else state / "metrics",
            os.environ.get("CRYPTOFD_KEK"),
            int(passphrase) if passphrase.isdigit() else None,
            # A user's own may listen where others can knock.
            Limits(uids=own if os.environ.get("CRYPTOFD_PRIVATE") == "1" else None),
        )
    )
    await server.start()
    # What is there now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    await server.run()


def main() -> int:
    """Run until told to stop."""
    # The supervisor reads them from a descriptor, and its children inherit that they are blocked.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.basicConfig(
        level=os.environ.get("CRYPTOFD_LOG", "INFO").upper(),
        format="cryptofd broker: %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        asyncio.run(_main())
    except OSError as error:
        print(f"cryptofd broker: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

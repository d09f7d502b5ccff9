"""The broker of a whole host, as a service manager starts it (systemd/cryptofd.service)."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from cryptofd import daemon

#: Where it listens if the service manager gave it no socket.
ADDRESS = "/run/cryptofd/broker"
#: Whom its workers become, where there is such a user.
WORKER = "cryptofd-worker"


def command() -> list[str]:
    """What starts it: the program and its words."""
    words = [os.fspath(daemon.path()), "supervisor"]
    if "LISTEN_FDS" not in os.environ:
        words += ["--listen", ADDRESS]
    if os.geteuid() == 0:
        try:
            worker = pwd.getpwnam(WORKER)
        except KeyError:
            print(f"cryptofd: no user {WORKER}: workers stay root", file=sys.stderr)
        else:
            words += ["--worker-uid", str(worker.pw_uid), "--worker-gid", str(worker.pw_gid)]
    return [*words, "--", sys.executable, "-P", "-m", "cryptofd.broker"]


def run() -> None:
    """Become the supervisor: the service manager goes on with the same process."""
    state = Path(os.environ.get("STATE_DIRECTORY") or "/var/lib/cryptofd")
    environment = {"CRYPTOFD_STATE": os.fspath(state), **os.environ}
    words = command()
    os.execve(words[0], words, environment)  # noqa: S606

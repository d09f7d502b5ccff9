"""This user's own broker: started on first need, found again by its socket, gone when idle.

It protects keys from being disclosed (memory, core dumps, files, backups), not from code that runs
as the same user: that may ask it as well.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptofd import daemon
from cryptofd._core import BrokerClient
from cryptofd.errors import CryptoFDError, Refused

#: Seconds without sessions and clients after which one that was started on first need ends.
IDLE = 600
#: Seconds that it may take to start.
PATIENCE = 20.0


def socket_path() -> Path:
    """Where it listens."""
    return Path(BrokerClient.private())


def _folder() -> Path:
    """The socket's directory, made if need be; nobody else may reach into it."""
    folder = socket_path().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise Refused(errno.EPERM, f"{folder} is not a directory of yours: remove it")
    if about.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def listening() -> int | None:
    """The supervisor's pid, if a broker answers at the socket."""
    status = _status(socket_path(), PATIENCE)
    return None if status is None else int(status["supervisor"])


def _status(address: Path, patience: float) -> dict[str, Any] | None:
    """What the broker there tells; None if nobody listens. ETIMEDOUT if it does not answer: the
    client library would wait, for who is connected may be served any moment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(max(patience, 0.1))
        try:
            sock.connect(os.fspath(address))
            sock.sendall(b'{"method":"org.cryptofd.Broker.Status"}\0')
            answer = b""
            while not answer.endswith(b"\0"):
                part = sock.recv(65536)
                if not part:
                    return None
                answer += part
        except TimeoutError:
            raise CryptoFDError(
                errno.ETIMEDOUT,
                f"the broker at {address} does not answer; {address.parent / 'log'} may say why",
            ) from None
        except OSError:
            return None
    parameters: dict[str, Any] = json.loads(answer[:-1]).get("parameters", {})
    return parameters if "supervisor" in parameters else None


def command(
    address: Path, state: Path, idle: int | None = None, *, abstract: bool = False
) -> list[str]:
    """What starts a broker that listens at `address` (and at its user's abstract name), with its
    store in `state`."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [os.fspath(daemon.path()), "supervisor", "--listen", os.fspath(address)]
    if abstract:
        command += ["--listen", BrokerClient.abstract_name()]
    if idle is not None:
        command += ["--idle-exit", str(idle)]
    return [*command, "--", sys.executable, "-P", "-m", "cryptofd.broker"]


def _environment() -> dict[str, str]:
    """Its store is this user's, root's too: /var/lib/cryptofd is the system's broker's."""
    base = os.environ.get("XDG_STATE_HOME") or os.fspath(Path.home() / ".local/state")
    return {
        "CRYPTOFD_STATE": os.fspath(Path(base) / "cryptofd"),
        **os.environ,
        "CRYPTOFD_PRIVATE": "1",
    }


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of many programs that find no broker, one starts it."""
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start(idle: int | None = IDLE, *, abstract: bool = False) -> Path:
    """Start it, unless it runs; its socket. It outlives this program."""
    folder = _folder()
    with _alone(folder):
        if listening() is None:
            log = folder / "log"
            environment = _environment()
            state = Path(environment["CRYPTOFD_STATE"])
            launch(socket_path(), state, log, environment, idle, abstract, start_new_session=True)
    return socket_path()


def launch(
    address: Path,
    state: Path,
    log: Path,
    environment: Mapping[str, str],
    idle: int | None = None,
    abstract: bool = False,
    **more: Any,
) -> subprocess.Popen[bytes]:
    """A broker's supervisor, when the broker answers at `address`."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command(address, state, idle, abstract=abstract), stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, cwd="/",
            env={**environment, "CRYPTOFD_STATE": os.fspath(state)}, **more,
        )  # fmt: skip
    try:
        _await(process, address, log)
    except BaseException:
        # Or it would start a broker that cannot live again and again.
        process.terminate()
        process.wait()
        raise
    return process


def _await(process: subprocess.Popen[bytes], address: Path, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while process.poll() is None:
        left = until - time.monotonic()
        try:
            if _status(address, left) is not None:
                return
        except CryptoFDError:
            left = 0
        if left <= 0:
            raise CryptoFDError(
                errno.ETIMEDOUT, f"the broker does not answer after {PATIENCE:.0f} s; see {log}"
            )
        time.sleep(0.02)
    raise CryptoFDError(
        errno.ECONNREFUSED, f"the broker ended at once ({process.returncode}); {log} says why"
    )


def foreground(*, abstract: bool = False) -> None:
    """Become the supervisor."""
    folder = _folder()
    with _alone(folder):
        pid = listening()
        if pid is not None:
            raise CryptoFDError(errno.EADDRINUSE, f"a broker listens already: process {pid}")
    environment = _environment()
    whole = command(socket_path(), Path(environment["CRYPTOFD_STATE"]), abstract=abstract)
    os.execve(whole[0], whole, environment)  # noqa: S606


def stop() -> bool:
    """End it; whether one was running."""
    pid = listening()
    if pid is None:
        return False
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        ended, _, _ = select.select([fd], [], [], PATIENCE)
    finally:
        os.close(fd)
    if not ended:
        raise CryptoFDError(errno.ETIMEDOUT, f"process {pid} does not end")
    return True

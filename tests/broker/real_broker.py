"""A broker as users have it: real supervisor, real workers, the Python API and the command."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from children import in_a_child

import cryptofd
from cryptofd.broker.client import Connection

pytest.importorskip("asyncvarlink")
daemon = pytest.importorskip("cryptofd.daemon")

#: Seconds after which whatever was waited for is taken to be lost.
DEADLINE = 60.0


def environment(**more: str) -> dict[str, str]:
    """For a program that imports what we import."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something that happens in another process, and says nothing."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def with_us() -> None:
    """A test that fails leaves nobody behind: PR_SET_PDEATHSIG."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


class Broker:
    """One of our own: its socket, its store, and whoever may be asked to die."""

    def __init__(
        self, folder: Path, *options: str, pass_fds: Sequence[int] = (), **more: str
    ) -> None:
        """``options`` of the supervisor's, descriptors and environment are those of each start."""
        self.folder = folder
        self.options = options
        self.pass_fds = pass_fds
        self.socket = folder / "broker"
        self.state = folder / "state"
        self.state.mkdir(mode=0o700, exist_ok=True)
        self.policy = folder / "policy.toml"
        self.log = folder / "log"
        self.more = more
        self.start()

    def start(self, *options: str) -> None:
        """Run it, and wait until it answers."""
        self.launch(*options)
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError):
                self.connect().status()
                return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def launch(self, *options: str) -> None:
        """Run it."""
        given = environment(
            CRYPTOFD_STATE=str(self.state), CRYPTOFD_POLICY=str(self.policy), **self.more
        )
        command = [str(daemon.path()), "supervisor", "--listen", str(self.socket)]
        command += [*self.options, *options, "--", sys.executable, "-m", "cryptofd.broker"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=given, stdout=log, stderr=log, preexec_fn=with_us,
                pass_fds=self.pass_fds,
            )  # fmt: skip

    def connect(self) -> Connection:
        return Connection(str(self.socket))

    def command(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """``cryptofd ARGUMENTS``."""
        return subprocess.run(
            [sys.executable, "-m", "cryptofd", *arguments],
            env=environment(CRYPTOFD_BROKER=str(self.socket)), capture_output=True, text=True,
            timeout=DEADLINE, check=False, **more,
        )  # fmt: skip

    def kill_broker(self) -> None:
        """SIGKILL; the supervisor starts another."""
        before = self.connect().status()["broker"]
        os.kill(before, signal.SIGKILL)
        until(lambda: self.status()["broker"] != before, "no other broker comes")

    def kill_worker(self, domain: str | None = None) -> int:
        """SIGKILL to the worker of a domain; returns its pid."""
        pid: int = next(
            one["pid"] for one in self.status()["workers"] if domain in (None, one["domain"])
        )
        os.kill(pid, signal.SIGKILL)
        return pid

    def status(self) -> dict[str, Any]:
        return self.connect().status()

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(DEADLINE) == 0, self.log.read_text()


def as_user(uid: int, does: Callable[[], None], *groups: int) -> None:
    """Do something in a child that is another user; what it raises fails the test."""

    def other() -> None:
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        does()

    in_a_child(other)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def opened(connection: Connection, algorithm: str, label: str, **options: Any) -> cryptofd.CryptoFD:
    """A session on a stored key."""
    return cryptofd.open(algorithm, key=f"cryptofd:{label}", broker=connection, **options)


def refused(code: int, call: Any, *arguments: Any, **options: Any) -> str:
    """The call fails with this errno; its sentence."""
    with pytest.raises(cryptofd.CryptoFDError) as caught:
        call(*arguments, **options)
    got = caught.value.errno
    assert got == code, f"{errno.errorcode.get(got or 0)}: {caught.value}"
    return str(caught.value)


def memory(pid: int) -> Iterator[tuple[str, bytes]]:
    """Every readable mapping in which anything was written, with its line of /proc/PID/maps."""
    place = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if " " in name:
            place, written = line, False
        elif name in ("Anonymous", "Private_Dirty", "Shared_Dirty", "Swap", "Locked"):
            written |= rest.split()[0] != "0"
        elif name == "VmFlags" and written and " r" in place and "[v" not in place:
            start, end = (int(one, 16) for one in place.split()[0].split("-"))
            with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
                try:
                    file.seek(start)
                    yield place, file.read(end - start)
                except OSError:
                    continue


def found(pid: int, secret: bytes) -> list[str]:
    """The mappings in which ``secret`` stands."""
    return [line for line, mapping in memory(pid) if secret in mapping]

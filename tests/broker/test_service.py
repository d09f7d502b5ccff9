"""As a service: systemd's units, what it is told, and sessions that outlive the whole service."""

from __future__ import annotations

import array
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_broker import DEADLINE, daemon, environment, opened, until

import cryptofd
from cryptofd.broker.client import Connection

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"

#: Descriptors come to a service from number 3 on; then it is what it is told to be.
START = """
import os, sys
numbers = [int(word) for word in sys.argv[1].split(",") if word]
high = [os.dup(number) for number in numbers]
top = max([*high, 2]) + 1
high = [os.dup2(number, top + place, inheritable=False) for place, number in enumerate(high)]
for place, number in enumerate(high):
    os.dup2(number, 3 + place)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(numbers))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """In systemd's place: listens, keeps descriptors by name, starts the service with them."""

    def __init__(self, folder: Path, **more: str) -> None:
        self.folder = folder
        self.more = more
        (folder / "state").mkdir(mode=0o700)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(folder / "broker"))
        self.listening.listen(64)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.said: list[str] = []
        self.kept: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self) -> None:
        while True:
            data, extra, _, _ = self.notify.recvmsg(65536, socket.CMSG_SPACE(4 * 253))
            fds = array.array("i")
            for _, _, numbers in extra:
                fds.frombytes(numbers[: len(numbers) - len(numbers) % fds.itemsize])
            lines = data.decode().splitlines()
            if lines == ["END"]:
                return
            values = dict(line.split("=", 1) for line in lines)
            with self._lock:
                self.said += lines
                if "FDSTORE" in values:
                    self.kept += [(values["FDNAME"], fd) for fd in fds]
                elif "FDSTOREREMOVE" in values:
                    for one in [one for one in self.kept if one[0] == values["FDNAME"]]:
                        self.kept.remove(one)
                        os.close(one[1])

    def names(self) -> list[str]:
        with self._lock:
            return sorted(name for name, _ in self.kept)

    def start(self) -> None:
        with self._lock:
            self.said.clear()
            given = [("cryptofd.socket", self.listening.fileno()), *self.kept]
        numbers = [number for _, number in given]
        command = [sys.executable, "-c", START, ",".join(map(str, numbers)), str(daemon.path())]
        command += ["supervisor", "--", sys.executable, "-m", "cryptofd.broker"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, pass_fds=numbers,
                env=environment(
                    CRYPTOFD_STATE=str(self.folder / "state"),
                    CRYPTOFD_POLICY=str(self.folder / "policy.toml"),
                    NOTIFY_SOCKET=str(self.folder / "notify"),
                    LISTEN_FDNAMES=":".join(name for name, _ in given), **self.more,
                ),
            )  # fmt: skip

        until(lambda: "READY=1" in self.said, "nobody says that it is ready")
        self.connect().status()

    def connect(self) -> Connection:
        return Connection(str(self.folder / "broker"))

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def kill(self) -> None:
        """SIGKILL to all of the service's processes at once, as an OOM killer does it."""
        assert self.process is not None
        status = self.connect().status()
        pids = [status["broker"], *(worker["pid"] for worker in status["workers"])]
        descriptors = [os.pidfd_open(pid) for pid in pids]
        self.process.kill()
        for fd in descriptors:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
        self.process.wait(DEADLINE)

    def end(self) -> int:
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(DEADLINE)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"END", str(self.folder / "notify"))
        self._thread.join(DEADLINE)
        for sock in (self.listening, self.notify):
            sock.close()
        for _, fd in self.kept:
            os.close(fd)
        return code


@pytest.fixture(params=["file", "credential"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    more: dict[str, Any] = {}
    if request.param == "credential":
        (tmp_path / "credentials").mkdir()
        credential = tmp_path / "credentials" / "cryptofd.kek"
        credential.write_bytes(os.urandom(32))
        credential.chmod(0o400)
        more["CREDENTIALS_DIRECTORY"] = str(tmp_path / "credentials")
    one = Manager(tmp_path, **more)
    one.start()
    yield one
    if one.process is not None and one.process.poll() is None:
        assert one.end() == 0, one.log()


class Work:
    """Asks without end, in a thread; every answer is right."""

    def __init__(self, session: cryptofd.CryptoFD, box: bytes) -> None:
        self._session, self._box = session, box
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self.done = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                assert self._session.unseal(self._box) == b"x"
                self.done += 1
        except BaseException as error:
            self._failed.append(error)

    def goes_on(self) -> None:
        """It has done more than it had."""
        before = self.done
        until(lambda: self.done > before + 10 or bool(self._failed), "what was under way is lost")
        assert not self._failed

    def end(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)
        assert not self._failed


def _kept(manager: Manager) -> list[str]:
    return [name for name in manager.names() if name.startswith(("session-", "recipe-"))]


def test_sessions_outlive_the_whole_service(manager: Manager) -> None:
    """Killed with everything twice: one-shot work goes on, also what was under way, and a clone."""
    connection = manager.connect()
    connection.keys.generate("db", "gcm(aes)", bits=256, usage={"encrypt", "decrypt"})
    sessions = [opened(connection, "gcm(aes)", "db") for _ in range(20)]
    clone = sessions[0].clone()
    boxes = [session.seal(b"x") for session in sessions]
    # An end and a recipe of each, and the clone's end.
    until(lambda: len(_kept(manager)) == 41, "the ends are not kept")
    for _ in range(2):
        work = Work(sessions[7], boxes[7])
        work.goes_on()
        manager.kill()
        manager.start()
        work.goes_on()
        work.end()
        for session, box in zip(sessions, boxes, strict=True):
            assert session.unseal(box) == b"x"
        assert clone.unseal(boxes[0]) == b"x"
    for session in [*sessions, clone]:
        session.close()
    until(lambda: not _kept(manager), "what is closed is kept")
    # And the store is what it was.
    with opened(manager.connect(), "gcm(aes)", "db") as session:
        assert session.unseal(boxes[0]) == b"x"


def test_it_says_how_it_stands_and_obeys_signals(manager: Manager) -> None:
    connection = manager.connect()
    connection.keys.generate("db", "gcm(aes)", bits=256, usage={"encrypt", "decrypt"})
    session = opened(connection, "gcm(aes)", "db")
    until(lambda: any("1 workers" in line for line in manager.said), "no status")
    # SIGHUP: the policy is read again.
    (manager.folder / "policy.toml").write_text("this is none\n")
    assert manager.process is not None
    manager.process.send_signal(signal.SIGHUP)
    until(lambda: "policy" in " ".join(connection.status()["problems"]), "the policy is not read")
    pids = [connection.status()["broker"], *(w["pid"] for w in connection.status()["workers"])]
    assert manager.end() == 0, manager.log()
    assert "STOPPING=1" in manager.said
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(OSError, match=r".") as caught:
        session.seal(b"x")
    assert caught.value.errno is not None


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    for unit in UNITS.glob("cryptofd.s*"):
        text = unit.read_text().replace("ExecStart=cryptofd", "ExecStart=/bin/true")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def _analyze(*words: str, folder: Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=DEADLINE, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr + done.stdout


def test_the_units_are_valid(units: Path) -> None:
    said = _analyze(
        "verify",
        "--man=no",
        str(units / "cryptofd.service"),
        str(units / "cryptofd.socket"),
        folder=units,
    )
    assert "cryptofd" not in said


def test_the_units_expose_little(units: Path) -> None:
    """systemd's own measure, of 100; root services come at 96."""
    _analyze(
        "security",
        "--offline=true",
        "--threshold=20",
        str(units / "cryptofd.service"),
        folder=units,
    )

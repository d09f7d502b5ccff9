"""A key's bytes are in a worker's locked memory, and nowhere else.

Every kind of key and of session; every mapping of client, broker and supervisor; core dumps, the
store, logs, the audit, a backup. The scan proves itself: it finds the keys of an in-process session
in the program that holds them, and those of brokered ones in the worker.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_broker import (
    DEADLINE,
    Broker,
    as_user,
    daemon,
    environment,
    memory,
    open_folder,
    until,
)

import cryptofd

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="reading another process's memory needs root"
)

PROGRAM = str(Path(__file__).with_name("isolation_client.py"))


def started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """The program, once it said its line."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM, *arguments], env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    return process, process.stdout.readline()


def ended(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    keys = broker.connect().keys
    keys.import_key("lent", "hmac(sha256)", bytes(32), exportable=True, wrappable=True)
    yield broker
    broker.end()


@pytest.fixture(scope="module")
def secrets(real: Broker) -> dict[str, list[bytes]]:
    """Pieces of the keys that this broker keeps. Who brought them is gone."""
    process, line = started("import", str(real.socket))
    ended(process)
    told = json.loads(line)
    return {name: [bytes.fromhex(piece) for piece in told[name]] for name in told}


@pytest.fixture(scope="module")
def client(real: Broker, secrets: dict[str, list[bytes]]) -> Iterator[int]:
    """A process that uses all of them."""
    process, line = started("use", str(real.socket))
    assert line.startswith("ready")
    if "openssl" in {one.name for one in cryptofd.engines() if one.available}:
        assert json.loads(line.removeprefix("ready"))["openssl"] > 10
    yield process.pid
    ended(process)


def seen(pid: int, secrets: dict[str, list[bytes]]) -> dict[str, list[str]]:
    """Which keys are in the memory of a process, and in which mappings."""
    found: dict[str, list[str]] = {}
    for line, mapping in memory(pid):
        for name, pieces in secrets.items():
            if any(piece in mapping for piece in pieces):
                found.setdefault(name, []).append(line)
    return found


def test_the_scan_finds_what_is_there() -> None:
    process, line = started("near")
    told = {name: [bytes.fromhex(p) for p in pieces] for name, pieces in json.loads(line).items()}
    assert set(seen(process.pid, told)) == set(told)
    ended(process)


def test_no_key_is_in_client_broker_or_supervisor(
    real: Broker, client: int, secrets: dict[str, list[bytes]]
) -> None:
    status = real.status()
    workers = [one["pid"] for one in status["workers"]]
    # Keys that wrap serve no session: they are there while a call of the broker's lasts.
    lasting = set(secrets) - {"kw(aes)", "kwp(aes)"}
    assert lasting <= set(seen(workers[0], secrets)), "the scan is blind"
    for pid in (client, status["broker"], status["supervisor"]):
        assert seen(pid, secrets) == {}, Path(f"/proc/{pid}/cmdline").read_bytes()
    # Nor in any other process that is ours: spare workers, whoever keeps the key-encryption key.
    for pid in descendants(status["supervisor"]):
        if pid not in workers:
            assert seen(pid, secrets) == {}, Path(f"/proc/{pid}/cmdline").read_bytes()


def descendants(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                found += [int(entry.name), *descendants(int(entry.name))]
    return found


def test_a_worker_has_them_in_locked_memory_that_is_not_dumped(
    real: Broker, client: int, secrets: dict[str, list[bytes]]
) -> None:
    pid = real.status()["workers"][0]["pid"]
    flags: dict[str, set[str]] = {}
    place = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("VmFlags:"):
            flags[place] = set(line.split()[1:])
        elif line[0] in "0123456789abcdef" and ":" not in line.split()[0]:
            place = line.split()[0]
    loose = {
        (name, mapping)
        for name, mappings in seen(pid, secrets).items()
        for mapping in mappings
        if not {"lo", "dd"} <= flags[mapping.split()[0]]
    }
    assert loose == set()


def test_no_key_is_in_store_log_audit_or_backup(
    real: Broker, client: int, secrets: dict[str, list[bytes]], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    with copy.open("wb") as file:
        real.connect().backup(file.fileno())
    files = [copy, real.log, *(file for file in real.state.rglob("*") if file.is_file())]
    assert {"store.sqlite", "audit.log"} <= {file.name for file in files}
    for file in files:
        data = file.read_bytes()
        for name, pieces in secrets.items():
            for piece in pieces:
                told = [piece, piece.hex().encode(), piece.hex().upper().encode()]
                told += [base64.b64encode(piece[n : n + 12]) for n in range(3)]
                assert not any(one in data for one in told), (file, name)


@pytest.mark.soak
def test_a_dumped_worker_tells_nothing(
    real: Broker, client: int, secrets: dict[str, list[bytes]], tmp_path: Path
) -> None:
    """Not by gcore, which leaves out what is marked so, as the kernel does."""
    pid = real.status()["workers"][0]["pid"]
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(
            ["gcore", "-o", str(tmp_path / "core"), str(pid)], timeout=DEADLINE, check=False,
            capture_output=True,
        )  # fmt: skip
        for file in tmp_path.iterdir():
            data = file.read_bytes()
            for name, pieces in secrets.items():
                assert not any(piece in data for piece in pieces), name


def test_a_dying_worker_leaves_no_core(real: Broker, client: int) -> None:
    pid = real.status()["workers"][0]["pid"]
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    # Whoever raises the limit gets none either: the process is not dumpable.
    with contextlib.suppress(PermissionError):
        limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(pid, resource.RLIMIT_CORE, limit)
    folder = Path(os.readlink(f"/proc/{pid}/cwd"))  # noqa: PTH115
    before = set(folder.glob("core*"))
    os.kill(pid, signal.SIGABRT)
    until(lambda: all(one["pid"] != pid for one in real.status()["workers"]), "it lives")
    assert set(folder.glob("core*")) == before
    assert "core dumped" not in real.log.read_text()


def test_a_handed_over_key_passes_by(real: Broker) -> None:
    """Its owner knows it; broker and supervisor do not."""
    program = (
        "import cryptofd, os, sys\n"
        "from cryptofd.broker.client import Connection\n"
        "key = os.urandom(32)\n"
        "fd = cryptofd.open('gcm(aes)', key=key, broker=Connection(sys.argv[1]))\n"
        "fd.encrypt(b'data', iv=bytes(12))\n"
        "print(key[:16].hex(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(real.socket)], env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    secrets = {"key": [bytes.fromhex(process.stdout.readline())]}
    status = real.status()
    assert seen(process.pid, secrets), "the scan is blind"
    assert any(seen(worker["pid"], secrets) for worker in status["workers"])
    assert seen(status["broker"], secrets) == {}
    assert seen(status["supervisor"], secrets) == {}
    ended(process)
    # With the session the key goes.
    until(
        lambda: not any(seen(worker["pid"], secrets) for worker in real.status()["workers"]),
        "the worker keeps a key whose session ended",
    )


def test_a_deleted_key_leaves_the_worker(real: Broker) -> None:

    broker = real.connect()
    key = os.urandom(32)
    broker.keys.import_key("gone", "gcm(aes)", key)
    fd = cryptofd.open("gcm(aes)", key="cryptofd:gone", broker=broker)
    fd.seal(b"data")
    secrets = {"gone": [key[:16]]}

    def there() -> bool:
        return any(seen(worker["pid"], secrets) for worker in real.status()["workers"])

    assert there()
    fd.close()
    until(lambda: not there(), "no session is on it, and it is there")


def test_who_runs_as_the_same_user_cannot_look_into_it() -> None:
    """Neither by /proc nor by ptrace(2) nor by taking a descriptor: not into a supervisor, which
    holds the key-encryption key's, nor into a worker."""
    uid = 4242
    libc = ctypes.CDLL(None, use_errno=True)

    def spy(folder: Path, program: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [program, "supervisor", "--listen", folder / "socket", "--kek", folder / "kek"]
        process = subprocess.Popen(
            [*command, "--broker-fd", str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        ours.settimeout(DEADLINE)
        ours.send(b'{"id":1,"op":"worker","domain":"uid:4242"}')
        answer = json.loads(ours.recv(65536))
        pids = {process.pid, answer["ok"]["pid"], *descendants(process.pid)}
        for pid in pids:
            look_into(pid)
        process.terminate()
        assert process.wait(DEADLINE) == 0

    def look_into(pid: int) -> None:
        for name in ("mem", "environ", "maps", "auxv", "fd/0", "map_files"):
            path = Path(f"/proc/{pid}/{name}")
            with pytest.raises(PermissionError):
                list(path.iterdir()) if name == "map_files" else path.read_bytes()
        assert libc.ptrace(16, pid, 0, 0) == -1  # PTRACE_ATTACH
        assert ctypes.get_errno() == errno.EPERM
        pidfd = os.pidfd_open(pid)
        for number in range(64):
            assert libc.syscall(438, pidfd, number, 0) == -1  # pidfd_getfd
            assert ctypes.get_errno() == errno.EPERM

    with open_folder() as above:
        program = above / "cryptofd-daemon"
        shutil.copy(daemon.path(), program)
        folder = above / "home"
        folder.mkdir(mode=0o700)
        os.chown(folder, uid, uid)
        as_user(uid, lambda: spy(folder, program))

"""Where the key-encryption key comes from, with real processes: sources, rotation, and a death."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_broker import Broker, environment, opened, until

import cryptofd
from cryptofd.broker.client import Connection
from cryptofd.broker.kek import under


@contextlib.contextmanager
def broker(folder: Path, *given: int, **more: str) -> Iterator[Broker]:
    """Started as a service is: the broker says where the key-encryption key is."""
    one = Broker(folder, pass_fds=given, **more)
    try:
        yield one
    finally:
        one.end()


def numbers(connection: Connection) -> set[int]:
    """Under which keys the stored ones are, by a copy of the store."""
    with tempfile.TemporaryFile() as file:
        connection.backup(file.fileno())
        file.seek(0)
        image = file.read()
    copy = sqlite3.connect(":memory:")
    # A log of its own (bytes 18 and 19) is nothing that memory has.
    copy.deserialize(image[:18] + b"\1\1" + image[20:])
    blobs = copy.execute("SELECT blob FROM keys").fetchall()
    copy.close()
    return {under(blob) for (blob,) in blobs}


def seal(connection: Connection, label: str = "db") -> bytes:
    with opened(connection, "gcm(aes)", label) as session:
        return session.seal(b"x")


def unseal(connection: Connection, box: bytes, label: str = "db") -> bytes:
    with opened(connection, "gcm(aes)", label) as session:
        return session.unseal(box)


def make(connection: Connection, label: str = "db") -> None:
    connection.keys.generate(label, "gcm(aes)", bits=256, usage={"encrypt", "decrypt"})


def test_a_file_is_made_on_first_need(tmp_path: Path) -> None:
    with broker(tmp_path) as one:
        make(one.connect())
        box = seal(one.connect())
    assert (tmp_path / "state" / "kek").stat().st_size == 36
    with broker(tmp_path) as one:
        assert unseal(one.connect(), box) == b"x"


def test_a_credential_of_the_service_manager(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "cryptofd.kek").write_bytes(os.urandom(32))
    (folder / "cryptofd.kek").chmod(0o400)
    with broker(tmp_path, CREDENTIALS_DIRECTORY=str(folder)) as one:
        make(one.connect())
        box = seal(one.connect())
        assert not (one.state / "kek").exists()
        one.kill_broker()
        one.kill_worker()
        assert unseal(one.connect(), box) == b"x"
    with broker(tmp_path, CREDENTIALS_DIRECTORY=str(folder)) as one:
        assert unseal(one.connect(), box) == b"x"


def _passphrase(text: bytes) -> int:
    reading, writing = os.pipe2(0)
    os.write(writing, text)
    os.close(writing)
    return reading


def test_a_passphrase_through_a_pipe(tmp_path: Path) -> None:
    """The broker is started again though the pipe is empty by then; another passphrase is none."""
    more = {"CRYPTOFD_KEK": "passphrase"}
    fd = _passphrase(b"correct horse battery staple\n")
    with broker(tmp_path, fd, CRYPTOFD_PASSPHRASE_FD=str(fd), **more) as one:
        make(one.connect())
        box = seal(one.connect())
        one.kill_broker()
        one.kill_worker()
        assert unseal(one.connect(), box) == b"x"
        assert not (one.state / "kek").exists()
    os.close(fd)
    fd = _passphrase(b"correct horse battery staple")
    with broker(tmp_path, fd, CRYPTOFD_PASSPHRASE_FD=str(fd)) as one:
        assert unseal(one.connect(), box) == b"x"
    os.close(fd)
    fd = _passphrase(b"another")
    wrong = pytest.raises(OSError, match="changed, or belong to another store")
    with broker(tmp_path, fd, CRYPTOFD_PASSPHRASE_FD=str(fd)) as one, wrong:
        unseal(one.connect(), box)
    os.close(fd)


def _add_key(payload: bytes) -> int:
    """A key in the session's keyring, of which our children are possessors too."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    machine = os.uname().machine
    number = {"x86_64": 248, "aarch64": 217}.get(machine)
    if number is None:
        pytest.skip(f"add_key(2) has no number here for {machine}")
    serial: int = syscall(number, b"user", b"cryptofd-test", payload, len(payload), -3)
    if serial < 0:
        code = ctypes.get_errno()
        pytest.skip(f"no keyring here: {os.strerror(code)}")
    return serial


def test_a_key_of_the_kernels_keyring(tmp_path: Path) -> None:
    serial = _add_key(os.urandom(32))
    with broker(tmp_path, CRYPTOFD_KEK=f"keyring:{serial}") as one:
        make(one.connect())
        box = seal(one.connect())
    with broker(tmp_path) as one:
        assert unseal(one.connect(), box) == b"x"
        assert not (one.state / "kek").exists()


def test_rotation_with_sessions_open(tmp_path: Path) -> None:
    """All rows are rewrapped; a session that is open outlives its worker before and after."""
    with broker(tmp_path) as one:
        connection = one.connect()
        for number in range(20):
            make(connection, f"k{number}")
        with opened(connection, "gcm(aes)", "k3") as session:
            box = session.seal(b"x")
            done = one.command("broker", "rekey")
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith("20 keys")
            one.kill_worker()
            assert session.unseal(box) == b"x"
        assert unseal(connection, box, "k3") == b"x"
        assert one.command("broker", "rekey", "--from", "file").stdout.startswith("20 keys")
        assert numbers(connection) == {3}
    # Nobody asks for those before any more.
    (one.state / "kek").unlink()
    (one.state / "kek2").unlink()
    with broker(tmp_path) as one:
        assert unseal(one.connect(), box, "k3") == b"x"


def test_a_death_in_the_middle_of_a_rotation(tmp_path: Path) -> None:
    """The next broker goes on where this one was killed; no key is lost whenever that is."""
    with broker(tmp_path) as one:
        connection = one.connect()
        for number in range(60):
            make(connection, f"k{number}")
        box = seal(connection, "k59")
        before = connection.status()["broker"]
        rekey = subprocess.Popen(
            [sys.executable, "-m", "cryptofd", "broker", "rekey"],
            env=environment(CRYPTOFD_BROKER=str(one.socket)),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: 2 in numbers(connection), "nothing is rewrapped")
        os.kill(before, signal.SIGKILL)
        rekey.wait(60)
        until(lambda: one.status()["broker"] != before, "no other broker comes")
        until(lambda: numbers(one.connect()) == {2}, "the rotation does not go on")
        connection = one.connect()
        assert unseal(connection, box, "k59") == b"x"
        for number in range(60):
            seal(connection, f"k{number}")


def test_who_is_no_source_is_refused(tmp_path: Path) -> None:
    with broker(tmp_path) as one:
        connection = one.connect()
        make(connection)
        for source, code in (
            ("credential:none", errno.ENOKEY),
            ("keyring:1", None),
            ("passphrase", errno.EINVAL),
            ("../kek", errno.EINVAL),
            ("file:../kek", errno.EINVAL),
        ):
            with pytest.raises(cryptofd.CryptoFDError) as caught:
                connection.rotate_kek(source)
            assert code is None or caught.value.errno == code, caught.value
        seal(connection)
        assert connection.rotate_kek() == 1
        seal(connection)

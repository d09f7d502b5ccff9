"""A broker at an abstract name: reached from a chroot, and only by whom it serves."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_broker import Broker

import cryptofd
import cryptofd.broker.client
import cryptofd.broker.private
from cryptofd._core import BrokerClient

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="chroot and other users need root")

NAME = "@cryptofd/0"
#: A uid that nothing else here has.
STRANGER = 48_000


def listening(folder: Path, **more: str) -> Iterator[Broker]:
    broker = Broker(folder, "--listen", NAME, **more)
    broker.connect().keys.generate("k", "gcm(aes)", usage={"encrypt", "decrypt"})
    yield broker
    broker.end()


@pytest.fixture
def everybodys(tmp_path: Path) -> Iterator[Broker]:
    yield from listening(tmp_path)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Broker]:
    yield from listening(tmp_path, CRYPTOFD_PRIVATE="1")


def in_chroot(root: Path, uid: int, work: Callable[[], Any], **variables: str) -> Any:
    """What ``work`` returns, or the errno of its error, in a child that sees no file."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            for name in ("CRYPTOFD_BROKER", "CRYPTOFD_BROKER_FD", "XDG_RUNTIME_DIR"):
                os.environ.pop(name, None)
            os.environ.update(variables)
            os.chroot(root)
            os.chdir("/")
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            said: Any = work()
        except OSError as error:
            said = error.errno
        except BaseException as error:
            said = repr(error)
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = json.loads(file.read())
    os.waitpid(pid, 0)
    return said


def seals() -> str:
    fd = cryptofd.open("gcm(aes)", key="cryptofd:k", broker=cryptofd.connect(start=False))
    return fd.unseal(fd.seal(b"text")).decode()


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.mark.usefixtures("private")
def test_from_a_chroot(empty: Path) -> None:
    # By default, where no path leads to a broker, and named.
    assert in_chroot(empty, 0, seals) == "text"
    assert in_chroot(empty, 0, seals, CRYPTOFD_BROKER=NAME) == "text"


@pytest.mark.usefixtures("private")
def test_a_private_one_turns_others_away(empty: Path) -> None:
    assert in_chroot(empty, STRANGER, seals, CRYPTOFD_BROKER=NAME) == errno.EPIPE

    def knock() -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect("\0" + NAME[1:])
            return sock.recv(1).hex()

    assert in_chroot(empty, STRANGER, knock) == ""


@pytest.mark.usefixtures("everybodys")
def test_a_systems_one_serves_others(empty: Path) -> None:
    def own_key() -> str:
        broker = cryptofd.connect(start=False)
        broker.keys.generate("mine", "gcm(aes)", usage={"encrypt", "decrypt"})
        fd = cryptofd.open("gcm(aes)", key="cryptofd:mine", broker=broker)
        return fd.unseal(fd.seal(b"text")).decode()

    assert in_chroot(empty, STRANGER, own_key) == "text"


def test_a_squatter_is_not_spoken_to(empty: Path) -> None:
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        heard = b"nobody came"
        try:
            with socket.socket(socket.AF_UNIX) as squatter:
                os.setresuid(STRANGER, STRANGER, STRANGER)
                squatter.bind("\0" + NAME[1:])
                squatter.listen()
                squatter.settimeout(60)
                os.write(told, b"x")
                heard = b""
                for _ in range(2):
                    with squatter.accept()[0] as one:
                        one.settimeout(60)
                        heard += one.recv(16)
        finally:
            os._exit(0 if heard == b"" else 1)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    # Looked for by default: as if nobody listened. Named: refused.
    assert in_chroot(empty, 0, seals) == errno.ECONNREFUSED
    assert in_chroot(empty, 0, seals, CRYPTOFD_BROKER=NAME) == errno.EPERM
    assert os.waitpid(pid, 0)[1] == 0


def test_the_name_carries_the_uid() -> None:
    assert BrokerClient.abstract_name() == f"@cryptofd/{os.geteuid()}"
    assert BrokerClient("@cryptofd/7").address == "@cryptofd/7"

"""A virtio-crypto device, to AF_ALG's raw sockets: there, away, there again.

Everything is closed before the device is pulled: lab/README.md tells what else happens.
"""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import drivers, guest

DEVICE = "virtio_crypto_aes_cbc"
KEY, IV, DATA = bytes(range(16)), bytes(16), bytes(4096)

WITHOUT_HARDWARE = guest.linux() is not None


@contextmanager
def operation(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as parent:
        parent.bind(("skcipher", name))
        parent.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, KEY)
        accepted, _ = parent.accept()
        with accepted:
            yield accepted


def encrypt(name: str) -> bytes:
    with operation(name) as op:
        op.sendmsg_afalg([DATA], op=socket.ALG_OP_ENCRYPT, iv=IV)
        return op.recv(len(DATA))


def registered() -> bool:
    return any(driver.is_called(DEVICE) for driver in drivers.registered())


def wait_until(wanted: bool) -> None:
    deadline = time.monotonic() + 20
    while registered() != wanted:
        assert time.monotonic() < deadline, f"{DEVICE} registered: {not wanted}"
        time.sleep(0.1)


def test_the_device_is_there() -> None:
    wait_until(True)
    assert DEVICE in Path("/proc/crypto").read_text()


@pytest.mark.skipif(WITHOUT_HARDWARE, reason="Linux 7.2 took it out of AF_ALG")
def test_the_device_computes_what_software_computes() -> None:
    assert encrypt(DEVICE) == encrypt("cbc(aes-generic)")


@pytest.mark.skipif(not WITHOUT_HARDWARE, reason="this kernel's AF_ALG has hardware")
def test_the_device_is_out_of_reach() -> None:
    with pytest.raises(FileNotFoundError), operation(DEVICE):
        pass


@pytest.mark.skipif(WITHOUT_HARDWARE, reason="a program cannot see it go")
def test_a_pulled_device_is_gone_and_a_new_one_serves() -> None:
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as keyless:
        keyless.bind(("skcipher", DEVICE))
        assert guest.unplug()
        wait_until(False)
        with pytest.raises(OSError, match="No such device") as caught:
            keyless.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, KEY)
        assert caught.value.errno == errno.ENODEV
    with pytest.raises(FileNotFoundError), operation(DEVICE):
        pass
    assert encrypt("cbc(aes)") == encrypt("cbc(aes-generic)")
    guest.plug()
    wait_until(True)
    assert encrypt(DEVICE) == encrypt("cbc(aes-generic)")

"""Sessions on a real hardware driver: required, forbidden, preferred, and pulled out."""

from __future__ import annotations

import errno
import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import cryptofd
from cryptofd import control
from lab import guest

DRIVER = "virtio_crypto_aes_cbc"
KEY, IV = bytes(range(16)), bytes(16)


def expected(data: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def test_required() -> None:
    fd = cryptofd.open("cbc(aes)", key=KEY, hardware="require")
    info = fd.info()
    assert (info.engine, info.driver, info.hardware) == ("kernel", DRIVER, True)
    assert fd.encrypt(b"x" * 65536, iv=IV) == expected(b"x" * 65536)


def test_preferred() -> None:
    assert cryptofd.open("cbc(aes)", key=KEY, hardware="prefer").info().driver == DRIVER
    # There is none for this one: software, and the reasons say so.
    info = cryptofd.open("gcm(aes)", key=KEY, hardware="prefer").info()
    assert not info.hardware


def test_forbidden() -> None:
    for engine in ("software", "openssl", "kernel"):
        info = cryptofd.open("cbc(aes)", key=KEY, hardware="forbid", engine=engine).info()
        assert not info.hardware
        assert info.driver != DRIVER


def test_required_where_there_is_none() -> None:
    with pytest.raises(cryptofd.NoEngine) as caught:
        cryptofd.open("gcm(aes)", key=KEY, hardware="require")
    assert caught.value.errno == errno.ENODEV


def test_a_priority_moves_new_sessions() -> None:
    before = {d.name: d.priority for d in control.drivers() if d.algorithm == "cbc(aes)"}
    software = next(name for name in before if name != DRIVER)
    old = cryptofd.open("cbc(aes)", key=KEY, engine="kernel")
    try:
        for step, driver in enumerate((software, DRIVER, software, DRIVER), start=1):
            control.prefer(driver, max(before.values()) + step)
            fd = cryptofd.open("cbc(aes)", key=KEY, engine="kernel")
            assert fd.info().driver == driver
            assert fd.encrypt(bytes(16), iv=IV) == expected(bytes(16))
    finally:
        for driver, priority in before.items():
            control.prefer(driver, priority)
    assert old.encrypt(bytes(16), iv=IV) == expected(bytes(16))


def test_pulled_in_the_middle_of_a_long_run() -> None:
    # Last in this file: the device is gone afterwards.
    fd = cryptofd.open("cbc(aes)", key=KEY, hardware="prefer")
    assert fd.info().driver == DRIVER
    data = bytes(range(256)) * 128
    right = hashlib.sha256(expected(data)).digest()
    for number in range(60):
        if number == 20:
            guest.unplug()
        assert hashlib.sha256(fd.encrypt(data, iv=IV)).digest() == right
    info = fd.info()
    assert not info.hardware
    assert info.counts.moved == 1
    assert any(r.engine == "kernel" and DRIVER in r.why for r in info.reasons)

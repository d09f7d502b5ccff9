"""The kernel's drivers: what is asked of NETLINK_CRYPTO, and answers that lie."""

import errno
import os
import socket
import struct

import pytest

from cryptofd import control
from cryptofd.control import netlink
from cryptofd.errors import CryptoFDError, InvalidArgument, Refused, Unsupported

# Recorded from Linux 6.1.176: what acknowledged an UPDATEALG, and what refused it to another user.
DONE = bytes.fromhex("240000000200000101000000cc02000000000000e8000000120005000100000000000000")
EPERM_HEADER = bytes.fromhex("fc0000000200000001000000cc020000ffffffff")

HEADER = bytes.fromhex("e8000000120005000100000000000000")
PRIORITY = bytes.fromhex("08000100a00f0000")


def test_a_request_has_the_kernels_layout() -> None:
    request = netlink.message(0x12, "cbc(aes)", "cbc-aes-aesni", 4000)
    assert request[:16] == HEADER
    assert request[16:80] == b"cbc(aes)".ljust(64, b"\0")
    assert request[80:144] == b"cbc-aes-aesni".ljust(64, b"\0")
    assert request[144:224] == bytes(80)
    assert request[224:] == PRIORITY


def test_an_acknowledgement_is_read() -> None:
    assert netlink.acknowledged(DONE) == 0
    # The refusal brings the whole request back.
    request = netlink.message(0x12, "cbc(aes)", "cbc(aes-generic)", 4000)
    assert netlink.acknowledged(EPERM_HEADER + request) == errno.EPERM


@pytest.mark.parametrize("cut", range(20))
def test_a_short_answer_is_refused(cut: int) -> None:
    assert netlink.acknowledged(DONE[:cut]) == errno.EBADMSG


@pytest.mark.parametrize("length", [0, 1, 16, 19, len(DONE) + 1, 0xFFFFFFFF])
def test_an_answer_with_a_wrong_length_is_refused(length: int) -> None:
    assert netlink.acknowledged(struct.pack("=I", length) + DONE[4:]) == errno.EBADMSG


@pytest.mark.parametrize("code", [5, 1 << 30, -(1 << 31)])
def test_a_number_that_is_no_errno_is_refused(code: int) -> None:
    answer = DONE[:16] + struct.pack("=i", code) + DONE[20:]
    assert netlink.acknowledged(answer) == errno.EBADMSG


def test_an_answer_to_somebody_else_is_refused() -> None:
    assert netlink.acknowledged(DONE[:8] + b"\2" + DONE[9:]) == errno.EBADMSG
    assert netlink.acknowledged(DONE[:4] + b"\3" + DONE[5:]) == errno.EBADMSG


def test_a_name_or_priority_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="63 bytes"):
        netlink.message(0x12, "x" * 64, "y")
    with pytest.raises(InvalidArgument, match="2147483647"):
        netlink.set_priority("cbc(aes)", "cbc-aes-aesni", 1 << 31)


def listed() -> list[control.Driver]:
    try:
        return control.drivers()
    except OSError as error:
        pytest.skip(f"this kernel lists no drivers: {error}")


def test_drivers_are_listed() -> None:
    every = listed()
    assert every
    for driver in every:
        assert driver.name
        assert driver.algorithm
        assert driver.priority >= 0
    software = [d for d in every if d.name.endswith("-generic")]
    assert software
    assert not any(d.hardware for d in software)


def test_a_driver_that_is_not_there_is_enoent() -> None:
    listed()
    with pytest.raises(CryptoFDError, match="no-such-driver") as caught:
        control.prefer("no-such-driver")
    assert caught.value.errno == errno.ENOENT


def has_netlink() -> bool:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 21).close()
    except OSError:
        return False
    return True


def test_a_priority_moves_what_is_chosen() -> None:
    try:
        socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close()
    except OSError:
        pytest.skip("this kernel has no AF_ALG")
    if not has_netlink():
        with pytest.raises(Unsupported, match="crypto_user"):
            netlink.set_priority("sha256", "sha256-generic", 1)
        return
    for name in ("cbc(aes)", "cbc(aes-generic)"):
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as bound:
            bound.bind(("skcipher", name))
    if os.geteuid():
        with pytest.raises(Refused, match="root"):
            control.prefer("cbc(aes-generic)")
        return
    before = {d.name: d.priority for d in listed() if d.algorithm == "cbc(aes)"}
    given = control.prefer("cbc(aes-generic)")
    after = {d.name: d.priority for d in listed() if d.algorithm == "cbc(aes)"}
    assert after["cbc(aes-generic)"] == given
    assert all(p < given for n, p in after.items() if n != "cbc(aes-generic)")
    netlink.set_priority("cbc(aes)", "cbc(aes-generic)", before["cbc(aes-generic)"])
    control.instantiate("cbc(aes-generic)")

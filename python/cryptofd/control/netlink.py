"""NETLINK_CRYPTO's requests that change something (linux/cryptouser.h); reading is the engine's."""

from __future__ import annotations

import os
import socket
import struct
from errno import EBADMSG, EEXIST, EINVAL, EOPNOTSUPP, EPERM, EPROTONOSUPPORT

from cryptofd.errors import CryptoFDError, InvalidArgument, Refused, Unsupported

__all__ = ["instantiate", "set_priority"]

_PROTOCOL = 21
_NEWALG, _UPDATEALG = 0x10, 0x12
_ERROR = 2
_REQUEST_ACK = 0x5
_PRIORITY_VAL = 1

# struct nlmsghdr; struct crypto_user_alg; struct nlattr with a u32.
_HEADER = struct.Struct("=IHHII")
_ALGORITHM = struct.Struct("=64s64s64sIIII")
_NUMBER = struct.Struct("=HHI")
_CODE = struct.Struct("=i")

_SEQUENCE = 1


def set_priority(algorithm: str, driver: str, priority: int) -> None:
    """CRYPTO_MSG_UPDATEALG with CRYPTOCFGA_PRIORITY_VAL."""
    if not 0 <= priority < 1 << 31:
        raise InvalidArgument(EINVAL, f"priority {priority}: 0 to 2147483647")
    what = f"the priority of {driver}"
    _ask(message(_UPDATEALG, algorithm, driver, priority), what)


def instantiate(name: str) -> None:
    """CRYPTO_MSG_NEWALG."""
    try:
        _ask(message(_NEWALG, name, ""), f"building {name}")
    except CryptoFDError as error:
        if error.errno != EEXIST:
            raise


def message(kind: int, algorithm: str, driver: str, priority: int | None = None) -> bytes:
    """A request with its header."""
    names = [name.encode("latin-1", "replace") for name in (algorithm, driver)]
    for name in names:
        if len(name) > 63 or b"\0" in name:
            raise InvalidArgument(EINVAL, f"{name!r}: a driver's name has at most 63 bytes")
    body = _ALGORITHM.pack(*names, b"", 0, 0, 0, 0)
    if priority is not None:
        body += _NUMBER.pack(_NUMBER.size, _PRIORITY_VAL, priority)
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_ACK, _SEQUENCE, 0) + body


def acknowledged(reply: bytes) -> int:
    """The errno in the kernel's answer, 0 for done. EBADMSG where it is not an answer to us."""
    if len(reply) < _HEADER.size + _CODE.size:
        return EBADMSG
    length, kind, _, sequence, _ = _HEADER.unpack_from(reply)
    if not _HEADER.size + _CODE.size <= length <= len(reply):
        return EBADMSG
    if kind != _ERROR or sequence != _SEQUENCE:
        return EBADMSG
    code: int = _CODE.unpack_from(reply, _HEADER.size)[0]
    return -code if -4096 < code <= 0 else EBADMSG


def _ask(request: bytes, what: str) -> None:
    try:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOL)
    except OSError as error:
        if error.errno == EPROTONOSUPPORT:
            raise Unsupported(
                EOPNOTSUPP, f"{what}: this kernel has no NETLINK_CRYPTO; modprobe crypto_user"
            ) from None
        raise
    with link:
        link.settimeout(10)
        link.sendall(request)
        code = acknowledged(link.recv(65536))
    if code == EPERM:
        raise Refused(
            EPERM, f"{what}: changing the kernel's drivers needs root (CAP_NET_ADMIN on the host)"
        )
    if code:
        raise CryptoFDError(code, f"{what}: {os.strerror(code)}")

"""The kernel's crypto drivers (netlink, linux/cryptouser.h), and which of them Linux 7.2 shows."""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass

_NETLINK_CRYPTO = 21
_GETALG = 0x13
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_PRIORITY = 1
_HEADER = struct.Struct("=IHHII")
_ALGORITHM = struct.Struct("=64s64s64sIIII")

# linux/crypto.h
_LARVAL = 0x10
_ASYNC = 0x80
_KERN_DRIVER_ONLY = 0x1000
_INTERNAL = 0x2000
_ALLOCATES_MEMORY = 0x10000


@dataclass(frozen=True)
class Driver:
    """One registered implementation."""

    algorithm: str
    name: str
    flags: int
    priority: int

    def is_called(self, name: str) -> bool:
        """Whether a program gets this driver by the name, its own or the algorithm's."""
        return name in (self.algorithm, self.name) and not self.flags & (_INTERNAL | _LARVAL)

    @property
    def off_cpu(self) -> bool:
        """Whether Linux 7.2 hides it from programs.

        7.2 refuses ASYNC, ALLOCATES_MEMORY and KERN_DRIVER_ONLY. Before 6.16 the x86 drivers
        with SIMD wrappers were ASYNC as well, and they are plain ones in 7.2: so ASYNC counts
        here only for cryptd, which computes in another thread, in every kernel.
        """
        if self.flags & (_ALLOCATES_MEMORY | _KERN_DRIVER_ONLY):
            return True
        return bool(self.flags & _ASYNC) and "cryptd" in parts(self.name)


def parts(name: str) -> list[str]:
    """The templates and algorithms that a name is made of."""
    return re.split(r"[(),]", name)


def registered() -> list[Driver]:
    """Every driver that the kernel has loaded or built from templates."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_CRYPTO) as netlink:
        length = _HEADER.size + _ALGORITHM.size
        netlink.sendall(_HEADER.pack(length, _GETALG, _REQUEST_DUMP, 1, 0) + bytes(_ALGORITHM.size))
        drivers: list[Driver] = []
        while True:
            answer = netlink.recv(1 << 20)
            while answer:
                size, kind, _, _, _ = _HEADER.unpack_from(answer)
                if kind == _DONE:
                    return drivers
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
                    raise OSError(code, "the kernel does not list its crypto drivers")
                drivers.append(_driver(answer[_HEADER.size : size]))
                answer = answer[(size + 3) & ~3 :]


def _driver(message: bytes) -> Driver:
    algorithm, name, _, _, _, _, flags = _ALGORITHM.unpack_from(message)
    priority, attributes = 0, message[_ALGORITHM.size :]
    while len(attributes) >= 4:
        size, kind = struct.unpack_from("=HH", attributes)
        if kind == _PRIORITY:
            (priority,) = struct.unpack_from("=I", attributes, 4)
        attributes = attributes[max((size + 3) & ~3, 4) :]
    return Driver(_text(algorithm), _text(name), flags, priority)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode()

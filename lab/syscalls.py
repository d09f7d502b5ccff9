"""System calls that Python's library lacks: seccomp with notification, pidfd_getfd, raw bind."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from dataclasses import dataclass

from lab.common import LabError

# seccomp(2), linux/seccomp.h, linux/filter.h, linux/audit.h; numbers of x86-64.
_SYS_SOCKET = 41
_SYS_BIND = 49
_SYS_SECCOMP = 317
_SYS_PIDFD_GETFD = 438
_AUDIT_ARCH_X86_64 = 0xC000003E
_X32_BIT = 0x40000000
_SET_MODE_FILTER = 1
_FLAG_NEW_LISTENER = 1 << 3
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_RET_USER_NOTIF = 0x7FC00000
_NOTIF_RECV = 0xC0502100
_NOTIF_SEND = 0xC0182101
_NOTIF_ID_VALID = 0x40082102
_CONTINUE = 1
_PR_SET_NO_NEW_PRIVS = 38

# struct seccomp_notif: id, pid, flags, then seccomp_data: nr, arch, instruction pointer, 6 args.
_NOTIFICATION = struct.Struct("=QII iI Q 6Q")
_RESPONSE = struct.Struct("=QqiI")

_BPF_LOAD = 0x20
_BPF_JUMP_EQUAL = 0x15
_BPF_JUMP_AT_LEAST = 0x35
_BPF_RETURN = 0x06

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Filter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filters", ctypes.POINTER(_Filter)))


@dataclass(frozen=True)
class Call:
    """A bind(2) that waits for an answer."""

    id: int
    thread: int
    descriptor: int
    address: int
    length: int


def _long(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _install(answers: list[tuple[int, int | None, int]], flags: int) -> int:
    """Installs a filter for this thread and its children, kept across execve(2).

    answers: (system call, required first argument or None, seccomp's return value).
    """
    if platform.machine() != "x86_64":
        raise LabError(f"seccomp filters are written for x86-64, this is {platform.machine()}")
    # offsets in struct seccomp_data: nr 0, arch 4, args[0] 16 (low word first)
    code = [
        (_BPF_LOAD, 0, 0, 4),
        (_BPF_JUMP_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        (_BPF_RETURN, 0, 0, _RET_ERRNO | errno.ENOSYS),  # the 32-bit entry would be a way around
        (_BPF_LOAD, 0, 0, 0),
        (_BPF_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        (_BPF_RETURN, 0, 0, _RET_ERRNO | errno.ENOSYS),
    ]
    for number, first, answer in answers:
        if first is None:
            code += [(_BPF_JUMP_EQUAL, 0, 1, number), (_BPF_RETURN, 0, 0, answer)]
        else:
            code += [
                (_BPF_JUMP_EQUAL, 0, 4, number),
                (_BPF_LOAD, 0, 0, 16),
                (_BPF_JUMP_EQUAL, 0, 1, first),
                (_BPF_RETURN, 0, 0, answer),
                (_BPF_LOAD, 0, 0, 0),
            ]
    code.append((_BPF_RETURN, 0, 0, _RET_ALLOW))
    filters = (_Filter * len(code))(*(_Filter(*line) for line in code))
    program = _Program(len(code), filters)
    if os.geteuid() != 0 and _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        code_ = ctypes.get_errno()
        raise OSError(code_, os.strerror(code_))
    return _long(_SYS_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(program))


def refuse_family(family: int, answer: int) -> None:
    """From now on socket(2) of this family fails with this errno."""
    _install([(_SYS_SOCKET, family, _RET_ERRNO | answer)], 0)


def notify_binds() -> int:
    """From now on every bind(2) waits; returns the descriptor that answers them."""
    return _install([(_SYS_BIND, None, _RET_USER_NOTIF)], _FLAG_NEW_LISTENER)


def _ioctl(descriptor: int, request: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    if _libc.ioctl(descriptor, ctypes.c_ulong(request), buffer) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def receive(listener: int) -> Call:
    """The next waiting bind(2). ENOENT when its thread is gone already."""
    buffer = ctypes.create_string_buffer(_NOTIFICATION.size)
    _ioctl(listener, _NOTIF_RECV, buffer)
    fields = _NOTIFICATION.unpack(buffer.raw)
    return Call(
        id=fields[0],
        thread=fields[1],
        descriptor=_signed(fields[6]),
        address=fields[7],
        length=_signed(fields[8]),
    )


def _signed(argument: int) -> int:
    return int(ctypes.c_int(argument & 0xFFFFFFFF).value)


def still_waits(listener: int, call: Call) -> bool:
    """Whether the thread still is the one that made the call: checked after looking into it."""
    buffer = ctypes.create_string_buffer(struct.pack("=Q", call.id), 8)
    try:
        _ioctl(listener, _NOTIF_ID_VALID, buffer)
    except OSError:
        return False
    return True


def answer(listener: int, call: Call, error: int | None) -> None:
    """Ends the call: with an errno, 0 for success, or None to let the kernel do it."""
    flags = _CONTINUE if error is None else 0
    response = _RESPONSE.pack(call.id, 0, -(error or 0), flags)
    try:
        _ioctl(listener, _NOTIF_SEND, ctypes.create_string_buffer(response, len(response)))
    except OSError as failure:
        # A signal took the thread out of the call, or it is dead: nobody waits any more.
        if failure.errno not in (errno.ENOENT, errno.EINPROGRESS):
            raise


def socket_of(process: int, descriptor: int) -> socket.socket | None:
    """Another process's socket, shared with it; None when the descriptor is none."""
    try:
        pidfd = os.pidfd_open(process)
    except ProcessLookupError:
        return None
    try:
        own = _long(_SYS_PIDFD_GETFD, pidfd, ctypes.c_int(descriptor), 0)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ESRCH):
            return None
        raise
    finally:
        os.close(pidfd)
    # The family given here is no claim: with one, Python does not ask the kernel for it.
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=own)
    try:
        found.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    except OSError as error:
        found.close()
        if error.errno == errno.ENOTSOCK:
            return None
        raise
    return found


def bind(descriptor: int, address: bytes) -> int:
    """bind(2) with the address as bytes; returns the errno, or 0."""
    if _libc.bind(descriptor, address, len(address)) < 0:
        return ctypes.get_errno()
    return 0

"""A command that gets the AF_ALG answers of Linux 7.2 or 7.3 from an older kernel.

Made at the system-call boundary, so that nothing inside a program can miss it: at level 2 a
seccomp filter refuses the family, otherwise each bind(2) of an AF_ALG socket waits until this
process has looked at the address and decided, and is then made by this process on the same
socket, so that what was checked is what is bound.

    7.2      no hardware and nothing else off the CPU: the best other driver serves, or ENOENT;
             salg_feat and salg_mask are ignored
    7.3:0    the same (crypto.af_alg_restrict = 0)
    7.3:1    the same, and ENOENT for what is not on the allowlist, or is on its privileged half
             and the caller has neither CAP_NET_ADMIN nor CAP_SYS_ADMIN in the first user namespace
    7.3:2    socket(AF_ALG) fails with EAFNOSUPPORT

Not made: 7.2's loss of AIO; io_uring's bind (6.11+), which does not pass seccomp; a template that
is built over a device (a priority was raised) is ENOENT, where 7.2 would build it in software.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import drivers, syscalls
from lab.common import LabError

LINUX = ("7.2", "7.3:0", "7.3:1", "7.3:2")

# Linux 7.3, crypto/af_alg.c: name by type.
UNPRIVILEGED = {
    "hash": {"sha1"},
    "skcipher": {
        "adiantum(xchacha12,aes)",
        "adiantum(xchacha20,aes)",
        "hctr2(aes)",
        "xts(aes)",
        "xts(camellia)",
        "xts(serpent)",
        "xts(twofish)",
    },
}
PRIVILEGED = {
    "hash": {
        *("cmac(aes)", "hmac(md5)", "hmac(sha1)", "hmac(sha224)", "hmac(sha256)"),
        *("hmac(sha384)", "hmac(sha512)", "md4", "md5", "sha224", "sha256", "sha384", "sha512"),
    },
    "skcipher": {
        *("cbc(aes)", "cbc(des)", "cbc(des3_ede)", "cbc(paes)", "ctr(aes)", "ecb(aes)", "ecb(des)"),
    },
    "aead": {"ccm(aes)"},
}
# Protected keys need their hardware: the one exception that 7.3 makes.
_HARDWARE_ALLOWED = {("skcipher", "cbc(paes)")}

_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21

# struct sockaddr_alg: family, type, feat, mask, name (64 bytes, or longer since 4.12).
_ADDRESS = struct.Struct("=H14sII")
_LONGEST = 4096


def run(linux: str, command: Sequence[str], *, uid: int | None = None) -> int:
    """Runs the command under the answers of this Linux; its exit status is what a shell gives."""
    if linux not in LINUX:
        raise LabError(f"no Linux {linux!r}; there are {', '.join(LINUX)}")
    level = linux.partition(":")[2]
    if level == "2":
        install: Callable[[socket.socket], None] = _refuse
    else:
        install = _hand_over_binds
    mine, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        _become(command, uid, install, mine, theirs)
    theirs.close()
    with mine:
        _, descriptors, _, _ = socket.recv_fds(mine, 1, 1)
        mine.recv(1)  # the command has taken over, or its process is gone
    pidfd = os.pidfd_open(child)
    try:
        if descriptors:
            _answer_until_exit(descriptors[0], pidfd, allowlist=level == "1")
        _, status = os.waitpid(child, 0)
    finally:
        for descriptor in (pidfd, *descriptors):
            os.close(descriptor)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(
    command: Sequence[str],
    uid: int | None,
    install: Callable[[socket.socket], None],
    mine: socket.socket,
    theirs: socket.socket,
) -> None:
    """The child: filter first, then the user, then the command. Never returns."""
    try:
        mine.close()
        install(theirs)
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        os.execvp(command[0], list(command))
    finally:  # only a failure comes here
        traceback.print_exc()
        os._exit(126)


def _refuse(_: socket.socket) -> None:
    syscalls.refuse_family(socket.AF_ALG, errno.EAFNOSUPPORT)


def _hand_over_binds(supervisor: socket.socket) -> None:
    listener = syscalls.notify_binds()
    socket.send_fds(supervisor, [b"!"], [listener])
    os.close(listener)


def _answer_until_exit(listener: int, pidfd: int, *, allowlist: bool) -> None:
    # The command gets the terminal's signals itself; this process ends when the command does.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if ready.get(listener, 0) & select.POLLIN:
            with contextlib.suppress(FileNotFoundError):  # its thread was interrupted meanwhile
                call = syscalls.receive(listener)
                syscalls.answer(listener, call, _decide(listener, call, allowlist))
        elif pidfd in ready:
            return


def _decide(listener: int, call: syscalls.Call, allowlist: bool) -> int | None:
    """The errno of this bind(2), 0 when it was made, None to let the kernel make it."""
    facts = _status(call.thread)
    shared = syscalls.socket_of(int(facts["Tgid"]), call.descriptor) if facts else None
    if shared is None:
        return None
    with shared:
        if shared.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) != socket.AF_ALG:
            return None
        if syscalls.bind(shared.fileno(), bytes(_ADDRESS.size)) == errno.EOPNOTSUPP:
            return errno.EOPNOTSUPP  # an operation's descriptor: it has no bind at any level
        if not _ADDRESS.size < call.length <= _LONGEST:
            return None  # the kernel refuses such an address by itself
        try:
            with Path(f"/proc/{call.thread}/mem").open("rb", buffering=0) as memory:
                address = os.pread(memory.fileno(), call.length, call.address)
        except OSError:
            return errno.EFAULT
        if len(address) != call.length:
            return errno.EFAULT
        privileged = _privileged(call.thread, facts)
        if not syscalls.still_waits(listener, call):
            return None
        return _bind(shared, address, allowlist, privileged)


def _bind(shared: socket.socket, address: bytes, allowlist: bool, privileged: bool) -> int:
    family, kind_field, _, _ = _ADDRESS.unpack_from(address)
    kind = _text(kind_field[:13])
    name = _text(address[_ADDRESS.size : -1])
    if allowlist:
        allowed = name in UNPRIVILEGED.get(kind, ())
        if not allowed and not (privileged and name in PRIVILEGED.get(kind, ())):
            return errno.ENOENT

    start = _ADDRESS.pack(family, kind_field, 0, 0)

    def bind(to: str) -> int:
        return syscalls.bind(shared.fileno(), start + _name(to))

    if (kind, name) in _HARDWARE_ALLOWED:
        return bind(name)
    if "cryptd" in drivers.parts(name):
        return errno.ENOENT  # asking for it would build it, and it would win from then on
    known = drivers.registered()
    if not any(driver.is_called(name) for driver in known):
        # The kernel knows an algorithm's drivers once somebody has asked for it.
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as probe:
            error = syscalls.bind(probe.fileno(), start + _name(name))
            if error:
                return error
            known = drivers.registered()
    candidates = [driver for driver in known if driver.is_called(name)]

    def order(driver: drivers.Driver) -> tuple[bool, int]:
        """The kernel's: a driver's own name first, then the priority."""
        return driver.name == name, driver.priority

    best = max(candidates, key=order, default=None)
    if best is None or not best.off_cpu:
        return bind(name)
    on_cpu = [driver for driver in candidates if not driver.off_cpu]
    if not on_cpu:
        return errno.ENOENT
    return bind(max(on_cpu, key=order).name)


def _name(name: str) -> bytes:
    return (name.encode("latin-1") + b"\0").ljust(64, b"\0")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("latin-1")


def _status(thread: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{thread}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _privileged(thread: int, facts: dict[str, str]) -> bool:
    """Capabilities count in the first user namespace only (init's, which this process shares)."""
    try:
        theirs = Path(f"/proc/{thread}/ns/user").readlink()
    except FileNotFoundError:
        return False
    effective = int(facts["CapEff"], 16)
    return theirs == Path("/proc/1/ns/user").readlink() and bool(
        effective & (1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN)
    )

"""Who asks: uid, groups and systemd unit of the process at the other end of a socket."""

from __future__ import annotations

import os
import pathlib
import select
import socket
import struct
from dataclasses import dataclass, field

# asm-generic/socket.h; Python has no names for the last two.
_SO_PEERCRED = socket.SO_PEERCRED
_SO_PEERGROUPS = 59
_SO_PEERPIDFD = 77

_UCRED = struct.Struct("3i")
_PROC = pathlib.Path("/proc")
_CGROUPS = pathlib.Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Peer:
    """The identity of a connection, as the kernel tells it when the connection is taken."""

    uid: int
    gid: int
    pid: int
    groups: frozenset[int] = field(default_factory=frozenset)
    #: A unit below root-owned system slices, like ``nginx.service``.
    unit: str | None = None

    @property
    def owner(self) -> str:
        """As the store names an owner."""
        return f"uid:{self.uid}"

    def __str__(self) -> str:
        return f"uid {self.uid} (pid {self.pid}{', ' + self.unit if self.unit else ''})"


class Nobody(Exception):
    """A peer that gets nothing; the text says why."""


def overflow_uid() -> int:
    """The uid that stands for everybody whom a user namespace does not map."""
    try:
        return int((_PROC / "sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534


def identify(sock: socket.socket) -> Peer:
    """The peer of a connected socket; Nobody for one whom nothing identifies."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _UCRED.size))
    if uid in (overflow_uid(), 0xFFFFFFFF, -1):
        raise Nobody(
            f"uid {uid} is nobody's: the overflow uid, or a user that this namespace does not map"
        )
    return Peer(uid, gid, pid, _groups(sock) | {gid}, _unit_of(sock, pid) if pid > 0 else None)


def _groups(sock: socket.socket) -> frozenset[int]:
    size = struct.calcsize("I")
    room = 64
    while True:
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, room * size)
        except OSError:
            # ERANGE: NGROUPS_MAX is 65536. Anything else: no supplementary groups to be had.
            if room > 65536:
                return frozenset()
            room *= 8
            continue
        return frozenset(struct.unpack(f"{len(raw) // size}I", raw))


def _unit_of(sock: socket.socket, pid: int) -> str | None:
    """The unit, read while a pidfd proves that ``pid`` is still the same process."""
    try:
        pidfd = struct.unpack("i", sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))[0]
        exact = True
    except OSError:
        # Before 6.5. A number that was given to another process before this line would deceive us;
        # one that is given away after it is found out by the start time.
        started = _started(pid)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        exact = False
    try:
        unit = unit_in(_PROC / str(pid) / "cgroup")
        if not _alive(pidfd) or (not exact and _started(pid) != started):
            return None
        return unit
    finally:
        os.close(pidfd)


def _alive(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


def _started(pid: int) -> str | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # Field 22; the name in field 2 may hold anything, but ends with the last parenthesis.
    return stat.rpartition(")")[2].split()[19]


def unit_in(
    cgroup: pathlib.Path, root: pathlib.Path = _CGROUPS, trusted: frozenset[int] = frozenset({0})
) -> str | None:
    """The system service that a /proc/PID/cgroup names, if everything above it is root's.

    A user's manager and delegated subtrees can name their groups as they like: only services in
    slices of the system whose directories ``trusted`` uids own count.
    """
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return None
    parts = path.strip("/").split("/")
    if parts[0] != "system.slice" or ".." in parts:
        return None
    here = root
    for part in parts:
        here = here / part
        try:
            owner = here.lstat().st_uid
        except OSError:
            return None
        if owner not in trusted:
            return None
        if part.endswith(".service"):
            return part
        if not part.endswith(".slice"):
            return None
    return None

"""Closing what others gave us, where nobody waits for it.

close(2) of another's descriptor may take as long as he likes: a TCP socket that lingers, a file
whose file system he serves himself, a Unix socket in whose queue such things lie. In the event loop
one of them would stop everybody.
"""

from __future__ import annotations

import os
import queue
import socket
import threading

#: Threads at most; each may be held up by one descriptor.
_MOST = 64

_lock = threading.Lock()
_waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
_threads = 0
_busy = 0


def close(fd: int) -> None:
    """Close it soon. It is not the caller's any more."""
    global _threads, _busy
    with _lock:
        _busy += 1
        more = _busy > _threads and _threads < _MOST
        _threads += more
    _waiting.put(fd)
    if more:
        threading.Thread(target=_run, name="closing", daemon=True).start()


def _run() -> None:
    global _busy
    while True:
        fd = _waiting.get()
        try:
            os.close(fd)
        except OSError:
            # What a file system says of its last write is its owner's business.
            pass
        finally:
            with _lock:
                _busy -= 1


class Foreign:
    """Another's descriptor, which closes elsewhere."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        """Once, and without waiting."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close(fd)


class ForeignSocket(socket.socket):
    """A connection, whose queue holds what its peer put there: it closes elsewhere."""

    @classmethod
    def of(cls, sock: socket.socket) -> ForeignSocket:
        """In its place."""
        family, kind, protocol = sock.family, sock.type, sock.proto
        blocking = sock.gettimeout()
        made = cls(family, kind, protocol, sock.detach())
        made.settimeout(blocking)
        return made

    def close(self) -> None:
        """Without waiting."""
        if self.fileno() >= 0:
            close(self.detach())

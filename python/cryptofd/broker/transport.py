"""Taking connections and reading them so that no client can stop another.

asyncvarlink's protocol stays; its accept loop and its reading are replaced, for they would let a
flood without NUL, a lack of descriptors or a backlog of three stop everybody. This uses private
members: the version is pinned.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from asyncvarlink import (
    FileDescriptorArray,
    GenericVarlinkErrorReply,
    VarlinkErrorReply,
    VarlinkInterfaceRegistry,
    VarlinkInterfaceServerProtocol,
    VarlinkTransport,
)

from cryptofd.broker import elsewhere
from cryptofd.broker.interface import error_reply
from cryptofd.broker.refusal import refusal
from cryptofd.broker.who import Nobody, Peer, identify

_log = logging.getLogger("cryptofd.broker")

#: Bytes of a message, its NUL included.
MESSAGE = 65536
#: Descriptors of a message.
MESSAGE_FDS = 4
#: Connections that may wait to be taken.
BACKLOG = 1024
#: Seconds in which a message that began must end.
PATIENCE = 30.0
#: Seconds without taking anybody after the host had no descriptor or memory for another.
PAUSE = 0.1
#: Connections taken in one turn of the loop.
_ACCEPTS = 16

# Numbers: Python's flags cost more than the calls they are for.
# Room for all that the kernel takes: what it must drop it closes, and we wait (elsewhere.py).
_SPACE = socket.CMSG_SPACE(253 * array.array("i").itemsize)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_PEEK = int(socket.MSG_PEEK)
_CUT = int(socket.MSG_CTRUNC)
_NOT_NOW = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: asyncvarlink's array of descriptors wants somebody who holds it.
_HOLDER = object()


class FairTransport(VarlinkTransport):
    """Reads one message a turn, none while an answer waits to be read, never more than the cap.

    Client protocols use it as well: it is the reading side that differs.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: VarlinkInterfaceServerProtocol,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(loop, sock, sock, protocol, extra)
        self._sock = sock
        self._handle_read = self._turn
        self._begun = bytearray()
        self._begun_fds: list[int] = []
        self._deadline: asyncio.TimerHandle | None = None
        self._busy = False
        self._read_again = False

    def _turn(self) -> None:
        if self._recvfd is None or self._closing:
            return
        if self._busy:
            # Only now, for most clients wait for their answer: it saves two calls a message.
            super().pause_reading()
            return
        try:
            # Looking first, so that no byte of the next message, and no descriptor of it, is taken.
            seen = self._sock.recv(MESSAGE + 1 - len(self._begun), _PEEK)
            end = seen.find(b"\0")
            size = len(seen) if end < 0 else end + 1
            data, fds = self._take(size)
        except BlockingIOError:
            return
        except OSError as error:
            self._close_receiver(error)
            return
        self._begun_fds.extend(fds)
        if not data:
            self._drop_begun()
            self._loop.remove_reader(self._sock)
            self._paused = True
            self._loop.call_soon(self._eof_received)
            return
        self._begun += data
        if len(self._begun) > MESSAGE or len(self._begun_fds) > MESSAGE_FDS:
            self._give_up(f"a message of more than {MESSAGE} bytes or {MESSAGE_FDS} descriptors")
        elif end >= 0 and len(data) == size:
            # Less than was seen: the kernel ends a read where descriptors begin.
            self._deliver()
        elif self._deadline is None:
            self._deadline = self._loop.call_later(
                PATIENCE, self._give_up, f"half a message for {PATIENCE:g} s"
            )

    def _take(self, size: int) -> tuple[bytes, list[int]]:
        data, ancillary, flags, _ = self._sock.recvmsg(max(size, 1), _SPACE, _CLOEXEC)
        fds: list[int] = []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                fds.extend(numbers)
        if flags & _CUT or len(fds) > MESSAGE_FDS:
            for fd in fds:
                elsewhere.close(fd)
            raise OSError(errno.EMFILE, "more descriptors than a message takes, or than are free")
        return data, fds

    def _deliver(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        message, self._begun = bytes(self._begun), bytearray()
        fds, self._begun_fds = self._begun_fds, []
        owned = FileDescriptorArray(_HOLDER, map(elsewhere.Foreign, fds)) if fds else None
        # The protocol resumes when it is done with this one.
        self._busy = True
        try:
            self._protocol.message_received(message, owned)
        finally:
            if owned is not None:
                owned.release(_HOLDER)

    def _drop_begun(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._begun.clear()
        while self._begun_fds:
            elsewhere.close(self._begun_fds.pop())

    def _give_up(self, why: str) -> None:
        _log.info("%s: %s: cut off", self.get_extra_info("peer"), why)
        self._drop_begun()
        self.abort()

    # A client that does not read its answers is not read either: what waits is one answer.

    def pause_reading(self) -> None:
        """No message until resume_reading()."""
        self._busy = True

    def resume_reading(self) -> None:
        """Messages again, as soon as no answer waits to be read."""
        if self._sendqueue:
            self._read_again = True
            return
        self._busy = False
        # Now, not in the loop's next turn: most often nothing was paused, and nothing is to do.
        self._resume_reading()

    def send_message(self, data: bytes, fds: list[int] | None = None) -> asyncio.Future[None]:
        """At once if there is room: most answers need no turn of the loop."""
        if self._closing or self._sendfd is None or self._sendqueue:
            return super().send_message(data, fds)
        try:
            sent = self._do_write([data], fds or [])
        except OSError:
            # For want of room or for good: the slow way finds out.
            return super().send_message(data, fds)
        if sent < len(data):
            return super().send_message(data[sent:])
        done: asyncio.Future[None] = self._loop.create_future()
        done.set_result(None)
        return done

    def _handle_write(self) -> None:
        super()._handle_write()
        if self._read_again and not self._sendqueue:
            self._read_again = False
            self.resume_reading()

    def _connection_lost(self, exc: Exception | None = None) -> None:
        self._drop_begun()
        super()._connection_lost(exc)


#: The parameters of an answer, as JSON, and the descriptor that goes with it.
Result: TypeAlias = tuple[str, int]
#: Who gets the outcome of a call.
Then: TypeAlias = Callable[[Result | OSError], None]
#: Looks at the parameters as they came. What does the call without a task, any number of times;
#: None if it is not one of the plain calls that are served so.
Quick: TypeAlias = Callable[[Any], Callable[[Then], None] | None]


class Registry(VarlinkInterfaceRegistry):
    """asyncvarlink's, and the methods that have a shorter way beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.quick: dict[str, Quick] = {}


class Protocol(VarlinkInterfaceServerProtocol):
    """asyncvarlink's, which says what is wrong with garbage and tells nobody of our insides."""

    def __init__(
        self, registry: VarlinkInterfaceRegistry, lost: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(registry)
        self._lost: Callable[[], None] | None = lost
        self._quick = registry.quick if isinstance(registry, Registry) else {}
        # The last quick call as it came, and what does it: most clients ask the same again.
        self._last = b""
        self._does: Callable[[Then], None] | None = None

    def message_received(self, data: bytes, fds: FileDescriptorArray | None) -> None:
        """One whole message. What is no JSON object ends the connection."""
        transport = self._transport
        if transport is None:
            return
        if self._does is not None and data == self._last and fds is None:
            self._does(self._quickly)
            return
        try:
            call = json.loads(data[:-1])
            if not isinstance(call, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError):
            _log.info("%s: garbage: cut off", transport.get_extra_info("peer"))
            transport.abort()
            return
        quick = self._quick.get(str(call.get("method")))
        if quick is not None and fds is None and call.keys() <= {"method", "parameters"}:
            does = quick(call.get("parameters"))
            if does is not None:
                self._last, self._does = data, does
                does(self._quickly)
                return
        done = self.request_received(call, fds)
        if done is None:
            transport.resume_reading()
        else:
            done.add_done_callback(lambda _: transport.resume_reading())

    def _quickly(self, outcome: Result | OSError) -> None:
        """Send the answer of a quick call; its descriptor is ours to close."""
        transport = self._transport
        if isinstance(outcome, OSError):
            if transport is not None:
                code = outcome.errno or errno.EIO
                self.send_error(error_reply(code, outcome.strerror or os.strerror(code)))
        elif transport is None:
            os.close(outcome[1])
        else:
            parameters, fd = outcome
            sent = transport.send_message(f'{{"parameters":{parameters}}}\0'.encode(), [fd])
            if sent.done():
                # Now, not in a turn of the loop that nothing else needs.
                sent.exception()
                os.close(fd)
            else:
                sent.add_done_callback(lambda _: os.close(fd))
        if transport is not None:
            transport.resume_reading()

    def handle_call_exception(self, exc: BaseException, oneway: bool) -> None:
        """An OSError is an answer; anything else is our fault, and its text stays here."""
        if isinstance(exc, OSError) and exc.errno is not None:
            raise error_reply(exc.errno, exc.strerror or os.strerror(exc.errno)) from None
        if isinstance(exc, IndexError | VarlinkErrorReply):
            # asyncvarlink cannot name the parameter of some malformed objects.
            raise GenericVarlinkErrorReply(
                "org.varlink.service.InvalidParameter", {"parameter": "parameters"}
            ) from None
        failure = unexpected(exc)
        raise error_reply(errno.EIO, str(failure.strerror)) from None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went."""
        super().connection_lost(exc)
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()


def unexpected(exc: BaseException) -> OSError:
    """What a client is told of a fault of ours."""
    # The type and the place, not the text: it may hold what a client sent.
    _log.error(
        "a call failed unexpectedly: %s at %s", type(exc).__name__, _place(exc.__traceback__)
    )
    return refusal(errno.EIO, "the broker failed; its log says where")


def _place(trace: Any) -> str:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119


@dataclass
class Limits:
    """Which connections are taken, and how many: in all, and of one uid."""

    connections: int = 1024
    connections_per_uid: int = 128
    #: Whose connections are taken; None is everybody's.
    uids: frozenset[int] | None = None


class Listener:
    """Takes connections from listening sockets until closed; nothing but close() stops it."""

    def __init__(
        self,
        socks: list[socket.socket],
        registry_of: Callable[[Peer], VarlinkInterfaceRegistry],
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.by_uid: Counter[int] = Counter()
        self.turned_away = 0
        self._registry_of = registry_of
        self._loop = asyncio.get_running_loop()
        self._socks = socks
        self._transports: set[FairTransport] = set()
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        for sock in socks:
            sock.setblocking(False)
            sock.listen(BACKLOG)
            self._loop.add_reader(sock, self._acceptable, sock)

    def close(self) -> None:
        """Take nobody any more, and end the connections that are."""
        for timer in self._paused.values():
            timer.cancel()
        for sock in self._socks:
            self._loop.remove_reader(sock)
            sock.close()
        self._socks = []
        for transport in list(self._transports):
            transport.abort()

    def _acceptable(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, _address = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NOT_NOW:
                    # Level-triggered: without a pause this would spin.
                    self._loop.remove_reader(sock)
                    self._paused[sock] = self._loop.call_later(PAUSE, self._resume, sock)
                    _log.warning("no connection can be taken: %s", error.strerror)
                    return
                # ECONNABORTED and whatever else concerns that one connection only.
                continue
            self._take(connection)

    def _resume(self, sock: socket.socket) -> None:
        del self._paused[sock]
        if sock in self._socks:
            self._loop.add_reader(sock, self._acceptable, sock)

    def take(self, connection: socket.socket) -> bool:
        """Serve a connected socket; False if its peer is turned away."""
        return self._take(connection)

    def _take(self, connection: socket.socket) -> bool:
        connection = elsewhere.ForeignSocket.of(connection)
        try:
            peer = identify(connection)
            if self.limits.uids is not None and peer.uid not in self.limits.uids:
                raise Nobody(f"{peer}: this broker serves its own user only")
            if self.by_uid[peer.uid] >= self.limits.connections_per_uid:
                raise Nobody(f"{peer} has {self.by_uid[peer.uid]} connections")
            if len(self._transports) >= self.limits.connections:
                raise Nobody(f"{len(self._transports)} connections are open")
        except (Nobody, OSError) as error:
            self.turned_away += 1
            _log.info("turned away: %s", error)
            with contextlib.suppress(OSError):
                connection.close()
            return False
        self.by_uid[peer.uid] += 1

        def lost() -> None:
            self._transports.discard(transport)
            self.by_uid[peer.uid] -= 1
            if not self.by_uid[peer.uid]:
                del self.by_uid[peer.uid]

        protocol = Protocol(self._registry_of(peer), lost)
        transport = FairTransport(self._loop, connection, protocol, {"peer": peer})
        self._transports.add(transport)
        return True

    def __len__(self) -> int:
        return len(self._transports)

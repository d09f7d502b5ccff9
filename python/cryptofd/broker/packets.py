"""The control packets between our own processes: one JSON object a packet, descriptors beside it.

Either side checks what it gets: a worker is exposed to its clients and may have been taken over.
"""

from __future__ import annotations

import array
import asyncio
import collections
import errno
import fcntl
import functools
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptofd.broker import elsewhere
from cryptofd.broker.refusal import refusal

#: Bytes of a packet; a longer object travels in a sealed memfd, which is then the first descriptor.
PACKET = 65536
#: Descriptors of a packet.
DESCRIPTORS = 16
#: Bytes of an object in a memfd.
ATTACHED = 16 << 20
#: The same of a worker's, which answers with a key's attributes, blob and public half at most:
#: reading more would be time that it takes from others.
FROM_WORKER = 512 << 10
#: Packets that wait for a peer that does not read.
_WAITING = 4096

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_DECODER = json.JSONDecoder()
# Numbers: Python's flags cost more than the calls they are for.
# Room for all that the kernel takes: what it must drop it closes, and we wait (elsewhere.py).
_SPACE = socket.CMSG_SPACE(253 * array.array("i").itemsize)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_CUT = int(socket.MSG_CTRUNC) | int(socket.MSG_TRUNC)
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Garbage(Exception):
    """A packet that no honest peer sends."""


@dataclass
class Packet:
    """An object and the descriptors that came with it, which the receiver owns."""

    fields: dict[str, Any]
    fds: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self.fds:
            elsewhere.close(self.fds.pop())

    def take(self, count: int) -> list[int]:
        """Exactly ``count`` descriptors, now the caller's; else EIO and all are closed."""
        if len(self.fds) != count:
            had = len(self.fds)
            self.close()
            raise refusal(errno.EIO, f"the answer brought {had} descriptors instead of {count}")
        taken, self.fds = self.fds, []
        return taken

    def integer(self, name: str, most: int = (1 << 63) - 1) -> int:
        """A field that must be an integer from 0 to ``most``."""
        value = self.fields.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise refusal(errno.EIO, f"the answer's {name!r} is not a number from 0 to {most}")
        return value

    def text(self, name: str, most: int = PACKET) -> str:
        """A field that must be text of at most ``most`` characters."""
        value = self.fields.get(name)
        if not isinstance(value, str) or len(value) > most:
            raise refusal(errno.EIO, f"the answer's {name!r} is not text of up to {most}")
        return value

    def object(self, name: str) -> dict[str, Any]:
        """A field that must be an object."""
        value = self.fields.get(name)
        if not isinstance(value, dict):
            raise refusal(errno.EIO, f"the answer's {name!r} is not an object")
        return value

    def list(self, name: str) -> list[Any]:
        """A field that must be a list."""
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise refusal(errno.EIO, f"the answer's {name!r} is not a list")
        return value


def encode(fields: dict[str, Any]) -> tuple[bytes, int | None]:
    """The packet's bytes, and a sealed memfd if the object does not fit."""
    data = _ENCODER.encode(fields).encode()
    if len(data) <= PACKET:
        return data, None
    if len(data) > ATTACHED:
        raise refusal(errno.EMSGSIZE, f"a control object of more than {ATTACHED} bytes")
    memfd = os.memfd_create("cryptofd packet", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memfd, view) :]
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memfd)
        raise
    head: dict[str, Any] = {name: fields[name] for name in ("id", "op", "event") if name in fields}
    head |= {"body": "attached", "bytes": len(data)}
    return _ENCODER.encode(head).encode(), memfd


def request_members(op: str, fields: Mapping[str, Any]) -> str | None:
    """What Channel.ask_text() takes; None if the object does not fit into a packet."""
    members = "," + _ENCODER.encode({"op": op, **fields})[1:]
    # It is ASCII; an id has up to 19 digits.
    return members if len(members) <= PACKET - 32 else None


def decode(data: bytes, fds: list[int], most: int = ATTACHED) -> Packet:
    """The packet; Garbage, with every descriptor closed, if it is none."""
    packet = Packet({}, fds)
    try:
        value = _object(data)
        if value.get("body") == "attached":
            if not packet.fds:
                raise Garbage("an attached object without its descriptor")
            memfd = packet.fds.pop(0)
            try:
                value = _object(_sealed(memfd, most))
            finally:
                elsewhere.close(memfd)
        packet.fields = value
    except BaseException:
        packet.close()
        raise
    return packet


def _object(data: bytes) -> dict[str, Any]:
    try:
        text = data.decode()
        value, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError("more than one object")
    except (ValueError, RecursionError) as error:
        raise Garbage(f"not JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise Garbage("not an object")
    return value


def _sealed(memfd: int, most: int) -> bytes:
    # Sealed: what is checked here is what is read.
    try:
        seals = fcntl.fcntl(memfd, fcntl.F_GET_SEALS)
    except OSError:
        raise Garbage("the attached object is in no memfd") from None
    if not seals & fcntl.F_SEAL_WRITE or not seals & fcntl.F_SEAL_SHRINK:
        raise Garbage("the attached object is not sealed")
    size = os.fstat(memfd).st_size
    if size > most:
        raise Garbage(f"an attached object of {size} bytes")
    return os.pread(memfd, size, 0)


def receive(sock: socket.socket, most: int = ATTACHED) -> Packet | None:
    """One packet; None at the end of the connection. BlockingIOError if there is none yet."""
    data, ancillary, flags, _ = sock.recvmsg(PACKET, _SPACE, _CLOEXEC)
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
            fds.extend(numbers)
    if flags & _CUT or len(fds) > DESCRIPTORS:
        for fd in fds:
            elsewhere.close(fd)
        raise Garbage("a packet that was cut: too long, or more descriptors than are free")
    if not data:
        for fd in fds:
            elsewhere.close(fd)
        return None
    return decode(data, fds, most)


class Channel:
    """Our end of a pair: requests with ids and their answers, notices, and requests of the peer."""

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        *,
        notice: Callable[[Packet], None] | None = None,
        lost: Callable[[Channel], None] | None = None,
        attached: int = ATTACHED,
    ) -> None:
        sock = elsewhere.ForeignSocket.of(sock)
        sock.setblocking(False)
        self.name = name
        self.closed = False
        self._sock = sock
        self._notice = notice
        self._lost = lost
        self._attached = attached
        self._ids = 0
        self._writing = False
        self._pending: dict[int, Callable[[Packet | OSError], None]] = {}
        # Bytes, and descriptors, which are ours to close.
        self._queue: collections.deque[tuple[bytes, list[int]]] = collections.deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    async def call(self, op: str, fds: Sequence[int] = (), /, **fields: Any) -> Packet:
        """Ask, and wait for the one answer. ``fds`` stay the caller's.

        Raises the peer's errno; ECONNRESET if the peer went before it answered.
        """
        future: asyncio.Future[Packet] = self._loop.create_future()
        number = self.ask(functools.partial(_settle, future), op, fds, **fields)
        try:
            return await future
        finally:
            self._pending.pop(number, None)

    def ask(
        self,
        then: Callable[[Packet | OSError], None],
        op: str,
        fds: Sequence[int] = (),
        /,
        **fields: Any,
    ) -> int:
        """As call(), without a task: ``then`` gets the answer or its error. The request's id."""
        number = self._expect(then)
        try:
            # Copies, because the packet may have to wait while the caller goes on.
            self._send({"id": number, "op": op, **fields}, [os.dup(fd) for fd in fds])
        except BaseException:
            self._pending.pop(number, None)
            raise
        return number

    def ask_text(self, then: Callable[[Packet | OSError], None], members: str) -> int:
        """As ask(), of what request_members() made before."""
        self._check_room()
        number = self._expect(then)
        self._put(f'{{"id":{number}{members}'.encode(), [])
        return number

    def _expect(self, then: Callable[[Packet | OSError], None]) -> int:
        """The id of a request whose answer ``then`` will get."""
        if self.closed:
            raise refusal(errno.ECONNRESET, f"{self.name} is gone")
        self._ids += 1
        self._pending[self._ids] = then
        return self._ids

    def answer(self, request: Packet, **ok: Any) -> None:
        """Answer a request of the peer's."""
        self._send({"id": request.fields.get("id"), "ok": ok}, [])

    def answer_error(self, request: Packet, number: int, sentence: str) -> None:
        """Refuse a request of the peer's."""
        self._send({"id": request.fields.get("id"), "errno": number, "error": sentence}, [])

    def close(self) -> None:
        """Give up: whoever waits gets ECONNRESET."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        while self._queue:
            for fd in self._queue.popleft()[1]:
                elsewhere.close(fd)
        pending, self._pending = self._pending, {}
        for then in pending.values():
            then(refusal(errno.ECONNRESET, f"{self.name} went"))
        if self._lost is not None:
            self._loop.call_soon(self._lost, self)

    def _send(self, fields: dict[str, Any], fds: list[int]) -> None:
        try:
            if self.closed:
                raise refusal(errno.ECONNRESET, f"{self.name} is gone")
            data, memfd = encode(fields)
            if memfd is not None:
                fds.insert(0, memfd)
            if len(fds) > DESCRIPTORS:
                raise refusal(errno.EMSGSIZE, f"more than {DESCRIPTORS} descriptors in a packet")
            self._check_room()
        except BaseException:
            for fd in fds:
                elsewhere.close(fd)
            raise
        self._put(data, fds)

    def _check_room(self) -> None:
        if len(self._queue) >= _WAITING:
            raise refusal(errno.EAGAIN, f"{self.name} does not read; try again")

    def _put(self, data: bytes, fds: list[int]) -> None:
        self._queue.append((data, fds))
        if len(self._queue) == 1:
            self._writable()

    def _writable(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            try:
                if fds:
                    socket.send_fds(self._sock, [data], fds, _NOSIGNAL)
                else:
                    self._sock.send(data, _NOSIGNAL)
            except BlockingIOError:
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._sock, self._writable)
                return
            except OSError:
                self.close()
                return
            self._queue.popleft()
            for fd in fds:
                elsewhere.close(fd)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        try:
            packet = receive(self._sock, self._attached)
        except BlockingIOError:
            return
        except (OSError, Garbage):
            self.close()
            return
        if packet is None:
            self.close()
            return
        number = packet.fields.get("id")
        if "op" in packet.fields or "event" in packet.fields:
            if self._notice is None:
                packet.close()
            else:
                self._notice(packet)
            return
        then = self._pending.pop(number, None) if type(number) is int else None
        if then is None:
            packet.close()
            return
        ok = packet.fields.get("ok")
        if isinstance(ok, dict):
            then(Packet(ok, packet.fds))
            return
        packet.close()
        then(_error(packet.fields, self.name))


def _settle(future: asyncio.Future[Packet], outcome: Packet | OSError) -> None:
    """Hand the outcome to who waits for it, if anybody does still."""
    if future.done():
        if isinstance(outcome, Packet):
            outcome.close()
    elif isinstance(outcome, Packet):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _error(fields: dict[str, Any], name: str) -> OSError:
    code, sentence = fields.get("errno"), fields.get("error")
    if type(code) is not int or not 0 < code < 4096 or not isinstance(sentence, str):
        return refusal(errno.EIO, f"{name} answered neither ok nor an errno")
    # It goes to logs and terminals, and on to clients.
    text = "".join(one if one.isprintable() else " " for one in sentence[:1024])
    return refusal(code, text)

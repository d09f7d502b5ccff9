"""Supervisor and workers as the broker sees them: asked by packets, repeated after a takeover.

A worker is exposed to its clients. Nothing that it answers is believed beyond its own domain.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import errno
import logging
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cryptofd.broker.packets import FROM_WORKER, Channel, Packet, request_members
from cryptofd.broker.refusal import refusal

_log = logging.getLogger("cryptofd.broker")

#: Seconds in which a new worker must be there after one went.
TAKEOVER = 6.0
#: Seconds for one answer of a worker; RSA of 8192 bits takes a while to generate.
_PATIENCE = 60.0
_REPEATS = 5


class Made(NamedTuple):
    """A session: its number, the client's end, and whether INFO's answer comes on it unasked."""

    sid: int
    fd: int
    informed: bool = False


@dataclass
class Link:
    """A worker: its channel while it lives, and who waits for the next one."""

    domain: str
    pid: int
    epoch: int
    channel: Channel
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class Backend:
    """The supervisor's channel and one to each worker."""

    def __init__(
        self,
        supervisor: socket.socket,
        *,
        ended: Callable[[int], None] = lambda _: None,
        lease: Callable[[str, str, int], int] = lambda _d, _k, _n: 0,
        reported: Callable[[str, dict[str, Any]], None] = lambda _d, _f: None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.links: dict[str, Link] = {}
        self.supervisor_pid = 0
        #: How often a worker was replaced under us.
        self.takeovers = 0
        self._ended = ended
        self._lease = lease
        self._reported = reported
        self._starting: dict[str, asyncio.Task[Link]] = {}
        self._supervisor = Channel(
            supervisor, "the supervisor", notice=self._notice, lost=lambda _: lost()
        )

    async def hello(self) -> None:
        """Learn of the workers that live already: this broker may not be the first."""
        answer = await self._supervisor.call("hello")
        self.supervisor_pid = answer.integer("supervisor")
        workers = answer.list("workers")
        for worker, fd in zip(workers, answer.take(len(workers)), strict=True):
            one = Packet(worker, [fd])
            self._link(one.text("domain", 256), one)

    async def ask(
        self, domain: str, op: str, fds: Sequence[int] = (), token: str | None = None, **fields: Any
    ) -> Packet:
        """Ask the worker of ``domain``, and its successor again if it goes before it answers.

        What came with descriptors is not repeated: what was read from them is gone (EAGAIN).
        """
        token = token or uuid.uuid4().hex
        for _ in range(_REPEATS):
            link = await self._worker(domain)
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await link.channel.call(op, fds, token=token, **fields)
            except TimeoutError:
                raise refusal(errno.EAGAIN, f"the worker of {domain} is busy; try again") from None
            except OSError as error:
                if error.errno != errno.ECONNRESET:
                    raise
                if fds:
                    raise refusal(
                        errno.EAGAIN,
                        "the worker was replaced while it had the key's descriptor; ask again",
                    ) from None
        raise refusal(errno.ENODEV, f"the worker of {domain} went {_REPEATS} times")

    async def session(self, domain: str, recipe: dict[str, Any], info: bool = False) -> Made:
        """A session in ``domain``, on whose end INFO's answer comes unasked with ``info``."""
        return _session(
            await self._supervisor.call("session", domain=domain, recipe=recipe, info=info)
        )

    def begin_session(
        self,
        domain: str,
        recipe: dict[str, Any],
        info: bool,
        then: Callable[[Made | OSError], None],
        members: str | None = None,
    ) -> None:
        """As session(), without a task: ``then`` gets what was made, or the error.

        ``members``: what session_members() made of the same.
        """

        def answered(outcome: Packet | OSError) -> None:
            made: Made | OSError
            try:
                made = outcome if isinstance(outcome, OSError) else _session(outcome)
            except OSError as error:
                made = error
            then(made)

        if members is None:
            self._supervisor.ask(answered, "session", domain=domain, recipe=recipe, info=info)
        else:
            self._supervisor.ask_text(answered, members)

    def tell_supervisor(self, op: str, **fields: Any) -> None:
        """A request whose answer is only logged, if it is an error."""

        def answered(outcome: Packet | OSError) -> None:
            if isinstance(outcome, OSError):
                _log.warning("%s: %s", op, outcome.strerror)
            else:
                outcome.close()

        self._supervisor.ask(answered, op, **fields)

    async def ask_supervisor(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Packet:
        """Any other request of the contract."""
        return await self._supervisor.call(op, fds, **fields)

    def close(self) -> None:
        """Let go of everybody."""
        for task in self._starting.values():
            task.cancel()
        for link in list(self.links.values()):
            link.channel.close()
        self._supervisor.close()

    async def _worker(self, domain: str) -> Link:
        link = self.links.get(domain)
        if link is None:
            return await self._start(domain)
        if link.channel.closed:
            # The supervisor says when there is another one.
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            link.waiting.append(future)
            try:
                async with asyncio.timeout(TAKEOVER):
                    await future
            except TimeoutError:
                if self.links.get(domain) is link:
                    del self.links[domain]
                return await self._start(domain)
            finally:
                with contextlib.suppress(ValueError):
                    link.waiting.remove(future)
            return self.links[domain]
        return link

    async def _start(self, domain: str) -> Link:
        task = self._starting.get(domain)
        if task is None:
            task = asyncio.ensure_future(self._start_one(domain))
            self._starting[domain] = task
            task.add_done_callback(lambda _: self._starting.pop(domain, None))
        return await asyncio.shield(task)

    async def _start_one(self, domain: str) -> Link:
        answer = await self._supervisor.call("worker", domain=domain)
        return self._link(domain, answer)

    def _link(self, domain: str, answer: Packet) -> Link:
        fds = answer.take(1)
        try:
            pid, epoch = answer.integer("pid"), answer.integer("epoch", 0xFFFFFFFF)
            sock = socket.socket(fileno=fds[0])
        except BaseException:
            os.close(fds[0])
            raise
        old = self.links.get(domain)
        channel = Channel(
            sock,
            f"the worker of {domain}",
            notice=lambda packet: self._worker_says(domain, packet),
            attached=FROM_WORKER,
        )
        link = Link(domain, pid, epoch, channel)
        self.links[domain] = link
        if old is not None:
            self.takeovers += 1
            old.channel.close()
            for future in old.waiting:
                if not future.done():
                    future.set_result(None)
        return link

    def _notice(self, packet: Packet) -> None:
        event = packet.fields.get("event")
        try:
            if event == "worker":
                self._link(packet.text("domain", 256), packet)
            elif event == "ended":
                self._ended(packet.integer("sid"))
        except OSError as error:
            _log.warning("a notice of the supervisor's: %s", error.strerror)
        finally:
            packet.close()

    def _worker_says(self, domain: str, packet: Packet) -> None:
        packet.close()
        link = self.links.get(domain)
        if link is None:
            return
        if packet.fields.get("event") == "refused":
            self._reported(domain, packet.fields)
            return
        if type(packet.fields.get("id")) is not int:
            return
        if packet.fields.get("op") == "lease":
            try:
                granted = self._lease(
                    domain, packet.text("key", 64), packet.integer("uses", 1 << 20)
                )
                link.channel.answer(packet, uses=granted)
            except OSError as error:
                with contextlib.suppress(OSError):
                    link.channel.answer_error(
                        packet, error.errno or errno.EIO, error.strerror or "refused"
                    )
        else:
            with contextlib.suppress(OSError):
                link.channel.answer_error(packet, errno.EOPNOTSUPP, "no such request")


def session_members(domain: str, recipe: dict[str, Any], info: bool) -> str | None:
    """The request for a session, for those that are asked for again and again; None: too long."""
    return request_members("session", {"domain": domain, "recipe": recipe, "info": info})


def _session(answer: Packet) -> Made:
    fds = answer.take(1)
    try:
        return Made(answer.integer("sid"), fds[0], answer.fields.get("info") is True)
    except BaseException:
        os.close(fds[0])
        raise


def to_base64(data: bytes) -> str:
    """Standard, padded."""
    return base64.b64encode(data).decode()


def from_base64(text: str, what: str, most: int = 65536) -> bytes:
    """Strictly; EINVAL with ``what`` it was."""
    if len(text) > 4 * most // 3 + 4:
        raise refusal(errno.EMSGSIZE, f"{what} is longer than {most} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise refusal(errno.EINVAL, f"{what} is no base64") from None

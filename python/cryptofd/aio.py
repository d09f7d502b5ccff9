"""The same as :mod:`cryptofd`, awaitable: requests travel on the descriptor that the loop polls.

>>> async with cryptofd.aio.open("gcm(aes)", key=key) as fd:
...     box = await fd.encrypt(data, iv=iv)

Calls may run at the same time (``asyncio.gather``); they are done in the order in which they began.
Cancelling a call that has not begun on the serving side takes it out of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import cryptofd
from cryptofd.errors import BadTag, Closed, CryptoFDError, NotReady

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from cryptofd._core import Completion, CryptoFD
    from cryptofd.description import Info

__all__ = ["AsyncCryptoFD", "adopt", "open"]


class AsyncCryptoFD:
    """A session whose work is awaited. Belongs to the event loop in which it is first used."""

    def __init__(self, fd: CryptoFD) -> None:
        self._fd = fd
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._queue: deque[asyncio.Future[None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._number = -1

    async def __aenter__(self) -> Self:
        self._watch()
        return self

    async def __aexit__(self, *details: object) -> None:
        self.close()

    def _watch(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._number = self._fd.fileno()
            loop.add_reader(self._number, self._readable)
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this cryptofd belongs to another event loop: clone() it")
        return loop

    def close(self) -> None:
        """Ends the session; whoever still waits gets Closed (EBADF)."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._number)
            self._loop.remove_writer(self._number)
        self._fail(Closed(errno.EBADF, "this cryptofd was closed while an answer was awaited"))
        self._fd.close()

    def _fail(self, error: BaseException) -> None:
        waiting: list[asyncio.Future[Any]] = [*self._waiting.values(), *self._queue]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()
        self._queue.clear()

    def _readable(self) -> None:
        while True:
            try:
                completion: Completion = self._fd.complete()
            except NotReady:
                return
            except OSError as error:
                # The serving side is gone: nothing that was asked will be answered.
                if self._loop is not None:
                    self._loop.remove_reader(self._number)
                self._fail(error)
                return
            future = self._waiting.pop(completion.id, None)
            if future is None or future.done():
                continue
            if completion.error is not None:
                future.set_exception(completion.error)
            else:
                future.set_result(completion.data)

    def _writable(self) -> None:
        # One at a time: whoever finds no room goes to the front again.
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        if self._loop is not None:
            self._loop.remove_writer(self._number)

    async def _room(self, loop: asyncio.AbstractEventLoop, first: bool) -> None:
        waiter: asyncio.Future[None] = loop.create_future()
        if first:
            self._queue.appendleft(waiter)
        else:
            self._queue.append(waiter)
        loop.add_writer(self._number, self._writable)
        await waiter

    async def _call(self, op: str, *arguments: Any, **options: Any) -> bytes:
        loop = self._watch()
        if self._queue:
            await self._room(loop, first=False)
        while True:
            try:
                number = self._fd.submit(op, *arguments, **options)
                break
            except NotReady:
                await self._room(loop, first=True)
        future: asyncio.Future[bytes] = loop.create_future()
        self._waiting[number] = future
        try:
            return await future
        except asyncio.CancelledError:
            if self._waiting.pop(number, None) is not None and not self._fd.closed:
                # Where there is no room to say so, its answer is dropped when it comes.
                with contextlib.suppress(OSError):
                    self._fd.submit("cancel", target=number)
            raise

    async def seal(self, data: Buffer, aad: Buffer | None = None) -> bytes:
        """An AEAD's message with an IV that the serving side chooses."""
        return await self._call("seal", data, None, aad)

    async def unseal(self, data: Buffer, aad: Buffer | None = None) -> bytes:
        """The message of what seal() made."""
        return await self._call("unseal", data, None, aad)

    async def encrypt(
        self,
        data: Buffer,
        iv: Buffer | None = None,
        aad: Buffer | None = None,
        **options: Any,
    ) -> bytes:
        """Encrypts a whole message; an AEAD's result ends with the tag."""
        return await self._call("encrypt", data, iv, aad, **options)

    async def decrypt(
        self,
        data: Buffer,
        iv: Buffer | None = None,
        aad: Buffer | None = None,
        **options: Any,
    ) -> bytes:
        """Decrypts a whole message; BadTag (EBADMSG) if its tag does not verify."""
        return await self._call("decrypt", data, iv, aad, **options)

    async def encrypt_many(self, items: Iterable[tuple[Buffer | None, ...]]) -> list[bytes]:
        """Encrypts many messages, each (data, iv) or (data, iv, aad), in flight together."""
        return list(await asyncio.gather(*(self._call("encrypt", *item) for item in items)))

    async def decrypt_many(self, items: Iterable[tuple[Buffer | None, ...]]) -> list[bytes]:
        """Decrypts many messages; the first that fails raises."""
        return list(await asyncio.gather(*(self._call("decrypt", *item) for item in items)))

    async def wrap(self, key: Buffer) -> bytes:
        """Wraps a key."""
        return await self._call("wrap", key)

    async def unwrap(self, wrapped: Buffer) -> bytes:
        """Unwraps a key."""
        return await self._call("unwrap", wrapped)

    async def derive(self, length: int, **options: Any) -> bytes:
        """Derives ``length`` bytes; the options are those of ``CryptoFD.derive``."""
        return await self._call("derive", length=length, **options)

    async def read(self, size: int) -> bytes:
        """``size`` random bytes."""
        return await self._call("random", length=size)

    async def update(self, data: Buffer) -> None:
        """Hash, MAC: takes more data."""
        await self._call("update", data)

    async def update_key(self) -> None:
        """A hash on a key of the broker's (usage digest): takes in the key."""
        await self._call("hash_key")

    async def digest(self, length: int | None = None) -> bytes:
        """Hash, MAC: the digest of what was taken so far."""
        return await self._call("peek", length=length)

    async def hexdigest(self, length: int | None = None) -> str:
        """The digest in hexadecimal."""
        return (await self.digest(length)).hex()

    async def sign(self, data: Buffer, **options: Any) -> bytes:
        """The signature of ``data``; the options are those of ``CryptoFD.sign``."""
        return await self._call("sign", data, **options)

    async def sign_digest(self, digest: Buffer, **options: Any) -> bytes:
        """The signature of a digest that the caller computed."""
        return await self._call("sign_digest", digest, **options)

    async def verify_digest(self, signature: Buffer, digest: Buffer, **options: Any) -> None:
        """Raises BadSignature unless ``signature`` is that of ``digest``."""
        await self._call("verify_digest", digest, tag=signature, **options)

    async def public_key(self) -> bytes:
        """The public key of a pair: a SubjectPublicKeyInfo in DER."""
        return await self._call("public_key")

    async def agree(self, peer: Buffer) -> bytes:
        """The secret shared with the holder of the public key ``peer``."""
        return await self._call("agree", peer)

    async def encapsulate(self) -> tuple[bytes, bytes]:
        """A ciphertext for the holder of the private key, and the secret in it."""
        both = await self._call("encapsulate")
        end = 4 + int.from_bytes(both[:4], "little")
        if not 4 < end < len(both):
            raise CryptoFDError(errno.EPROTO, "the serving side answered no ciphertext and secret")
        return both[4:end], both[end:]

    async def decapsulate(self, ciphertext: Buffer) -> bytes:
        """The secret in a ciphertext."""
        return await self._call("decapsulate", ciphertext)

    async def verify(self, tag: Buffer, data: Buffer | None = None, **options: Any) -> None:
        """MAC: raises BadTag unless ``tag`` is that of what was taken so far.

        A pair: raises BadSignature unless ``tag`` is a signature of ``data``.
        """
        if data is not None:
            await self._call("verify_signature", data, tag=tag, **options)
        elif not hmac.compare_digest(await self.digest(), bytes(tag)):
            raise BadTag(errno.EBADMSG, "the tag does not verify: wrong key, or changed data")

    async def reset(self) -> None:
        """Hash, MAC: back to the beginning."""
        await self._call("reset")

    def clone(self) -> AsyncCryptoFD:
        """A fresh session and descriptor with the same grant; a hash takes its state along."""
        return AsyncCryptoFD(self._fd.clone())

    def info(self) -> Info:
        """Engine, driver, hardware or software, why not the others, limits and counts."""
        return self._fd.info()

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd.fileno()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd.closed


def open(algorithm: str, key: Any = None, **options: Any) -> AsyncCryptoFD:
    """Opens a session as :func:`cryptofd.open` does, to be awaited."""
    options["flags"] = options.get("flags", 0) | cryptofd.NONBLOCK
    return AsyncCryptoFD(cryptofd.open(algorithm, key, **options))


def adopt(fd: int, algorithm: str | None = None, **options: Any) -> AsyncCryptoFD:
    """Takes over a descriptor as :func:`cryptofd.adopt` does, to be awaited."""
    import os

    adopted = cryptofd.adopt(fd, algorithm, **options)
    os.set_blocking(adopted.fileno(), False)
    return AsyncCryptoFD(adopted)

"""Files of any length under one key: Tink's streaming AEAD, segment by segment.

A file is a header (its own size in one byte, a salt, a nonce prefix) and segments. Each file has a
key of its own, derived with HKDF from the caller's key, the salt and the aad; each segment is an
AEAD message whose nonce is the prefix, the segment's number (32 bits, big-endian) and whether it is
the last. So segments can be neither changed, moved, repeated nor cut off, and any of them can be
read without those before it.

>>> import io
>>> from cryptofd import streaming
>>> file = io.BytesIO()
>>> with streaming.open_writer(file, key=bytes(32), aad=b"name") as writer:
...     _ = writer.write(b"hello")
>>> file.seek(0)
0
>>> streaming.open_reader(file, key=bytes(32), aad=b"name").read()
b'hello'

With ``key="cryptofd:LABEL"`` the segments are sealed by a worker of the broker, in the format of
``cryptofd.sealed``: no key is in this process.

Source: https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import cryptofd
from cryptofd.errors import BadTag, CryptoFDError, InvalidArgument, TooLarge

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from cryptofd import CryptoFD
    from cryptofd.broker.client import Connection

#: The format that is meant where none is named.
FORMAT = "aes256-gcm-hkdf-1mb"

# The nonce ends with the segment's number and one byte that is 1 in the last segment.
_NUMBER, _LAST = 4, 1


class Source(Protocol):
    """What a reader reads: a binary file object, with or without ``seek``."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None: ...


class Sink(Protocol):
    """What a writer writes to: a binary file object."""

    def write(self, data: memoryview, /) -> int | None: ...


@dataclass(frozen=True)
class Layout:
    """The sizes of a format, in bytes: all of them follow from the table."""

    name: str
    kdf: str
    cipher: str
    #: A segment as it lies in the file, its tag included; the header counts to the first.
    segment: int
    tag: int
    key: int
    prefix: int

    @property
    def header(self) -> int:
        return 1 + self.key + self.prefix  # the salt is as long as the derived key

    @property
    def most(self) -> int:
        """The longest plaintext: the segments' numbers end there."""
        return ((self.segment - self.tag) << (8 * _NUMBER)) - self.header

    @classmethod
    def of(cls, name: str) -> Self:
        """The layout of a streaming algorithm of the table."""
        table = {n: a for a in cryptofd.algorithms() for n in (a.name, *a.aliases)}
        format = table.get(name)
        if format is None or format.streaming is None:
            known = ", ".join(sorted(a.name for a in table.values() if a.streaming))
            raise cryptofd.UnknownAlgorithm(
                errno.ENOENT, f"{name} is no streaming format; there is {known}"
            )
        streaming = format.streaming
        return cls(
            name=format.name,
            kdf=streaming.kdf,
            cipher=streaming.cipher,
            segment=streaming.segment,
            tag=format.tag_size,
            key=streaming.derived_key,
            prefix=table[streaming.cipher].iv_default - _NUMBER - _LAST,
        )


class Segments(Protocol):
    """One file's key and nonces: what a writer and a reader ask of a format."""

    #: The file's first bytes; they count to the first segment.
    header: bytes
    #: Bytes of a segment as it lies in the file.
    segment: int
    session: CryptoFD

    def capacity(self, number: int) -> int:
        """Bytes of plaintext that segment `number` holds."""

    def seal(self, number: int, last: bool, data: Buffer, out: memoryview) -> int:
        """Writes a segment of the file to `out`; its size."""

    def unseal(self, number: int, last: bool, data: Buffer, out: memoryview) -> int:
        """Writes a segment's plaintext to `out`; its size. BadTag (EBADMSG): nothing is there."""


class _Derived:
    """Tink's: a key for each file, derived here from the caller's."""

    def __init__(
        self, layout: Layout, key: Buffer, aad: Buffer, header: bytes, options: dict[str, Any]
    ) -> None:
        format = next(a for a in cryptofd.algorithms() if a.name == layout.name)
        size = memoryview(key).nbytes
        if format.key is not None and size not in format.key:
            raise InvalidArgument(
                errno.EINVAL,
                f"{layout.name} takes a key of {format.key.min} to {format.key.max} bytes, "
                f"this one has {size}",
            )
        self.layout = layout
        self.header, self.segment = header, layout.segment
        salt, self._prefix = header[1 : 1 + layout.key], header[1 + layout.key :]
        with cryptofd.open(layout.kdf, key=key, **_common(options)) as kdf:
            derived = kdf.derive(layout.key, salt=salt, info=aad)
        self.session: CryptoFD = cryptofd.open(layout.cipher, key=derived, **options)

    @classmethod
    def fresh(cls, layout: Layout, key: Buffer, aad: Buffer, options: dict[str, Any]) -> Self:
        random = os.urandom(layout.header - 1)
        return cls(layout, key, aad, bytes([layout.header]) + random, options)

    def capacity(self, number: int) -> int:
        return self.layout.segment - self.layout.tag - (0 if number else self.layout.header)

    def iv(self, number: int, last: bool) -> bytes:
        if number >> 8 * _NUMBER:
            raise TooLarge(
                errno.EFBIG,
                f"{self.layout.name} ends after {self.layout.most} bytes: begin another file",
            )
        return self._prefix + number.to_bytes(_NUMBER, "big") + bytes([last])

    def seal(self, number: int, last: bool, data: Buffer, out: memoryview) -> int:
        return self.session.encrypt_into(out, data, iv=self.iv(number, last))

    def unseal(self, number: int, last: bool, data: Buffer, out: memoryview) -> int:
        try:
            if memoryview(data).nbytes < self.layout.tag:
                raise BadTag(errno.EBADMSG, "shorter than its tag")
            return self.session.decrypt_into(out, data, iv=self.iv(number, last))
        except BadTag:
            raise unverified(number, last) from None


def unverified(number: int, last: bool) -> BadTag:
    """A segment that is not what was written, and why that may be."""
    if last and number:
        why = "changed or cut short"
    elif last:
        why = "wrong key or aad, changed, or cut short"
    else:
        why = "changed" if number else "wrong key or aad, or changed"
    end = ", the last" if last else ""
    return BadTag(errno.EBADMSG, f"segment {number}{end}: the tag does not verify: {why}")


def _common(options: dict[str, Any]) -> dict[str, Any]:
    """Of the options for the cipher those that the KDF is opened with too."""
    return {name: value for name, value in options.items() if name == "fips"}


class Writer(io.BufferedIOBase):
    """Encrypts what is written to it; the file is whole once ``close()`` has returned.

    As a context manager it closes at the end of the block, but not when the block raises: what was
    written so far then lacks its end, and no reader takes it for whole.
    """

    def __init__(self, sink: Sink, segments: Segments) -> None:
        self._sink = sink
        self._segments = segments
        self._number = 0
        self._plain = memoryview(bytearray(segments.capacity(1)))
        self._spare = memoryview(bytearray(segments.capacity(1)))
        self._filled = 0
        self._out = memoryview(bytearray(segments.segment))
        self._written = 0
        self._broken = False
        self._put(memoryview(segments.header))

    def _put(self, data: memoryview) -> None:
        # A part that was not written cannot be repeated: its nonce is spent.
        whole, self._broken = not self._broken, True
        if not whole:
            raise CryptoFDError(errno.EIO, "an earlier write failed: the file cannot become whole")
        while data:
            count = self._sink.write(data)
            if count is None:
                raise BlockingIOError(errno.EAGAIN, "the file that is written to is not ready")
            data = data[count:]
        self._broken = False

    def _seal(self, data: Buffer, last: bool) -> None:
        number, self._number = self._number, self._number + 1
        size = self._segments.seal(number, last, data, self._out)
        self._put(self._out[:size])

    @property
    def name(self) -> object:
        """The name of the file below, where it has one."""
        return getattr(self._sink, "name", None)

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        """Takes all of `data`; a segment is written when there is more after it."""
        if self.closed:
            raise cryptofd.Closed(errno.EBADF, "the writer is closed")
        view = memoryview(data).cast("B")
        total = len(view)
        while view:
            capacity = self._segments.capacity(self._number)
            if self._filled == capacity:
                self._seal(self._plain[:capacity], last=False)
                self._filled = 0
            elif not self._filled and len(view) > capacity:
                self._seal(view[:capacity], last=False)
                view = view[capacity:]
            else:
                count = min(len(view), capacity - self._filled)
                self._plain[self._filled : self._filled + count] = view[:count]
                self._filled += count
                view = view[count:]
        self._written += total
        return total

    def take(self, source: Source, progress: Callable[[int], object] = int) -> None:
        """Encrypts all of `source`; `progress` is told of each part, in bytes."""
        while True:
            if self.closed:
                raise cryptofd.Closed(errno.EBADF, "the writer is closed")
            capacity = self._segments.capacity(self._number)
            if self._filled == capacity:
                # Whether this segment is the last shows only when more is read.
                count = fill(source, self._spare)
                if count:
                    self._seal(self._plain[:capacity], last=False)
                    self._plain, self._spare = self._spare, self._plain
                    self._filled = count
            else:
                count = fill(source, self._plain[self._filled : capacity])
                self._filled += count
            self._written += count
            progress(count)
            if not count:
                return

    def tell(self) -> int:
        """Bytes of plaintext taken."""
        return self._written

    def close(self) -> None:
        """Writes the last segment; the file below stays open."""
        if self.closed:
            return
        try:
            self._seal(self._plain[: self._filled], last=True)
        finally:
            self.discard()

    def discard(self) -> None:
        """Ends without the last segment: what was written is then no valid file."""
        self._segments.session.close()
        for buffer in (self._plain, self._spare):
            buffer[:] = bytes(len(buffer))
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        # A writer that nobody closed must not pass for a whole file.
        if not self.closed:
            self.discard()


class Reader(io.BufferedIOBase):
    """Decrypts a file: nothing of a segment is given out before its tag is verified.

    Reading to the end (an empty read, or ``seek(0, 2)``) proves that the file is whole: where its
    end is missing that raises BadTag (EBADMSG). Over a seekable file any part is read without the
    rest.
    """

    def __init__(self, source: Source, segments: Segments, start: int | None) -> None:
        self._source = source
        self._segments = segments
        self._plain = memoryview(bytearray(segments.capacity(1)))
        # Where the format begins in a source that can seek, and how long it is.
        self._start = start
        self._size = source.seek(0, os.SEEK_END) - start if start is not None else 0  # type: ignore[attr-defined]
        self._at = len(segments.header) if start is None else -1
        self._cipher = memoryview(bytearray(segments.segment))
        self._ahead = memoryview(bytearray(segments.segment))
        self._ahead_size: int | None = None
        self._number = -1
        self._plain_size = 0
        self._last = False
        self._position = 0
        self._failed: str | None = None

    @property
    def name(self) -> object:
        """The name of the file below, where it has one."""
        return getattr(self._source, "name", None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._start is not None

    def _offset(self, number: int) -> int:
        """Where the plaintext of segment `number` begins."""
        return number * self._segments.capacity(1) - (len(self._segments.header) if number else 0)

    def _segment_of(self, position: int) -> int:
        return (position + len(self._segments.header)) // self._segments.capacity(1)

    def _last_number(self) -> int:
        return max(0, (self._size - 1) // self._segments.segment)

    def _fetch(self, number: int) -> tuple[memoryview, bool]:
        """The ciphertext of segment `number`, and whether it is the last."""
        segment, header = self._segments.segment, len(self._segments.header)
        if self._start is not None:
            begin = max(number * segment, header)
            room = (number + 1) * segment - begin
            if self._at != begin:
                self._source.seek(self._start + begin)  # type: ignore[attr-defined]
            size = fill(self._source, self._cipher[:room])
            self._at = begin + size
            return self._cipher[:size], number >= self._last_number()
        if self._ahead_size is None:
            self._ahead_size = fill(self._source, self._ahead[: segment - header])
        full = segment - (0 if number else header)
        size = self._ahead_size
        self._cipher, self._ahead = self._ahead, self._cipher
        self._ahead_size = fill(self._source, self._ahead) if size == full else 0
        return self._cipher[:size], not self._ahead_size

    def _load(self, number: int) -> None:
        if self.closed:
            raise cryptofd.Closed(errno.EBADF, "the reader is closed")
        if self._failed:
            raise BadTag(errno.EBADMSG, self._failed)
        cipher, last = self._fetch(number)
        try:
            self._plain_size = self._segments.unseal(number, last, cipher, self._plain)
        except BadTag as error:
            self._failed = error.strerror
            self._plain_size = 0
            self._number = -1
            raise
        self._number, self._last = number, last

    def segments(self) -> Iterator[memoryview]:
        """What follows, a verified segment at a time; each is overwritten by the next."""
        while part := self._part(self._segments.segment):
            yield part

    def _part(self, size: int) -> memoryview:
        """Up to `size` verified bytes from the position on, which moves; none at the end."""
        number = self._segment_of(self._position)
        if number != self._number:
            if self._number >= 0 and self._last and number > self._number:
                return self._plain[:0]
            if self._start is not None and number > self._last_number():
                number = self._last_number()
            self._load(number)
        begin = self._position - self._offset(number)
        part = self._plain[begin : min(self._plain_size, begin + size)]
        self._position += len(part)
        return part

    def readinto(self, buffer: Buffer, /) -> int:
        """Fills `buffer` as far as there is plaintext."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            part = self._part(len(view) - done)
            if not part:
                break
            view[done : done + len(part)] = part
            done += len(part)
        return done

    readinto1 = readinto

    def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, or fewer at the end; all that follows without a size."""
        if size is None or size < 0:
            return b"".join(bytes(part) for part in self.segments())
        out = bytearray(size)
        count = self.readinto(out)
        return bytes(memoryview(out)[:count])

    def read1(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes of the segment at hand."""
        return bytes(self._part(self._segments.segment if size < 0 else size))

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves the position in the plaintext; the end is verified before it is counted from."""
        if self._start is None:
            raise io.UnsupportedOperation("this reader's source cannot seek")
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            last = self._last_number()
            if self._number != last:
                self._load(last)
            offset += self._offset(last) + self._plain_size
        elif whence != os.SEEK_SET:
            raise InvalidArgument(errno.EINVAL, f"whence={whence}: 0, 1 or 2")
        if offset < 0:
            raise InvalidArgument(errno.EINVAL, f"position {offset} is before the beginning")
        self._position = offset
        return offset

    def close(self) -> None:
        """Forgets key and plaintext; the file below stays open."""
        if not self.closed:
            self._segments.session.close()
            self._plain[:] = bytes(len(self._plain))
            super().close()


def fill(source: Source, view: memoryview) -> int:
    """Reads until `view` is full or `source` ends; how many bytes that were."""
    done = 0
    while done < len(view):
        count = source.readinto(view[done:])
        if count is None:
            raise BlockingIOError(errno.EAGAIN, "the file that is read from is not ready")
        if not count:
            break
        done += count
    return done


def open_writer(
    sink: Sink,
    *,
    key: Buffer | str,
    aad: Buffer = b"",
    format: str = FORMAT,
    broker: Connection | None = None,
    **options: Any,
) -> Writer:
    """A file object that encrypts into `sink`, under a fresh salt.

    `key`: at least 32 bytes, uniformly random (the IKM of HKDF), or ``cryptofd:LABEL`` for one of
    the broker's: then the format is that of ``cryptofd.sealed``, whatever `format` says. `aad`:
    bytes that are not stored and that the reader must bring too. `options` are those of
    ``cryptofd.open`` for the cipher: engine, driver, hardware, fips.
    """
    if isinstance(key, str):
        from cryptofd import sealed

        return Writer(sink, sealed.fresh(key, aad, options, broker))
    return Writer(sink, _Derived.fresh(Layout.of(format), key, aad, options))


def open_reader(
    source: Source,
    *,
    key: Buffer | str,
    aad: Buffer = b"",
    format: str = FORMAT,
    broker: Connection | None = None,
    **options: Any,
) -> Reader:
    """A file object that decrypts `source` from where it stands; seekable where `source` is.

    BadTag (EBADMSG) if the header is not one of this format; a wrong key shows at the first read,
    one of the broker's at once.
    """
    seekable: Callable[[], bool] = getattr(source, "seekable", lambda: False)
    start = source.tell() if seekable() else None  # type: ignore[attr-defined]
    if isinstance(key, str):
        from cryptofd import sealed

        return Reader(source, sealed.found(source, key, aad, options, broker), start)
    layout = Layout.of(format)
    header = bytearray(layout.header)
    size = fill(source, memoryview(header))
    if size and header[0] != layout.header:
        raise BadTag(errno.EBADMSG, f"not {layout.name}: {_other(bytes(header[:size]))}")
    if size < layout.header:
        raise BadTag(
            errno.EBADMSG,
            f"cut short: {size} bytes, where the header of {layout.name} has {layout.header}",
        )
    return Reader(source, _Derived(layout, key, aad, bytes(header), options), start)


def _other(header: bytes) -> str:
    """What a file is that begins so."""
    from cryptofd import sealed

    if header.startswith(sealed.MAGIC):
        return "a key of the broker's sealed it: name that one, cryptofd:LABEL"
    return f"it begins with {header[0]}, which would be the size of the header"


__all__ = [
    "FORMAT",
    "Layout",
    "Reader",
    "Segments",
    "Sink",
    "Source",
    "Writer",
    "fill",
    "open_reader",
    "open_writer",
    "unverified",
]

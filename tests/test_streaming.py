"""Tink's streaming format: both ways against the tink package; nothing unverified is given out."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable

import pytest
import tink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from cryptofd import streaming
from cryptofd.errors import BadTag, CryptoFDError, InvalidArgument, TooLarge, UnknownAlgorithm

KEY = bytes(range(32))
LAYOUT = streaming.Layout.of(streaming.FORMAT)
SEGMENT = LAYOUT.segment
FIRST = SEGMENT - LAYOUT.header - LAYOUT.tag
FULL = SEGMENT - LAYOUT.tag

# Around every place where a segment begins or ends.
SIZES = [0, 1, 16, 4096, FIRST - 1, FIRST, FIRST + 1, FIRST + FULL - 1, FIRST + FULL]
SIZES += [FIRST + FULL + 1, FIRST + 2 * FULL + 12345]


def data_of(size: int) -> bytes:
    return (b"0123456789abcdef%d" % size * (size // 16 + 1))[:size]


def tinks(key: bytes) -> streaming_aead.StreamingAead:
    """Tink's primitive for AES256_GCM_HKDF_1MB, over our key's bytes."""
    streaming_aead.register()
    value = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
        version=0,
        key_value=key,
        params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
            ciphertext_segment_size=1024 * 1024,
            derived_key_size=32,
            hkdf_hash_type=common_pb2.SHA256,
        ),
    )
    keyset = tink_pb2.Keyset(primary_key_id=1)
    keyset.key.add(
        key_data=tink_pb2.KeyData(
            type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
            value=value.SerializeToString(),
            key_material_type=tink_pb2.KeyData.SYMMETRIC,
        ),
        status=tink_pb2.ENABLED,
        key_id=1,
        output_prefix_type=tink_pb2.RAW,
    )
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


class _Kept(io.BytesIO):
    """What was written, still there after close()."""

    kept = b""

    def close(self) -> None:
        if not self.closed:
            self.kept = self.getvalue()
        super().close()


class _Pipe(io.RawIOBase):
    """A source that cannot seek and gives at most so much at a time."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self._data, self._most = memoryview(data), most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), len(self._data), self._most)
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size


Opened = Callable[[bytes], io.BytesIO | _Pipe]
BOTH = pytest.mark.parametrize("opened", [io.BytesIO, _Pipe], ids=["seekable", "pipe"])


def encrypted(plain: bytes, key: bytes = KEY, aad: bytes = b"") -> bytes:
    sink = io.BytesIO()
    with streaming.open_writer(sink, key=key, aad=aad) as writer:
        assert writer.write(plain) == len(plain)
    return sink.getvalue()


def decrypted(box: bytes, key: bytes = KEY, aad: bytes = b"") -> bytes:
    return streaming.open_reader(io.BytesIO(box), key=key, aad=aad).read()


@pytest.mark.parametrize("size", SIZES)
def test_tink_reads_ours(size: int) -> None:
    plain = data_of(size)
    source = io.BytesIO(encrypted(plain, aad=b"the name"))
    with tinks(KEY).new_decrypting_stream(source, b"the name") as stream:
        assert stream.read() == plain


@BOTH
@pytest.mark.parametrize("size", SIZES)
def test_ours_reads_tinks(size: int, opened: Opened) -> None:
    plain = data_of(size)
    sink = _Kept()
    with tinks(KEY).new_encrypting_stream(sink, b"the name") as stream:
        stream.write(plain)
    reader = streaming.open_reader(opened(sink.kept), key=KEY, aad=b"the name")
    assert reader.read() == plain
    assert reader.read() == b""
    assert len(encrypted(plain)) == len(sink.kept)


def test_longer_keys_are_the_same_to_tink() -> None:
    key = bytes(range(64))
    with tinks(key).new_decrypting_stream(io.BytesIO(encrypted(b"long", key)), b"") as stream:
        assert stream.read() == b"long"


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    writes=st.lists(st.sampled_from([0, 1, 100, 65536, FIRST, FULL, FULL + 1]), max_size=5),
    reads=st.lists(st.tuples(st.integers(0, 3 * FULL), st.integers(0, FULL + 99)), max_size=6),
    most=st.sampled_from([1 << 30, 65536, 70001]),
)
def test_any_writes_any_reads(writes: list[int], reads: list[tuple[int, int]], most: int) -> None:
    parts = [data_of(size) for size in writes]
    plain = b"".join(parts)
    sink = io.BytesIO()
    with streaming.open_writer(sink, key=KEY) as writer:
        for part in parts:
            writer.write(part)
        assert writer.tell() == len(plain)
    box = sink.getvalue()
    assert streaming.open_reader(_Pipe(box, most), key=KEY).read() == plain
    # Behind other bytes, in any order.
    shifted = io.BytesIO(b"before" + box)
    shifted.seek(6)
    reader = streaming.open_reader(shifted, key=KEY)
    for position, size in reads:
        assert reader.seek(position) == position
        assert reader.read(size) == plain[position : position + size]
        assert reader.tell() == position + len(plain[position : position + size])
    assert reader.seek(0, os.SEEK_END) == len(plain)
    assert reader.read(1) == b""
    reader.seek(0)
    assert b"".join(bytes(part) for part in reader.segments()) == plain


def test_random_access_reads_only_what_it_needs() -> None:
    plain = data_of(FIRST + 3 * FULL)
    box = bytearray(encrypted(plain))
    box[SEGMENT + 5] ^= 1  # in segment 1
    reader = streaming.open_reader(io.BytesIO(box), key=KEY)
    reader.seek(FIRST + FULL + 7)
    assert reader.read(1000) == plain[FIRST + FULL + 7 :][:1000]
    reader.seek(FIRST)
    with pytest.raises(BadTag, match=r"segment 1: .* changed") as raised:
        reader.read(1)
    assert raised.value.errno == errno.EBADMSG
    with pytest.raises(BadTag):  # and it stays so
        reader.read(1)


def _cut(size: int) -> Callable[[bytes], bytes]:
    return lambda box: box[:size]


def _flip(position: int) -> Callable[[bytes], bytes]:
    def change(box: bytes) -> bytes:
        changed = bytearray(box)
        changed[position] ^= 0x80
        return bytes(changed)

    return change


def _exchange(box: bytes) -> bytes:
    one, two = box[SEGMENT : 2 * SEGMENT], box[2 * SEGMENT : 3 * SEGMENT]
    return box[:SEGMENT] + two + one + box[3 * SEGMENT :]


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "nothing": _cut(0),
    "part of the header": _cut(LAYOUT.header - 1),
    "the header alone": _cut(LAYOUT.header),
    "less than a tag": _cut(LAYOUT.header + LAYOUT.tag - 1),
    "a whole segment": _cut(SEGMENT),
    "two segments": _cut(2 * SEGMENT),
    "a byte more than a segment": _cut(SEGMENT + 1),
    "the last byte gone": lambda box: box[:-1],
    "a byte more": lambda box: box + b"\0",
    "a segment's worth more": lambda box: box + bytes(SEGMENT),
    "header size": _flip(0),
    "salt": _flip(1),
    "nonce prefix": _flip(LAYOUT.header - 1),
    "first byte": _flip(LAYOUT.header),
    "first tag": _flip(SEGMENT - 1),
    "second segment": _flip(SEGMENT),
    "last byte": _flip(-1),
    "segments exchanged": _exchange,
    "a segment twice": lambda box: box[: 2 * SEGMENT] + box[SEGMENT:],
    "a segment left out": lambda box: box[:SEGMENT] + box[2 * SEGMENT :],
}


@BOTH
@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_what_was_changed_is_refused(change: Callable[[bytes], bytes], opened: Opened) -> None:
    plain = data_of(FIRST + 2 * FULL + 99)
    source = opened(change(encrypted(plain)))
    released = b""
    with pytest.raises(BadTag) as raised:  # noqa: PT012 - what comes before the error is of interest
        for part in streaming.open_reader(source, key=KEY).segments():
            released += bytes(part)
    assert raised.value.errno == errno.EBADMSG
    # Only whole verified segments come before the error, never all of it.
    assert released in [b"", plain[:FIRST], plain[: FIRST + FULL], plain[: FIRST + 2 * FULL]]


def test_wrong_key_and_aad() -> None:
    box = encrypted(b"secret", aad=b"one")
    with pytest.raises(BadTag, match="wrong key or aad"):
        decrypted(box, aad=b"two")
    with pytest.raises(BadTag, match="wrong key or aad"):
        decrypted(box, key=bytes(32), aad=b"one")
    assert decrypted(box, aad=b"one") == b"secret"


def test_no_two_files_are_alike() -> None:
    assert encrypted(b"same")[1:33] != encrypted(b"same")[1:33]


@pytest.mark.parametrize("size", [0, 16, 31, 1025])
def test_key_sizes(size: int) -> None:
    with pytest.raises(InvalidArgument, match=f"32 to 1024 bytes, this one has {size}"):
        streaming.open_writer(io.BytesIO(), key=bytes(size))


def test_other_formats() -> None:
    with pytest.raises(UnknownAlgorithm, match=streaming.FORMAT):
        streaming.open_writer(io.BytesIO(), key=KEY, format="gcm(aes)")
    assert streaming.Layout.of("AES256_GCM_HKDF_1MB") == LAYOUT


def test_the_numbers_end() -> None:
    writer = streaming.open_writer(io.BytesIO(), key=KEY)
    writer._number = 1 << 32
    with pytest.raises(TooLarge, match=str(LAYOUT.most)) as raised:
        writer.close()
    assert raised.value.errno == errno.EFBIG


def test_a_block_that_raises_leaves_no_whole_file() -> None:
    sink = io.BytesIO()
    writer = streaming.open_writer(sink, key=KEY)
    with pytest.raises(RuntimeError), writer:  # noqa: PT012 - the block is what is tested
        writer.write(data_of(FIRST + FULL + 5))
        raise RuntimeError
    with pytest.raises(BadTag):
        decrypted(sink.getvalue())
    with pytest.raises(CryptoFDError):
        writer.write(b"more")


def test_a_writer_that_nobody_closed_leaves_no_whole_file() -> None:
    sink = io.BytesIO()
    writer = streaming.open_writer(sink, key=KEY)
    writer.write(b"text")
    del writer
    with pytest.raises(BadTag):
        decrypted(sink.getvalue())


class _Full(io.BytesIO):
    """A disk that is full once."""

    fail = False

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        if self.fail:
            self.fail = False
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_no_nonce_is_used_again_after_a_failed_write() -> None:
    sink = _Full()
    writer = streaming.open_writer(sink, key=KEY)
    sink.fail = True
    with pytest.raises(OSError, match="No space"):
        writer.write(data_of(2 * FULL))
    size = len(sink.getvalue())
    with pytest.raises(CryptoFDError, match="earlier write failed"):
        writer.write(data_of(2 * FULL))
    with pytest.raises(CryptoFDError, match="earlier write failed"):
        writer.close()
    assert len(sink.getvalue()) == size


def test_short_writes_are_completed() -> None:
    class Slow(io.BytesIO):
        def write(self, data: memoryview) -> int:  # type: ignore[override]
            return super().write(data[:70001])

    sink = Slow()
    plain = data_of(FIRST + 100)
    with streaming.open_writer(sink, key=KEY) as writer:
        writer.write(plain)
    assert decrypted(sink.getvalue()) == plain


@pytest.mark.parametrize("before", [0, 1, FIRST])
@pytest.mark.parametrize("size", SIZES)
def test_take_reads_a_source_to_its_end(size: int, before: int) -> None:
    plain = data_of(size)
    sink = io.BytesIO()
    told: list[int] = []
    with streaming.open_writer(sink, key=KEY) as writer:
        writer.write(bytes(before))
        writer.take(_Pipe(plain, 70001), told.append)
        assert writer.tell() == before + size
        writer.write(b"end")
    assert sum(told) == size
    assert decrypted(sink.getvalue()) == bytes(before) + plain + b"end"


def test_lines_of_text_over_it() -> None:
    box = encrypted("höher\nweiter\n".encode())
    text = io.TextIOWrapper(streaming.open_reader(io.BytesIO(box), key=KEY), encoding="utf-8")
    assert text.readlines() == ["höher\n", "weiter\n"]

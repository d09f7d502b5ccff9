"""The header of a sealed file is foreign bytes: whatever it says, it is a value or BadTag."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cryptofd import BadTag, sealed
from cryptofd.sealed import MAGIC, MOST, SEGMENT

NAME = b"cryptofd:0/db"
REST = b"\x08gcm(aes)" + len(NAME).to_bytes(2, "little") + NAME


def header(
    rest: bytes = REST, segment: int = SEGMENT, version: int = 1, size: int | None = None
) -> bytes:
    whole = 63 + len(rest) if size is None else size
    return (
        MAGIC
        + whole.to_bytes(2, "little")
        + segment.to_bytes(4, "little")
        + bytes([version])
        + bytes(range(16))
        + bytes(32)
        + rest
    )


def test_what_is_in_it() -> None:
    source = io.BytesIO(header() + b"segments")
    assert sealed._header(source) == (
        header(), SEGMENT, 1, bytes(range(16)).hex(), "cryptofd:0/db",
    )  # fmt: skip
    assert source.read() == b"segments"


@pytest.mark.parametrize(
    "wrong",
    [
        header(version=0),
        header(segment=0),
        header(segment=2 * len(header())),
        header(segment=MOST + 1),
        header(size=0),
        header(size=9),
        header(size=62),
        header(size=len(header()) + 1),
        header(rest=b""),
        header(rest=b"\xff"),
        header(rest=REST[:-1]),
        header(rest=REST + b"x"),
        header(rest=REST[:-2] + b"\xff\xff"),
        header(rest=REST[:-2] + b"\x1b["),
    ],
    ids=range(14),
)
def test_what_cannot_be(wrong: bytes) -> None:
    with pytest.raises(BadTag):
        sealed._header(io.BytesIO(wrong))


@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 65535))
@example(b"", 0, 0)
def test_any_bytes(noise: bytes, place: int, size: int) -> None:
    for data in (
        noise,
        MAGIC + noise,
        MAGIC + size.to_bytes(2, "little") + noise,
        header()[:place] + noise,
        header()[:place] + noise + header()[place + len(noise) :],
    ):
        source = io.BytesIO(data)
        try:
            whole, segment, version, key, name = sealed._header(source)
        except BadTag:
            continue
        assert data.startswith(whole)
        assert source.tell() == len(whole)
        assert 2 * len(whole) < segment <= MOST
        assert 0 < version < 256
        assert len(bytes.fromhex(key)) == 16
        assert name.isprintable()

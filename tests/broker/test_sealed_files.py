"""Files and codes under brokered keys, by Python and the command: whole and right, or not there."""

from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_broker import Broker

import cryptofd
from cryptofd import sealed, streaming
from cryptofd.broker.client import Connection

PLAIN = os.urandom(3 * sealed.SEGMENT + 17)
HEADER = struct.Struct("<8sHIB16s32s")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("files"))
    keys = broker.connect().keys
    keys.generate("db", "gcm(aes)")
    keys.generate("other", "gcm(aes)")
    keys.generate("code", "hmac(sha256)")
    yield broker
    broker.end()


@pytest.fixture
def connection(real: Broker) -> Connection:
    return real.connect()


def box_of(plain: bytes, connection: Connection, key: str = "cryptofd:db", **more: bytes) -> bytes:
    sink = io.BytesIO()
    with streaming.open_writer(sink, key=key, broker=connection, **more) as writer:
        writer.write(plain)
    return sink.getvalue()


def plain_of(box: bytes, connection: Connection, key: str = "cryptofd:db", **more: bytes) -> bytes:
    return streaming.open_reader(io.BytesIO(box), key=key, broker=connection, **more).read()


AEADS = [one.name for one in cryptofd.algorithms() if one.kind == "aead"]


@pytest.mark.parametrize("algorithm", AEADS)
def test_every_size_comes_back(algorithm: str, connection: Connection) -> None:
    label = "of-" + algorithm.partition("(")[0]
    key = connection.keys.generate(label, algorithm)
    box = box_of(b"", connection, label := f"cryptofd:{label}")
    header = int.from_bytes(box[8:10], "little")
    more = len(box) - header
    first = sealed.SEGMENT - more - header
    for size in (0, 1, first - 1, first, first + 1, first + sealed.SEGMENT - more, len(PLAIN)):
        box = box_of(PLAIN[:size], connection, label, aad=b"name")
        assert plain_of(box, connection, label, aad=b"name") == PLAIN[:size]
        magic, length, segment, version, key_id, _ = HEADER.unpack_from(box)
        assert (magic, length, segment) == (b"CFDSEAL1", header, sealed.SEGMENT)
        assert (version, key_id.hex()) == (1, key.id)
        name = f"cryptofd:{os.geteuid()}/{key.label}".encode()
        expected = bytes([len(algorithm)]) + algorithm.encode()
        assert box[HEADER.size : length] == expected + len(name).to_bytes(2, "little") + name


def test_the_format_is_as_documented(connection: Connection) -> None:
    """Taken apart here, with a key that this test knows."""
    import hashlib

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    raw = os.urandom(32)
    connection.keys.import_key("known", "gcm(aes)", raw)
    box = box_of(PLAIN, connection, "cryptofd:known", aad=b"name")
    header = int.from_bytes(box[8:10], "little")
    file = hashlib.sha256(box[:header] + b"name").digest()
    plain = b""
    count = -(-len(box) // sealed.SEGMENT)
    for number in range(count):
        begin = max(number * sealed.SEGMENT, header)
        segment = box[begin : (number + 1) * sealed.SEGMENT]
        aad = file + number.to_bytes(8, "little") + bytes([number == count - 1])
        assert segment[0] == 1
        plain += AESGCM(raw).decrypt(segment[1:13], segment[13:], aad)
    assert plain == PLAIN


def test_any_part_is_read_without_the_rest(connection: Connection) -> None:
    reader = streaming.open_reader(
        io.BytesIO(box_of(PLAIN, connection)), key="cryptofd:db", broker=connection
    )
    for position in (len(PLAIN) - 5, 0, sealed.SEGMENT, 70_000):
        reader.seek(position)
        assert reader.read(5) == PLAIN[position : position + 5]


def test_nothing_that_was_changed_is_given_out(connection: Connection) -> None:
    box = box_of(PLAIN, connection, aad=b"name")
    header = int.from_bytes(box[8:10], "little")
    places = {*range(header + 14), sealed.SEGMENT, sealed.SEGMENT + 20, len(box) - 1}
    for place in sorted(places):
        changed = bytearray(box)
        changed[place] ^= 1
        # Another version, or another name for it: there may be no such key (ENOKEY).
        with pytest.raises(cryptofd.CryptoFDError) as caught:
            plain_of(bytes(changed), connection, aad=b"name")
        assert caught.value.errno in (errno.EBADMSG, errno.ENOKEY), place
    segments = [box[n : n + sealed.SEGMENT] for n in range(0, len(box), sealed.SEGMENT)]
    other = box_of(PLAIN, connection, aad=b"name")
    for wrong in (
        b"".join([segments[0], segments[2], segments[1], *segments[3:]]),
        b"".join(segments[:-1]),
        b"".join([*segments[:-2], segments[-1]]),
        b"".join([segments[0], other[sealed.SEGMENT : 2 * sealed.SEGMENT], *segments[2:]]),
        box[:-1],
        box + b"\0",
        box[:header],
        box[:40],
        box[:3],
        b"",
    ):
        with pytest.raises(cryptofd.BadTag):
            plain_of(wrong, connection, aad=b"name")
    with pytest.raises(cryptofd.BadTag):
        plain_of(box, connection)


def test_a_file_outlives_rotation_and_renaming_but_not_its_key(connection: Connection) -> None:
    keys = connection.keys
    keys.generate("turning", "gcm(aes)")
    old = box_of(PLAIN, connection, "cryptofd:turning")
    keys.rotate("turning")
    new = box_of(PLAIN, connection, "cryptofd:turning")
    assert (old[14], new[14]) == (1, 2)
    keys.change("turning", new_label="turned")
    for box in (old, new):
        assert plain_of(box, connection, "cryptofd:turned") == PLAIN
        with pytest.raises(cryptofd.CryptoFDError) as caught:
            plain_of(box, connection, "cryptofd:turning")
        assert caught.value.errno == errno.ENOKEY
    keys.delete("turned", version=1)
    with pytest.raises(cryptofd.CryptoFDError, match=r"sealed by cryptofd:.*version 1") as caught:
        plain_of(old, connection, "cryptofd:turned")
    assert caught.value.errno == errno.ENOKEY
    assert plain_of(new, connection, "cryptofd:turned") == PLAIN


def test_a_session_may_do_what_the_file_needs_and_no_more(connection: Connection) -> None:
    keys = connection.keys
    keys.generate("writes", "gcm(aes)", usage={"encrypt"})
    box = box_of(b"data", connection, "cryptofd:writes")
    with pytest.raises(cryptofd.Refused):
        plain_of(box, connection, "cryptofd:writes")
    writer = streaming.open_writer(io.BytesIO(), key="cryptofd:db", broker=connection)
    with pytest.raises(cryptofd.Refused):
        writer._segments.session.unseal(bytes(64))
    writer.discard()
    keys.generate("few", "gcm(aes)", uses=2)
    with pytest.raises(cryptofd.CryptoFDError) as caught:
        box_of(PLAIN, connection, "cryptofd:few")
    assert caught.value.errno == errno.EDQUOT
    with pytest.raises(cryptofd.InvalidArgument, match="seals nothing"):
        box_of(b"data", connection, "cryptofd:code")


def test_a_worker_may_die_in_the_middle(real: Broker, connection: Connection) -> None:
    sink = io.BytesIO()
    with streaming.open_writer(sink, key="cryptofd:db", broker=connection) as writer:
        for begin in range(0, len(PLAIN), sealed.SEGMENT):
            writer.write(PLAIN[begin : begin + sealed.SEGMENT])
            if begin == sealed.SEGMENT:
                real.kill_worker()
    assert plain_of(sink.getvalue(), connection) == PLAIN


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "plain").write_bytes(PLAIN)
    (tmp_path / "raw").write_bytes(bytes(range(32)))
    (tmp_path / "raw").chmod(0o600)
    return tmp_path


def test_the_command_makes_files_whole_or_not_at_all(real: Broker, here: Path) -> None:
    def good(*arguments: str) -> str:
        done = real.command(*arguments, cwd=here)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bad(*arguments: str) -> str:
        before = {path.name for path in here.iterdir()}
        done = real.command(*arguments, cwd=here)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert {path.name for path in here.iterdir()} == before
        return done.stderr

    good("encrypt", "-k", "cryptofd:db", "plain")
    good("decrypt", "-k", "cryptofd:db", "-o", "back", "plain.cfd")
    assert (here / "back").read_bytes() == PLAIN
    assert "not by cryptofd:other" in bad(
        "decrypt", "-k", "cryptofd:other", "-o", "no", "plain.cfd"
    )
    assert "cryptofd:LABEL" in bad("decrypt", "-k", "file:raw", "-o", "no", "plain.cfd")
    good("encrypt", "-k", "file:raw", "-o", "tinks", "plain")
    assert "file:PATH" in bad("decrypt", "-k", "cryptofd:db", "-o", "no", "tinks")
    whole = (here / "plain.cfd").read_bytes()
    (here / "cut").write_bytes(whole[: 2 * sealed.SEGMENT])
    assert "cut short" in bad("decrypt", "-k", "cryptofd:db", "-o", "no", "cut")
    (here / "changed").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "changed" in bad("decrypt", "-k", "cryptofd:db", "-o", "no", "changed")
    assert "no key" in bad("encrypt", "-k", "cryptofd:nobodys", "-o", "no", "plain")
    assert "never read" in bad("key", "import", "x", "-a", "gcm(aes)", "--from", "cryptofd:db")


def test_codes_under_a_brokered_key(real: Broker, connection: Connection, here: Path) -> None:
    raw = bytes(range(32))
    connection.keys.import_key("signs", "hmac(sha256)", raw)
    connection.keys.import_key("checks", "hmac(sha256)", raw, usage={"verify"})

    def mac(*arguments: str, code: int = 0) -> str:
        done = real.command("mac", *arguments, cwd=here)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    codes = mac("-k", "cryptofd:signs", "plain", "raw")
    assert codes == mac("-k", "file:raw", "plain", "raw")
    (here / "CODES").write_text(codes)
    # Neither key computes what it may only compare, and the other way round.
    assert mac("-k", "cryptofd:checks", "-c", "CODES") == "plain: OK\nraw: OK\n"
    assert "may not sign" in mac("-k", "cryptofd:checks", "plain", code=1)
    code = codes[:64]
    assert mac("-k", "cryptofd:checks", "--verify", code, "plain") == "OK\n"
    assert mac("-k", "cryptofd:checks", "--verify", code, "raw", code=1) == "FAILED\n"
    (here / "raw").write_bytes(bytes(32))
    assert "raw: FAILED" in mac("-k", "cryptofd:checks", "-c", "CODES", code=1)
    assert "nonces" in mac("-k", "cryptofd:signs", "--iv", "00", "plain", code=1)


def test_a_code_is_compared_where_the_key_is(connection: Connection) -> None:
    session = cryptofd.open(
        "hmac(sha256)", key="cryptofd:code", broker=connection, usage=["verify"]
    )
    signing = cryptofd.open("hmac(sha256)", key="cryptofd:code", broker=connection)
    for part in (b"one", b"two"):
        session.update(part)
        signing.update(part)
        session.verify(signing.digest())
        for wrong in (bytes(32), signing.digest()[:-1], b""):
            with pytest.raises(cryptofd.BadTag):
                session.verify(wrong)

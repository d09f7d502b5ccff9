"""The contract of a session: what is wrong is refused by a typed error that names the limit."""

from __future__ import annotations

import array
import ctypes
import errno
import mmap
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from host_engines import available, refusal
from reference import TABLE, random_case, random_key

import cryptofd
from cryptofd import CryptoFDError, InvalidArgument, TooLarge, Unsupported

#: What the software engine does not offer, and why it may. Everything else of the table it must.
SOFTWARE_LACKS: dict[str, str] = {"aes256-gcm-hkdf-1mb": "composed of others by the command line"}

MIB = 1 << 20
ALL = list(TABLE)
KINDS = {
    kind: [n for n in ALL if TABLE[n].kind == kind] for kind in {a.kind for a in TABLE.values()}
}
SERVED = [n for n in ALL if any(refusal(e, n) is None for e in available())]


def good(algorithm: str, **options: Any) -> cryptofd.CryptoFD:
    """A session with a right key (and what else it takes)."""
    generator = random.Random(algorithm)
    if TABLE[algorithm].kind == "mac" and TABLE[algorithm].iv:
        options.setdefault("iv", bytes(12))
    return cryptofd.open(algorithm, key=random_key(algorithm, generator), **options)


def right_iv(algorithm: str) -> bytes | None:
    sizes = TABLE[algorithm].iv
    return bytes(TABLE[algorithm].iv_default or sizes.min) if sizes else None


def refused(
    call: Callable[[], Any],
    *numbers: int,
    error: type[CryptoFDError] = InvalidArgument,
    code: int = errno.EINVAL,
) -> str:
    """Checks class, errno and that the message names each of ``numbers``; returns the message."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert caught.value.errno == code
    message = caught.value.strerror
    assert isinstance(message, str)
    for number in numbers:
        assert str(number) in message, f"{message!r} does not name {number}"
    return message


def test_software_offers_the_table() -> None:
    lacking = {n for n in ALL if refusal("software", n) is not None}
    assert lacking == set(SOFTWARE_LACKS)


def test_everything_is_served_by_somebody() -> None:
    assert set(SERVED) == set(ALL) - set(SOFTWARE_LACKS)


# Keys


@pytest.mark.parametrize("algorithm", [n for n in SERVED if TABLE[n].key])
def test_wrong_key_sizes(algorithm: str) -> None:
    sizes = TABLE[algorithm].key
    assert sizes
    wrong = {sizes.min - 1, sizes.max + 1, sizes.min + sizes.step - 1, sizes.max + sizes.step}
    tried = 0
    for size in wrong:
        if size >= 0 and size not in sizes:
            refused(lambda size=size: cryptofd.open(algorithm, key=bytes(size)), size, sizes.max)  # type: ignore[misc]
            tried += 1
    assert tried
    if sizes.min:
        refused(lambda: cryptofd.open(algorithm, key=b""), 0, sizes.min)
        refused(lambda: cryptofd.open(algorithm), sizes.min)


@pytest.mark.parametrize("algorithm", [n for n in SERVED if not TABLE[n].key])
def test_no_key_wanted(algorithm: str) -> None:
    assert "no key" in refused(lambda: cryptofd.open(algorithm, key=b"key"))


@pytest.mark.parametrize("key", ["text" * 8, 16, 1.5, [0] * 16, object()])
def test_keys_of_a_wrong_type(key: Any) -> None:
    with pytest.raises(TypeError):
        cryptofd.open("gcm(aes)", key=key)


def test_xts_halves_differ() -> None:
    assert "differ" in refused(lambda: cryptofd.open("xts(aes)", key=bytes(64)))


# Parameters of open()


@pytest.mark.parametrize("algorithm", SERVED)
def test_wrong_tag_and_digest_sizes(algorithm: str) -> None:
    entry = TABLE[algorithm]
    if entry.tag_sizes:
        for size in (0, min(entry.tag_sizes) - 1, max(entry.tag_sizes) + 1, 10**6):
            if size not in entry.tag_sizes:
                refused(
                    lambda size=size: good(algorithm, tag_size=size),  # type: ignore[misc]
                    size,
                    *entry.tag_sizes,
                )
        smallest = good(algorithm, tag_size=min(entry.tag_sizes))
        assert smallest.tag_size == smallest.info().tag_size == min(entry.tag_sizes)
    else:
        refused(lambda: good(algorithm, tag_size=16), 16)
    if algorithm.startswith("blake2"):
        for size in (0, entry.digest_size + 1):
            refused(lambda size=size: good(algorithm, digest_size=size), size, entry.digest_size)  # type: ignore[misc]
    else:
        refused(lambda: good(algorithm, digest_size=7), 7)
        refused(lambda: good(algorithm, salt=b"salt"))
    if not algorithm.startswith("cbc"):
        refused(lambda: good(algorithm, padding="pkcs7"))


def test_wrong_blake2_parameters() -> None:
    for name, salt, offset in (("blake2b", 16, None), ("blake2s", 8, 48)):
        refused(lambda name=name, salt=salt: good(name, salt=bytes(salt + 1)), salt)  # type: ignore[misc]
        refused(lambda name=name, salt=salt: good(name, person=bytes(salt + 1)), salt)  # type: ignore[misc]
        refused(lambda name=name: good(name, depth=0), 1, 255)  # type: ignore[misc]
        refused(lambda name=name: good(name, inner_size=200), TABLE[name].digest_size)  # type: ignore[misc]
        for parameter in ("fanout", "depth", "node_depth", "inner_size"):
            with pytest.raises(OverflowError):
                good(name, **{parameter: 256})
            with pytest.raises(OverflowError):
                good(name, **{parameter: -1})
        if offset:
            refused(lambda name=name, offset=offset: good(name, node_offset=1 << offset), offset)  # type: ignore[misc]


def test_wrong_options() -> None:
    key = bytes(16)
    with pytest.raises(TypeError, match="nonsense"):
        cryptofd.open("gcm(aes)", key=key, nonsense=1)  # type: ignore[call-arg]
    assert "require" in refused(lambda: cryptofd.open("gcm(aes)", key=key, hardware="maybe"))  # type: ignore[arg-type]
    assert "pkcs7" in refused(lambda: cryptofd.open("cbc(aes)", key=key, padding="zero"))  # type: ignore[arg-type]
    assert "NONBLOCK" in refused(lambda: cryptofd.open("gcm(aes)", key=key, flags=1))
    with pytest.raises(TypeError):
        cryptofd.open("gcm(aes)", key=key, tag_size="16")  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        cryptofd.open("gcm(aes)", key=key, tag_size=-1)
    with pytest.raises(TypeError):
        cryptofd.open()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        cryptofd.open(b"gcm(aes)", key=key)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "gcm",
        "GCM(AES)",
        "gcm(aes)\0",
        "aes",
        "sha256 ",
        "é",
        "x" * 100_000,
        "hmac(shake128)",
    ],
)
def test_unknown_names(name: str) -> None:
    message = refused(
        lambda: cryptofd.open(name, key=bytes(16)),
        error=cryptofd.UnknownAlgorithm,
        code=errno.ENOENT,
    )
    assert "cryptofd.algorithms()" in message
    assert len(message) < 300
    with pytest.raises(LookupError):
        cryptofd.explain(name)


def test_names_that_are_no_text() -> None:
    with pytest.raises((UnicodeEncodeError, cryptofd.UnknownAlgorithm)):
        cryptofd.open("\ud800")


def test_unknown_engines_and_drivers() -> None:
    for options in ({"engine": "nonsense"}, {"driver": "nonsense"}):
        with pytest.raises((cryptofd.NoEngine, InvalidArgument)) as caught:
            cryptofd.open("sha256", **options)  # type: ignore[arg-type]
        assert "nonsense" in str(caught.value)


# IVs


@pytest.mark.parametrize("algorithm", [n for n in SERVED if TABLE[n].kind in {"cipher", "aead"}])
def test_wrong_iv_sizes(engine: str, algorithm: str) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    fd = good(algorithm, engine=engine)
    sizes, data = TABLE[algorithm].iv, bytes(64)
    calls: list[Callable[[bytes | None], Any]] = [
        lambda iv: fd.encrypt(data, iv=iv),
        lambda iv: fd.decrypt(data, iv=iv),
        lambda iv: fd.encrypt_into(bytearray(200), data, iv=iv),
        lambda iv: fd.encrypt_many([(data, iv)]),
    ]
    if TABLE[algorithm].kind == "cipher" and algorithm != "xts(aes)":
        calls.append(lambda iv: fd.stream("encrypt", iv=iv))
    for call in calls:
        if sizes is None:
            assert "no iv" in refused(lambda call=call: call(bytes(16)))  # type: ignore[misc]
            continue
        for size in {0, sizes.min - 1, sizes.max + 1, sizes.max + 1000}:
            if size not in sizes:
                refused(
                    lambda call=call, size=size: call(bytes(size)),  # type: ignore[misc]
                    size,
                    sizes.min,
                    sizes.max,
                )
        refused(lambda call=call: call(None), 0, sizes.max)  # type: ignore[misc]


def test_iv_when_opening() -> None:
    refused(lambda: cryptofd.open("gmac(aes)", key=bytes(16)), 1, 1024)
    refused(lambda: cryptofd.open("gmac(aes)", key=bytes(16), iv=bytes(1025)), 1025, 1024)
    refused(lambda: cryptofd.open("gcm(aes)", key=bytes(16), iv=bytes(12)))


# Data sizes


@pytest.mark.parametrize("algorithm", [n for n in SERVED if TABLE[n].kind == "cipher"])
def test_wrong_data_sizes_of_ciphers(engine: str, algorithm: str) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    fd, iv = good(algorithm, engine=engine), right_iv(algorithm)
    block = TABLE[algorithm].block_size
    if algorithm == "xts(aes)":
        for call in (fd.encrypt, fd.decrypt):
            refused(lambda call=call: call(bytes(15), iv=iv), 15, 16)  # type: ignore[misc]
            refused(lambda call=call: call(b"", iv=iv), 0, 16)  # type: ignore[misc]
            refused(
                lambda call=call: call(bytes(16 * MIB + 16), iv=iv),  # type: ignore[misc]
                16 * MIB,
                error=TooLarge,
                code=errno.EMSGSIZE,
            )
        assert len(fd.encrypt(bytes(17), iv=iv)) == 17
    elif algorithm.startswith(("ctr", "cfb", "chacha20")):
        for size in (0, 1, block - 1, block, block + 1):
            assert fd.decrypt(fd.encrypt(bytes(size), iv=iv), iv=iv) == bytes(size)
    else:
        for size in (1, block - 1, block + 1):
            for call in (fd.encrypt, fd.decrypt):
                refused(lambda call=call, size=size: call(bytes(size), iv=iv), size, block)  # type: ignore[misc]
            stream = fd.stream("encrypt", iv=iv)
            stream.update(bytes(size))
            refused(stream.finish, size % block, block)
    refused(lambda: fd.encrypt(bytes(block), iv=iv, aad=b"aad"))


@pytest.mark.parametrize("algorithm", [n for n in SERVED if n.startswith("cbc")])
def test_padding(engine: str, algorithm: str) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    fd, iv = good(algorithm, engine=engine, padding="pkcs7"), right_iv(algorithm)
    block = TABLE[algorithm].block_size
    for size in range(3 * block):
        box = fd.encrypt(bytes(size), iv=iv)
        assert len(box) == size - size % block + block
        assert fd.decrypt(box, iv=iv) == bytes(size)
        assert fd.decrypt_into(bytearray(len(box)), box, iv=iv) == size
    for size in (0, 1, block - 1, block + 1):
        refused(lambda size=size: fd.decrypt(bytes(size), iv=iv), size, block)  # type: ignore[misc]
    plain = good(algorithm, engine=engine)
    for filler in (0, block + 1, 255):
        box = plain.encrypt(bytes(block - 1) + bytes([filler]), iv=iv)
        refused(lambda box=box: fd.decrypt(box, iv=iv), error=cryptofd.BadTag, code=errno.EBADMSG)  # type: ignore[misc]
    stream = fd.stream("decrypt", iv=iv)
    refused(stream.finish, block)
    refused(lambda: stream.update(b"more"))


@pytest.mark.parametrize("algorithm", [n for n in SERVED if TABLE[n].kind == "aead"])
def test_wrong_data_sizes_of_aeads(engine: str, algorithm: str) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    fd, iv = good(algorithm, engine=engine), right_iv(algorithm)
    tag = fd.tag_size
    for size in (0, 1, tag - 1):
        refused(lambda size=size: fd.decrypt(bytes(size), iv=iv), size, tag)  # type: ignore[misc]
        refused(lambda size=size: fd.decrypt_into(bytearray(99), bytes(size), iv=iv), size, tag)  # type: ignore[misc]
    message = refused(lambda: fd.stream("encrypt", iv=iv), error=Unsupported, code=errno.EOPNOTSUPP)
    assert "stream" in message
    if algorithm == "ccm(aes)":
        message = refused(
            lambda: fd.encrypt(bytes(65536), iv=bytes(13)),
            65536,
            65535,
            error=TooLarge,
            code=errno.EMSGSIZE,
        )


def test_wrong_data_sizes_of_key_wrap() -> None:
    kw, kwp = good("kw(aes)"), good("kwp(aes)")
    for size in (0, 8, 15):
        refused(lambda size=size: kw.wrap(bytes(size)), size, 16)  # type: ignore[misc]
    refused(lambda: kw.wrap(bytes(17)), 17, 8)
    refused(lambda: kwp.wrap(b""), 0, 1)
    for size in (0, 8, 16, 23, 25):
        refused(lambda size=size: kw.unwrap(bytes(size)), size, 24)  # type: ignore[misc]
    for size in (0, 8, 17):
        refused(lambda size=size: kwp.unwrap(bytes(size)), size, 16)  # type: ignore[misc]
    for fd, size in ((kw, 24), (kwp, 16), (kwp, 24)):
        refused(
            lambda fd=fd, size=size: fd.unwrap(bytes(size)),  # type: ignore[misc]
            error=cryptofd.BadTag,
            code=errno.EBADMSG,
        )


@pytest.mark.parametrize("algorithm", [n for n in SERVED if TABLE[n].kind == "kdf"])
def test_wrong_derivations(algorithm: str) -> None:
    fd, entry = good(algorithm), TABLE[algorithm]
    right: dict[str, Any] = {}
    if algorithm.startswith("pbkdf2"):
        right = {"salt": b"", "iterations": 1}
        refused(lambda: fd.derive(16, salt=b"", iterations=0), 0, 1)
        with pytest.raises(OverflowError):
            fd.derive(16, salt=b"", iterations=1 << 32)
    if algorithm == "scrypt":
        right = {"salt": b"", "n": 2, "r": 1, "p": 1}
        for n, r, p in ((0, 1, 1), (1, 1, 1), (3, 1, 1), (2, 0, 1), (2, 1, 0)):
            refused(lambda n=n, r=r, p=p: fd.derive(16, salt=b"", n=n, r=r, p=p), n, r, p)  # type: ignore[misc]
        refused(
            lambda: fd.derive(16, salt=b"", n=1 << 40, r=8, p=1),
            1 << 40,
            error=TooLarge,
            code=errno.EMSGSIZE,
        )
        refused(
            lambda: fd.derive(16, salt=b"", n=1 << 62, r=1 << 30, p=1 << 30),
            error=TooLarge,
            code=errno.EMSGSIZE,
        )
    refused(lambda: fd.derive(0, **right), 0, 1)
    with pytest.raises(OverflowError):
        fd.derive(-1, **right)
    if entry.max_message:
        refused(
            lambda: fd.derive(entry.max_message + 1, **right),  # type: ignore[operator]
            entry.max_message,
            error=TooLarge,
            code=errno.EMSGSIZE,
        )
    assert len(fd.derive(1, **right)) == 1
    with pytest.raises(TypeError):
        fd.derive(16, salt="text", **{k: v for k, v in right.items() if k != "salt"})  # type: ignore[arg-type]


def test_wrong_digest_lengths(engine: str) -> None:
    if refusal(engine, "shake128") is None:
        xof = cryptofd.open("shake128", engine=engine)
        assert xof.digest(0) == b""
        with pytest.raises((OverflowError, ValueError)):
            xof.digest(-1)
        with pytest.raises((CryptoFDError, MemoryError, OverflowError, ValueError)):
            xof.digest(1 << 62)
    fd = cryptofd.open("sha256", engine=engine)
    refused(lambda: fd.digest(31), 31, 32)
    assert len(fd.digest(32)) == 32


def test_wrong_amounts_of_random_bytes() -> None:
    fd = cryptofd.open("stdrng")
    assert fd.read(0) == b""
    assert len(fd.read(1000)) == 1000
    assert fd.read(32) != fd.read(32)
    with pytest.raises(OverflowError):
        fd.read(-1)
    with pytest.raises((MemoryError, OverflowError, CryptoFDError)):
        fd.read(1 << 62)


# What an object does not do

OPERATIONS: dict[str, tuple[set[str], Callable[[cryptofd.CryptoFD], Any]]] = {
    "encrypt": ({"cipher", "aead"}, lambda fd: fd.encrypt(bytes(64), iv=bytes(12))),
    "decrypt": ({"cipher", "aead"}, lambda fd: fd.decrypt(bytes(64), iv=bytes(12))),
    "encrypt_into": ({"cipher", "aead"}, lambda fd: fd.encrypt_into(bytearray(99), bytes(64))),
    "stream": ({"cipher"}, lambda fd: fd.stream("encrypt", iv=bytes(16))),
    "update": ({"hash", "xof", "mac"}, lambda fd: fd.update(b"data")),
    "digest": ({"hash", "xof", "mac"}, lambda fd: fd.digest()),
    "reset": ({"hash", "xof", "mac"}, lambda fd: fd.reset()),
    "verify": ({"mac"}, lambda fd: fd.verify(bytes(16))),
    "wrap": ({"wrap"}, lambda fd: fd.wrap(bytes(16))),
    "unwrap": ({"wrap"}, lambda fd: fd.unwrap(bytes(24))),
    "derive": ({"kdf"}, lambda fd: fd.derive(16)),
    "read": ({"rng"}, lambda fd: fd.read(16)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_not_its_work(operation: str) -> None:
    kinds, call = OPERATIONS[operation]
    for kind, names in KINDS.items():
        served = [name for name in names if name in SERVED]
        if kind in kinds or not served:
            continue
        fd = good(served[0])
        message = refused(lambda fd=fd: call(fd), error=Unsupported, code=errno.EOPNOTSUPP)  # type: ignore[misc]
        assert served[0] in message


@pytest.mark.parametrize("algorithm", SERVED)
def test_after_close(algorithm: str) -> None:
    fd = good(algorithm)
    info = fd.info()
    assert (info.algorithm, info.kind) == (algorithm, TABLE[algorithm].kind)
    assert not fd.closed
    fd.close()
    fd.close()
    assert fd.closed
    assert "closed" in repr(fd)
    calls = [call for _, call in OPERATIONS.values()]
    calls += [
        lambda fd: fd.info(),
        lambda fd: fd.copy(),
        lambda fd: fd.algorithm,
        lambda fd: fd.digest_size,
        lambda fd: fd.hexdigest(),
        lambda fd: fd.encrypt_many([(b"", b"")]),
        lambda fd: fd.fileno(),
        lambda fd: fd.submit("info"),
        lambda fd: fd.complete(),
    ]
    for call in calls:
        refused(lambda call=call: call(fd), error=cryptofd.Closed, code=errno.EBADF)  # type: ignore[misc]
    with pytest.raises(ValueError, match="closed"):
        fd.info()


def test_context_manager() -> None:
    with cryptofd.open("sha256") as fd:
        fd.update(b"abc")
    assert fd.closed
    with pytest.raises(ZeroDivisionError), cryptofd.open("sha256") as fd:
        raise ZeroDivisionError
    assert fd.closed


def test_streams_after_their_end(engine: str) -> None:
    if refusal(engine, "ctr(aes)") is not None:
        pytest.skip(f"{engine} does not offer ctr(aes)")
    fd = cryptofd.open("ctr(aes)", key=bytes(16), engine=engine)
    stream = fd.stream("encrypt", iv=bytes(16))
    assert stream.update(b"") == b""
    whole = stream.update(b"a" * 100)
    fd.close()
    whole += stream.update(b"a" * 30) + stream.finish()
    assert len(whole) == 130
    for call in (stream.finish, lambda: stream.update(b"a")):
        assert "finished" in refused(call)
    with pytest.raises(ValueError, match="encrypt"):
        cryptofd.open("ctr(aes)", key=bytes(16)).stream("sideways", iv=bytes(16))  # type: ignore[arg-type]


# Nothing at all


@pytest.mark.parametrize("algorithm", SERVED)
def test_zero_length_everything(engine: str, algorithm: str) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    kind, iv = TABLE[algorithm].kind, right_iv(algorithm)
    fd = good(algorithm, engine=engine)
    if kind == "aead":
        box = fd.encrypt(b"", iv=iv, aad=b"")
        assert len(box) == fd.tag_size
        assert fd.decrypt(box, iv=iv) == b""
        assert fd.decrypt_into(bytearray(), box, iv=iv, aad=None) == 0
        assert fd.encrypt_many([]) == []
    elif kind == "cipher" and algorithm != "xts(aes)":
        assert fd.encrypt(b"", iv=iv) == fd.decrypt(b"", iv=iv) == b""
        assert fd.encrypt_into(bytearray(), b"", iv=iv) == 0
        stream = fd.stream("decrypt", iv=iv)
        assert stream.update(b"") + stream.finish() == b""
    elif kind in {"hash", "xof", "mac"}:
        length = 40 if kind == "xof" else None
        fd.update(b"")
        empty = fd.digest(length)
        fd.update(bytearray())
        if not TABLE[algorithm].one_message:
            fd.reset()
            assert fd.digest(length) == empty == fd.copy().digest(length)
        assert fd.hexdigest(length) == empty.hex()
        if kind == "mac":
            fd.verify(empty)
            for wrong in (b"", empty[:-1], empty + b"\0"):
                refused(
                    lambda wrong=wrong: fd.verify(wrong),  # type: ignore[misc]
                    error=cryptofd.BadTag,
                    code=errno.EBADMSG,
                )
    elif kind == "kdf" and algorithm.startswith("hkdf"):
        assert fd.derive(8) == fd.derive(8, salt=b"", info=b"")
    elif kind == "rng":
        assert fd.read(0) == b""


@pytest.mark.parametrize("algorithm", [n for n in SERVED if n.startswith("hmac(")])
def test_empty_key(engine: str, algorithm: str) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    try:
        fd = cryptofd.open(algorithm, key=b"", engine=engine)
    except cryptofd.NoEngine as error:
        if engine == "software":
            raise
        pytest.skip(str(error))
    assert len(fd.digest()) == TABLE[algorithm].digest_size


# Buffers


class Record(ctypes.Structure):
    _fields_ = (("a", ctypes.c_uint32), ("b", ctypes.c_uint8 * 28))


def buffers(data: bytes) -> list[Any]:
    """The same bytes in every kind of buffer."""
    mapped = mmap.mmap(-1, len(data))
    mapped[:] = data
    return [
        data,
        bytearray(data),
        memoryview(data),
        memoryview(bytearray(data)),
        memoryview(data).cast("B", (4, len(data) // 4)),
        memoryview(b"x" + data + b"x")[1:-1],
        array.array("I", data),
        array.array("d", data),
        mapped,
        Record.from_buffer_copy(data),
        (ctypes.c_char * len(data)).from_buffer_copy(data),
    ]


DATA = random.Random(7).randbytes(32)


def test_buffers_of_every_kind(opened: Callable[..., Any]) -> None:
    expected = None
    for key in buffers(DATA):
        fd = opened("gcm(aes)", key=key)
        for data in buffers(DATA):
            box = fd.encrypt(data, iv=memoryview(DATA)[:12], aad=data)
            expected = expected or box
            assert box == expected
            assert fd.decrypt(memoryview(box), iv=bytearray(DATA[:12]), aad=data) == DATA
    for out in buffers(bytes(48)):
        if isinstance(out, bytes) or (isinstance(out, memoryview) and out.readonly):
            with pytest.raises((BufferError, TypeError)):
                fd.encrypt_into(out, DATA, iv=DATA[:12])
        elif not isinstance(out, Record):
            assert fd.encrypt_into(out, DATA, iv=DATA[:12], aad=DATA) == 48
            assert bytes(out)[:48] == expected
    for data in buffers(DATA):
        hasher = cryptofd.open("sha256")
        hasher.update(data)
        assert hasher.digest() == cryptofd._core.HashFactory("sha256").digest(DATA)  # type: ignore[attr-defined]


WRONG = ["text", 3, None, 1.5, [1, 2], object()]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_no_buffers(wrong: Any) -> None:
    fd, hasher = cryptofd.open("gcm(aes)", key=bytes(16)), cryptofd.open("sha256")
    calls: list[Callable[[], Any]] = [
        lambda: fd.encrypt(wrong, iv=bytes(12)),
        lambda: fd.decrypt(wrong, iv=bytes(12)),
        lambda: fd.encrypt_into(wrong, b"", iv=bytes(12)),
        lambda: fd.encrypt_into(bytearray(16), wrong, iv=bytes(12)),
        lambda: fd.encrypt_many([wrong]),
        lambda: fd.encrypt_many([(wrong, bytes(12))]),
        lambda: hasher.update(wrong),
        lambda: cryptofd.open("hmac(sha256)", key=b"").verify(wrong),
    ]
    if wrong is not None:
        calls.append(lambda: fd.encrypt(b"", iv=wrong))
        calls.append(lambda: fd.encrypt(b"", iv=bytes(12), aad=wrong))
    for call in calls:
        with pytest.raises(TypeError):
            call()


def test_buffers_with_gaps() -> None:
    fd, hasher = cryptofd.open("gcm(aes)", key=bytes(16)), cryptofd.open("sha256")
    for gaps in (memoryview(bytes(64))[::2], memoryview(bytearray(64))[::-1]):
        for call in (
            lambda: fd.encrypt(gaps, iv=bytes(12)),  # noqa: B023
            lambda: fd.encrypt(b"", iv=gaps),  # noqa: B023
            lambda: fd.encrypt(b"", iv=bytes(12), aad=gaps),  # noqa: B023
            lambda: fd.encrypt_into(gaps, b"", iv=bytes(12)),  # noqa: B023
            lambda: hasher.update(gaps),  # noqa: B023
            lambda: cryptofd.open("gcm(aes)", key=gaps),  # noqa: B023
        ):
            with pytest.raises(BufferError):
                call()


def test_buffers_that_are_gone() -> None:
    fd = cryptofd.open("gcm(aes)", key=bytes(16))
    mapped = mmap.mmap(-1, 4096)
    mapped.close()
    view = memoryview(bytearray(64))
    view.release()
    for gone in (mapped, view):
        with pytest.raises(ValueError, match=r"closed|released"):
            fd.encrypt(gone, iv=bytes(12))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"closed|released"):
            fd.encrypt_into(gone, b"", iv=bytes(12))  # type: ignore[arg-type]


def test_buffers_are_given_back() -> None:
    """After a call, good or bad, a bytearray can be resized again."""
    fd = cryptofd.open("gcm(aes)", key=bytes(16))
    data, out, iv = bytearray(64), bytearray(80), bytearray(12)
    fd.encrypt_into(out, data, iv=iv, aad=data)
    with pytest.raises(InvalidArgument):
        fd.encrypt_into(out, data, iv=bytearray())
    with pytest.raises(TooLarge):
        fd.encrypt_into(bytearray(3), data, iv=iv)
    with pytest.raises(cryptofd.BadTag):
        fd.decrypt_into(out, out, iv=data[:12], aad=b"other")
    for each in (data, out, iv):
        each.extend(bytes(10_000))


def test_out_too_small(opened: Callable[..., Any]) -> None:
    fd = opened("gcm(aes)", key=bytes(16))
    box = fd.encrypt(bytes(100), iv=bytes(12))
    for size in (0, 99, 100, 115):
        out = bytearray(b"\xaa" * size)
        refused(
            lambda out=out: fd.encrypt_into(out, bytes(100), iv=bytes(12)),  # type: ignore[misc]
            size,
            116,
            error=TooLarge,
            code=errno.EMSGSIZE,
        )
        assert out == b"\xaa" * size, "a refused call wrote"
    refused(
        lambda: fd.decrypt_into(bytearray(99), box, iv=bytes(12)),
        99,
        100,
        error=TooLarge,
        code=errno.EMSGSIZE,
    )
    roomy = bytearray(b"\xaa" * 300)
    assert fd.encrypt_into(roomy, bytes(100), iv=bytes(12)) == 116
    assert roomy == box + b"\xaa" * 184, "it wrote beyond what it said"


PLACES = [n for n in SERVED if TABLE[n].kind in {"cipher", "aead"}]


@pytest.mark.parametrize("algorithm", PLACES)
@pytest.mark.parametrize("size", [64, 4096, 100_032])
def test_in_place(engine: str, algorithm: str, size: int) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    fd, iv = good(algorithm, engine=engine), right_iv(algorithm)
    tag = fd.tag_size if TABLE[algorithm].kind == "aead" else 0
    data = random.Random(size).randbytes(size)
    expected = fd.encrypt(data, iv=iv)
    memory = bytearray(data) + bytes(tag)
    view = memoryview(memory)
    assert fd.encrypt_into(view, view[:size], iv=iv) == size + tag
    assert memory == expected
    assert fd.decrypt_into(view[:size], view, iv=iv) == size
    assert memory[:size] == data
    # Overlapping in part is refused, and nothing is written.
    for shift in (1, 16):
        memory = bytearray(data) + bytes(tag + shift)
        before, view = bytes(memory), memoryview(memory)
        message = refused(lambda: fd.encrypt_into(view[shift:], view[:size], iv=iv))  # noqa: B023
        assert "overlap" in message
        assert memory == before


# Threads


def in_threads(work: Callable[[int], None], count: int = 8) -> None:
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("algorithm", ["gcm(aes)", "cbc(aes)"])
def test_one_session_in_many_threads(opened: Callable[..., Any], algorithm: str) -> None:
    fd = opened(algorithm, key=bytes(16))
    size = TABLE[algorithm].iv_default or 16

    def work(number: int) -> None:
        generator = random.Random(number)
        for _ in range(40):
            data = generator.randbytes(16 * generator.choice([0, 1, 7, 2000]))
            iv = generator.randbytes(size)
            assert fd.decrypt(fd.encrypt(data, iv=iv), iv=iv) == data

    in_threads(work)
    assert fd.info().counts.operations == 8 * 40 * 2


def test_one_hash_in_many_threads(opened: Callable[..., Any]) -> None:
    fd = opened("sha256")
    chunk = b"a" * 1000

    def work(number: int) -> None:
        for _ in range(50):
            fd.update(chunk)
            fd.digest()

    in_threads(work)
    assert fd.digest() == cryptofd._core.HashFactory("sha256").digest(chunk * 400)  # type: ignore[attr-defined]


def test_closed_by_another_thread(opened: Callable[..., Any]) -> None:
    """Whoever is at work finishes; whoever comes later is told."""
    for _ in range(20):
        fd = opened("gcm(aes)", key=bytes(16))
        box = fd.encrypt(bytes(50_000), iv=bytes(12))
        barrier = threading.Barrier(4)

        def work(number: int, fd: Any = fd, box: bytes = box, barrier: Any = barrier) -> None:
            barrier.wait()
            if number == 0:
                fd.close()
                return
            for _ in range(20):
                try:
                    assert fd.encrypt(bytes(50_000), iv=bytes(12)) == box
                except cryptofd.Closed:
                    return

        in_threads(work, 4)


def test_work_runs_beside_python(opened: Callable[..., Any]) -> None:
    """A long input leaves the interpreter to others meanwhile."""
    fd = opened("sha256")
    data, seen, done = bytes(32 << 20), [], threading.Event()

    def count() -> None:
        while not done.is_set():
            seen.append(1)
            done.wait(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = len(seen)
        fd.update(data)
        assert len(seen) > before + 1
    finally:
        done.set()
        thread.join()


# What a session tells


@pytest.mark.parametrize("algorithm", SERVED)
def test_info(engine: str, algorithm: str) -> None:
    if refusal(engine, algorithm) is not None:
        pytest.skip(f"{engine} does not offer {algorithm}")
    fd = good(algorithm, engine=engine)
    info = fd.info()
    assert (info.algorithm, info.engine) == (algorithm, engine)
    assert info.driver
    assert info.counts.operations == info.counts.refused == info.counts.moved == 0
    assert engine in repr(fd)
    assert algorithm in repr(fd)
    serving = [c for c in cryptofd.explain(algorithm, engine=engine) if c.serves]
    assert [(c.engine, c.offers) for c in serving] == [(engine, True)]
    assert fd.algorithm == fd.name == algorithm


def test_counts(opened: Callable[..., Any]) -> None:
    fd = opened("gcm(aes)", key=bytes(16))
    box = fd.encrypt(bytes(100), iv=bytes(12))
    fd.decrypt(box, iv=bytes(12))
    with pytest.raises(cryptofd.BadTag):
        fd.decrypt(box, iv=bytes(11) + b"1")
    counts = fd.info().counts
    assert (counts.operations, counts.bytes, counts.refused) == (2, 216, 1)


def test_copies_are_independent(engine: str) -> None:
    generator = random.Random(1)
    for algorithm in [n for n in SERVED if TABLE[n].kind in {"hash", "mac"}]:
        if refusal(engine, algorithm) is not None or TABLE[algorithm].one_message:
            continue
        case = random_case(algorithm, generator, 200)
        one = good(algorithm, engine=engine)
        one.update(case.data)
        two = one.copy()
        two.update(b"more")
        three = two.copy()
        assert one.digest() != two.digest() == three.digest()
        one.close()
        three.reset()
        three.update(case.data + b"more")
        assert two.digest() == three.digest()


def test_chacha20_stops_before_its_keystream_repeats(opened: Callable[..., Any]) -> None:
    fd = opened("chacha20", key=bytes(32))
    last = b"\xff" * 4 + bytes(12)
    assert len(fd.encrypt(bytes(64), iv=last)) == 64
    with pytest.raises(cryptofd.TooLarge, match="64 from this counter on"):
        fd.encrypt(bytes(65), iv=last)
    stream = fd.stream("encrypt", iv=last)
    assert len(stream.update(bytes(64))) == 64
    with pytest.raises(cryptofd.TooLarge, match="0 from this counter on"):
        stream.update(bytes(64))

"""One message under one key and nonce: a session of Poly1305 or GMAC tags no second one."""

from __future__ import annotations

import errno
import select
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from host_engines import refusal

import cryptofd
from cryptofd._core import HashFactory

OPTIONS: dict[str, dict[str, Any]] = {"poly1305": {}, "gmac(aes)": {"iv": bytes(12)}}
KEY = bytes(range(32))


@pytest.fixture(params=OPTIONS)
def algorithm(request: pytest.FixtureRequest, engine: str) -> str:
    name: str = request.param
    if (why := refusal(engine, name)) is not None:
        pytest.skip(f"{engine} does not offer {name}: {why}")
    return name


def opened(algorithm: str, engine: str) -> cryptofd.CryptoFD:
    return cryptofd.open(algorithm, key=KEY, engine=engine, **OPTIONS[algorithm])


def refused(call: Callable[[], Any]) -> None:
    with pytest.raises(cryptofd.Refused, match="one message with one key") as caught:
        call()
    assert caught.value.errno == errno.EPERM
    assert "open a new session with a new" in str(caught.value)


def tag_of(algorithm: str, engine: str, data: bytes) -> bytes:
    with opened(algorithm, engine) as fd:
        fd.update(data)
        return fd.digest()


def test_the_tag_ends_the_message(algorithm: str, engine: str) -> None:
    fd = opened(algorithm, engine)
    fd.update(b"one ")
    fd.reset()  # no tag came out: nothing is lost by beginning again
    fd.update(b"one ")
    fd.update(b"message")
    tag = fd.digest()
    # The same message's, as often as one likes.
    assert (fd.digest(), fd.hexdigest()) == (tag, tag.hex())
    fd.verify(tag)
    with pytest.raises(cryptofd.BadTag):
        fd.verify(bytes(16))
    fd.update(b"")
    for call in (lambda: fd.update(b"x"), fd.reset, fd.copy, fd.fileno):
        refused(call)
    assert fd.digest() == tag == tag_of(algorithm, engine, b"one message")


def test_verifying_is_the_use_of_the_key(algorithm: str, engine: str) -> None:
    tag = tag_of(algorithm, engine, b"data")
    fd = opened(algorithm, engine)
    fd.update(b"forged")
    with pytest.raises(cryptofd.BadTag):
        fd.verify(tag)
    refused(fd.reset)
    receiver = opened(algorithm, engine)
    receiver.update(b"data")
    receiver.verify(tag)


def test_of_copies_one_gives_its_tag(algorithm: str, engine: str) -> None:
    fd = opened(algorithm, engine)
    before = fd.copy()
    fd.update(b"data")
    middle = fd.copy()
    middle.update(b" and more")
    tag = middle.digest()
    refused(fd.digest)
    refused(lambda: fd.verify(tag))
    refused(before.digest)
    refused(lambda: before.update(b"x"))
    assert middle.digest() == tag == tag_of(algorithm, engine, b"data and more")


def answer(fd: cryptofd.CryptoFD, op: str, data: bytes | None = None, **more: Any) -> bytes:
    """A request on the descriptor, done."""
    fd.submit(op, data, **more)
    select.select([fd], [], [])
    return fd.complete().data


def test_descriptors_share_the_rule(algorithm: str, engine: str) -> None:
    fd = opened(algorithm, engine)
    fd.update(b"data")
    # The state goes along to the descriptor; whoever comes first has the tag.
    far = cryptofd.adopt(fd.fileno())
    other = far.clone()
    assert far.digest() == tag_of(algorithm, engine, b"data")
    for call in (
        lambda: far.update(b"x"), far.reset, far.clone, other.digest, fd.digest,
        lambda: answer(fd, "digest", b"data"),
        lambda: answer(fd, "verify", b"data", tag=bytes(16)),
    ):  # fmt: skip
        refused(call)
    far.verify(far.digest())


@pytest.mark.parametrize("op", ["digest", "finish"])
def test_whole_messages_on_a_descriptor(algorithm: str, engine: str, op: str) -> None:
    fd = opened(algorithm, engine)
    if op == "finish":
        answer(fd, "update", b"data")
    data = b"data" if op == "digest" else None
    assert answer(fd, op, data) == tag_of(algorithm, engine, b"data")
    refused(lambda: answer(fd, "digest", b"data"))
    refused(lambda: answer(fd, "peek"))
    refused(lambda: answer(fd, "finish"))


def test_running_hashes_share_it(algorithm: str, engine: str) -> None:
    factory = HashFactory(algorithm, KEY, engine=engine, **OPTIONS[algorithm])
    one, two = factory(b"one"), factory(b"two")
    tag = one.digest()
    assert one.hexdigest() == tag.hex() == tag_of(algorithm, engine, b"one").hex()
    refused(two.digest)
    refused(one.copy)
    refused(factory)
    refused(lambda: factory.digest(b"one"))


def test_of_threads_one_gives_its_tag(algorithm: str, engine: str) -> None:
    for _ in range(20):
        fd = opened(algorithm, engine)
        copies = [fd.copy() for _ in range(8)]
        for number, copy in enumerate(copies):
            copy.update(bytes([number]))

        def tag(copy: cryptofd.CryptoFD) -> bytes | None:
            try:
                return copy.digest()
            except cryptofd.Refused:
                return None

        with ThreadPoolExecutor(8) as pool:
            tags = list(pool.map(tag, copies))
        assert sum(tag is not None for tag in tags) == 1


def test_other_macs_go_on() -> None:
    fd = cryptofd.open("cmac(aes)", key=KEY)
    fd.update(b"one")
    one = fd.digest()
    fd.reset()
    fd.update(b"two")
    assert fd.digest() != one
    assert fd.copy().digest() == fd.digest()
    assert cryptofd.adopt(fd.fileno()).digest() == fd.digest()
    table = {a.name for a in cryptofd.algorithms() if a.one_message}
    assert table == set(OPTIONS)

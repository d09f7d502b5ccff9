"""The ring of a brokered session: right under load, and harmless whatever its client does to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_broker import DEADLINE, Broker, environment, until

import cryptofd
from cryptofd import aio
from cryptofd.broker.client import Connection

KEY = bytes(range(32))
IV = bytes(12)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    keys = broker.connect().keys
    keys.generate("db", "gcm(aes)")
    keys.import_key("old", "gcm(aes)", KEY, usage={"encrypt", "decrypt", "caller-iv"})
    keys.import_key("mac", "hmac(sha256)", KEY)
    keys.import_key("cbc", "cbc(aes)", KEY)
    yield broker
    broker.end()


@pytest.fixture
def connection(real: Broker) -> Connection:
    return real.connect()


def opened(
    connection: Connection, label: str = "db", algorithm: str = "gcm(aes)"
) -> cryptofd.CryptoFD:
    return cryptofd.open(algorithm, key=f"cryptofd:{label}", broker=connection)


def ring(fd: cryptofd.CryptoFD) -> Any:
    """What info() tells of it."""
    told = fd.info().ring
    assert told is not None
    return told


def with_ring(connection: Connection, label: str = "db") -> cryptofd.CryptoFD:
    fd = opened(connection, label)
    for _ in range(16):
        fd.unseal(fd.seal(b"data"))
    assert ring(fd)["requests"] > 0
    return fd


def test_a_session_gets_one_once_it_pays(connection: Connection) -> None:
    fd = opened(connection)
    assert ring(fd) == {"bytes": 0, "why": "not needed yet"}
    fd.seal(b"data")
    assert ring(fd)["bytes"] == 0
    for _ in range(16):
        fd.seal(b"data")
    assert ring(fd)["bytes"] > 0
    assert ring(fd)["used"] == 0
    # Much payload does not wait for a second request.
    fd = opened(connection)
    assert fd.unseal(fd.seal(bytes(100_000))) == bytes(100_000)
    assert ring(fd)["requests"] == 2
    assert cryptofd.open("gcm(aes)", key=KEY).info().ring is None


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 65536, 65537, 1 << 20, 5 << 20, 40 << 20])
def test_every_size_goes_round(connection: Connection, size: int) -> None:
    fd, near = with_ring(connection, "old"), cryptofd.open("gcm(aes)", key=KEY)
    data, aad = random.Random(size).randbytes(size), b"header"
    box = fd.encrypt(data, IV, aad)
    assert box == near.encrypt(data, IV, aad)
    assert fd.decrypt(box, IV, aad) == data
    assert fd.unseal(fd.seal(data, aad), aad) == data


def test_refusals_say_what_the_socket_says(connection: Connection) -> None:
    fd = with_ring(connection)
    before = ring(fd)["requests"]
    box = bytearray(fd.seal(b"data"))
    box[-1] ^= 1
    with pytest.raises(cryptofd.BadTag, match="does not verify"):
        fd.unseal(box)
    with pytest.raises(cryptofd.CryptoFDError, match="caller-iv") as caught:
        fd.encrypt(b"data", iv=IV)
    assert caught.value.errno == errno.EPERM
    with pytest.raises(cryptofd.CryptoFDError, match="at least 29"):
        fd.unseal(b"short")
    assert ring(fd)["requests"] == before + 4


def test_other_work_goes_by_it(connection: Connection) -> None:
    fd, near = opened(connection, "mac", "hmac(sha256)"), cryptofd.open("hmac(sha256)", key=KEY)
    for number in range(64):
        part = bytes([number]) * number * 100
        fd.update(part)
        near.update(part)
        assert fd.digest() == near.digest()
    assert ring(fd)["requests"] > 100
    fd, near = opened(connection, "cbc", "cbc(aes)"), cryptofd.open("cbc(aes)", key=KEY)
    for number in range(32):
        data, iv = bytes(16 * number), os.urandom(16)
        assert fd.encrypt(data, iv=iv) == near.encrypt(data, iv=iv)
        assert fd.decrypt(near.encrypt(data, iv=iv), iv=iv) == data


@pytest.mark.parametrize("number", [0, 1, 2, 32, 127, 128, 129, 1000])
def test_batches_keep_their_order(connection: Connection, number: int) -> None:
    fd, near = opened(connection, "old"), cryptofd.open("gcm(aes)", key=KEY)
    source = random.Random(number)
    data = [source.randbytes(source.randrange(3000)) for _ in range(number)]
    boxes = fd.seal_many(data)
    assert fd.unseal_many(boxes) == data
    assert fd.unseal_many([(box, None) for box in boxes]) == data
    items = [(one, n.to_bytes(12, "big"), b"head") for n, one in enumerate(data)]
    assert fd.encrypt_many(items) == near.encrypt_many(items)
    assert near.seal_many([]) == []


def test_a_batch_that_is_wider_than_the_ring(connection: Connection) -> None:
    fd = opened(connection)
    data = [bytes([n]) * 300_000 for n in range(20)]
    assert fd.unseal_many(fd.seal_many(data)) == data
    assert ring(fd)["used"] == 0
    # One that never fits goes by the socket, and the others do not mind.
    data[3] = bytes(50 << 20)
    assert fd.unseal_many(fd.seal_many(data)) == data


def test_the_first_error_of_a_batch_raises(connection: Connection) -> None:
    fd = with_ring(connection)
    boxes = fd.seal_many([b"a", b"b", b"c"])
    boxes[1] = boxes[1][:-1] + bytes([boxes[1][-1] ^ 1])
    with pytest.raises(cryptofd.BadTag):
        fd.unseal_many(boxes)
    assert fd.unseal(boxes[2]) == b"c"
    assert ring(fd)["used"] == 0


def test_a_buffer_in_the_ring(connection: Connection) -> None:
    fd, near = opened(connection, "old"), cryptofd.open("gcm(aes)", key=KEY)
    data = os.urandom(100_000)
    source, target = fd.buffer(len(data)), fd.buffer(len(data) + 64)
    assert bytes(source) == bytes(len(data))
    source[:] = data
    assert fd.encrypt_into(target, source, IV) == len(data) + 16
    assert target[: len(data) + 16] == near.encrypt(data, IV)
    # In place, and a part of one.
    fd.decrypt_into(target, target[: len(data) + 16], IV)
    assert target[: len(data)] == data
    length = fd.seal_into(target, source)
    assert fd.unseal(target[:length]) == data
    assert fd.unseal_into(source, target[:length]) == len(data)
    assert bytes(source) == data
    used = ring(fd)["used"]
    assert used >= 200_000
    part = target[:1]
    del source, target
    assert ring(fd)["used"] > 0
    del part
    assert ring(fd)["used"] == 0
    assert bytes(near.buffer(10)) == bytes(10)


def test_a_refusal_leaves_a_buffer_as_it_was(connection: Connection) -> None:
    fd = opened(connection)
    buffer = fd.buffer(4096)
    buffer[:] = bytes([7]) * 4096
    with pytest.raises(cryptofd.CryptoFDError):
        fd.encrypt_into(buffer, buffer[:4000], IV)
    assert bytes(buffer) == bytes([7]) * 4096


def test_threads_share_it(connection: Connection) -> None:
    fd = with_ring(connection)
    wrong: list[int] = []

    def work(number: int) -> None:
        source = random.Random(number)
        for _ in range(100):
            data = source.randbytes(source.randrange(30_000))
            if (
                fd.unseal(fd.seal(data)) != data
                or fd.unseal_many(fd.seal_many([data] * 3)) != [data] * 3
            ):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert ring(fd)["used"] == 0


def readable(fd: cryptofd.CryptoFD) -> bool:
    return bool(select.select([fd.fileno()], [], [], 0)[0])


def test_poll_tells_the_truth(connection: Connection) -> None:
    """Answers of submit() make the descriptor readable; calls on the ring leave nothing behind."""
    fd = with_ring(connection)
    for size in (1, 1000, 300_000, 3_000_000):
        for _ in range(20):
            fd.unseal(fd.seal(bytes(size)))
            assert not readable(fd)
    box = fd.seal(b"data")
    poll = select.epoll()
    poll.register(fd.fileno(), select.EPOLLIN | select.EPOLLET)
    for _ in range(50):
        assert poll.poll(0) == []
        fd.submit("unseal", box)
        assert poll.poll(DEADLINE) == [(fd.fileno(), select.EPOLLIN)]
        assert fd.complete().data == b"data"
        assert not readable(fd)
        assert fd.unseal_many([box] * 3) == [b"data"] * 3
    poll.close()


def test_asyncio_and_the_ring(connection: Connection) -> None:
    fd = with_ring(connection)

    async def work() -> None:
        both = aio.AsyncCryptoFD(fd)
        for _ in range(20):
            boxes = await asyncio.gather(*(both.seal(bytes([n])) for n in range(10)))
            assert fd.unseal_many(boxes) == [bytes([n]) for n in range(10)]

    asyncio.run(work())


@contextlib.contextmanager
def signals(handler: Callable[..., None], pause: float) -> Iterator[threading.Event]:
    """Sends this thread one SIGUSR1 after the other, once the event is set."""
    before = signal.signal(signal.SIGUSR1, handler)
    main, go, over = threading.main_thread().ident, threading.Event(), threading.Event()
    assert main is not None

    def work() -> None:
        while not over.wait(pause):
            if go.is_set():
                signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield go
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_interrupts_and_nothing_is_lost(connection: Connection) -> None:
    fd = with_ring(connection)
    data, count = bytes(200_000), 0

    def handler(*_: object) -> None:
        nonlocal count
        count += 1
        # On the same ring, in the middle of another call's wait.
        assert fd.unseal(fd.seal(b"inside")) == b"inside"

    with signals(handler, 0.002) as go:
        go.set()
        while count < 50:
            assert fd.unseal(fd.seal(data)) == data
            assert fd.unseal_many(fd.seal_many([data] * 4)) == [data] * 4
    assert ring(fd)["used"] == 0


def test_an_exception_in_a_handler_gives_up_and_the_next_call_works(
    connection: Connection,
) -> None:
    fd = with_ring(connection)
    data, raised = bytes(1 << 20), 0

    class Enough(Exception):
        pass

    def handler(*_: object) -> None:
        go.clear()
        raise Enough

    with signals(handler, 0.0005) as go:
        while raised < 20:
            try:
                go.set()
                while True:
                    fd.seal_many([data] * 8)
            except Enough:
                raised += 1
            assert fd.unseal(fd.seal(b"data")) == b"data"
    assert fd.unseal_many(fd.seal_many([data] * 4)) == [data] * 4
    assert ring(fd)["used"] == 0


def test_a_worker_dies_under_it(real: Broker, connection: Connection) -> None:
    """Requests on the ring are asked again, and answered once, each with its own answer."""
    fd = with_ring(connection, "old")
    near = cryptofd.open("gcm(aes)", key=KEY)
    buffer = fd.buffer(10_000)
    buffer[:] = bytes([9]) * 10_000
    wrong: list[object] = []
    stop, rounds = threading.Event(), [0]

    def work() -> None:
        source = random.Random(1)
        while not stop.is_set():
            items = [
                (source.randbytes(source.randrange(20_000)), number.to_bytes(12, "big"))
                for number in range(50)
            ]
            if fd.encrypt_many(items) != near.encrypt_many(items):
                wrong.append("encrypt_many")
            if fd.encrypt(buffer, IV) != near.encrypt(buffer, IV):
                wrong.append("buffer")
            rounds[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            epoch = fd_epoch(connection)
            for worker in connection.status()["workers"]:
                os.kill(worker["pid"], signal.SIGKILL)
            until(lambda epoch=epoch: fd_epoch(connection) > epoch, "no other worker")  # type: ignore[misc]
            before = rounds[0]
            until(lambda before=before: rounds[0] > before + 2 or bool(wrong), "no answers")  # type: ignore[misc]
    finally:
        stop.set()
        thread.join(DEADLINE)
    assert not thread.is_alive()
    assert not wrong
    # A fresh one.
    before = ring(fd)["requests"]
    fd.seal_many([b"data"] * 20)
    assert ring(fd)["requests"] >= before + 20


def fd_epoch(connection: Connection) -> int:
    return max((worker["epoch"] for worker in connection.status()["workers"]), default=0)


CHILD = """
fd = cryptofd.adopt(int(sys.argv[1]))
for _ in range(20):
    assert fd.unseal(fd.seal(b"data")) == b"data"
print(fd.info().ring["bytes"] > 0, fd.info().ring.get("why", ""))
fd = fd.clone()
for _ in range(20):
    assert fd.unseal(fd.seal(b"data")) == b"data"
print(fd.info().ring["bytes"] > 0)
"""


def test_clones_and_other_holders(connection: Connection) -> None:
    fd = with_ring(connection)
    clone = fd.clone()
    assert ring(clone)["bytes"] == 0
    for _ in range(16):
        assert fd.unseal(clone.seal(b"data")) == b"data"
    assert ring(clone)["requests"] > 0
    # Another program has the same descriptor: the ring stays ours, and it clones for its own.
    number = os.dup(fd.fileno())
    done = subprocess.run(
        [sys.executable, "-c", "import cryptofd, sys\n" + CHILD, str(number)],
        pass_fds=[number], env=environment(), capture_output=True, text=True,
        timeout=DEADLINE, check=True,
    )  # fmt: skip
    os.close(number)
    first, second = done.stdout.splitlines()
    assert first.startswith("False")
    assert "clone" in first
    assert second == "True"
    assert fd.unseal(fd.seal(b"data")) == b"data"


def test_a_forked_child_has_none_and_clones(connection: Connection) -> None:
    fd = with_ring(connection)
    buffer = fd.buffer(100)
    view = memoryview(buffer).obj
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            with contextlib.suppress(BufferError):
                memoryview(view)
                os._exit(2)
            own = fd.clone()
            for _ in range(20):
                assert own.unseal(own.seal(b"child")) == b"child"
            assert ring(own)["requests"] > 0
            # The parent's descriptor works too, without its ring.
            assert fd.unseal(fd.seal(b"child")) == b"child"
            assert ring(fd)["bytes"] == 0
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for _ in range(20):
        assert fd.unseal(fd.seal(b"parent")) == b"parent"
    assert ring(fd)["bytes"] > 0


# What a program does that brings its own bytes to the ring.

HEADER = struct.Struct("<HBBHHQIIIIIIQQQ")
SUBMISSION = struct.Struct("<HHIQIIIIIIII16s")
SUBMITTED, COMPLETED, CLIENT_SLEEPS, WORKER_SLEEPS = 64, 128, 192, 256
RING, SEAL, UNSEAL, INFO = 4, 24, 25, 1


class Raw:
    """A client without the library."""

    def __init__(self, fd: cryptofd.CryptoFD, size: int = 1 << 20) -> None:
        self.keep = fd.clone()
        self.socket = socket.socket(fileno=os.dup(self.keep.fileno()))
        self.socket.settimeout(DEADLINE)
        self.count = 0
        status, fds = self.ask(size)
        assert status == 0
        (self.memory,) = fds
        self.map = mmap.mmap(self.memory, 0)
        layout = struct.unpack_from("<8IQ", self.map, 0)
        assert layout[:2] == (0x31524643, 1)
        self.size, self.entries, self.submissions, self.completions, self.arena = layout[2:7]
        self.number = layout[8]
        assert self.size == len(self.map)

    def ask(self, size: int, target: int | None = None) -> tuple[int, list[int]]:
        params = struct.pack("<HHIQ", 1, 0, 8, size)
        if target is not None:
            params += struct.pack("<HHIQ", 10, 0, 8, target)
        head = HEADER.pack(64, 1, 1, RING, 0, 1, 0, 0, 0, 0, len(params), 0, 0, 0, 0)
        self.socket.send(head + params)
        answer, fds, _, _ = socket.recv_fds(self.socket, 81920, 2)
        return int(HEADER.unpack_from(answer)[7]), fds

    def bell(self) -> None:
        self.socket.send(HEADER.pack(64, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))

    def word(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.map, at)[0])

    def put(self, op: int, payload: bytes = b"", **change: int) -> None:
        """A request; its data at the arena's beginning, its result 64 KiB further on."""
        self.map[self.arena + 4096 : self.arena + 4096 + len(payload)] = payload
        fields = {
            "op": op, "flags": 0, "iv": 0, "id": self.count, "aad": 0, "params": 0,
            "data": len(payload), "head_at": self.arena,
            "data_at": self.arena + 4096, "out_at": self.arena + 65536,
            "room": 65536, "message": 1024,
        }  # fmt: skip
        fields.update(change)
        at = self.submissions + self.count % self.entries * 64
        SUBMISSION.pack_into(self.map, at, *fields.values(), bytes(16))
        self.count += 1
        struct.pack_into("<I", self.map, SUBMITTED, self.count)
        self.bell()

    def answer(self) -> tuple[int, bytes]:
        """Its status, and its result or sentence."""
        until(lambda: self.word(COMPLETED) == self.count, "no answer")
        at = self.completions + (self.count - 1) % self.entries * 32
        number, _, status, length = struct.unpack_from("<QIII", self.map, at)
        assert number == self.count - 1
        place = self.arena + 65536 if status == 0 else self.arena
        return status, bytes(self.map[place : place + length])

    def ended(self) -> None:
        """The session is over: POLLHUP."""
        poll = select.poll()
        poll.register(self.socket, 0)
        until(lambda: bool(poll.poll(0)), "it goes on")

    def close(self) -> None:
        self.map.close()
        os.close(self.memory)
        self.socket.close()


@pytest.fixture
def raw(connection: Connection) -> Iterator[Callable[..., Raw]]:
    made: list[Raw] = []
    fd = opened(connection)

    def make(size: int = 1 << 20) -> Raw:
        made.append(Raw(fd, size))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def others_go_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a client does to its ring: another session of the same worker does not notice."""
    if "raw" not in request.fixturenames:
        yield
        return
    connection = request.getfixturevalue("connection")
    other = with_ring(connection)
    box, epoch = other.seal(b"data"), fd_epoch(connection)
    yield
    assert other.unseal(box) == b"data"
    assert fd_epoch(connection) == epoch


def test_the_pages_description_is_enough_to_write_a_client(raw: Callable[..., Raw]) -> None:
    one = raw()
    one.put(SEAL, b"data")
    status, box = one.answer()
    assert (status, len(box)) == (0, 1 + 12 + 4 + 16)
    one.put(UNSEAL, box)
    assert one.answer() == (0, b"data")
    for _ in range(600):
        one.put(UNSEAL, box)
        assert one.answer() == (0, b"data")


def test_a_bell_comes_to_a_client_that_sleeps(raw: Callable[..., Raw]) -> None:
    one = raw()
    one.socket.setblocking(False)
    struct.pack_into("<I", one.map, CLIENT_SLEEPS, 1)
    one.put(SEAL, b"data")
    assert select.select([one.socket], [], [], DEADLINE)[0]
    packet = one.socket.recv(81920)
    assert (len(packet), packet[3]) == (64, 4)
    assert one.answer()[0] == 0
    assert one.word(CLIENT_SLEEPS) == 0
    # It rang once; awake, there is none.
    one.put(SEAL, b"data")
    assert one.answer()[0] == 0
    with pytest.raises(BlockingIOError):
        one.socket.recv(81920)


def test_a_second_ring_needs_the_number_of_the_first(raw: Callable[..., Raw]) -> None:
    one = raw()
    assert one.ask(1 << 20)[0] == errno.EBUSY
    assert one.ask(1 << 20, one.number ^ 2)[0] == errno.EBUSY
    assert one.ask(0)[0] == errno.EBUSY
    status, fds = one.ask(1 << 19, one.number)
    assert (status, os.fstat(fds[0]).st_size) == (0, 1 << 19)
    number = struct.unpack("<Q", os.pread(fds[0], 8, 32))[0]
    os.close(fds[0])
    assert one.ask(0, number) == (0, [])
    status, fds = one.ask(1 << 19)
    assert status == 0
    os.close(fds[0])


def test_sizes_are_sealed(raw: Callable[..., Raw]) -> None:
    one = raw()
    for size in (0, 4096, 1 << 21):
        with pytest.raises(PermissionError):
            os.ftruncate(one.memory, size)


FAR = 0xFFFFFFFF
BAD: list[dict[str, int]] = [
    {"op": INFO}, {"op": 2}, {"op": RING}, {"op": 999}, {"flags": 1}, {"flags": 2},
    {"flags": 0x8000}, {"head_at": 0, "aad": 1}, {"head_at": 0}, {"data_at": 0}, {"out_at": 0},
    {"out_at": 28671}, {"data_at": 1 << 20}, {"out_at": (1 << 20) - 65535},
    {"head_at": (1 << 20) - 1023}, {"data": FAR}, {"room": FAR}, {"aad": FAR},
    {"iv": FAR, "aad": FAR}, {"params": FAR}, {"message": FAR}, {"data_at": FAR}, {"out_at": FAR},
    {"head_at": FAR}, {"iv": 12}, {"params": 8}, {"room": 0}, {"room": 32},
]  # fmt: skip


@pytest.mark.parametrize("change", BAD, ids=str)
def test_bad_descriptions_are_refused(raw: Callable[..., Raw], change: dict[str, int]) -> None:
    one, change = raw(), dict(change)
    before = bytes(one.map[:64])
    one.put(change.pop("op", SEAL), b"data", **change)
    status, _ = one.answer()
    assert status in {errno.EINVAL, errno.EOPNOTSUPP, errno.EMSGSIZE}
    assert bytes(one.map[:64]) == before
    # The ring goes on.
    one.put(SEAL, b"data")
    assert one.answer()[0] == 0


@pytest.mark.parametrize("ahead", [257, 1000, 1 << 31, -1])
def test_a_counter_that_runs_away_ends_the_session(raw: Callable[..., Raw], ahead: int) -> None:
    one = raw()
    one.put(SEAL, b"data")
    one.answer()
    struct.pack_into("<I", one.map, SUBMITTED, (one.count + ahead) % (1 << 32))
    one.bell()
    one.ended()


def test_a_full_ring_is_answered_whole(raw: Callable[..., Raw]) -> None:
    one = raw()
    for _ in range(one.entries):
        at = one.submissions + one.count % one.entries * 64
        places = (one.arena, one.arena + 4096, one.arena + 65536, 65536, 1024)
        SUBMISSION.pack_into(one.map, at, SEAL, 0, 0, one.count, 0, 0, 4, *places, bytes(16))
        one.count += 1
    struct.pack_into("<I", one.map, SUBMITTED, one.count)
    one.bell()
    until(lambda: one.word(COMPLETED) == one.count, "not all")
    for number in range(one.entries):
        found = struct.unpack_from("<QIII", one.map, one.completions + number * 32)
        assert found == (number, SEAL, 0, 33)


def punch(memory: int, at: int, length: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    keep_size, punch_hole = 1, 2
    done = libc.fallocate(memory, keep_size | punch_hole, ctypes.c_long(at), ctypes.c_long(length))
    assert done == 0, os.strerror(ctypes.get_errno())


def test_holes_are_zeroes(raw: Callable[..., Raw]) -> None:
    one = raw()
    one.put(SEAL, b"data")
    box = one.answer()[1]
    punch(one.memory, one.arena, one.size - one.arena)
    one.put(UNSEAL, box)
    assert one.answer() == (0, b"data")
    # Counters and all: what the worker counted does not fit to it any more.
    punch(one.memory, 0, one.size)
    one.bell()
    one.ended()


def test_a_thread_that_scribbles_hurts_nobody_else(raw: Callable[..., Raw]) -> None:
    """Descriptions, payload, counters, header and holes, while requests are served."""
    source = random.Random(7)
    for _ in range(12):
        one = raw()
        for _ in range(200):
            at = source.randrange(0, one.size - 4096)
            match source.randrange(4):
                case 0:
                    at = source.randrange(512, one.arena) & ~7
                    one.map[at : at + 8] = source.randbytes(8)
                case 1:
                    one.map[at : at + 4096] = source.randbytes(4096)
                case 2:
                    punch(one.memory, at & ~4095, 8192)
                case 3:
                    with contextlib.suppress(OSError):
                        one.put(SEAL, source.randbytes(source.randrange(4000)))
        at = source.choice([0, SUBMITTED, COMPLETED, CLIENT_SLEEPS, WORKER_SLEEPS])
        struct.pack_into("<I", one.map, at, source.randrange(1 << 32))
        with contextlib.suppress(OSError):
            one.bell()


def test_the_policy_limits_it(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[[rule]]\nring = 1048576\n")
    broker = Broker(tmp_path)
    try:
        connection = broker.connect()
        connection.keys.generate("db", "gcm(aes)")
        first = with_ring(connection)
        assert ring(first)["bytes"] == 1 << 20
        second = opened(connection)
        for _ in range(20):
            assert second.unseal(second.seal(b"data")) == b"data"
        assert ring(second)["bytes"] == 0
        assert "1048576" in ring(second)["why"]
        with pytest.raises(cryptofd.CryptoFDError, match="bytearray"):
            second.buffer(100)
        # What one gives back another gets.
        first.close()
        third = opened(connection)

        def gets_one() -> bool:
            third.seal(bytes(100_000))
            return bool(ring(third)["bytes"])

        until(gets_one, "no ring")
    finally:
        broker.end()

"""Clients that mean ill, and one that does not, in the same worker: nobody else gets a wrong
answer, nothing dies, nothing grows.

Records are made here by docs/wire.md, byte by byte; what the ring must bear has tests of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_broker import DEADLINE, Broker, as_user, open_folder, opened, refused, until

import cryptofd
from cryptofd.broker.client import Connection

HEADER = struct.Struct("<HBBHHQIIIIIIQQQ")
REQUEST, ANSWER, EPOCH = 1, 2, 3
INFO, CLONE, ENCRYPT, DECRYPT, SEAL, UNSEAL = 1, 2, 16, 17, 24, 25
OPS = [*range(1, 5), *range(16, 26), *range(32, 36), *range(40, 47), *range(48, 51), 0, 99, 65535]
#: What a session that may only decrypt never does.
FORBIDDEN = {ENCRYPT, SEAL}


def record(
    op: int, data: bytes = b"", *, id: int = 1, kind: int = REQUEST, iv: bytes = b"",
    aad: bytes = b"", params: bytes = b"", epoch: int = 0, flags: int = 0, attached: int = 0,
    attached_aad: int = 0,
) -> bytes:  # fmt: skip
    head = HEADER.pack(
        64, 1, kind, op, flags, id, epoch, 0, len(iv), len(aad), len(params), len(data), attached,
        attached_aad, 0,
    )  # fmt: skip
    return head + iv + aad + params + data


class Fuzzer:
    """Records that are nearly right."""

    def __init__(self, seed: int, box: bytes) -> None:
        self.random = random.Random(seed)
        self.box = box

    def some(self, most: int = 200) -> bytes:
        return self.random.randbytes(self.random.randrange(most))

    def params(self) -> bytes:
        made = b""
        for _ in range(self.random.choice([0, 0, 1, 2, 20])):
            value = self.some(20)
            length = self.random.choice([len(value), len(value), 0, 4, 8, 0xFFFFFFFF, 1 << 31])
            number = self.random.choice([*range(17), 65535])
            made += struct.pack("<HHI", number, self.random.choice([0, 0, 0, 1]), length) + value
        return made

    def packet(self) -> bytes:
        pick = self.random.choice
        made = bytearray(
            record(
                pick(OPS), pick([b"", self.some(), self.box, self.some(60000)]),
                id=self.random.randrange(1 << 64), kind=pick([1, 1, 1, 1, 2, 3, 0, 255]),
                iv=pick([b"", bytes(12), self.some(40)]), aad=pick([b"", self.some()]),
                params=self.params(), epoch=pick([0, 0, 0, 1, 2, 0xFFFFFFFF]),
                flags=pick([0, 0, 0, 1, 2, 3, 0x8000]),
                attached=pick([0, 0, 0, 1, 100, 1 << 20, (64 << 20) + 1, (1 << 64) - 1]),
                attached_aad=pick([0, 0, 0, 1, 1 << 63]),
            )
        )  # fmt: skip
        for _ in range(pick([0, 0, 1, 2, 5])):
            made[self.random.randrange(min(64, len(made)))] = self.random.randrange(256)
        if pick([False] * 9 + [True]):
            # Never so short that it ends the session: that is its right.
            del made[self.random.randrange(16, len(made) + 1) :]
        return bytes(made)

    def descriptors(self) -> list[int]:
        pick = self.random.choice
        made: list[int] = []
        for _ in range(pick([0, 0, 0, 0, 1, 1, 2, 30])):
            kind = pick(["memfd", "pipe", "socket", "null"])
            if kind == "memfd":
                fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                os.ftruncate(fd, pick([0, 1, 100, 1 << 20, 1 << 30]))
                made.append(fd)
            elif kind == "pipe":
                made += os.pipe()
            elif kind == "socket":
                made += (one.detach() for one in socket.socketpair())
            else:
                made.append(os.open("/dev/null", os.O_RDWR))
        return made


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    keys = broker.connect().keys
    keys.generate("aead", "gcm(aes)")
    keys.generate("mac", "hmac(sha256)")
    yield broker
    broker.end()


class Victim:
    """Whose answers must stay right, and whose worker must stay the same."""

    def __init__(self, real: Broker) -> None:
        self.real = real
        self.connection = real.connect()
        self.fd = opened(self.connection, "gcm(aes)", "aead")
        self.mac = opened(self.connection, "hmac(sha256)", "mac")
        self.box = self.fd.seal(b"secret", aad=b"head")
        self.mac.submit("digest", b"data")
        self.tag = self.mac.complete().data
        self.before = self.pids()

    def pids(self) -> list[int]:
        status = self.connection.status()
        return [status["supervisor"], status["broker"], *(one["pid"] for one in status["workers"])]

    def works(self) -> None:
        assert self.fd.unseal(self.box, aad=b"head") == b"secret"
        assert self.fd.unseal(self.fd.seal(b"x"), aad=b"") == b"x"
        self.mac.submit("digest", b"data")
        assert self.mac.complete().data == self.tag

    def well(self) -> None:
        self.works()
        assert self.pids() == self.before, self.real.log.read_text()


@pytest.fixture
def victim(real: Broker) -> Iterator[Victim]:
    one = Victim(real)
    yield one
    one.well()
    one.fd.close()
    one.mac.close()


def raw(fd: cryptofd.CryptoFD) -> socket.socket:
    """The socket that it is."""
    sock = socket.socket(fileno=os.dup(fd.fileno()))
    sock.settimeout(DEADLINE)
    return sock


def drained(sock: socket.socket) -> list[bytes]:
    """Every answer that waits; what they bring is closed."""
    got = []
    while select.select([sock], [], [], 0)[0]:
        data, fds, _, _ = socket.recv_fds(sock, 1 << 20, 64)
        for fd in fds:
            os.close(fd)
        if not data:
            break
        got.append(data)
    return got


def worker(real: Broker) -> int:
    pid: int = next(one["pid"] for one in real.status()["workers"] if one["domain"] == "uid:0")
    return pid


def resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="looking into a worker needs root")


@pytest.mark.parametrize("seed", range(6))
def test_records_that_are_nearly_right(real: Broker, victim: Victim, seed: int) -> None:
    fuzzer = Fuzzer(seed, victim.box)
    fd = opened(victim.connection, "gcm(aes)", "aead", usage={"decrypt"})
    answers: list[bytes] = []
    with raw(fd) as sock:
        for number in range(400):
            fds = fuzzer.descriptors()
            try:
                socket.send_fds(sock, [fuzzer.packet()], fds[:200])
            finally:
                for one in fds:
                    os.close(one)
            answers += drained(sock)
            if number % 100 == 0:
                victim.works()
        # It still serves: everything sent before was answered or dropped when this is.
        sock.sendall(record(INFO, id=4711))
        while True:
            data, more, _, _ = socket.recv_fds(sock, 1 << 20, 64)
            for one in more:
                os.close(one)
            answers.append(data)
            if struct.unpack_from("<Q", data, 8)[0] == 4711 and data[3] == ANSWER:
                break
    for data in answers:
        size, version, kind, op, *_ = HEADER.unpack_from(data)
        status = struct.unpack_from("<I", data, 20)[0]
        assert (size, version) == (64, 1)
        assert kind in (ANSWER, EPOCH)
        assert op not in FORBIDDEN or status != 0
        assert b"secret" not in data or op in (DECRYPT, UNSEAL)
        assert status == 0 or 0 < len(data[64:].decode()) <= 1024
    assert fd.unseal(victim.box, aad=b"head") == b"secret"


@needs_root
def test_one_that_never_reads(real: Broker, victim: Victim) -> None:
    """What waits for it is bounded, and nobody waits with it."""
    pid = worker(real)
    before = resident(pid)
    flood = [opened(victim.connection, "gcm(aes)", "aead") for _ in range(8)]
    for fd in flood:
        with raw(fd) as sock:
            sock.setblocking(False)
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            sent = 0
            # Full for a while is full: the worker takes no more.
            while poll.poll(200) and sent < 100_000:
                try:
                    sock.send(record(SEAL, bytes(60_000), id=sent))
                    sent += 1
                except BlockingIOError:
                    continue
            assert sent < 100_000, "it takes for ever"
        victim.works()
    assert resident(pid) < before + 96 * 1024
    # Once it reads, all its answers are there, in order.
    with raw(flood[0]) as sock:
        sock.settimeout(DEADLINE)
        data, _, _, _ = socket.recv_fds(sock, 1 << 20, 4)
        assert struct.unpack_from("<Q", data, 8)[0] == 0
    for fd in flood:
        fd.close()


@needs_root
def test_a_flood_of_descriptors(real: Broker, victim: Victim) -> None:
    pid = worker(real)
    fd = opened(victim.connection, "gcm(aes)", "aead")
    before = descriptors(pid)
    null = os.open("/dev/null", os.O_RDONLY)
    with raw(fd) as sock:
        for number in range(200):
            socket.send_fds(sock, [record(INFO, id=number)], [null] * 250)
            assert sock.recv(1 << 16)
        sock.sendall(record(INFO))
        assert sock.recv(1 << 16)
    os.close(null)
    assert descriptors(pid) <= before + 1
    fd.close()


@needs_root
def test_clones_end_somewhere(real: Broker, victim: Victim) -> None:
    pid = worker(real)
    fd = opened(victim.connection, "gcm(aes)", "aead")
    before = descriptors(pid)
    clones: list[cryptofd.CryptoFD] = []
    code = None
    while code is None:
        try:
            clones.append(fd.clone())
        except cryptofd.CryptoFDError as error:
            code = error.errno
        assert len(clones) < 20_000, "there is no limit"
    assert code in (errno.EMFILE, errno.EDQUOT, errno.ENFILE)
    victim.works()
    assert clones[-1].seal(b"data")
    for clone in clones:
        clone.close()
    until(lambda: descriptors(pid) <= before + 2, "clones stay in the worker")
    assert fd.clone().seal(b"data")
    fd.close()


def test_one_that_goes_in_the_middle(real: Broker, victim: Victim) -> None:
    for _ in range(50):
        fd = opened(victim.connection, "gcm(aes)", "aead")
        with raw(fd) as sock:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(20):
                    sock.send(record(SEAL, bytes(30_000)))
        fd.close()
    victim.works()


def test_a_packet_that_is_none_ends_only_its_session(real: Broker, victim: Victim) -> None:
    for garbage in (b"", b"x", b"GET / HTTP/1.0", bytes(15)):
        fd = opened(victim.connection, "gcm(aes)", "aead")
        with raw(fd) as sock:
            sock.send(garbage)
            poll = select.poll()
            poll.register(sock, 0)
            assert poll.poll(DEADLINE * 1000)[0][1] & select.POLLHUP
        refused(errno.EPIPE, fd.seal, b"data")
    victim.works()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming other users needs root")
def test_keys_that_never_come_hold_nobody_else_up() -> None:
    """Pipes that are never written to, as many as there are threads for keys, and more."""
    with open_folder() as folder:
        real = Broker(folder)
        held: list[Any] = []
        ready, go = os.pipe(), os.pipe()

        def stall() -> None:
            for number in range(12):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(real.socket))
                reading, writing = os.pipe()
                asked = (
                    b'{"method":"org.cryptofd.Broker.ImportKey","parameters":{"label":"k%d",'
                    b'"algorithm":"gcm(aes)","fd":0}}\0' % number
                )
                socket.send_fds(sock, [asked], [reading])
                held.append((sock, writing))
            os.write(ready[1], b"x")
            os.read(go[0], 1)

        child = os.fork()
        if not child:
            try:
                as_user(4001, stall)
            finally:
                os._exit(0)
        assert os.read(ready[0], 1) == b"x"
        b = Connection(str(real.socket))
        for number in range(5):
            b.keys.generate(f"k{number}", "gcm(aes)")
        fd = opened(b, "gcm(aes)", "k0")
        assert fd.unseal(fd.seal(b"data")) == b"data"
        os.write(go[1], b"x")
        os.waitpid(child, 0)
        for number in (*ready, *go):
            os.close(number)
        assert [key.owner for key in b.keys.list(all=True)] == ["uid:0"] * 5
        real.end()

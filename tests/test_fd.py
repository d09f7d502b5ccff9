"""The contract of the descriptor, from Python: records, readiness, sharing, and what breaks."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from host_engines import available, refusal
from reference import TABLE, random_case

import cryptofd
from cryptofd import aio

IV = bytes(12)
LAYOUT = tomllib.loads((Path(__file__).parents[1] / "interface" / "record.toml").read_text())
SERVED = [n for n in TABLE if any(refusal(e, n) is None for e in available())]


def gcm(engine: str | None = None, **options: Any) -> cryptofd.CryptoFD:
    return cryptofd.open("gcm(aes)", key=bytes(32), engine=engine, **options)


def expected(data: bytes) -> bytes:
    return gcm().encrypt(data, iv=IV)


def far(fd: cryptofd.CryptoFD) -> cryptofd.CryptoFD:
    """The same session through its descriptor."""
    return cryptofd.adopt(os.dup(fd.fileno()))


def waits(number: int, events: int = select.POLLIN, seconds: float = 10) -> int:
    """What poll says, at once or within ``seconds``."""
    poll = select.poll()
    poll.register(number, events)
    found = poll.poll(seconds * 1000)
    return found[0][1] if found else 0


def now(number: int, events: int = select.POLLIN) -> int:
    return waits(number, events, 0)


# Making it


@pytest.fixture(autouse=True)
def offered(request: pytest.FixtureRequest) -> None:
    """These tests open gcm(aes) on their engine; a kernel that refuses it has tests of its own."""
    if "engine" in request.fixturenames:
        engine = request.getfixturevalue("engine")
        why = refusal(engine, "gcm(aes)")
        if why is not None:
            pytest.skip(f"{engine} does not offer gcm(aes): {why}")


def test_flags() -> None:
    fd = gcm()
    number = fd.fileno()
    assert fd.fileno() == number
    assert fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert os.get_blocking(number)
    assert not os.get_blocking(gcm(flags=cryptofd.NONBLOCK).fileno())
    with socket.socket(fileno=os.dup(number)) as seen:
        assert seen.type == socket.SOCK_SEQPACKET
    fd.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_not_inherited_by_programs() -> None:
    number = gcm().fileno()
    program = f"import os\ntry: os.fstat({number})\nexcept OSError as e: print(e.errno)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                         close_fds=False)  # fmt: skip
    assert int(run.stdout) == errno.EBADF


# Work through it


@pytest.mark.parametrize("algorithm", SERVED)
def test_every_algorithm_through_a_descriptor(algorithm: str) -> None:
    generator = random.Random(algorithm)
    if TABLE[algorithm].kind == "rng":
        assert len(far(cryptofd.open(algorithm)).read(1000)) == 1000
        return
    for _ in range(3):
        case = random_case(algorithm, generator, 3000)
        near = cryptofd.open(algorithm, key=case.key, **case.options)
        with far(near) as fd:
            kind = TABLE[algorithm].kind
            if kind in {"hash", "xof", "mac"}:
                fd.update(case.data)
                result = fd.digest(case.length)
                if TABLE[algorithm].one_message:
                    assert result == case.answer()
                    continue
                with fd.clone() as other:
                    other.update(b"more")
                    assert fd.digest(case.length) == result
                    fd.update(b"more")
                    assert fd.hexdigest(case.length) == other.digest(case.length).hex()
            elif kind == "wrap":
                result = fd.wrap(case.data)
                assert fd.unwrap(result) == case.data
            elif kind == "kdf":
                result = fd.derive(case.length or 0, **case.derive)
            else:
                result = fd.encrypt(case.data, iv=case.iv, aad=case.aad)
                assert fd.decrypt(result, iv=case.iv, aad=case.aad) == case.data
                if kind == "cipher" and algorithm != "xts(aes)":
                    stream = fd.stream("encrypt", iv=case.iv)
                    cut = len(case.data) // 3
                    pieces = stream.update(case.data[:cut]) + stream.update(case.data[cut:])
                    assert pieces + stream.finish() == result
            info = fd.info()
            assert (info.algorithm, info.engine) == (algorithm, near.info().engine)
        assert result == case.answer()


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1 << 20, 9 << 20])
def test_every_size(engine: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    near = gcm(engine)
    fd = far(near)
    try:
        box = near.encrypt(data, iv=IV, aad=data)
    except cryptofd.TooLarge:
        with pytest.raises(cryptofd.TooLarge):
            fd.encrypt(data, iv=IV, aad=data)
        return
    assert fd.encrypt(data, iv=IV, aad=data) == box
    assert fd.decrypt(box, iv=IV, aad=data) == data
    out = bytearray(len(box))
    assert fd.encrypt_into(out, data, iv=IV, aad=data) == len(box)
    assert out == box


def test_beyond_what_may_be_attached() -> None:
    fd = far(gcm())
    most = LAYOUT["limits"]["attached"]
    assert fd.info().limits["attached"] == most
    with pytest.raises(cryptofd.TooLarge, match=str(most)) as caught:
        fd.encrypt(bytes(most + 1), iv=IV)
    assert caught.value.errno == errno.EMSGSIZE
    assert fd.encrypt(b"data", iv=IV) == expected(b"data")


def test_refusals_cross_the_descriptor(engine: str) -> None:
    near = gcm(engine)
    fd = far(near)
    box = fd.encrypt(b"data", iv=IV)
    calls: list[Callable[[cryptofd.CryptoFD], Any]] = [
        lambda fd: fd.encrypt(b"", iv=b""),
        lambda fd: fd.encrypt(b"", iv=bytes(1025)),
        lambda fd: fd.decrypt(b"short", iv=IV),
        lambda fd: fd.decrypt(box[:-1] + b"x", iv=IV),
        lambda fd: fd.encrypt_into(bytearray(3), b"data", iv=IV),
        lambda fd: fd.update(b""),
        lambda fd: fd.derive(16),
        lambda fd: fd.stream("encrypt", iv=IV),
    ]
    for call in calls:
        errors = []
        for each in (near, fd):
            with pytest.raises(cryptofd.CryptoFDError) as caught:
                call(each)
            errors.append(caught.value)
        assert type(errors[0]) is type(errors[1])
        assert errors[0].errno == errors[1].errno
    assert fd.decrypt(box, iv=IV) == b"data"


def test_submit_and_complete(engine: str) -> None:
    fd = gcm(engine)
    with pytest.raises(BlockingIOError) as caught:
        fd.complete()
    assert type(caught.value) is cryptofd.NotReady
    assert caught.value.errno == errno.EAGAIN
    first = fd.submit("encrypt", b"one", iv=IV, aad=b"aad")
    second = fd.submit("decrypt", bytes(20), iv=IV)
    third = fd.submit("info")
    assert len({first, second, third}) == 3
    assert fd.outstanding == 3
    done = fd.complete()
    assert (done.id, done.data, done.error) == (
        first,
        gcm().encrypt(b"one", iv=IV, aad=b"aad"),
        None,
    )
    refused = fd.complete()
    assert refused.id == second
    assert type(refused.error) is cryptofd.BadTag
    with pytest.raises(cryptofd.BadTag):
        _ = refused.data
    number, text = fd.complete()
    assert number == third
    assert json.loads(text)["algorithm"] == "gcm(aes)"  # type: ignore[arg-type]
    assert fd.outstanding == 0
    with pytest.raises(BlockingIOError):
        fd.complete()


def test_wrong_submissions() -> None:
    fd = gcm()
    for op in ("", "nonsense", "clone", "ring", "stream_begin", "ENCRYPT "):
        with pytest.raises(cryptofd.InvalidArgument, match="encrypt"):
            fd.submit(op)
    with pytest.raises(TypeError):
        fd.submit("encrypt", "text", iv=IV)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fd.submit(3)  # type: ignore[arg-type]
    fd.submit("digest", b"data")
    with pytest.raises(cryptofd.Unsupported):
        _ = fd.complete().data


# Readiness


def test_readiness_by_poll_and_select() -> None:
    fd = gcm()
    number = fd.fileno()
    assert now(number, select.POLLIN | select.POLLOUT) == select.POLLOUT
    assert select.select([number], [number], [number], 0) == ([], [number], [])
    fd.submit("encrypt", b"data", iv=IV)
    assert waits(number) == select.POLLIN
    assert select.select([number], [], [], 0) == ([number], [], [])
    assert fd.complete().data == expected(b"data")
    assert now(number) == 0
    assert select.select([number], [], [], 0) == ([], [], [])


@pytest.mark.parametrize("edge", [0, select.EPOLLET], ids=["level", "edge"])
def test_readiness_by_epoll(edge: int) -> None:
    fd = gcm(flags=cryptofd.NONBLOCK)
    with contextlib.closing(select.epoll()) as epoll:
        epoll.register(fd, select.EPOLLIN | edge)
        assert epoll.poll(0) == []
        for _ in range(3):
            fd.submit("encrypt", b"data", iv=IV)
            while fd.outstanding:
                assert epoll.poll(10) == [(fd.fileno(), select.EPOLLIN)]
                with contextlib.suppress(BlockingIOError):
                    while True:
                        assert fd.complete().data == expected(b"data")
            assert epoll.poll(0) == []
        fd.submit("encrypt", b"data", iv=IV)
        assert epoll.poll(10)
        time.sleep(0.05)
        assert bool(epoll.poll(0)) is not bool(edge), "level tells again, edge does not"


def test_readiness_by_asyncio() -> None:
    async def main() -> list[bytes]:
        loop, fd = asyncio.get_running_loop(), gcm(flags=cryptofd.NONBLOCK)
        came: list[bytes] = []
        done = loop.create_future()

        def readable() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    came.append(fd.complete().data)
            if len(came) == 50:
                done.set_result(None)

        loop.add_reader(fd, readable)
        for n in range(50):
            fd.submit("encrypt", str(n).encode(), iv=IV)
        await asyncio.wait_for(done, 20)
        loop.remove_reader(fd)
        return came

    assert asyncio.run(main()) == [expected(str(n).encode()) for n in range(50)]


@contextlib.contextmanager
def room_for(descriptors: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < descriptors:
        pytest.skip(f"this host allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, descriptors), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("edge", [0, select.EPOLLET], ids=["level", "edge"])
def test_a_thousand_in_one_epoll_set(edge: int) -> None:
    with room_for(2600):
        fds = {}
        with contextlib.closing(select.epoll()) as epoll:
            for _ in range(1000):
                fd = gcm(flags=cryptofd.NONBLOCK)
                fds[fd.fileno()] = fd
                epoll.register(fd, select.EPOLLIN | edge)
            for number, fd in fds.items():
                fd.submit("encrypt", str(number).encode(), iv=IV)
            left = set(fds)
            while left:
                ready = epoll.poll(20)
                assert ready, f"{len(left)} descriptors never became ready"
                for number, events in ready:
                    assert events == select.EPOLLIN
                    assert fds[number].complete().data == expected(str(number).encode())
                    left.remove(number)
        for fd in fds.values():
            fd.close()


@pytest.mark.parametrize("flags", [0, cryptofd.NONBLOCK], ids=["blocking", "nonblocking"])
def test_ten_thousand_pipelined_records(flags: int) -> None:
    fd = cryptofd.open("ecb(aes)", key=bytes(16), flags=flags)
    near = cryptofd.open("ecb(aes)", key=bytes(16))
    submitted: list[int] = []
    completed: list[tuple[int, bytes]] = []

    def take() -> None:
        done = fd.complete()
        completed.append((done.id, done.data))

    for n in range(10_000):
        while True:
            try:
                submitted.append(fd.submit("encrypt", n.to_bytes(16, "big")))
                break
            except BlockingIOError:
                assert flags
                waits(fd.fileno())
                take()
    while len(completed) < 10_000:
        waits(fd.fileno())
        with contextlib.suppress(BlockingIOError):
            take()
    assert [number for number, _ in completed] == submitted
    assert completed[-1][1] == near.encrypt((9999).to_bytes(16, "big"))
    assert near.encrypt(b"".join(n.to_bytes(16, "big") for n in range(10_000))) == b"".join(
        data for _, data in completed
    )


def test_no_room_is_eagain_and_pollout_comes_back() -> None:
    fd = cryptofd.open("pbkdf2(hmac(sha256))", key=b"key", flags=cryptofd.NONBLOCK)

    def fill() -> None:
        for _ in range(1000):
            fd.submit("derive", salt=bytes(50_000), length=16, iterations=50_000)

    with pytest.raises(BlockingIOError):
        fill()
    full = fd.outstanding
    assert full > 1
    while fd.outstanding:
        waits(fd.fileno(), select.POLLIN, 60)
        with contextlib.suppress(BlockingIOError):
            fd.complete()
    assert now(fd.fileno(), select.POLLOUT) == select.POLLOUT
    fd.submit("derive", salt=b"", length=16, iterations=1)


# Sharing


def test_dup_shares_the_answers() -> None:
    fd = gcm()
    other = far(fd)
    number = fd.submit("encrypt", b"data", iv=IV)
    waits(other.fileno())
    # Whoever reads first has it.
    raw = os.read(other.fileno(), LAYOUT["limits"]["record"])
    assert raw[LAYOUT["header_size"] :] == expected(b"data")
    assert struct.unpack_from("<Q", raw, 8)[0] == number
    assert now(fd.fileno()) == 0


def test_clones_have_their_own_answers(engine: str) -> None:
    one = far(gcm(engine))
    two = one.clone()
    three = two.clone()
    for fd in (one, two, three):
        fd.submit("encrypt", str(fd.fileno()).encode(), iv=IV)
    one_number = one.fileno()
    for fd in (three, one, two):
        assert fd.complete().data == expected(str(fd.fileno()).encode())
    one.close()
    assert two.encrypt(b"data", iv=IV) == expected(b"data")
    assert two.fileno() != one_number
    assert fcntl.fcntl(two.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_clone_takes_a_hash_along_but_no_stream() -> None:
    fd = far(cryptofd.open("sha256"))
    fd.update(b"abc")
    other = fd.clone()
    other.update(b"def")
    fd.reset()
    fd.update(b"abcdef")
    assert fd.digest() == other.digest()
    cipher = far(cryptofd.open("ctr(aes)", key=bytes(16)))
    # From Python a stream has a descriptor of its own; on a raw one the two meet.
    stream = cipher.stream("encrypt", iv=bytes(16))
    stream.update(b"abc")
    assert cipher.clone().encrypt(b"", iv=bytes(16)) == b""
    stream.finish()
    direction = struct.pack("<HHII", LAYOUT["param"]["DIRECTION"], 0, 4, 1)
    with raw(cipher) as number:
        number.send(request("STREAM_BEGIN", 1, bytes(16) + direction, iv=16, params=12, data=0))
        assert struct.unpack_from("<I", number.recv(100_000), 20)[0] == 0
        number.send(request("CLONE", 2))
        assert struct.unpack_from("<I", number.recv(100_000), 20)[0] == errno.EOPNOTSUPP
        number.send(request("STREAM_FINISH", 3))
        assert struct.unpack_from("<I", number.recv(100_000), 20)[0] == 0
        number.send(request("CLONE", 4))
        assert struct.unpack_from("<I", number.recv(100_000), 20)[0] == 0


def test_fileno_goes_on_from_a_running_hash() -> None:
    fd = cryptofd.open("sha256")
    fd.update(b"abc")
    other = far(fd)
    other.update(b"def")
    alone = cryptofd.open("sha256")
    alone.update(b"abcdef")
    assert other.digest() == alone.digest()


def run_child(work: Callable[[], None]) -> None:
    """Runs ``work`` in a forked child; fails if it does."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_fork() -> None:
    """A child uses what it inherited; what serves is the parent."""
    fd = gcm()
    fd.fileno()
    remote = far(fd)

    def work() -> None:
        assert fd.encrypt(b"data", iv=IV) == expected(b"data")
        assert remote.encrypt(b"data", iv=IV) == expected(b"data")
        with remote.clone() as own:
            for _ in range(100):
                assert own.encrypt(b"data", iv=IV) == expected(b"data")
        fresh = far(gcm())
        assert fresh.encrypt(b"fresh", iv=IV) == expected(b"fresh")
        fd.close()
        remote.close()

    for _ in range(3):
        run_child(work)
    assert remote.encrypt(b"data", iv=IV) == expected(b"data")
    assert fd.encrypt(b"data", iv=IV) == expected(b"data")


def test_fork_while_threads_work() -> None:
    fd = gcm()
    stop = threading.Event()
    errors: list[BaseException] = []

    def busy(clone: cryptofd.CryptoFD) -> None:
        try:
            while not stop.is_set():
                assert clone.encrypt(b"x" * 5000, iv=IV) == expected(b"x" * 5000)
                assert fd.encrypt(b"y", iv=IV) == expected(b"y")
        except BaseException as error:
            errors.append(error)

    # Answers on one descriptor are whoever's reads first: each thread has its own.
    shared = far(fd)
    threads = [threading.Thread(target=busy, args=(shared.clone(),)) for _ in range(3)]
    for thread in threads:
        thread.start()

    def work() -> None:
        assert far(gcm()).encrypt(b"data", iv=IV) == expected(b"data")

    try:
        for _ in range(10):
            run_child(work)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert errors == []


def test_threads_share_one_descriptor() -> None:
    fd = far(gcm())
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(60):
                data = f"{number} {n}".encode() * (200 if n % 7 == 0 else 1)
                assert fd.encrypt(data, iv=IV) == expected(data)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_many_adopt_one_descriptor_at_once() -> None:
    """A prefork server's workers: each inherits the one descriptor, and clones it first."""
    fd = gcm()
    number = fd.fileno()
    start, stop = os.pipe()
    children = []
    for _ in range(12):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            os.close(stop)
            os.read(start, 1)  # they begin together
            for _ in range(10):
                own = cryptofd.adopt(os.dup(number)).clone()
                assert own.encrypt(b"data", iv=IV) == expected(b"data")
            code = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(code)
    os.close(stop)
    os.close(start)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * len(children)

    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                own = cryptofd.adopt(os.dup(number)).clone()
                assert own.encrypt(b"data", iv=IV) == expected(b"data")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


JAILED = """
import array, os, socket, sys
import cryptofd, cryptofd.description
channel = socket.socket(fileno=int(sys.argv[1]))
os.chroot(sys.argv[2]); os.chdir("/")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert os.listdir("/") == []
try: os.setuid(0)
except PermissionError: pass
else: raise SystemExit("still root")
_, control, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4))
number = array.array("i", control[0][2])[0]
fd = cryptofd.adopt(number)
box = fd.encrypt(b"from the jail", iv=bytes(12))
clone = fd.clone()
assert clone.decrypt(box, iv=bytes(12)) == b"from the jail"
big = bytes(300_000)
assert clone.decrypt(clone.encrypt(big, iv=bytes(12)), iv=bytes(12)) == big
assert fd.info().algorithm == "gcm(aes)"
channel.sendall(box)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot and another uid need root")
def test_handed_to_a_chroot_under_another_uid(engine: str, tmp_path: Path) -> None:
    jail = tmp_path / "jail"
    jail.mkdir(mode=0o755)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = gcm(engine)
    with here, there:
        process = subprocess.Popen(
            [sys.executable, "-c", JAILED, str(there.fileno()), str(jail)],
            pass_fds=[there.fileno()], stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        rights = array.array("i", [fd.fileno()])
        here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert here.recv(100) == expected(b"from the jail")
    assert fd.info().counts.operations >= 4


# What breaks

FULL = """
import errno, os, resource
import cryptofd
fd = cryptofd.open("gcm(aes)", key=bytes(16))
far = cryptofd.adopt(os.dup(fd.fileno()))
other = cryptofd.open("gcm(aes)", key=bytes(16))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True: held.append(os.dup(0))
except OSError as error: assert error.errno == errno.EMFILE
adopt = lambda: cryptofd.adopt(fd.fileno())
for call in (other.fileno, lambda: other.submit("info"), far.clone, adopt):
    try: call()
    except OSError as error: assert error.errno == errno.EMFILE, error
    else: raise SystemExit("no EMFILE")
assert other.decrypt(other.encrypt(b"data", iv=bytes(12)), iv=bytes(12)) == b"data"
assert far.decrypt(far.encrypt(b"data", iv=bytes(12)), iv=bytes(12)) == b"data"
for number in held: os.close(number)
assert far.clone().encrypt(b"", iv=bytes(12)) == other.encrypt(b"", iv=bytes(12))
assert other.fileno() > 2
print("done")
"""


def test_emfile() -> None:
    run = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, timeout=60,
                         env=environment())  # fmt: skip
    assert (run.stdout, run.stderr) == ("done\n", "")


def test_adopting_what_is_no_cryptofd(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    read, write = os.pipe()
    with (
        (tmp_path / "file").open("rb") as file,
        socket.socket() as tcp,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unix,
    ):
        for number in (file.fileno(), read, write, tcp.fileno(), unix.fileno()):
            with pytest.raises(OSError, match=r".") as caught:
                cryptofd.adopt(number)
            assert isinstance(caught.value, cryptofd.CryptoFDError)
            os.fstat(number)  # not closed: it is not ours
    os.close(read)
    os.close(write)
    for number in (-1, write, 1 << 30):
        with pytest.raises(OSError, match=r".") as caught:
            cryptofd.adopt(number)
        assert caught.value.errno in {errno.EBADF, errno.EINVAL}


def answer(op: int, number: int, body: bytes = b"", status: int = 0, **fields: int) -> bytes:
    """A packet by interface/record.toml: an answer unless ``kind`` says otherwise."""
    header = bytearray(LAYOUT["header_size"])
    values = {"size": len(header), "version": LAYOUT["version"], "kind": LAYOUT["kind"]["ANSWER"],
              "op": op, "id": number, "status": status, "data": len(body)} | fields  # fmt: skip
    for entry in LAYOUT["field"]:
        value = values.pop(entry["name"], 0)
        header[entry["offset"] : entry["offset"] + entry["bytes"]] = value.to_bytes(
            entry["bytes"], "little"
        )
    assert not values
    return bytes(header) + body


def request(op: str, number: int, body: bytes = b"", **fields: int) -> bytes:
    return answer(LAYOUT["op"][op], number, body, **{"kind": LAYOUT["kind"]["REQUEST"]} | fields)


LIES = [
    b"x",
    bytes(64),
    os.urandom(200),
    answer(1, 0, b"no json"),
    answer(1, 0, b"[]"),
    answer(1, 0, b'{"algorithm": "nonsense", "tag_size": 1, "digest_size": 1}'),
    answer(1, 0, b'{"algorithm": "gcm(aes)", "tag_size": -1, "digest_size": 1e300}'),
    answer(1, 0, b"{}", data=0xFFFFFFFF),
    answer(1, 0, b"{}", attached=1 << 63),
    answer(1, 0, b"{}", version=9),
    answer(1, 0, b"refused", status=13),
    answer(1, 0, bytes(70_000)),
]


@pytest.mark.parametrize("lie", range(len(LIES)))
def test_a_peer_that_sends_garbage_when_it_is_adopted(lie: int) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

        def lying() -> None:
            asked = there.recv(100_000)
            packet = bytearray(LIES[lie])
            if len(packet) >= 64 and packet[3] == LAYOUT["kind"]["ANSWER"]:
                packet[8:16] = asked[8:16]  # its id, so that it looks like the answer
            there.send(packet)

        thread = threading.Thread(target=lying)
        thread.start()
        with pytest.raises(OSError, match=r".") as caught:
            cryptofd.adopt(here.fileno())
        thread.join()
        assert isinstance(caught.value, cryptofd.CryptoFDError)
        os.fstat(here.fileno())


def test_a_peer_that_lies_later() -> None:
    """What is no proper answer is an error, never a result."""
    info = json.dumps({"algorithm": "gcm(aes)", "tag_size": 16, "digest_size": 0}).encode()
    lies = (
        b"x",
        answer(16, 0, b"short", data=9),
        answer(16, 0, b"data", version=7),
        answer(16, 0, bytes(19)),  # no such message has a box of this length
        answer(17, 0, bytes(20)),  # another op's answer
    )
    for lie in lies:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:

            def lying(there: socket.socket = there, lie: bytes = lie) -> None:
                asked = there.recv(100_000)
                there.send(answer(1, struct.unpack_from("<Q", asked, 8)[0], info))
                asked = there.recv(100_000)
                packet = bytearray(lie)
                if len(packet) >= 64:
                    packet[8:16] = asked[8:16]
                there.send(packet)
                there.close()

            thread = threading.Thread(target=lying)
            thread.start()
            fd = cryptofd.adopt(here.detach())
            with pytest.raises(cryptofd.CryptoFDError):
                fd.encrypt(b"data", iv=IV)
            thread.join()


def raw(fd: cryptofd.CryptoFD) -> socket.socket:
    """The descriptor as a program without our library sees it. It shares O_NONBLOCK with ``fd``,
    so the limit on waiting is the socket's own."""
    found = socket.socket(fileno=os.dup(fd.fileno()))
    for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        found.setsockopt(socket.SOL_SOCKET, limit, struct.pack("ll", 60, 0))
    return found


def test_raw_readers(engine: str) -> None:
    """A program that knows nothing but the record: one write, one read."""
    with raw(gcm(engine)) as fd:
        fd.send(request("ENCRYPT", 77, IV + b"data", iv=12, data=4))
        packet = fd.recv(LAYOUT["limits"]["record"])
        fields = {
            entry["name"]: int.from_bytes(
                packet[entry["offset"] : entry["offset"] + entry["bytes"]], "little"
            )
            for entry in LAYOUT["field"]
        }
        assert packet[fields["size"] :] == expected(b"data")
        assert fields["id"] == 77
        assert fields["kind"] == LAYOUT["kind"]["ANSWER"]
        assert fields["op"] == LAYOUT["op"]["ENCRYPT"]
        assert fields["status"] == fields["iv"] == fields["aad"] == fields["params"] == 0
        assert fields["data"] == 20
        fd.send(request("DECRYPT", 78, IV + bytes(20), iv=12, data=20))
        packet = fd.recv(LAYOUT["limits"]["record"])
        assert struct.unpack_from("<I", packet, 20)[0] == errno.EBADMSG
        assert b"tag" in packet[64:]


WRONG: dict[str, tuple[bytes, set[int]]] = {
    "4 GiB of data": (request("ENCRYPT", 5, IV, iv=12, data=0xFFFFFFFF), {errno.EINVAL}),
    "4 GiB of iv": (request("ENCRYPT", 5, IV, iv=0xFFFFFFFF, data=0), {errno.EINVAL}),
    "4 GiB of aad": (request("ENCRYPT", 5, IV, iv=12, data=0, aad=0xFFFFFFFF), {errno.EINVAL}),
    "4 GiB of params": (
        request("ENCRYPT", 5, IV, iv=12, data=0, params=0xFFFFFFFF), {errno.EINVAL}),
    "lengths that wrap": (
        request("ENCRYPT", 5, IV, iv=0xFFFFFFFF, aad=13, data=0), {errno.EINVAL}),
    "attached but nothing": (
        request("ENCRYPT", 5, IV, iv=12, data=0, flags=1, attached=100), {errno.EINVAL}),
    "more than attached": (
        request("ENCRYPT", 5, IV, iv=12, data=0, flags=1, attached=1 << 63),
        {errno.EINVAL, errno.EMSGSIZE}),
    "an unknown op": (answer(999, 5, kind=1), {errno.EINVAL, errno.EOPNOTSUPP}),
    "an unknown flag": (request("INFO", 5, flags=0x8000), {errno.EINVAL}),
    "an unknown version": (request("INFO", 5, version=2), {errno.EPROTONOSUPPORT}),
    "an answer": (answer(1, 5), {errno.EINVAL}),
    "a status": (request("INFO", 5, status=1), {errno.EINVAL}),
    "an epoch": (request("INFO", 5, epoch=7), {errno.EINVAL, errno.ESTALE}),
    "something reserved": (request("INFO", 5, reserved=1), {errno.EINVAL}),
    "a half param": (request("DIGEST", 5, b"abc", data=0, params=3), {errno.EINVAL}),
    "a long param": (
        request("DIGEST", 5, struct.pack("<HHI", 1, 0, 0xFFFFFFFF), data=0, params=8),
        {errno.EINVAL}),
    "an unknown param": (
        request("DIGEST", 5, struct.pack("<HHI", 99, 0, 0), data=0, params=8), {errno.EINVAL}),
    "a ring": (request("RING", 5), {errno.EOPNOTSUPP, errno.EINVAL}),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_records_are_refused(wrong: str) -> None:
    packet, codes = WRONG[wrong]
    with raw(gcm()) as fd:
        fd.send(packet)
        reply = fd.recv(LAYOUT["limits"]["record"])
        assert struct.unpack_from("<Q", reply, 8)[0] == 5
        assert struct.unpack_from("<I", reply, 20)[0] in codes
        assert len(reply) > 64, "a refusal without a sentence"
        fd.send(request("ENCRYPT", 6, IV + b"data", iv=12, data=4))
        assert fd.recv(LAYOUT["limits"]["record"])[64:] == expected(b"data")


def test_garbage_ends_only_its_own_descriptor() -> None:
    generator = random.Random(3)
    session = gcm()
    neighbour = far(session)
    own = neighbour.clone()
    number = neighbour.submit("encrypt", b"neighbour", iv=IV)
    with raw(own) as fd:
        for _ in range(300):
            junk = generator.randbytes(generator.choice([1, 7, 63, 64, 65, 300, 5000]))
            if generator.random() < 0.7 and len(junk) >= 64:
                junk = request("ENCRYPT", 1)[:8] + junk[8:]
            try:
                fd.send(junk)
            except (BrokenPipeError, ConnectionResetError):
                break
            if now(fd.fileno()):
                with contextlib.suppress(ConnectionResetError):
                    fd.recv(LAYOUT["limits"]["record"])
    done = neighbour.complete()
    assert (done.id, done.data) == (number, expected(b"neighbour"))
    assert far(gcm()).encrypt(b"data", iv=IV) == expected(b"data")


def test_half_closed() -> None:
    fd = gcm()
    number = fd.submit("encrypt", b"data", iv=IV)
    with raw(fd) as half:
        half.shutdown(socket.SHUT_WR)
        # What was asked is answered, then it is over.
        done = fd.complete()
        assert (done.id, done.data) == (number, expected(b"data"))
        waits(half.fileno(), select.POLLIN)
        assert half.recv(10) == b""
    with pytest.raises(OSError, match=r".") as caught:
        fd.submit("info")
    assert caught.value.errno == errno.EPIPE
    # In this process the session itself goes on.
    assert fd.encrypt(b"data", iv=IV) == expected(b"data")


SERVER = """
import array, os, socket, sys, time
import cryptofd
channel = socket.socket(fileno=int(sys.argv[1]))
fd = cryptofd.open("gcm(aes)", key=bytes(32))
rights = array.array("i", [fd.fileno()])
channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_serving_process_dies(how: int) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        process = subprocess.Popen([sys.executable, "-c", SERVER, str(there.fileno())],
                                   pass_fds=[there.fileno()], env=environment())  # fmt: skip
        try:
            _, control, _, _ = here.recvmsg(1, socket.CMSG_SPACE(4))
            fd = cryptofd.adopt(array.array("i", control[0][2])[0])
            assert fd.encrypt(b"data", iv=IV) == expected(b"data")
            clone = fd.clone()
            assert now(fd.fileno(), select.POLLIN | select.POLLOUT) == select.POLLOUT
        finally:
            process.send_signal(how)
            process.wait()
        for each in (fd, clone):
            assert waits(each.fileno(), select.POLLIN) & select.POLLHUP
            for _ in range(2):
                with pytest.raises(OSError, match="gone") as caught:
                    each.encrypt(b"data", iv=IV)
                assert caught.value.errno == errno.EPIPE


# Signals


def slow(fd: cryptofd.CryptoFD) -> int:
    """A request that takes a while."""
    return fd.submit("derive", salt=b"salt", length=32, iterations=400_000)


def slow_answer() -> bytes:
    return cryptofd.open("pbkdf2(hmac(sha256))", key=b"key").derive(
        32, salt=b"salt", iterations=400_000
    )


@contextlib.contextmanager
def alarms(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signals_do_not_end_a_wait() -> None:
    """PEP 475: the handler runs, the call goes on."""
    came: list[int] = []
    fd = cryptofd.open("pbkdf2(hmac(sha256))", key=b"key")
    number = slow(fd)
    with alarms(lambda *_: came.append(1)):
        done = fd.complete()
    assert (done.id, done.data) == (number, slow_answer())
    assert came, "no signal came during the wait"
    with alarms(lambda *_: came.append(1)):
        assert far(fd).derive(32, salt=b"salt", iterations=400_000) == slow_answer()


def test_a_handler_that_raises_ends_a_wait() -> None:
    class Enough(Exception):
        pass

    def handler(*_: object) -> None:
        raise Enough

    fd = cryptofd.open("pbkdf2(hmac(sha256))", key=b"key")
    number = slow(fd)
    with pytest.raises(Enough), alarms(handler):
        fd.complete()
    done = fd.complete()
    assert (done.id, done.data) == (number, slow_answer()), "the answer stays for the next call"
    remote = far(fd)
    with pytest.raises(Enough), alarms(handler):
        remote.derive(32, salt=b"salt", iterations=400_000)
    assert remote.derive(16, salt=b"", iterations=1) == fd.derive(16, salt=b"", iterations=1)


# asyncio


def test_aio() -> None:
    async def main() -> None:
        async with aio.open("gcm(aes)", key=bytes(32)) as fd:
            assert await fd.encrypt(b"data", iv=IV) == expected(b"data")
            many = await asyncio.gather(*(fd.encrypt(str(n).encode(), iv=IV) for n in range(2000)))
            assert many == [expected(str(n).encode()) for n in range(2000)]
            with pytest.raises(cryptofd.BadTag):
                await fd.decrypt(bytes(20), iv=IV)
            boxes = await fd.encrypt_many([(b"a", IV), (b"b", IV, b"aad")])
            assert boxes[0] == expected(b"a")
            with pytest.raises(cryptofd.InvalidArgument):
                await fd.encrypt(b"", iv=b"")
            big = bytes(1 << 20)
            assert await fd.encrypt(big, iv=IV) == expected(big)
        assert fd.closed

    asyncio.run(main())


def test_aio_cancelled() -> None:
    async def main() -> None:
        async with aio.open("pbkdf2(hmac(sha256))", key=b"key") as fd:
            # Answers come in order: nobody has one before the first, which takes long.
            rounds = [400_000] + [1000] * 19
            tasks = [
                asyncio.ensure_future(fd.derive(16, salt=bytes([n]), iterations=rounds[n]))
                for n in range(20)
            ]
            await asyncio.sleep(0)
            for task in tasks[1::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            near = cryptofd.open("pbkdf2(hmac(sha256))", key=b"key")
            for n, result in enumerate(results):
                if n % 2:
                    assert isinstance(result, asyncio.CancelledError)
                else:
                    assert result == near.derive(16, salt=bytes([n]), iterations=rounds[n])
            assert await fd.derive(16, salt=b"", iterations=1) == near.derive(
                16, salt=b"", iterations=1
            )

    asyncio.run(main())


def test_aio_closed_while_somebody_waits() -> None:
    async def main() -> None:
        fd = aio.open("pbkdf2(hmac(sha256))", key=b"key")
        task = asyncio.ensure_future(fd.derive(16, salt=b"", iterations=2_000_000))
        await asyncio.sleep(0.05)
        fd.close()
        with pytest.raises(cryptofd.Closed):
            await task

    asyncio.run(main())

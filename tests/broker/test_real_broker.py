"""The broker as users have it: real supervisor, real workers, the Python API and the command."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_broker import DEADLINE, Broker, environment, found, opened, refused
from varlink_client import Client

import cryptofd
from cryptofd.broker.client import Connection


def test_a_key_is_used_and_never_read(b: Connection) -> None:
    made = b.keys.generate("db", "gcm(aes)", bits=256, usage={"encrypt", "decrypt"})
    assert (made.label, made.algorithm, made.bits) == ("db", "gcm(aes)", 256)
    assert not made.exportable
    fd = opened(b, "gcm(aes)", "db")
    box = fd.seal(b"data", aad=b"head")
    assert (box[0], len(box)) == (1, 1 + 12 + 4 + 16)
    assert fd.unseal(box, aad=b"head") == b"data"
    assert fd.seal(b"data", aad=b"head") != box
    refused(errno.EBADMSG, fd.unseal, box, aad=b"other")
    assert "caller-iv" in refused(errno.EPERM, fd.encrypt, b"data", iv=bytes(12))
    refused(errno.EPERM, b.keys.export, "db")
    refused(errno.EEXIST, b.keys.generate, "db", "gcm(aes)")
    refused(errno.ENOKEY, opened, b, "gcm(aes)", "nobodys")


def test_a_key_that_was_brought_along(b: Connection) -> None:
    raw, iv = bytes(range(32)), bytes(12)
    usage = {"encrypt", "decrypt", "caller-iv"}
    b.keys.import_key("old", "gcm(aes)", raw, usage=usage, exportable=True)
    fd = opened(b, "gcm(aes)", "old")
    assert fd.encrypt(b"data", iv=iv) == cryptofd.open("gcm(aes)", key=raw).encrypt(b"data", iv=iv)
    assert b.keys.export("old") == raw
    narrow = opened(b, "gcm(aes)", "old", usage={"decrypt"})
    refused(errno.EPERM, narrow.seal, b"data")


def test_a_key_that_is_handed_over(b: Connection) -> None:
    fd = cryptofd.open("hmac(sha256)", key=b"k" * 32, broker=b)
    fd.update(b"data")
    near = cryptofd.open("hmac(sha256)", key=b"k" * 32)
    near.update(b"data")
    assert fd.digest() == near.digest()
    assert b.keys.list() == []


def test_old_versions_only_decrypt(b: Connection) -> None:
    b.keys.generate("db", "gcm(aes)", usage={"encrypt", "decrypt"})
    box = opened(b, "gcm(aes)", "db").seal(b"data")
    assert b.keys.rotate("db").version == 2
    fd = opened(b, "gcm(aes)", "db")
    assert fd.unseal(box) == b"data"
    assert fd.seal(b"data")[0] == 2
    old = opened(b, "gcm(aes)", "db", version=1)
    assert old.unseal(box) == b"data"
    refused(errno.EPERM, old.seal, b"data")


def test_clones_and_programs_that_inherit_them(b: Connection) -> None:
    b.keys.generate("db", "gcm(aes)", usage={"encrypt", "decrypt"})
    fd = opened(b, "gcm(aes)", "db")
    box = fd.seal(b"data")
    clone = fd.clone()
    fd.close()
    assert clone.unseal(box) == b"data"
    program = "import cryptofd, sys; fd = cryptofd.adopt(int(sys.argv[1]))\n"
    program += "print(fd.unseal(bytes.fromhex(sys.argv[2])).decode())"
    number = os.dup(clone.fileno())
    os.set_inheritable(number, True)
    done = subprocess.run(
        [sys.executable, "-c", program, str(number), box.hex()],
        env=environment(),
        pass_fds=[number], capture_output=True, text=True, check=True, timeout=DEADLINE,
    )  # fmt: skip
    os.close(number)
    assert done.stdout == "data\n"


def test_a_forked_child_has_a_connection_of_its_own(b: Connection) -> None:
    b.keys.generate("db", "gcm(aes)", usage={"encrypt", "decrypt"})
    child = os.fork()
    if not child:
        code = 1
        try:
            for _ in range(50):
                assert b.keys.info("db").label == "db"
            code = 0
        finally:
            os._exit(code)
    for _ in range(50):
        assert b.keys.info("db").label == "db"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


IMPORTER = """
import os, sys
from cryptofd.broker.client import Connection
Connection(sys.argv[1]).keys.import_key("deep", "gcm(aes)", sys.stdin.buffer.read(32),
    usage={"encrypt", "decrypt"})
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="reading another process's memory needs root")
def test_no_byte_of_a_key_is_outside_the_worker(real: Broker, b: Connection) -> None:
    # Half of the key is enough to look for, and this process never holds the other half.
    with Path("/dev/urandom").open("rb") as source:
        half = source.read(16)
    reading, writing = os.pipe()
    os.write(writing, half)
    done = subprocess.Popen(
        [sys.executable, "-c", IMPORTER, str(real.socket)], stdin=reading,
        env=environment(),
    )  # fmt: skip
    with Path("/dev/urandom").open("rb") as source:
        os.write(writing, source.read(16))
    os.close(writing)
    os.close(reading)
    assert done.wait(DEADLINE) == 0
    pattern = half
    fd = opened(b, "gcm(aes)", "deep")
    assert fd.unseal(fd.seal(b"data")) == b"data"
    status = b.status()
    assert not found(status["broker"], pattern)
    assert not found(status["supervisor"], pattern)
    assert any(found(worker["pid"], pattern) for worker in status["workers"]), "the scan is blind"
    for file in real.state.rglob("*"):
        if file.is_file() and file.name != "kek":
            assert pattern not in file.read_bytes(), file
    assert pattern not in real.log.read_bytes()


@contextlib.contextmanager
def load(b: Connection) -> Iterator[Callable[[], None]]:
    """Four threads that seal and unseal; what it gives waits until each has gone on."""
    b.keys.generate("db", "gcm(aes)", usage={"encrypt", "decrypt"})
    stop = threading.Event()
    errors: list[BaseException] = []
    counts = [0] * 4

    def work(number: int) -> None:
        try:
            fd = opened(b, "gcm(aes)", "db")
            while not stop.is_set():
                data = os.urandom(number * 1000 + 1)
                assert fd.unseal(fd.seal(data, aad=b"h"), aad=b"h") == data
                counts[number] += 1
        except BaseException as error:
            errors.append(error)

    def gone_on() -> None:
        before = list(counts)
        until = time.monotonic() + DEADLINE
        while any(now < then + 5 for now, then in zip(counts, before, strict=True)):
            assert not errors
            assert time.monotonic() < until, "somebody waits for ever"
            time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield gone_on
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert errors == []


def test_workers_die_under_load(b: Connection) -> None:
    with load(b) as gone_on:
        for _ in range(4):
            gone_on()
            pid = next(w["pid"] for w in b.status()["workers"])
            os.kill(pid, signal.SIGKILL)
        b.replace_worker()


def test_workers_are_replaced_under_load(b: Connection) -> None:
    """Whatever is on its way to a worker that leaves."""
    with load(b) as gone_on:
        for _ in range(20):
            gone_on()
            b.replace_worker()


def test_the_broker_dies_and_sessions_go_on(b: Connection) -> None:
    b.keys.generate("db", "gcm(aes)", usage={"encrypt", "decrypt"})
    fd = opened(b, "gcm(aes)", "db")
    box = fd.seal(b"data")
    before = b.status()["broker"]
    os.kill(before, signal.SIGKILL)
    assert fd.unseal(box) == b"data"
    assert b.keys.info("db").label == "db"
    assert b.status()["broker"] != before
    assert opened(b, "gcm(aes)", "db").unseal(box) == b"data"


def test_the_end_is_orderly(tmp_path: Path) -> None:
    """Told to end, the broker closes its audit: its last line is in the log by its head."""
    broker = Broker(tmp_path)
    broker.connect().keys.generate("db", "gcm(aes)")
    broker.end()
    last = json.loads((tmp_path / "state/audit.log").read_text().splitlines()[-1])
    assert f"audit head {last['n']}:{last['mac']}" in broker.log.read_text()


HEADER = struct.Struct("<HBBHHQIIIIIIQQQ")
INFO = HEADER.pack(64, 1, 1, 1, 0, 5, *(0,) * 9)


@pytest.mark.parametrize("info", [True, False, None])
def test_info_comes_unasked_to_who_wants_it(real: Broker, b: Connection, info: bool | None) -> None:
    b.keys.generate("db", "gcm(aes)", usage={"encrypt", "decrypt"})
    asked: dict[str, Any] = {} if info is None else {"info": info}
    plain: dict[str, Any] = {}
    with Client(real.socket) as client:
        # The same call in a task of its own, and again, as it is remembered.
        for options in (plain | {"options": {}}, plain, plain):
            answer = client.call("Open", key="db", **asked, **options)
            assert (answer.get("info") is True) == (info is True)
            with socket.socket(fileno=client.fds.pop()) as end:
                end.settimeout(DEADLINE)
                end.send(INFO)
                # Whoever did not want it gets the answer to the own question first.
                for expected in (0, 5) if info else (5,):
                    packet = end.recv(1 << 17)
                    _, _, kind, op, _, number, epoch, status, *_ = HEADER.unpack_from(packet)
                    assert (kind, op, number, status) == (2, 1, expected, 0)
                    said = json.loads(packet[64:])
                    assert (said["algorithm"], said["epoch"]) == ("gcm(aes)", epoch)


def test_the_command(real: Broker, b: Connection, tmp_path: Path) -> None:
    def cryptofd_(*arguments: str, code: int = 0) -> str:
        done = real.command(*arguments, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    said = cryptofd_("key", "generate", "web", "-a", "gcm(aes)", "--usage", "encrypt,decrypt")
    assert said == "cryptofd:web: gcm(aes), 256 bits, decrypt, encrypt\n"
    (tmp_path / "raw").write_bytes(bytes(32))
    cryptofd_("key", "import", "old", "-a", "gcm(aes)", "--from", "file:raw", "--exportable")
    cryptofd_("key", "export", "old", "-o", "out")
    assert (tmp_path / "out").read_bytes() == bytes(32)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    assert "not exportable" in cryptofd_("key", "export", "web", "-o", "no", code=1)
    assert not (tmp_path / "no").exists()
    listed = json.loads(cryptofd_("key", "list", "--json"))
    assert {key["label"] for key in listed} == {"web", "old"}
    assert "web" in cryptofd_("key", "list")
    assert json.loads(cryptofd_("key", "show", "web", "--json"))["bits"] == 256
    assert "version 2" in cryptofd_("key", "rotate", "web")
    assert "allowed" in cryptofd_("policy", "check", "-k", "web", "--right", "use")
    assert json.loads(cryptofd_("broker", "status", "--json"))["keys"] >= 2
    assert json.loads(cryptofd_("sessions", "--json")) == []
    cryptofd_("backup", "copy")
    cryptofd_("key", "delete", "old")
    assert "1 keys are restored" in cryptofd_("restore", "copy")
    assert "generate" in cryptofd_("audit")
    program = (
        "import cryptofd; fd = cryptofd.open('gcm(aes)', key='cryptofd:web')\n"
        "assert fd.unseal(fd.seal(b'data')) == b'data'\n"
        "try: cryptofd.open('gcm(aes)', key='cryptofd:old')\n"
        "except OSError as error: print('refused', error.errno)"
    )
    said = cryptofd_("run", "--keys", "web", "--", sys.executable, "-c", program)
    assert said.startswith("refused")


def test_nobody_listens(tmp_path: Path) -> None:
    connection = Connection(str(tmp_path / "nobody"))
    assert "cryptofd broker" in refused(errno.ECONNREFUSED, connection.status)
    for wrong in ("relative", "fd:x", "fd:-1"):
        refused(errno.EINVAL, Connection, wrong)
    for wrong in ("cryptofd", "key", "db"):
        with pytest.raises(TypeError):
            cryptofd.open("gcm(aes)", key=wrong)

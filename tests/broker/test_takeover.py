"""Mixed work goes on while workers, brokers and the supervisor's program are replaced under it."""

from __future__ import annotations

import contextlib
import errno
import hmac
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_broker import DEADLINE, Broker, environment, refused, until
from takeover_client import CIPHER_KEY, MAC_KEY

import cryptofd

CLIENTS = 8


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    keys = broker.connect().keys
    keys.generate("aead", "gcm(aes)")
    keys.import_key("mac", "hmac(sha256)", MAC_KEY)
    keys.import_key("cipher", "cbc(aes)", CIPHER_KEY)
    with contextlib.suppress(cryptofd.Unsupported):
        keys.generate("pair", "ed25519")
    yield broker
    broker.end()


class Load:
    """The clients, and how far each came."""

    def __init__(self, broker: Broker) -> None:
        self.folder = broker.folder
        (self.folder / "progress").write_bytes(bytes(8 * CLIENTS))
        program = str(Path(__file__).with_name("takeover_client.py"))
        self.clients = [
            subprocess.Popen(
                [sys.executable, program, str(broker.socket), str(number), str(self.folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, env=environment(),
            )
            for number in range(CLIENTS)
        ]  # fmt: skip

    def counts(self) -> tuple[int, ...]:
        return struct.unpack(f"{CLIENTS}Q", (self.folder / "progress").read_bytes())

    def all_go_on(self) -> None:
        """Wait until every client did something more."""
        before = self.counts()

        def done() -> bool:
            for client in self.clients:
                assert client.poll() is None, client.communicate()[1]
            return all(now > then for now, then in zip(self.counts(), before, strict=True))

        until(done, "somebody waits for ever")

    def end(self) -> list[dict[str, Any]]:
        said = []
        for client in self.clients:
            assert client.stdin is not None
            client.stdin.close()
            client.stdin = None
        for client in self.clients:
            out, error = client.communicate(timeout=DEADLINE)
            assert client.returncode == 0, error
            said.append(json.loads(out))
        return said

    def kill(self) -> None:
        for client in self.clients:
            client.kill()
            client.wait()


def size(pid: int) -> tuple[int, int]:
    """KiB that are resident, and descriptors."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]), len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def run(broker: Broker, seconds: int) -> None:
    supervisor = broker.process.pid
    load = Load(broker)
    try:
        load.all_go_on()
        before = size(supervisor)
        broker_before = size(broker.status()["broker"])
        for second in range(1, seconds + 1):
            time.sleep(1)  # the pace at which workers are killed; nothing waits for it
            broker.kill_worker()
            load.all_go_on()
            if second % 10 == 5:
                broker.kill_broker()
                load.all_go_on()
                broker_before = size(broker.status()["broker"])
            if second % 10 == 8:
                broker.connect().replace_supervisor()
                load.all_go_on()
        after, broker_after = size(supervisor), size(broker.status()["broker"])
        said = load.end()
    finally:
        load.kill()
    assert [one["wrong"] for one in said] == [[]] * CLIENTS
    assert [one["left"] for one in said] == [[]] * CLIENTS
    ivs = [
        data[at : at + 12]
        for data in ((broker.folder / f"ivs-{number}").read_bytes() for number in range(CLIENTS))
        for at in range(0, len(data), 12)
    ]
    assert len(set(ivs)) == len(ivs)
    # Nothing grows with takeovers.
    for one in said:
        (early, fds), (late, fds_late) = one["early"], one["late"]
        assert late < early + 4096, said
        assert fds_late <= fds + 3, said
    assert after[0] < before[0] + 4096, (before, after)
    assert after[1] <= before[1] + 2 * CLIENTS, "a fresh session has a clone"
    assert broker_after[0] < broker_before[0] + 8192, (broker_before, broker_after)
    assert broker_after[1] <= broker_before[1] + 2 * CLIENTS, (broker_before, broker_after)
    until(lambda: broker.status()["sessions"] == 0, "sessions stay")
    print(sum(sum(one["counts"].values()) for one in said), "done,", len(ivs), "IVs,", said)


def test_eight_kills(real: Broker) -> None:
    run(real, 8)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_minutes(real: Broker) -> None:
    run(real, 600)


def sealed(broker: Broker, count: int, kills: int) -> None:
    """Seal ``count`` messages, a worker dying now and then: no two IVs alike."""
    files = [(broker.folder / f"ivs-of-{byte}").open("wb") for byte in range(256)]
    connection = broker.connect()
    fd = cryptofd.open("gcm(aes)", key="cryptofd:aead", broker=connection)
    asked = done = 0
    while done < count:
        while asked < count and fd.outstanding < 64:
            fd.submit("seal", b"")
            asked += 1
        answer = fd.complete()
        assert answer.error is None
        iv = answer.data[1:13]
        files[iv[0]].write(iv)
        done += 1
        if done % (count // (kills + 1)) == 0:
            broker.kill_worker()
    assert fd.outstanding == 0
    for file in files:
        file.close()
        data = Path(file.name).read_bytes()
        ivs = {data[at : at + 12] for at in range(0, len(data), 12)}
        assert 12 * len(ivs) == len(data)
        done -= len(ivs)
    assert done == 0


def test_no_iv_twice(real: Broker) -> None:
    sealed(real, 20_000, 4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_iv_twice_in_ten_million(real: Broker) -> None:
    sealed(real, 10_000_000, 40)


def test_a_supervisor_that_is_killed_leaves_nobody(real: Broker) -> None:
    """Without a service manager that keeps descriptors: sessions end, nothing hangs, and the next
    one starts in its place."""
    connection = real.connect()
    fd = cryptofd.open("gcm(aes)", key="cryptofd:aead", broker=connection)
    box = fd.seal(b"data")
    status = real.status()
    pids = [status["broker"], *(one["pid"] for one in status["workers"])]
    pidfds = [os.pidfd_open(pid) for pid in pids]
    real.process.kill()
    real.process.wait()
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], DEADLINE)[0], "somebody lives on"
        os.close(pidfd)
    refused(errno.EPIPE, fd.seal, b"data")
    refused(errno.EPIPE, fd.unseal, box)
    real.start()
    again = cryptofd.open("gcm(aes)", key="cryptofd:aead", broker=connection)
    assert again.unseal(box) == b"data"


def test_a_worker_that_hangs_is_replaced(real: Broker) -> None:
    fd = cryptofd.open("gcm(aes)", key="cryptofd:aead", broker=real.connect())
    box = fd.seal(b"data")
    before = real.status()["workers"][0]["pid"]
    os.kill(before, signal.SIGSTOP)

    def stopped() -> bool:
        tasks = Path(f"/proc/{before}/task").iterdir()
        return all((one / "stat").read_text().rpartition(")")[2].split()[0] == "T" for one in tasks)

    until(stopped, "it runs on")
    assert fd.unseal(box) == b"data"
    assert real.status()["workers"][0]["pid"] != before


def test_a_stopped_broker_stops_no_session(real: Broker) -> None:
    fd = cryptofd.open("gcm(aes)", key="cryptofd:aead", broker=real.connect())
    status = real.status()
    broker, worker = status["broker"], status["workers"][0]["pid"]
    os.kill(broker, signal.SIGSTOP)
    try:
        box = fd.seal(b"data")
        os.kill(worker, signal.SIGKILL)
        assert fd.unseal(box) == b"data"
    finally:
        os.kill(broker, signal.SIGCONT)
    assert real.connect().keys.info("aead").label == "aead"


def test_a_running_mac_that_was_not_begun_is_not_lost(real: Broker) -> None:
    """ESTALE is for what was lost: a session on which nothing ran begins as ever."""
    fd = cryptofd.open("hmac(sha256)", key="cryptofd:mac", broker=real.connect())
    clone = fd.clone()
    right = hmac.digest(MAC_KEY, b"data", "sha256")
    real.kill_worker()
    fd.update(b"data")
    assert fd.digest() == right
    real.kill_worker()
    with pytest.raises(cryptofd.StaleStream):
        fd.update(b"more")
    with pytest.raises(cryptofd.StaleStream):
        fd.digest()
    fd.reset()
    clone.update(b"data")
    assert clone.digest() == right
    real.kill_worker()
    fd.update(b"data")
    assert fd.digest() == right

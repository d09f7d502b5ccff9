"""Sessions move to another engine and are counted, from the command line to the worker."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_broker import Broker, opened, refused

import cryptofd


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("moving"))
    broker.connect().keys.generate("db", "cbc(aes)", bits=256, usage={"encrypt", "decrypt"})
    yield broker
    broker.end()


def _listed(real: Broker, session: int) -> dict[str, object]:
    done = real.command("sessions", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return next(one for one in found if one["id"] == session)


def test_a_session_moves_and_its_stream_is_finished(real: Broker) -> None:
    connection = real.connect()
    engines = [one.name for one in cryptofd.engines() if one.available]
    iv, data = bytes(16), bytes(64)
    with opened(connection, "cbc(aes)", "db") as session:
        number = max(one.id for one in connection.sessions())
        here = session.info().engine
        there = next(
            (name for name in ("openssl", "software") if name in engines and name != here), ""
        )
        if not there:
            pytest.skip("this host has one engine only")
        right = session.encrypt(data, iv=iv)
        stream = session.stream("encrypt", iv=iv)
        parts = stream.update(data[:32])
        done = real.command("sessions", "move", str(number), there)
        assert done.returncode == 0, done.stderr
        parts += stream.update(data[32:])
        stream.finish()
        assert parts == right
        assert session.info().engine == there
        assert session.encrypt(data, iv=iv) == right
        real.kill_worker()
        assert session.encrypt(data, iv=iv) == right
        assert session.info().engine == there
        done = real.command("sessions", "move", str(number), "dream")
        assert done.returncode != 0
        assert "no engine" in done.stderr
        assert session.info().engine == there
        refused(22, connection.move_session, number + 1000, there)


def test_what_was_done_is_told_everywhere(real: Broker) -> None:
    connection = real.connect()
    with opened(connection, "cbc(aes)", "db") as session:
        number = max(one.id for one in connection.sessions())
        for _ in range(7):
            session.encrypt(bytes(160), iv=bytes(16))
        real.kill_worker()
        session.encrypt(bytes(160), iv=bytes(16))
        one = _listed(real, number)
        assert (one["operations"], one["refused"]) == (8, 0)
        assert one["bytes"] == 8 * 160
        (worker,) = connection.status()["workers"]
        assert worker["operations"] >= 8
        top = real.command("top", "--once")
        assert top.returncode == 0, top.stderr
        assert any(
            line.split()[0] == str(number) and " 8 " in line for line in top.stdout.splitlines()[2:]
        )
    text = _metrics(real.state / "metrics")
    line = next(one for one in text.splitlines() if one.startswith("cryptofd_operations_total{"))
    assert float(line.split()[-1]) >= 8


def _metrics(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        sock.sendall(b"\n")
        text = b""
        while more := sock.recv(65536):
            text += more
    return text.decode()

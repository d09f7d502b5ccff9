"""What comes and goes: workers, the broker itself, policies, the audit's disk. Nothing is lost."""

from __future__ import annotations

import base64
import errno
import json
import os
import pathlib
import resource
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fake_supervisor import Supervisor
from varlink_client import Client, code, me

from cryptofd.broker import audit, kek


def ops(supervisor: Supervisor, name: str) -> list[dict[str, Any]]:
    return [asked for op, asked in supervisor.seen if op == name]


# Workers


def test_a_worker_that_dies_over_a_call_is_asked_again(
    supervisor: Supervisor, broker: Client
) -> None:
    """Three times, with one token: the key is made once."""
    supervisor.die_on["generate"] = 3
    broker.generate("a")
    asked = ops(supervisor, "generate")
    assert len(asked) == 4
    assert len({one["token"] for one in asked}) == 1
    assert [key["label"] for key in broker.call("ListKeys")["keys"]] == ["a"]


def test_one_that_dies_every_time_is_given_up(supervisor: Supervisor, broker: Client) -> None:
    supervisor.die_on["generate"] = 100
    assert code(lambda: broker.generate("a")) == errno.ENODEV
    supervisor.die_on.clear()
    broker.generate("a")


def test_what_it_read_from_a_pipe_is_not_asked_again(
    supervisor: Supervisor, broker: Client
) -> None:
    """The bytes are gone with the worker: the client, who has them, is told to come again."""
    supervisor.die_on["import"] = 1
    assert code(lambda: broker.import_key("a", "gcm(aes)", bytes(32))) == errno.EAGAIN
    assert len(ops(supervisor, "import")) == 1
    broker.import_key("a", "gcm(aes)", bytes(32))


def test_calls_go_on_over_takeovers(supervisor: Supervisor, connect: Callable[[], Client]) -> None:
    """Eight clients at once while the worker is replaced again and again."""
    connect().generate("first")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with Client(supervisor.path) as client:
                for count in range(12):
                    client.generate(f"k{number}-{count}")
                    client.call("ChangeKey", key=f"k{number}-{count}", label=f"n{number}-{count}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        # After some work, so that no call meets more deaths than it is repeated.
        seen = len(supervisor.seen)
        while any(thread.is_alive() for thread in threads) and len(supervisor.seen) < seen + 10:
            threads[0].join(0.001)
        supervisor.take_over(me())
    assert failures == []
    client = connect()
    labels = {client.call("KeyInfo", key=f"n{n}-{c}")["key"]["label"] for n in range(8)
              for c in range(12)}  # fmt: skip
    assert len(labels) == 96
    assert client.call("Status")["keys"] == 97


LIES: list[tuple[str, str, Any]] = [
    ("generate", "exportable", True),
    ("generate", "owner", "uid:12345"),
    ("generate", "id", "0" * 32),
    ("generate", "usage", ["decrypt", "encrypt", "raw"]),
    ("generate", "trusted", True),
    ("generate", "bits", 128),
    ("generate", "bits", "256"),
    ("generate", "fingerprint", 5),
    ("generate", "extra", 1),
]


@pytest.mark.parametrize(("op", "name", "value"), LIES)
def test_a_worker_is_not_believed(
    supervisor: Supervisor, broker: Client, op: str, name: str, value: Any
) -> None:
    def lie(which: str, answer: dict[str, Any]) -> dict[str, Any]:
        if which == op:
            return {**answer, "attributes": {**answer["attributes"], name: value}}
        return answer

    supervisor.lie = lie
    assert code(lambda: broker.generate("a", bits=256)) == errno.EIO
    assert broker.call("ListKeys")["keys"] == []
    supervisor.lie = lambda _, answer: answer
    broker.generate("a")


@pytest.mark.parametrize("answer", [{}, {"attributes": 3}, {"attributes": {}, "blob": "*"}])
def test_nor_are_half_answers(
    supervisor: Supervisor, broker: Client, answer: dict[str, Any]
) -> None:
    supervisor.lie = lambda _, __: answer
    assert code(lambda: broker.generate("a")) == errno.EIO


@pytest.mark.parametrize("garbage", [b"", b"x", b"[]", b'{"id":1}', b"\xff" * 5000, b"[" * 9000])
def test_a_worker_that_talks_garbage_hurts_its_domain_only(
    supervisor: Supervisor, broker: Client, garbage: bytes
) -> None:
    broker.generate("a")
    end = supervisor.workers[me()].end
    supervisor.do(lambda: end.send(garbage) and None)
    assert broker.call("Status")["keys"] == 1
    supervisor.take_over(me())
    broker.generate("b")


def test_leases(supervisor: Supervisor, broker: Client) -> None:
    """A worker gets uses of keys that it has sessions on, as many as are left, and of no other."""
    uses = broker.generate("a", uses=100)["id"]
    other = broker.generate("b", uses=100)["id"]
    fd = broker.open(key="a")

    def answer(number: int, key: str, count: Any) -> dict[str, Any]:
        supervisor.ask_broker(me(), {"op": "lease", "id": number, "key": key, "uses": count})
        while not (found := [a for a in ops(supervisor, "answer") if a["id"] == number]):
            broker.call("Status")
        return found[0]

    assert answer(1, uses, 64) == {"id": 1, "ok": {"uses": 64}}
    assert answer(2, uses, 64) == {"id": 2, "ok": {"uses": 30}}
    assert answer(3, uses, 30) == {"id": 3, "ok": {"uses": 0}}
    assert answer(4, other, 30)["errno"] == errno.EPERM
    assert answer(5, uses, -1)["errno"] == errno.EIO
    assert broker.call("KeyInfo", key="b")["key"]["uses_left"] == 100
    os.close(fd)


def test_what_a_worker_refuses_is_in_the_audit(supervisor: Supervisor, broker: Client) -> None:
    broker.generate("a")
    supervisor.ask_broker(
        me(), {"event": "refused", "sid": 7, "op": "encrypt", "errno": 1, "error": "x" * 9}
    )
    supervisor.ask_broker(me(), {"op": "other", "id": 9})
    while not ops(supervisor, "answer"):
        broker.call("Status")
    assert ops(supervisor, "answer")[0]["errno"] == errno.EOPNOTSUPP
    last = json.loads(broker.call("Audit", most=1000)["entries"][-1])
    assert (last["event"], last["sid"], last["op"]) == ("refused-by-worker", 7, "encrypt")


def test_a_refusal_of_the_supervisors_is_the_answer(supervisor: Supervisor, broker: Client) -> None:
    broker.generate("a")
    supervisor.refused["session"] = errno.ENODEV
    assert code(lambda: broker.open(key="a")) == errno.ENODEV
    assert broker.call("Sessions")["sessions"] == []


# The broker


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_brokers_death_loses_nothing_but_connections(
    supervisor: Supervisor, connect: Callable[[], Client], number: int
) -> None:
    first = connect()
    made = first.generate("a", token="made once only")
    fd = first.open(key="a")
    supervisor.stop_broker(number)
    # The session lives.
    assert not select.select([fd], [], [], 0)[0]
    supervisor.start()
    second = connect()
    (session,) = second.call("Sessions")["sessions"]
    assert (session["key"], session["algorithm"]) == (f"cryptofd:{os.getuid()}/a", "gcm(aes)")
    # A client that did not hear the answer asks again.
    assert second.generate("a", token="made once only") == made
    assert code(lambda: second.generate("b", token="made once only")) == errno.EINVAL
    os.close(second.open(key="a"))
    # And ends it.
    second.call("CloseSession", session=session["id"])
    assert os.read(fd, 1) == b""
    os.close(fd)
    log, key = supervisor.state / "audit.log", supervisor.state / "audit.key"
    assert audit.verify(log, bytes.fromhex(key.read_text())).good


def test_it_ends_with_its_supervisor(supervisor: Supervisor, broker: Client) -> None:
    broker.call("Status")
    assert supervisor.broker is not None
    supervisor.do(lambda: supervisor._control.close() if supervisor._control else None)
    assert supervisor.broker.wait(30) == 0
    supervisor.broker = None
    supervisor._control = None


def test_sessions_end_by_their_last_descriptor(supervisor: Supervisor, broker: Client) -> None:
    broker.generate("a")
    fds = [broker.open(key="a") for _ in range(5)]
    assert len(broker.call("Sessions")["sessions"]) == 5
    for fd in fds:
        os.close(fd)
    while broker.call("Sessions")["sessions"]:
        pass


def test_the_key_encryption_key_never_passes_through_the_broker(
    supervisor: Supervisor, broker: Client
) -> None:
    """Its file is made, given on and used; no memory of the broker holds its bytes."""
    broker.generate("a")
    assert supervisor.broker is not None
    (said, entry) = supervisor.keks[0]
    assert (said["number"], said["source"]) == (1, "file")
    assert len(entry) == kek.ENTRY
    path = supervisor.state / "kek"
    assert path.read_bytes() == entry
    assert path.stat().st_mode & 0o777 == 0o600
    seen = scan(supervisor.broker.pid, [entry[4:], b"cryptofd.broker"])
    if seen is None:
        pytest.skip("the memory of another process is not to be read here")
    assert seen == [False, True]


def scan(pid: int, wanted: list[bytes]) -> list[bool] | None:
    """Which of these bytes are in the memory of a process."""
    found = [False] * len(wanted)
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except OSError:
        return None
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        start, end = (int(one, 16) for one in span.split("-"))
        if "r" not in rights or line.endswith(("[vvar]", "[vsyscall]")):
            continue
        for at in range(start, end, 1 << 24):
            try:
                data = os.pread(memory, min(end - at, (1 << 24) + 64), at)
            except OSError:
                continue
            found = [was or one in data for was, one in zip(found, wanted, strict=True)]
    os.close(memory)
    return found


def test_an_imported_key_never_passes_through_the_broker(
    supervisor: Supervisor, broker: Client
) -> None:
    raw = os.urandom(32)
    broker.import_key("a", "gcm(aes)", raw, exportable=True, wrappable=True)
    os.close(broker.open(key="a"))
    assert broker.export("a") == raw
    assert supervisor.broker is not None
    seen = scan(supervisor.broker.pid, [raw])
    if seen is None:
        pytest.skip("the memory of another process is not to be read here")
    assert seen == [False]
    for path in (*supervisor.state.iterdir(), supervisor.log):
        if path.is_file():
            data = path.read_bytes()
            for form in (raw, raw.hex().encode(), base64.b64encode(raw)):
                assert form not in data, path


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("keyring:x", "SERIAL"),
        ("file:../kek", "path"),
        ("tpm", "passphrase"),
        ("passphrase:x", "passphrase"),
    ],
)
def test_sources_that_are_none(text: str, word: str) -> None:
    with pytest.raises(OSError, match=word):
        kek.new_source(1, text)


def test_other_sources(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kek.opened(kek.new_source(1, "keyring:77"), tmp_path) is None
    phrase = kek.new_source(2, "passphrase")
    assert {"n", "r", "p", "salt"} <= set(phrase.fields())
    with pytest.raises(OSError, match="passphrase"):
        kek.opened(phrase, tmp_path)
    credential = kek.new_source(3, "credential")
    with pytest.raises(OSError, match="CREDENTIALS_DIRECTORY"):
        kek.opened(credential, tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / kek.CREDENTIAL).write_bytes(bytes(31))
    (tmp_path / kek.CREDENTIAL).chmod(0o400)
    with pytest.raises(OSError, match="32"):
        kek.opened(credential, tmp_path)
    (tmp_path / kek.CREDENTIAL).chmod(0o600)
    (tmp_path / kek.CREDENTIAL).write_bytes(bytes(32))
    fd = kek.opened(credential, tmp_path)
    assert fd is not None
    os.close(fd)
    (tmp_path / kek.CREDENTIAL).chmod(0o644)
    with pytest.raises(OSError, match="chmod 600"):
        kek.opened(credential, tmp_path)


def test_the_key_encryption_key_rotates(
    supervisor: Supervisor, connect: Callable[[], Client]
) -> None:
    """All blobs come under the new one, and what was backed up before still opens."""
    client = connect()
    for number in range(5):
        client.generate(f"k{number}")
    session = client.open(key="k0")
    with (supervisor.state.parent / "backup").open("w+b") as file:
        client.call("Backup", [file.fileno()], fd=0)
        assert client.call("RotateKek") == {"rewrapped": 5}
        # A session's next worker needs the key that its recipe is under.
        assert [said["number"] for said, _ in supervisor.keks] == [1, 2]
        os.close(session)
        while client.call("Sessions")["sessions"]:
            pass
        os.close(client.open(key="k0"))
        recipe = ops(supervisor, "session")[-1]["recipe"]
        assert base64.b64decode(recipe["blob"])[:8] == b"CFK1" + (2).to_bytes(4, "little")
        client.call("DeleteKey", key="k1")
        supervisor.stop_broker(signal.SIGKILL)
        supervisor.start()
        client = connect()
        client.call("Status")
        # The first is forgotten until a backup from its time needs it.
        assert [said["number"] for said, _ in supervisor.keks] == [2]
        file.seek(0)
        client.call("Restore", [file.fileno()], fd=0)
    given = [[one["number"] for one in asked["keks"]] for asked in ops(supervisor, "kek")]
    assert given[-3:] == [[2], [1, 2], [2]]
    os.close(client.open(key="k1"))
    assert (supervisor.state / "kek2").stat().st_mode & 0o777 == 0o600


def test_a_lost_key_encryption_key_is_not_made_anew(
    supervisor: Supervisor, connect: Callable[[], Client]
) -> None:
    connect().generate("a")
    supervisor.stop_broker()
    (supervisor.state / "kek").unlink()
    supervisor.start()
    assert supervisor.broker is not None
    assert supervisor.broker.wait(30) == 1
    supervisor.broker = None
    assert "kek" in supervisor.log.read_text()
    assert not (supervisor.state / "kek").exists()


# Policy, audit, status


def test_a_policy_is_read_again_without_a_restart(supervisor: Supervisor, broker: Client) -> None:
    path = supervisor.state.parent / "policy" / "policy.toml"

    def write(text: str) -> None:
        new = path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o644)
        new.rename(path)

    broker.generate("a")
    write('[[rule]]\nname = "no gcm"\nalgorithms = ["hmac(*)"]\nsessions = 1\n')
    assert code(lambda: broker.open(key="a")) == errno.EPERM
    explained = broker.call("CheckPolicy", algorithm="gcm(aes)")
    assert not explained["allowed"]
    assert {"source": str(path), "rule": "no gcm", "verdict": "refuses",
            "says": "gcm(aes) is not in hmac(*)"} in explained["rules"]  # fmt: skip
    write("[[rule]")
    assert code(lambda: broker.open(key="a")) == errno.EPERM
    assert any("policy.toml" in one for one in broker.call("Status")["problems"])
    write("")
    os.close(broker.open(key="a"))
    assert not any("policy.toml" in one for one in broker.call("Status")["problems"])


def test_what_is_not_logged_is_not_done(supervisor: Supervisor, broker: Client) -> None:
    """The disk of the audit is full: no session, no key, no export; and then again."""
    assert supervisor.broker is not None
    broker.generate("a", exportable=True)
    pid = supervisor.broker.pid
    size = (supervisor.state / "audit.log").stat().st_size
    old = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 20, old[1]))
    assert code(lambda: broker.open(key="a")) in (errno.EFBIG, errno.ENOSPC)
    assert code(lambda: broker.export("a")) in (errno.EFBIG, errno.ENOSPC)
    assert code(lambda: broker.generate("b")) in (errno.EFBIG, errno.ENOSPC, errno.EIO)
    assert broker.fds == []
    assert supervisor.sessions == {}
    resource.prlimit(pid, resource.RLIMIT_FSIZE, old)
    os.close(broker.open(key="a"))
    assert [key["label"] for key in broker.call("ListKeys")["keys"]] == ["a"]
    key = bytes.fromhex((supervisor.state / "audit.key").read_text())
    verdict = audit.verify(supervisor.state / "audit.log", key)
    assert verdict.good
    assert str(verdict.head) == broker.call("Status")["audit"]


def test_the_audit_tells_what_was_done(supervisor: Supervisor, broker: Client) -> None:
    broker.generate("a", exportable=True)
    os.close(broker.open(key="a"))
    broker.export("a")
    broker.call("RotateKey", key="a")
    broker.call("DeleteKey", key="a")
    entries = [json.loads(one) for one in broker.call("Audit")["entries"]]
    assert [one["event"] for one in entries] == [
        "start", "generate", "open", "export", "rotate", "delete",
    ]  # fmt: skip
    for one in entries[1:]:
        assert one["uid"] == os.getuid()
        assert one["pid"] == os.getpid()
        assert one["key"] == f"cryptofd:{os.getuid()}/a"


def test_backup_and_restore(supervisor: Supervisor, broker: Client) -> None:
    for number in range(5):
        broker.generate(f"k{number}")
    with (supervisor.state.parent / "backup").open("w+b") as file:
        broker.call("Backup", [file.fileno()], fd=0)
        broker.call("DeleteKey", key="k1")
        file.seek(0)
        assert broker.call("Restore", [file.fileno()], fd=0) == {"restored": 1}
    os.close(broker.open(key="k1"))
    reading, writing = os.pipe()
    os.write(writing, b"no store")
    os.close(writing)
    assert code(lambda: broker.call("Restore", [reading], fd=0)) == errno.EBADMSG
    os.close(reading)


@pytest.mark.parametrize("asks", [b"GET /metrics HTTP/1.0\r\n\r\n", b""])
def test_metrics(supervisor: Supervisor, broker: Client, asks: bytes) -> None:
    broker.generate("a")
    assert code(lambda: broker.generate("a")) == errno.EEXIST
    path = supervisor.state / "metrics"
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(asks)
        sock.shutdown(socket.SHUT_WR)
        text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    assert text.startswith("HTTP/1.0 200" if asks else "# HELP")
    assert "\ncryptofd_keys 1\n" in text
    assert '\ncryptofd_calls_total{method="generate"} 2\n' in text
    assert '\ncryptofd_refusals_total{method="generate",errno="EEXIST"} 1\n' in text


def test_status_tells_of_workers_that_were_given_up(supervisor: Supervisor, broker: Client) -> None:
    assert broker.call("Status")["kek"] == "memfd_secret"
    supervisor.given_up["uid:7"] = "five workers died within ten seconds"
    problems = broker.call("Status")["problems"]
    assert "the worker of uid:7: five workers died within ten seconds" in problems


def test_status_goes_to_systemd(
    supervisor: Supervisor, connect: Callable[[], Client], tmp_path: pathlib.Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(30)
        supervisor.stop_broker()
        supervisor.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        supervisor.start()
        connect().generate("a")
        while (said := notified.recv(1000)) == b"STATUS=ready" or b"=0 keys" in said:
            pass
        assert said == b"STATUS=1 keys, 0 sessions, 1 workers"

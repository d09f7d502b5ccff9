"""A worker that was taken over, and the broker: nothing that it answers is believed, nobody waits.

The broker is the real one, the worker a fake that lies.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_supervisor import Supervisor, b64
from varlink_client import Client, code, me

from cryptofd.broker import packets

TEMPLATE = {"algorithm": "gcm(aes)", "bits": 256, "usage": ["decrypt", "encrypt"]}


def told_as(op: str, **attributes: Any) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Answers ``op`` with other attributes than what was made."""

    def lie(which: str, answer: dict[str, Any]) -> dict[str, Any]:
        if which != op:
            return answer
        return {**answer, "attributes": {**answer["attributes"], **attributes}}

    return lie


def answered_with(op: str, **fields: Any) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Answers ``op`` with other fields; None: without it."""

    def lie(which: str, answer: dict[str, Any]) -> dict[str, Any]:
        if which != op:
            return answer
        return {name: value for name, value in {**answer, **fields}.items() if value is not None}

    return lie


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


#: What none of the calls below asked for; 1 and 1.0 are what Python takes for True and 1.
CHANGES: list[tuple[str, Any]] = [
    ("id", "0" * 32),
    ("id", None),
    ("owner", "uid:12345"),
    ("label", "other"),
    ("usage", ["decrypt", "derive-bytes", "encrypt", "sign"]),
    ("usage", "encrypt"),
    ("usage", [["encrypt"]]),
    ("exportable", True),
    ("exportable", 0),
    ("trusted", True),
    ("class", "other"),
    ("origin", "direct"),
    ("version", 2),
    ("version", 1.0),
    ("bits", 64),
    ("bits", "256"),
    ("bits", 1 << 80),
    ("bits", True),
    ("expires", float("nan")),
    ("expires", "never"),
    ("uses", -1),
    ("uses", 2.5),
    ("tag_size", "16"),
    ("iv", "mine"),
    ("type", "public"),
    ("type", ["pair"]),
    ("fingerprint", "\ud800" * 32),
    ("fingerprint", ""),
    ("fingerprint", "z" * 32),
    ("algorithm", "no(such)"),
    ("algorithm", {"a": 1}),
    ("wrap_template", {"algorithm": 5}),
    ("derive_template", deep(200)),
    ("more", 1),
]


def making(broker: Client) -> dict[str, Callable[[str], Any]]:
    """Every way to make a key, by the op that the worker is asked."""
    broker.generate("base", "hkdf(sha256)", usage=["derive"], derive_template=TEMPLATE)
    broker.generate("kek", "kwp(aes)", usage=["wrap", "unwrap"], wrap_template=TEMPLATE)
    broker.generate("own", "gcm(aes)", usage=["wrap", "unwrap"], bits=256)
    broker.generate("inner", "gcm(aes)", bits=128, exportable=True, wrappable=True)
    wrapped = broker.call("WrapKey", key="inner", by="own", format="cryptofd")["wrapped"]
    return {
        "generate": lambda label: broker.generate(label, bits=256),
        "import": lambda label: broker.import_key(label, "gcm(aes)", bytes(32)),
        "derive": lambda label: broker.call(
            "DeriveKey", label=label, base="base", how="hkdf(sha256)"
        ),
        "unwrap": lambda label: broker.call(
            "UnwrapKey", label=label, wrapped=wrapped, by="own", format="cryptofd"
        ),
    }


def test_a_key_is_what_was_asked_for_or_none(supervisor: Supervisor, broker: Client) -> None:
    ways = making(broker)
    before = broker.call("Status")["keys"]
    for op, make in ways.items():
        for name, value in CHANGES:
            supervisor.lie = told_as(op, **{name: value})
            assert code(lambda m=make: m("a")) in (errno.EIO, errno.EINVAL, errno.ENOENT), (
                op, name, value,
            )  # fmt: skip
            assert broker.call("Status")["keys"] == before, (op, name, value)
    supervisor.lie = lambda _, answer: answer
    for op, make in ways.items():
        make(f"{op}-works")
    assert len(broker.call("ListKeys")["keys"]) == before + len(ways)


@pytest.mark.parametrize(
    "fields",
    [
        {"attributes": None},
        {"attributes": []},
        {"attributes": deep(300)},
        {"blob": None},
        {"blob": 5},
        {"blob": ""},
        {"blob": "*"},
        {"blob": b64(bytes(65537))},
        {"blob": "A" * 400_000},
        {"public": b64(b"a public key of a secret one")},
    ],
)
def test_answers_are_whole_or_nothing(
    supervisor: Supervisor, broker: Client, fields: dict[str, Any]
) -> None:
    supervisor.lie = answered_with("generate", **fields)
    assert code(lambda: broker.generate("a")) in (errno.EIO, errno.EAGAIN)
    supervisor.lie = lambda _, answer: answer
    assert broker.call("ListKeys")["keys"] == []
    broker.generate("a")


def test_a_pair_has_its_own_public_key(supervisor: Supervisor, broker: Client) -> None:
    other = broker.generate("other", "ed25519")["public"]
    for public in (None, other, b64(b"none at all"), 5, b64(bytes(70000))):
        supervisor.lie = answered_with("generate", public=public)
        assert code(lambda: broker.generate("a", "ed25519")) == errno.EIO
    fingerprint = hashlib.sha256(base64.b64decode(other)).hexdigest()
    supervisor.lie = told_as("generate", fingerprint=fingerprint)
    assert code(lambda: broker.generate("a", "ed25519")) == errno.EIO
    supervisor.lie = lambda _, answer: answer
    broker.generate("a", "ed25519")


def test_a_key_that_is_handed_over_too(supervisor: Supervisor, broker: Client) -> None:
    def hand_over() -> None:
        reading, writing = os.pipe()
        os.write(writing, bytes(32))
        os.close(writing)
        try:
            broker.call("HandOver", [reading], algorithm="gcm(aes)", fd=0)
        finally:
            os.close(reading)
        os.close(broker.take())

    for name, value in CHANGES:
        supervisor.lie = told_as("import", **{name: value})
        assert code(hand_over) == errno.EIO, (name, value)
    for fields in ({"public": deep(300)}, {"blob": 7}):
        supervisor.lie = answered_with("import", **fields)
        assert code(hand_over) == errno.EIO, fields
    assert supervisor.sessions == {}
    supervisor.lie = lambda _, answer: answer
    hand_over()


def answer_as(supervisor: Supervisor, op: str, packet: Callable[[dict[str, Any]], Any]) -> None:
    """``op`` is answered with a packet as a whole: what ``packet`` makes of the honest one."""
    send = supervisor._send

    def lying(sock: socket.socket, fields: dict[str, Any], fds: Any = None) -> None:
        asked = [one for which, one in supervisor.seen[-3:] if which == op]
        if any(one.get("id") == fields.get("id") for one in asked) and "event" not in fields:
            fields = packet(fields)
        send(sock, fields, fds)

    supervisor._send = lying  # type: ignore[method-assign]


def test_a_refusal_is_an_errno_and_a_line(supervisor: Supervisor, broker: Client) -> None:
    """What a worker says goes to logs and terminals."""
    said: dict[str, Any] = {}
    answer_as(supervisor, "generate", lambda honest: {"id": honest["id"], **said})
    for refusal, number in [
        ({"errno": 1, "error": "a\x1b[2J\nb\ud800" + "x" * 5000}, errno.EPERM),
        ({"errno": 4095, "error": "x"}, 4095),
        ({"errno": 0, "error": "x"}, errno.EIO),
        ({"errno": -1, "error": "x"}, errno.EIO),
        ({"errno": True, "error": "x"}, errno.EIO),
        ({"errno": 1, "error": ["x"]}, errno.EIO),
        ({"ok": None}, errno.EIO),
        ({"ok": [], "errno": 5}, errno.EIO),
        # As if it had died: it is asked again, and not for ever.
        ({"errno": errno.ECONNRESET, "error": "x"}, errno.ENODEV),
    ]:
        said.clear()
        said.update(refusal)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            broker.generate("a")
        assert caught.value.errno == number, refusal
        assert caught.value.strerror.isprintable()
        assert len(caught.value.strerror) < 1200


def test_other_ids_are_nobodys_answer(supervisor: Supervisor, broker: Client) -> None:
    broker.generate("a")
    end = supervisor.workers[me()].end
    for number in (0, -1, 1 << 70, 1.0, "1", None, [1], {"a": 1}, True, 999):
        for answer in ({"id": number, "ok": {}}, {"id": number, "errno": 5, "error": "no"}):
            data = json.dumps(answer).encode()
            supervisor.do(lambda d=data: end.send(d) and None)
    # The same answer twice: the second is to nobody.
    send = supervisor._send

    def twice(sock: socket.socket, fields: dict[str, Any], fds: Any = None) -> None:
        if sock is end:
            send(sock, fields)
        send(sock, fields, fds)

    supervisor._send = twice  # type: ignore[method-assign]
    for label in ("b", "c", "d"):
        broker.generate(label)
    keys = broker.call("ListKeys")["keys"]
    assert sorted(key["label"] for key in keys) == ["a", "b", "c", "d"]
    assert len({key["id"] for key in keys}) == 4


def descriptors(supervisor: Supervisor) -> int:
    assert supervisor.broker is not None
    return len(list(pathlib.Path(f"/proc/{supervisor.broker.pid}/fd").iterdir()))


def settled(supervisor: Supervisor, broker: Client, wanted: int) -> None:
    """They are closed, by threads of their own."""
    for _ in range(2000):
        broker.call("Status")
        if descriptors(supervisor) <= wanted:
            return
    raise AssertionError((descriptors(supervisor), wanted))


def test_floods_stop_nobody_and_leave_nothing(supervisor: Supervisor, broker: Client) -> None:
    """Requests, notices and descriptors without end: others are served, and all of it goes."""
    key = broker.generate("a", uses=1000000)["id"]
    fd = broker.open(key="a")
    broker.call("Status")
    before = descriptors(supervisor)
    end = supervisor.workers[me()].end.dup()
    end.setblocking(True)
    lines = [
        {"op": "lease", "id": 1, "key": key, "uses": 1},
        {"op": "lease", "id": 2, "key": key, "uses": "many"},
        {"op": "lease", "id": 3, "key": {"a": 1}, "uses": 1},
        {"op": "lease", "id": deep(400), "key": key, "uses": 1},
        {"op": "lease", "key": key, "uses": 1},
        {"op": deep(400), "id": 4},
        {"event": "refused", "sid": 1, "op": "encrypt", "errno": 1},
        {"event": deep(300)},
        {"op": "generate", "id": 5},
    ]
    datas = [json.dumps(line).encode() for line in lines]
    stop = threading.Event()

    def flood() -> None:
        number = 0
        with contextlib.suppress(OSError):
            while not stop.is_set():
                if number % 7 == 0:
                    reading, writing = os.pipe()
                    socket.send_fds(end, [datas[number % 9]], [reading, writing] * 8)
                    os.close(reading)
                    os.close(writing)
                else:
                    end.send(datas[number % 9])
                number += 1

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(40):
            assert broker.call("KeyInfo", key="a")["key"]["uses_left"] > 0
            os.close(broker.open(algorithm="sha256"))
    finally:
        stop.set()
        supervisor.do(lambda: end.shutdown(socket.SHUT_RDWR))
        thread.join()
        end.close()
    settled(supervisor, broker, before)
    events = broker.call("Audit", most=1000)["entries"]
    assert sum('"refused-by-worker"' in entry for entry in events) <= 60
    os.close(fd)


@pytest.mark.parametrize("sealed", [True, False])
def test_attached_bodies_are_sealed_and_small(
    supervisor: Supervisor, broker: Client, sealed: bool
) -> None:
    broker.generate("a")
    before = descriptors(supervisor)
    size = packets.FROM_WORKER + 1 if sealed else 64
    memfd = os.memfd_create("lie", os.MFD_ALLOW_SEALING)
    os.write(memfd, b'{"event":"x"}'.ljust(size))
    if sealed:
        import fcntl

        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, packets._SEALS)
    end = supervisor.workers[me()].end
    head = b'{"event":"x","body":"attached","bytes":13}'
    supervisor.do(lambda: socket.send_fds(end, [head], [memfd]) and None)
    os.close(memfd)
    # Its channel is closed: the next one is asked.
    supervisor.take_over(me())
    broker.generate("b")
    settled(supervisor, broker, before)


def test_one_that_never_answers_stops_its_own_only(
    supervisor: Supervisor, connect: Callable[[], Client], broker: Client
) -> None:
    answer_as(supervisor, "generate", lambda _: {"event": "silence"})
    waiting = connect()
    waiting.send("GenerateKey", label="a", algorithm="gcm(aes)")
    while not any(op == "generate" for op, _ in supervisor.seen):
        time.sleep(0)
    assert broker.call("ListKeys")["keys"] == []
    os.close(broker.open(algorithm="sha256"))


def test_one_that_does_not_rewrap_keeps_nobody_back(supervisor: Supervisor, broker: Client) -> None:
    """A rotation of the key-encryption key goes on past what a worker will not bring along."""
    for label in ("a", "b"):
        broker.generate(label)
    supervisor.lie = answered_with("rewrap", blob=b64(b"CFK1" + bytes(60)))
    assert code(lambda: broker.call("RotateKek")) == errno.EIO
    supervisor.lie = lambda _, answer: answer
    broker.call("RotateKek")
    os.close(broker.open(key="a"))

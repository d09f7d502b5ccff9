"""Hostile Varlink clients: whatever one sends, the others are served and the broker lives."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import random
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

import pytest
from fake_supervisor import Supervisor
from varlink_client import Client

from cryptofd.broker.transport import MESSAGE, MESSAGE_FDS


def raw(supervisor: Supervisor) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(supervisor.path))
    sock.settimeout(30)
    return sock


def served(client: Client) -> None:
    """The others are served, within a time that nobody would call a hang."""
    before = time.monotonic()
    assert client.call("Status")["broker"] > 0
    assert time.monotonic() - before < 20


def descriptors(supervisor: Supervisor) -> int:
    assert supervisor.broker is not None
    return len(list(pathlib.Path(f"/proc/{supervisor.broker.pid}/fd").iterdir()))


def settled(supervisor: Supervisor, client: Client, wanted: int) -> None:
    """What the hostile connection held is closed again."""
    for _ in range(2000):
        served(client)
        if descriptors(supervisor) <= wanted:
            return
    raise AssertionError((descriptors(supervisor), wanted))


def cut_off(sock: socket.socket) -> bool:
    """Whether the broker ended the connection."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        return True
    return True


def test_a_flood_without_an_end(supervisor: Supervisor, broker: Client) -> None:
    served(broker)
    before = descriptors(supervisor)
    for _ in range(3):
        sock = raw(supervisor)
        with pytest.raises(OSError, match=r"pipe|reset"):  # noqa: PT012
            for _ in range(1000):
                sock.sendall(b"x" * 65536)
                served(broker)
        sock.close()
    settled(supervisor, broker, before)


def test_messages_up_to_the_cap_are_taken_and_not_beyond(supervisor: Supervisor) -> None:
    def message(size: int) -> bytes:
        call = {"method": "org.cryptofd.Broker.Status", "parameters": {}, "more": False, "pad": ""}
        call["pad"] = "x" * (size - len(json.dumps(call)) - 1)
        return json.dumps(call).encode() + b"\0"

    with Client(raw(supervisor)) as client:
        client.sock.sendall(message(MESSAGE))
        assert "parameters" in client.receive()
    sock = raw(supervisor)
    sock.sendall(message(MESSAGE + 1))
    assert cut_off(sock)
    sock.close()


GARBAGE = [
    b"\0",
    b"{}\0",
    b"[]\0",
    b"null\0",
    b'"text"\0',
    b"\xff\xfe\0",
    b"[" * 60000 + b"\0",
    b'{"a":' * 10000 + b"\0",
    b'{"method":' + b"9" * 60000 + b"}\0",
    b'{"method":3}\0',
    b'{"method":"x"}\0',
    b'{"method":"a.b"}\0',
    b'{"method":"org.cryptofd.Broker._call"}\0',
    b'{"method":"org.cryptofd.Broker.__init__"}\0',
    b'{"method":"org.cryptofd.Broker.name"}\0',
    b'{"method":"org.cryptofd.Broker.Open","parameters":[]}\0',
    b'{"method":"org.cryptofd.Broker.Open","parameters":{"key":3}}\0',
    b'{"method":"org.cryptofd.Broker.Open","parameters":{"key":"a","fd":0}}\0',
    b'{"method":"org.cryptofd.Broker.Open","parameters":{"options":{"root":true}}}\0',
    b'{"method":"org.cryptofd.Broker.Open","parameters":{"key":"a","version":1e400}}\0',
    b'{"method":"org.cryptofd.Broker.KeyInfo","parameters":{"key":"\\u0000/../x"}}\0',
    b'{"method":"org.cryptofd.Broker.KeyInfo","parameters":{"key":"\\ud800"}}\0',
    b'{"method":"org.cryptofd.Broker.KeyInfo","parameters":{"key":"99999999999999999999/x"}}\0',
    b'{"method":"org.cryptofd.Broker.ListKeys","parameters":{"after":"\\ud800"}}\0',
    b'{"method":"org.cryptofd.Broker.CloseSession","parameters":{"session":'
    + b"9" * 4000 + b"}}\0",
    b'{"method":"org.cryptofd.Broker.Backup","parameters":{"fd":-1}}\0',
    b'{"method":"org.cryptofd.Broker.Backup","parameters":{"fd":true}}\0',
    b'{"method":"org.cryptofd.Broker.Status","oneway":true,"more":true}\0',
    b'{"method":"org.cryptofd.Broker.Status","upgrade":true}\0',
    b'{"method":"org.cryptofd.Broker.GenerateKey",'
    b'"parameters":{"label":"a","algorithm":"\\ud800"}}\0',
    b'{"method":"org.cryptofd.Broker.Narrow","parameters":{"labels":[1]}}\0',
    b'{"method":"org.cryptofd.Broker.CheckPolicy","parameters":{"uid":-9223372036854775809}}\0',
    b'{"method":"org.cryptofd.Broker.CheckPolicy",'
    b'"parameters":{"groups":["99999999999999999999"]}}\0',
    b'{"method":"org.cryptofd.Broker.Audit","parameters":{"after":-1}}\0',
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_hurts_nobody(supervisor_of_module: Supervisor, garbage: bytes) -> None:
    """It is answered with an error, or the connection ends; the next one is served."""
    supervisor = supervisor_of_module
    sock = raw(supervisor)
    sock.sendall(garbage)
    answers = b""
    try:
        sock.sendall(b'{"method":"org.cryptofd.Broker.Status"}\0')
        while answers.count(b"\0") < 2:
            part = sock.recv(65536)
            if not part:
                break
            answers += part
            if b'"broker"' in answers:
                break
    except ConnectionError:
        pass
    sock.close()
    for answer in answers.split(b"\0")[:-1]:
        assert isinstance(json.loads(answer), dict)
    with Client(supervisor.path) as client:
        served(client)
    log = supervisor.log.read_text()
    assert "Traceback" not in log
    assert "unexpectedly" not in log


@pytest.fixture(scope="module")
def supervisor_of_module(shared: Supervisor) -> Supervisor:
    """A broker that all garbage goes to."""
    return shared


def test_random_messages(supervisor: Supervisor, broker: Client) -> None:
    """Calls that are nearly right: fields of every type where others belong."""
    chance = random.Random(4)
    methods = ["Open", "GenerateKey", "ImportKey", "WrapKey", "UnwrapKey", "DeriveKey", "ChangeKey",
               "CheckPolicy", "Narrow", "CloseSession", "RotateKey", "DeleteKey"]  # fmt: skip
    names = ["key", "label", "algorithm", "bits", "usage", "fd", "by", "format", "options", "uses",
             "expires", "token", "wrapped", "how", "base", "version", "labels", "session"]  # fmt: skip  # noqa: E501
    values = [None, 0, -1, 2**63, 1.5, True, "", "a", "gcm(aes)", "x" * 3000, [], ["a"], [[]], {},
              {"algorithm": "gcm(aes)", "bits": None, "usage": []}, "cryptofd:a/b/c", "\x00"]  # fmt: skip  # noqa: E501
    with Client(raw(supervisor)) as client:
        for _ in range(600):
            asked = {name: chance.choice(values) for name in chance.sample(names, 5)}
            client.send(chance.choice(methods), **asked)
            answer = client.receive()
            assert "parameters" in answer or "error" in answer
            assert answer.get("parameters", {}).get("errno") != errno.EIO, (asked, answer)
    served(broker)
    assert "unexpectedly" not in supervisor.log.read_text()


def test_half_messages_hold_nobody_up(supervisor: Supervisor, broker: Client) -> None:
    socks = [raw(supervisor) for _ in range(60)]
    for sock in socks:
        sock.sendall(b'{"method":"org.cryptofd.Bro')
    served(broker)
    for sock in socks:
        for byte in b"ker.Status":
            sock.send(bytes([byte]))
    served(broker)
    for sock in socks:
        sock.sendall(b'"}\0')
        assert b'"broker"' in sock.recv(65536)
        sock.close()


def test_one_that_asks_without_reading(supervisor: Supervisor, broker: Client) -> None:
    """Its answers are bounded: it is not read until it reads."""
    assert supervisor.broker is not None
    status = pathlib.Path(f"/proc/{supervisor.broker.pid}/statm")
    served(broker)
    before = int(status.read_text().split()[1])
    sock = raw(supervisor)
    sock.setblocking(False)
    call = b'{"method":"org.varlink.service.GetInterfaceDescription",' \
           b'"parameters":{"interface":"org.cryptofd.Broker"}}\0'  # fmt: skip
    sent = 0
    for _ in range(300):
        try:
            sent += sock.send(call * 50)
        except BlockingIOError:
            served(broker)
    served(broker)
    grown = (int(status.read_text().split()[1]) - before) * 4096
    assert grown < 8 << 20, grown
    sock.close()
    served(broker)


def test_pipelined_messages_are_answered_in_order(supervisor: Supervisor, broker: Client) -> None:
    """With descriptors among them: each belongs to the message that it came with."""
    with Client(raw(supervisor)) as client:
        for number in range(30):
            if number % 3 == 0:
                reading, writing = os.pipe()
                os.write(writing, bytes([number]) * 32)
                os.close(writing)
                client.send("ImportKey", [reading], label=f"k{number}", algorithm="gcm(aes)", fd=0,
                            exportable=True)  # fmt: skip
                os.close(reading)
            else:
                client.send("KeyInfo", key=f"k{number - number % 3}")
        for number in range(30):
            assert client.receive()["parameters"]["key"]["label"] == f"k{number - number % 3}"
        for number in range(0, 30, 3):
            assert client.export(f"k{number}") == bytes([number]) * 32


def test_a_flood_of_descriptors(supervisor: Supervisor, broker: Client) -> None:
    served(broker)
    before = descriptors(supervisor)
    null = os.open("/dev/null", os.O_RDONLY)
    call = b'{"method":"org.cryptofd.Broker.Status"}\0'
    # As many as a message takes, then one more, then all that the kernel takes; and with half
    # messages, again and again.
    sock = raw(supervisor)
    socket.send_fds(sock, [call], [null] * MESSAGE_FDS)
    assert b'"broker"' in sock.recv(65536)
    sock.close()
    for count in (MESSAGE_FDS + 1, 253):
        sock = raw(supervisor)
        socket.send_fds(sock, [call], [null] * count)
        assert cut_off(sock)
        sock.close()
    sock = raw(supervisor)
    try:
        for _ in range(200):
            socket.send_fds(sock, [b"{"], [null])
    except OSError:
        pass
    assert cut_off(sock)
    sock.close()
    os.close(null)
    settled(supervisor, broker, before)


def lingering() -> tuple[socket.socket, socket.socket]:
    """A TCP socket of which close(2) takes an hour, for its other end does not read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    return sock, peer


@pytest.mark.parametrize("way", ["call", "half", "many", "nested", "unread", "worker", "worker's"])
def test_one_whose_descriptors_take_an_hour_to_close(
    supervisor: Supervisor, broker: Client, way: str
) -> None:
    """The last copy of it is the broker's, and others are served meanwhile."""
    broker.generate("a")
    sock, peer = lingering()
    call = b'{"method":"org.cryptofd.Broker.Status"}\0'
    hostile = raw(supervisor)
    if way == "call":
        socket.send_fds(hostile, [call], [sock.fileno()])
    elif way == "half":
        socket.send_fds(hostile, [b"{"], [sock.fileno()])
    elif way == "many":
        socket.send_fds(hostile, [call], [sock.fileno()] * 253)
    elif way == "nested":
        one, other = socket.socketpair()
        socket.send_fds(one, [b"x"], [sock.fileno()])
        socket.send_fds(hostile, [call], [other.fileno()])
        one.close()
        other.close()
    elif way == "unread":
        # The first is being served, or its answer waits, when the connection ends.
        socket.send_fds(hostile, [call * 50], [sock.fileno()])
    else:
        # From the worker: more than a packet brings, and what is in its channel when that ends.
        end = supervisor.workers[f"uid:{os.getuid()}"].end
        for count in (1, 16, 253):
            fds = [sock.fileno()] * count
            supervisor.do(lambda f=fds: socket.send_fds(end, [b'{"event":"x"}'], f) and None)  # type: ignore[misc]
    sock.close()
    if way in ("half", "unread"):
        served(broker)
    hostile.close()
    if way == "worker's":
        supervisor.take_over(f"uid:{os.getuid()}")
    for _ in range(3):
        served(broker)
    peer.close()


def test_too_many_connections_of_one_uid(
    supervisor: Supervisor, connect: Callable[[], Client]
) -> None:
    """The limit is one uid's: it is turned away, and served again when it lets go."""
    clients = [connect() for _ in range(128)]
    served(clients[0])
    served(clients[127])
    late = raw(supervisor)
    assert cut_off(late)
    clients[0].close()
    # The broker sees the end before it sees the next connection.
    for _ in range(100):
        sock = raw(supervisor)
        try:
            sock.sendall(b'{"method":"org.cryptofd.Broker.Status"}\0')
            if sock.recv(65536):
                sock.close()
                return
        except ConnectionError:
            pass
        sock.close()
    raise AssertionError("no connection was taken again")


EMFILE = """
    import asyncio, os, pathlib, resource, socket, sys
    sys.path.insert(0, sys.argv[1])
    from asyncvarlink import VarlinkInterfaceRegistry
    from asyncvarlink.serviceinterface import VarlinkServiceInterface
    from cryptofd.broker import transport

    def registry(peer):
        made = VarlinkInterfaceRegistry()
        made.register_interface(VarlinkServiceInterface("v", "p", "1", "u", made))
        return made

    async def main():
        listening = socket.socket(fileno=int(sys.argv[2]))
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
        listener = transport.Listener([listening], registry)
        print("ready", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


def test_no_descriptors_left(tmp_path: pathlib.Path) -> None:
    """EMFILE in accept: those who are in are served, the others when there is room."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    listening.listen(128)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(EMFILE), str(pathlib.Path(__file__).parent),
         str(listening.fileno())],
        pass_fds=(listening.fileno(),), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        clients = [Client(tmp_path / "s") for _ in range(40)]
        assert clients[0].call("org.varlink.service.GetInfo")
        waiting = clients.pop()
        waiting.send("org.varlink.service.GetInfo")
        assert clients[0].call("org.varlink.service.GetInfo")
        for client in clients:
            client.close()
        assert "parameters" in waiting.receive()
        waiting.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        listening.close()


def test_clients_that_go_in_the_middle(supervisor: Supervisor, broker: Client) -> None:
    broker.generate("a")
    served(broker)
    before = descriptors(supervisor)
    for _ in range(100):
        sock = raw(supervisor)
        sock.sendall(b'{"method":"org.cryptofd.Broker.Open","parameters":{"key":"a"}}\0')
        sock.close()
    settled(supervisor, broker, before)
    for _ in range(2000):
        if not broker.call("Sessions")["sessions"]:
            break
    else:
        raise AssertionError("sessions of clients that went stay open")
    assert "unexpectedly" not in supervisor.log.read_text()


def test_refusals_do_not_fill_the_audit(supervisor: Supervisor, broker: Client) -> None:
    for _ in range(300):
        with pytest.raises(OSError, match="no key"):
            broker.open(key="nothing")
    entries = [json.loads(one) for one in broker.call("Audit", most=1000)["entries"]]
    logged = [one for one in entries if one["event"] == "refused"]
    assert 20 <= len(logged) < 100
    assert {(one["call"], one["errno"], one["key"]) for one in logged} == {
        ("open", "ENOKEY", "nothing")
    }

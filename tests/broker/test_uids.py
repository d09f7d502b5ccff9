"""Several users, groups and namespaces on one broker: each gets what is its own, or was given."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_broker import DEADLINE, Broker, as_user, open_folder, opened, refused, until

import cryptofd
from cryptofd.broker.client import Connection

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming other users needs root")

ALICE, BOB, WEB = 4001, 4002, 5005
POLICY = f"""
[[rule]]
name = "what alice lends to bob"
uid = {BOB}
keys = {{ "{ALICE}/shared*" = ["use"], "{ALICE}/kept-*" = ["use", "manage"] }}

[[rule]]
name = "what the web group may use"
group = {WEB}
keys = {{ "0/web" = ["use"] }}

[[rule]]
name = "a unit that is none"
unit = "web.service"
admin = true
keys = {{ "*/*" = ["use", "manage"] }}
"""


@pytest.fixture(scope="module")
def real() -> Iterator[Broker]:
    with open_folder() as folder:
        (folder / "policy.toml").write_text(POLICY)
        broker = Broker(folder)
        yield broker
        broker.end()


@pytest.fixture
def keys(real: Broker) -> Iterator[Connection]:
    """root's connection; alice has a key, and lends another."""

    def make() -> None:
        b = real.connect()
        for label in ("own", "shared", "kept-1"):
            b.keys.generate(label, "gcm(aes)", exportable=True, wrappable=True)

    as_user(ALICE, make)
    connection = real.connect()
    connection.keys.generate("web", "gcm(aes)")
    yield connection
    for key in {(key.owner, key.label) for key in connection.keys.list(all=True)}:
        connection.keys.delete("/".join(key))


def every_way(b: Connection, name: str) -> list[Callable[[], Any]]:
    """All that can be done to a key, by name."""
    return [
        lambda: b.keys.info(name),
        lambda: b.keys.export(name),
        lambda: b.keys.rotate(name),
        lambda: b.keys.change(name, expires=4102444800),
        lambda: b.keys.change(name, new_label="mine"),
        lambda: b.keys.wrap(name, by=name),
        lambda: b.keys.unwrap("x", bytes(100), by=name),
        lambda: b.keys.derive("x", base=name, how="hkdf(sha256)"),
        lambda: b.keys.trust(name),
        lambda: opened(b, "gcm(aes)", name),
        lambda: b.keys.delete(name),
    ]


def test_a_label_is_its_owners(real: Broker, keys: Connection) -> None:
    def bob() -> None:
        b = real.connect()
        assert {key.label for key in b.keys.list()} == set()
        for name in ("own", f"{ALICE}/own", f"uid:{ALICE}/own", "0/web", "root/web"):
            for way in every_way(b, name):
                refused(errno.ENOKEY, way)
        # His own of this name is another.
        made = b.keys.generate("own", "gcm(aes)")
        assert made.owner == f"uid:{BOB}"
        box = opened(b, "gcm(aes)", "own").seal(b"data")
        refused(errno.ENOKEY, opened, b, "gcm(aes)", f"{ALICE}/own")
        refused(errno.EPERM, b.keys.generate, f"{ALICE}/new", "gcm(aes)")
        refused(errno.EPERM, b.keys.import_key, f"{ALICE}/new", "gcm(aes)", bytes(32))
        assert opened(b, "gcm(aes)", f"{BOB}/own").unseal(box) == b"data"

    as_user(BOB, bob)
    assert keys.keys.info(f"{ALICE}/own").owner == f"uid:{ALICE}"


def test_a_lent_key_is_used_and_nothing_else(real: Broker, keys: Connection) -> None:
    def bob() -> None:
        b = real.connect()
        name = f"{ALICE}/shared"
        fd = opened(b, "gcm(aes)", name)
        assert fd.unseal(fd.seal(b"data")) == b"data"
        assert b.keys.info(name).label == "shared"
        for way in (
            lambda: b.keys.export(name),
            lambda: b.keys.rotate(name),
            lambda: b.keys.delete(name),
            lambda: b.keys.change(name, expires=4102444800),
            lambda: b.keys.wrap(name, by=name),
            lambda: b.keys.trust(name),
        ):
            refused(errno.EPERM, way)
        assert len(b.keys.export(f"{ALICE}/kept-1")) == 32

    as_user(BOB, bob)


def test_who_only_uses_a_key_gets_no_bytes_out_of_it(real: Broker, keys: Connection) -> None:
    """Not of a key that is exportable either: that is for whoever manages it."""
    to = {"algorithm": "gcm(aes)", "bits": 256, "usage": ["decrypt", "encrypt"]}

    def alice() -> None:
        b = real.connect()
        b.keys.generate("shared-base", "hkdf(sha256)", exportable=True, derive_template=to)
        assert b.keys.derive("mine", base="shared-base", exportable=True).exportable

    def bob() -> None:
        b = real.connect()
        base = f"{ALICE}/shared-base"
        refused(errno.EPERM, b.keys.derive, "mine", base=base, exportable=True)
        refused(errno.EPERM, b.keys.derive, f"{ALICE}/new", base=base)
        assert not b.keys.derive("mine", base=base).exportable
        refused(errno.EPERM, b.keys.export, "mine")

    as_user(ALICE, alice)
    as_user(BOB, bob)


def test_groups_are_those_of_the_kernel(real: Broker, keys: Connection) -> None:
    def use() -> None:
        fd = opened(real.connect(), "gcm(aes)", "0/web")
        assert fd.unseal(fd.seal(b"data")) == b"data"

    def refuse() -> None:
        refused(errno.ENOKEY, opened, real.connect(), "gcm(aes)", "0/web")

    as_user(ALICE, use, WEB)
    as_user(ALICE, use, 1, 2, *range(100, 150), WEB)
    as_user(ALICE, refuse)
    as_user(ALICE, refuse, WEB - 1, WEB + 1)


def test_only_administrators(real: Broker, keys: Connection, tmp_path: Path) -> None:
    def alice() -> None:
        b = real.connect()
        reading, writing = os.pipe()
        for way in (
            b.replace_worker,
            b.replace_supervisor,
            b.audit,
            lambda: b.backup(writing),
            lambda: b.restore(reading),
            lambda: b.keys.trust("own"),
            lambda: b.check_policy(uid=0),
            lambda: b.check_policy(unit="web.service"),
        ):
            refused(errno.EPERM, way)
        assert {key.owner for key in b.keys.list(all=True)} == {f"uid:{ALICE}"}
        assert b.check_policy(key="own", right="manage")[0]

    as_user(ALICE, alice)
    entries, _ = keys.audit(most=1000)
    said = [entry.values for entry in entries]
    assert any(one["event"] == "refused" and one["uid"] == ALICE for one in said)


def test_sessions_and_workers_are_apart(real: Broker, keys: Connection) -> None:
    """Each user has a worker; the death of one's is nothing to another's."""
    fd = opened(keys, "gcm(aes)", "web")
    fd.seal(b"data")
    (mine,) = (one.id for one in keys.sessions())

    def alice() -> None:
        b = real.connect()
        own = opened(b, "gcm(aes)", "own")
        box = own.seal(b"data")
        workers = {one["domain"]: one for one in b.status()["workers"]}
        assert {"uid:0", f"uid:{ALICE}"} <= workers.keys()
        assert len({one["pid"] for one in workers.values()}) == len(workers)
        assert [one.uid for one in b.sessions()] == [ALICE]
        refused(errno.EPERM, b.sessions, all=True)
        refused(errno.EINVAL, b.close_session, mine)
        refused(errno.EINVAL, b.move_session, mine, "software")
        assert own.unseal(box) == b"data"

    as_user(ALICE, alice)
    before = {one["domain"]: one["pid"] for one in keys.status()["workers"]}
    real.kill_worker(f"uid:{ALICE}")
    assert fd.seal(b"data")
    assert {one["domain"]: one["pid"] for one in keys.status()["workers"]}["uid:0"] == before[
        "uid:0"
    ]


def test_the_overflow_uid_gets_nothing(real: Broker) -> None:
    def nobody() -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(real.socket))
        sock.settimeout(DEADLINE)
        try:
            sock.sendall(b'{"method":"org.cryptofd.Broker.Status","parameters":{}}\0')
            assert sock.recv(65536) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass

    as_user(65534, nobody)


def test_root_of_another_namespace_is_not_root(real: Broker, keys: Connection) -> None:
    """Whoever calls itself root in a user namespace is whom it is outside."""
    libc = ctypes.CDLL(None, use_errno=True)

    def alice() -> None:
        libc.prctl(
            4, 1, 0, 0, 0
        )  # PR_SET_DUMPABLE, which setresuid() took: /proc/self is ours again
        if libc.unshare(0x10000000) != 0:  # CLONE_NEWUSER
            return
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {ALICE} 1")
        assert os.geteuid() == 0
        b = real.connect()
        # The broker is nobody whom this namespace knows: the client does not trust it.
        refused(errno.EPERM, b.status)
        # To the broker it is alice, whatever it says to itself.
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(real.socket))
        for method, error in (("Audit", b"Refused"), ("ReplaceWorker", b"Refused")):
            sock.sendall(b'{"method":"org.cryptofd.Broker.%s","parameters":{}}\0' % method.encode())
            assert error in sock.recv(65536)

    as_user(ALICE, alice)


def test_an_inherited_connection_gets_what_it_was_narrowed_to(
    real: Broker, keys: Connection
) -> None:
    """root's connection, in the hands of somebody else: the one key, to use it."""
    keys.keys.generate("private", "gcm(aes)", exportable=True)
    narrow = real.connect()
    narrow.narrow(["web"])
    number = narrow.detach()

    def alice() -> None:
        b = Connection(f"fd:{number}")
        fd = opened(b, "gcm(aes)", "web")
        assert fd.unseal(fd.seal(b"data")) == b"data"
        assert {key.label for key in b.keys.list(all=True)} == {"web"}
        for name in ("private", "0/private", f"{ALICE}/own", f"{BOB}/own"):
            refused(errno.ENOKEY, opened, b, "gcm(aes)", name)
            refused(errno.ENOKEY, b.keys.export, name)
        for way in (
            lambda: b.keys.generate("new", "gcm(aes)"),
            lambda: b.keys.import_key("new", "gcm(aes)", bytes(32)),
            lambda: b.keys.rotate("web"),
            lambda: b.keys.delete("web"),
            lambda: b.keys.export("web"),
            lambda: b.keys.trust("web"),
            lambda: b.keys.change("web", new_label="x"),
            b.sessions,
            b.audit,
            b.replace_worker,
            b.replace_supervisor,
            lambda: b.backup(1),
            lambda: cryptofd.open("gcm(aes)", key=bytes(32), broker=b),
        ):
            refused(errno.EPERM, way)
        # Not even to the others, by asking again.
        b.narrow(["web", "private"])
        refused(errno.ENOKEY, opened, b, "gcm(aes)", "private")

    as_user(ALICE, alice)
    os.close(number)


def test_run_gives_a_program_its_keys(real: Broker, keys: Connection) -> None:
    program = (
        "import cryptofd, cryptofd.broker.client, os\n"
        "os.setgroups([]); os.setresgid(4001, 4001, 4001); os.setresuid(4001, 4001, 4001)\n"
        "fd = cryptofd.open('gcm(aes)', key='cryptofd:web')\n"
        "print(fd.unseal(fd.seal(b'data')).decode())\n"
        "try: cryptofd.connect().keys.generate('x', 'gcm(aes)')\n"
        "except OSError as error: print(error.errno)\n"
    )
    done = real.command("run", "--keys", "web", "--", sys.executable, "-c", program)
    assert done.stdout.split() == ["data", str(errno.EPERM)], done.stderr


def test_a_squatter_learns_nothing(tmp_path: Path) -> None:
    """Who listens in the broker's place, and is neither root nor the service's user."""
    with open_folder() as folder:
        os.chown(folder, BOB, BOB)
        path = folder / "broker"
        heard: list[bytes] = []

        def listen() -> None:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(path))
            listening.listen(8)
            listening.settimeout(DEADLINE)
            for _ in range(2):
                connection, _ = listening.accept()
                connection.settimeout(DEADLINE)
                assert connection.recv(65536) == b""

        squatter = threading.Thread(target=lambda: as_user(BOB, listen))
        squatter.start()
        until(path.exists, "nobody squats")
        for ask in (
            lambda: Connection(str(path)).status(),
            lambda: Connection(str(path)).keys.import_key("k", "gcm(aes)", b"secret" * 5 + b"xx"),
        ):
            assert str(BOB) in refused(errno.EPERM, ask)
        squatter.join(DEADLINE)
        assert not squatter.is_alive()
        assert heard == []


def test_workers_become_their_own_user() -> None:
    with open_folder() as folder:
        (folder / "policy.toml").write_text("")
        broker = Broker(folder)
        broker.end()
        broker.start("--worker-uid", "4300", "--worker-gid", "4300")
        b = broker.connect()
        b.keys.generate("k", "gcm(aes)")
        fd = opened(b, "gcm(aes)", "k")
        assert fd.unseal(fd.seal(b"data")) == b"data"
        pid = b.status()["workers"][0]["pid"]
        said = Path(f"/proc/{pid}/status").read_text().splitlines()
        of = {line.split(":")[0]: line.split()[1:] for line in said}
        assert of["Uid"] == ["4300"] * 4
        assert of["Gid"] == ["4300"] * 4
        assert of["Groups"] == []
        assert {of[f"Cap{which}"][0] for which in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
        assert (of["NoNewPrivs"], of["Seccomp"]) == (["1"], ["2"])

        def spy() -> None:
            with pytest.raises(PermissionError):
                Path(f"/proc/{pid}/mem").read_bytes()

        as_user(4300, spy)
        broker.end()

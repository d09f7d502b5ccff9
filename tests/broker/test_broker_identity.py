"""Who asks: uids, groups, units, and those who get nothing. What needs several uids needs root."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import pathlib
import shutil
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_supervisor import Supervisor
from varlink_client import Client, code

from cryptofd.broker.who import Nobody, Peer, identify, overflow_uid, unit_in

root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be several uids")


def as_user(uid: int, groups: list[int], job: Callable[[], Any]) -> Any:
    """What ``job`` returns in a process of ``uid``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            answer = {"ok": job()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = json.loads(file.read())
    os.waitpid(child, 0)
    assert "error" not in answer, answer["error"]
    return answer["ok"]


@pytest.fixture
def public() -> Iterator[Supervisor]:
    """A broker whose socket everybody reaches, as in /run."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cryptofd-test-"))
    folder.chmod(0o755)
    (folder / "state").mkdir(mode=0o700)
    (folder / "policy").mkdir(mode=0o755)
    one = Supervisor(
        folder / "state",
        folder / "broker",
        CRYPTOFD_POLICY=str(folder / "policy" / "policy.toml"),
    )
    (folder / "broker").chmod(0o666)
    one.start()
    yield one
    one.close()
    shutil.rmtree(folder)


def policy(supervisor: Supervisor, text: str) -> None:
    path = supervisor.state.parent / "policy" / "policy.toml"
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)


@root
def test_keys_are_their_owners(public: Supervisor) -> None:
    def alice() -> Any:
        with Client(public.path) as client:
            return client.generate("db", exportable=True)["owner"]

    assert as_user(1000, [], alice) == "uid:1000"

    def bob() -> Any:
        with Client(public.path) as client:
            return [
                code(lambda: client.call("KeyInfo", key="db")),
                code(lambda: client.call("KeyInfo", key="1000/db")),
                code(lambda: client.open(key="1000/db")),
                code(lambda: client.call("DeleteKey", key="1000/db")),
                code(lambda: client.call("ExportKey", key="1000/db")),
                code(lambda: client.generate("1000/mine")),
                code(lambda: client.call("TrustKey", key="1000/db")),
                code(lambda: client.call("Audit")),
                code(lambda: client.call("Sessions", all=True)),
                code(lambda: client.call("ReplaceWorker")),
                code(lambda: client.call("CheckPolicy", uid=1000)),
                len(client.call("ListKeys", all=True)["keys"]),
                # The same label is free for another owner.
                code(lambda: client.generate("db")),
            ]

    assert as_user(1001, [], bob) == [
        errno.ENOKEY, errno.ENOKEY, errno.ENOKEY, errno.ENOKEY, errno.ENOKEY, errno.EPERM,
        errno.ENOKEY, errno.EPERM, errno.EPERM, errno.EPERM, errno.EPERM, 0, None,
    ]  # fmt: skip
    with Client(public.path) as client:
        assert len(client.call("ListKeys", all=True)["keys"]) == 2
        assert client.call("KeyInfo", key="1000/db")["key"]["owner"] == "uid:1000"


@root
def test_a_shared_key_may_be_used_and_nothing_else(public: Supervisor) -> None:
    with Client(public.path) as client:
        client.generate("tls", exportable=True)
    policy(public, '[[rule]]\ngroup = 4242\nkeys = { "root/tls" = ["use"] }\n')

    def use() -> Any:
        with Client(public.path) as client:
            return [
                code(lambda: os.close(client.open(key="root/tls"))),
                code(lambda: client.call("ExportKey", key="root/tls")),
                code(lambda: client.call("DeleteKey", key="0/tls")),
                code(lambda: client.call("RotateKey", key="0/tls")),
            ]

    assert as_user(1000, [4242], use) == [None, errno.EPERM, errno.EPERM, errno.EPERM]
    assert as_user(1000, [], use) == [errno.ENOKEY] * 4
    # Its session is served by the caller's worker.
    assert [asked["domain"] for op, asked in public.seen if op == "session"] == ["uid:1000"]


@root
def test_limits_are_each_uids_own(public: Supervisor) -> None:
    policy(public, "[[rule]]\nuid = [1000, 1001]\nsessions = 3\nkeys_max = 2\n")

    def fill() -> Any:
        with Client(public.path) as client:
            found = [code(lambda n=n: client.generate(f"k{n}")) for n in range(3)]  # type: ignore[misc]
            return found + [code(lambda: client.open(key="k0")) for _ in range(4)]

    for uid in (1000, 1001):
        assert as_user(uid, [], fill) == [
            None, None, errno.EDQUOT, None, None, None, errno.EDQUOT,
        ]  # fmt: skip


@root
def test_the_overflow_uid_gets_nothing(public: Supervisor) -> None:
    def ask() -> Any:
        client = Client(public.path)
        try:
            client.call("Status")
        except (EOFError, ConnectionError):
            return "turned away"
        return "served"

    assert as_user(overflow_uid(), [], ask) == "turned away"
    assert as_user(1000, [], ask) == "served"


@root
def test_a_user_whom_our_namespace_does_not_map(tmp_path: pathlib.Path) -> None:
    """Seen from a user namespace in which only root is, everybody else is the overflow uid."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    tmp_path.chmod(0o755)
    (tmp_path / "s").chmod(0o666)
    listening.listen(8)
    _ours, theirs = socket.socketpair()

    # A connection of uid 1000's, made by the descriptor: the path is not theirs to walk.
    def connect() -> Any:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"/proc/self/fd/{folder}/s")
        socket.send_fds(theirs, [b"x"], [sock.fileno()])
        return True

    folder = os.open(tmp_path, os.O_PATH)
    assert as_user(1000, [], connect)
    os.close(folder)
    mine = socket.socket(socket.AF_UNIX)
    mine.connect(str(tmp_path / "s"))
    both = [listening.accept()[0] for _ in range(2)]
    assert sorted(identify(one).uid for one in both) == [0, 1000]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        text = "no namespace"
        if libc.unshare(0x10000000) == 0:
            pathlib.Path("/proc/self/uid_map").write_text("0 0 1")
            text = ""
            for one in both:
                try:
                    text += f"uid {identify(one).uid};"
                except Nobody as error:
                    text += f"{error};"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(child, 0)
    if said == "no namespace":
        pytest.skip("this host gives no user namespaces")
    assert "uid 0;" in said
    assert "is nobody's" in said


@root
def test_an_inherited_connection_reaches_what_it_was_narrowed_to(public: Supervisor) -> None:
    """A connection of root's, in the hands of another uid."""
    with Client(public.path) as client:
        client.generate("web")
        client.generate("secret", exportable=True)
        client.call("Narrow", labels=["web"])

        def use() -> Any:
            return [
                code(lambda: os.close(client.open(key="web"))),
                code(lambda: client.call("KeyInfo", key="web")),
                code(lambda: client.open(key="secret")),
                code(lambda: client.call("KeyInfo", key="secret")),
                code(lambda: client.call("ExportKey", key="secret")),
                code(lambda: client.call("DeleteKey", key="web")),
                code(lambda: client.call("RotateKey", key="web")),
                code(lambda: client.call("TrustKey", key="web")),
                code(lambda: client.generate("new")),
                code(lambda: client.call("Audit")),
                code(lambda: client.call("Sessions")),
                code(lambda: client.call("CloseSession", session=1)),
                code(lambda: client.call("ReplaceWorker")),
                # Narrowing never widens.
                code(lambda: client.call("Narrow", labels=["secret", "web"])),
                code(lambda: client.open(key="secret")),
                [key["label"] for key in client.call("ListKeys")["keys"]],
            ]

        assert as_user(1000, [], use) == [
            None, None, errno.ENOKEY, errno.ENOKEY, errno.ENOKEY, errno.EPERM, errno.EPERM,
            errno.EPERM, errno.EPERM, errno.EPERM, errno.EPERM, errno.EINVAL, errno.EPERM,
            None, errno.ENOKEY, ["web"],
        ]  # fmt: skip


def test_identify_tells_what_the_kernel_tells() -> None:
    one, other = socket.socketpair()
    peer = identify(one)
    assert (peer.uid, peer.gid, peer.pid) == (os.getuid(), os.getgid(), os.getpid())
    assert set(os.getgroups()) | {os.getgid()} == peer.groups
    one.close()
    other.close()


UNITS = [
    ("0::/system.slice/nginx.service\n", "nginx.service"),
    ("0::/system.slice/nginx.service/sub\n", "nginx.service"),
    ("1:name=systemd:/x\n0::/system.slice/system-a.slice/a@1.service\n", "a@1.service"),
    ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service\n", None),
    ("0::/system.slice/theirs.service\n", None),
    ("0::/system.slice/theirs.slice/nginx.service\n", None),
    ("0::/system.slice/../user.slice/nginx.service\n", None),
    ("0::/system.slice/session.scope\n", None),
    ("0::/system.slice/gone.service\n", None),
    ("0::/nginx.service\n", None),
    ("0::/\n", None),
    ("4:cpu:/system.slice/nginx.service\n", None),
    ("", None),
]


@root
@pytest.mark.parametrize(("text", "unit"), UNITS)
def test_units(tmp_path: pathlib.Path, text: str, unit: str | None) -> None:
    for name in (
        "system.slice/nginx.service/sub",
        "system.slice/system-a.slice/a@1.service",
        "system.slice/theirs.service",
        "system.slice/theirs.slice/nginx.service",
        "user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
        "user.slice/nginx.service",
        "system.slice/session.scope",
        "nginx.service",
    ):
        (tmp_path / "cgroup" / name).mkdir(parents=True, exist_ok=True)
    for name in ("theirs.service", "theirs.slice"):
        os.chown(tmp_path / "cgroup" / "system.slice" / name, 1000, 1000)
    (tmp_path / "file").write_text(text)
    assert unit_in(tmp_path / "file", tmp_path / "cgroup") == unit


def test_before_6_5_the_start_time_says_whether_it_is_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptofd.broker import who

    monkeypatch.setattr(who, "_SO_PEERPIDFD", 9999)
    monkeypatch.setattr(who, "unit_in", lambda path: "some.service")
    one, other = socket.socketpair()
    assert identify(one).unit == "some.service"
    times = iter(["1", "2"])
    monkeypatch.setattr(who, "_started", lambda pid: next(times))
    assert identify(one).unit is None
    one.close()
    other.close()


def test_a_peer_that_is_gone_has_no_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptofd.broker import who

    monkeypatch.setattr(who, "unit_in", lambda path: "some.service")
    with tempfile.TemporaryDirectory() as folder:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(f"{folder}/s")
        listening.listen()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                socket.socket(socket.AF_UNIX).connect(f"{folder}/s")
            os._exit(0)
        os.waitpid(child, 0)
        sock, _ = listening.accept()
        peer = identify(sock)
        assert peer == Peer(os.getuid(), os.getgid(), child, peer.groups, None)
        sock.close()
        listening.close()

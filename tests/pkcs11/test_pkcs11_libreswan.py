"""libreswan on the module: its self-tests, and IKEv2 between two hosts whose keys brokers keep."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import program, ran
from two_hosts import Host, wire

pytest.importorskip("asyncvarlink")
from isolation_client import made, pieces
from real_broker import DEADLINE, Broker, environment, until, with_us
from test_isolation import seen

TOKEN = "cryptofd keys"
#: Where libreswan is installed, and where `make` unpacks one that is not: installed it would run.
INSTALLED = Path("/usr/libexec/ipsec")
UNPACKED = Path(__file__).parents[2] / ".lab/libreswan/usr/libexec"
ADDRESSES = {"west": "192.0.2.1", "east": "192.0.2.2"}
#: Algorithms of keys, and how certutil and libreswan call them.
KINDS = {"rsa": ("rsa", "RSASSA-PSS"), "ec": ("ecdsa-nist-p256", "ECDSA")}
CALLS = re.compile(r"\bC_\w+")


def libreswan(name: str) -> Path:
    """One of its programs; without it the test is skipped, visibly."""
    for folder in (INSTALLED, UNPACKED / "ipsec"):
        if (folder / name).exists():
            return folder / name
    pytest.skip("libreswan is not installed")


def traced(file: Path) -> dict[str, str]:
    """The environment in which NSS writes down its calls of our module."""
    return {
        "NSS_DEBUG_PKCS11_MODULE": "cryptofd", "NSPR_LOG_MODULES": "nss_mod_log:4",
        "NSPR_LOG_FILE": str(file),
    }  # fmt: skip


def command(*arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """`cryptofd ...`"""
    return ran(sys.executable, "-m", "cryptofd", *arguments, env=environment(**(env or {})))


def database(folder: Path, profile: str) -> Path:
    folder.mkdir()
    ran("certutil", "-N", "-d", f"sql:{folder}", "--empty-password")
    command("setup", "nss", "--db", folder, "--profile", profile)
    return folder


# Its self-tests

#: What computes in the profile `bulk` when libreswan tests its algorithms.
BULK = {"C_EncryptInit", "C_DecryptInit", "C_Encrypt", "C_Decrypt", "C_DigestInit", "C_DigestKey"}

#: algparse opens no database of anybody's; preloaded, this opens the one that is named.
WITH_DATABASE = """
#include <stdlib.h>
int NSS_Initialize(const char *, const char *, const char *, const char *, unsigned);
int NSS_NoDB_Init(const char *unused) {
    (void)unused;
    return NSS_Initialize(getenv("DATABASE"), "", "", "secmod.db", 1);
}
"""


@pytest.mark.parametrize("profile", ["keys", "bulk", "all"])
def test_algparse(tmp_path: Path, profile: str) -> None:
    algparse = libreswan("algparse")
    (tmp_path / "with.c").write_text(WITH_DATABASE)
    ran("cc", "-shared", "-fPIC", "-o", tmp_path / "with.so", tmp_path / "with.c")
    trace = tmp_path / "trace"
    env = {"LD_PRELOAD": str(tmp_path / "with.so"), **traced(trace)}
    env["DATABASE"] = f"sql:{database(tmp_path / 'db', profile)}"
    said = ran(algparse, "-v", "-ta", env=env)
    for name in ("CAMELLIA_CBC", "AES_GCM_16", "AES_CTR", "AES_CBC", "AES_XCBC", "HMAC_SHA1"):
        assert f"testing {name}:" in said
    assert "no leaks" in said
    calls = set(CALLS.findall(trace.read_text()))
    assert "C_Initialize" in calls
    assert calls & BULK == (BULK if profile != "keys" else set())
    ran(algparse, "-tp", env=env)


@pytest.mark.parametrize("profile", ["keys", "bulk", "all"])
def test_selftest_of_pluto(tmp_path: Path, profile: str) -> None:
    pluto, trace = libreswan("pluto"), tmp_path / "trace"
    db = database(tmp_path / "db", profile)
    said = ran(
        pluto, "--selftest", "--stderrlog", "--config", "/dev/null", "--nssdir", db, "--rundir",
        tmp_path, "--ipsecdir", tmp_path, "--dumpdir", tmp_path, "--secretsfile", "/dev/null",
        "--no-dnssec", "--log-no-audit", env=traced(trace),
    )  # fmt: skip
    assert "testing AES_GCM_16:" in said
    assert "testing HMAC_SHA1:" in said
    calls = set(CALLS.findall(trace.read_text()))
    assert calls & BULK == (BULK if profile != "keys" else set())


# IKEv2


class Side:
    """A host with a broker of its own, and in its database certificates of the broker's keys."""

    def __init__(self, name: str, folder: Path, authority: Path) -> None:
        self.name, self.folder, self.authority = name, folder, authority
        folder.mkdir()
        self.host = Host()
        self.broker = Broker(folder)
        self.env = {
            "CRYPTOFD_BROKER": str(self.broker.socket), "CRYPTOFD_STATE": str(folder / "objects"),
        }  # fmt: skip
        self.db = database(folder / "nss", "keys")
        self.nss("-A", "-n", "authority", "-t", "CT,,", "-i", authority / "certificate")
        self.secrets: dict[str, list[bytes]] = {}
        for kind in KINDS:
            self.certified(kind)

    def nss(self, *arguments: str | Path) -> str:
        return ran("certutil", *arguments, "-d", f"sql:{self.db}", env=self.env)

    def certified(self, kind: str) -> None:
        """A key that the test knows, so that it can be looked for, and its certificate."""
        algorithm, _ = KINDS[kind]
        key = made(algorithm)
        self.secrets[kind] = pieces(algorithm, key)
        with self.broker.connect() as connection:
            connection.keys.import_key(
                kind, algorithm, key, usage={"sign", "verify", "sign-digest"}
            )
        listed = self.nss("-K", "-h", TOKEN)
        identity = re.search(rf"{kind}\s+([0-9a-f]{{40}})", listed)
        assert identity is not None, listed
        request, issued = self.folder / f"{kind}.request", self.folder / f"{kind}.certificate"
        noise = self.authority / "noise"
        subject = f"CN={kind} of {self.name}"
        self.nss("-R", "-h", TOKEN, "-k", identity[1], "-s", subject, "-z", noise, "-o", request)
        number = len(list(self.authority.iterdir()))
        (self.authority / str(number)).touch()
        ran(
            "certutil", "-C", "-d", f"sql:{self.authority / 'db'}", "-c", "authority", "-m",
            str(number), "-v", "12", "-8", self.name, "-i", request, "-o", issued,
        )  # fmt: skip
        self.nss("-A", "-h", TOKEN, "-n", kind, "-t", ",,", "-i", issued)

    def end(self) -> None:
        self.broker.end()
        self.host.end()


@pytest.fixture(scope="module")
def sides() -> Iterator[dict[str, Side]]:
    libreswan("pluto")
    # Addresses of sockets are short.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        authority = folder / "authority"
        authority.mkdir()
        (authority / "noise").write_bytes(os.urandom(64))
        (authority / "db").mkdir()
        db = f"sql:{authority / 'db'}"
        ran("certutil", "-N", "-d", db, "--empty-password")
        ran(
            "certutil", "-S", "-d", db, "-n", "authority", "-s", "CN=authority", "-x", "-t",
            "CT,C,C", "-k", "rsa", "-g", "2048", "-z", authority / "noise", "-m", "1", "-v", "12",
            "-2", given=b"y\n\ny\n",
        )  # fmt: skip
        certificate = authority / "certificate"
        ran("certutil", "-L", "-d", db, "-n", "authority", "-a", "-o", certificate)
        found: dict[str, Side] = {}
        try:
            for one in ADDRESSES:
                found[one] = Side(one, folder / one, authority)
            wire(found["west"].host, found["east"].host, (ADDRESSES["west"], ADDRESSES["east"]))
            yield found
        finally:
            for side in found.values():
                side.end()


SETUP = """
config setup
    nssdir={nss}
    ipsecdir={folder}
    dumpdir={folder}
    statsbin=no
    audit-log=no

"""
PAGE = Path(__file__).parents[2] / "docs/nss.md"


def connection(**other: str) -> str:
    """The connection of the page of NSS, with other values for some of its words."""
    found = re.search(r"^```ini\n(conn .*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    text = found[1]
    for word, value in other.items():
        text, times = re.subn(rf"^( +{word}=).*$", rf"\g<1>{value}", text, flags=re.MULTILINE)
        assert times == 1, word
    return text


class Pluto:
    """libreswan's daemon on a side, all of whose files lie in a folder; until the end of a with
    block."""

    def __init__(self, side: Side, folder: Path, profile: str, kind: str) -> None:
        self.side, self.folder = side, folder
        folder.mkdir()
        (folder / "policies").mkdir()
        (folder / "secrets").touch()
        self.log, self.trace = folder / "log", folder / "trace"
        command("setup", "nss", "--db", side.db, "--profile", profile)
        (other,) = set(ADDRESSES) - {side.name}
        (folder / "ipsec.conf").write_text(
            SETUP.format(nss=side.db, folder=folder)
            + connection(
                authby="rsa-sha2" if kind == "rsa" else "ecdsa", leftcert=f'"{TOKEN}:{kind}"',
                left=ADDRESSES[side.name], leftid=f"@{side.name}", right=ADDRESSES[other],
                rightid=f"@{other}",
            )
        )  # fmt: skip
        pluto = str(libreswan("pluto"))
        if not pluto.startswith(str(INSTALLED)):
            # It runs programs of its own by their installed path.
            side.host.ran(program("mount"), "--bind", UNPACKED, INSTALLED.parent)
            pluto = str(INSTALLED / "pluto")
        options = {
            "--config": folder / "ipsec.conf", "--rundir": folder, "--ipsecdir": folder,
            "--nssdir": side.db, "--secretsfile": folder / "secrets",
        }  # fmt: skip
        flags = ["--nofork", "--stderrlog", "--no-dnssec", "--log-no-audit"]
        flags += [str(word) for pair in options.items() for word in pair]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                side.host.inside(pluto, *flags), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=with_us, env={**os.environ, **side.env, **traced(self.trace)},
            )  # fmt: skip

    def says(self, what: str, times: int = 1) -> None:
        """Waits until it said so."""

        def said() -> bool:
            text = self.log.read_text()
            assert self.process.poll() is None, text
            return len(re.findall(what, text)) >= times

        try:
            until(said, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()}") from None

    def whack(self, *arguments: str) -> str:
        """Its command line."""
        return self.side.host.ran(libreswan("whack"), "--rundir", self.folder, *arguments)

    def __enter__(self) -> Pluto:
        self.says("added .*connection")
        self.says("listening for IKE messages")
        self.says("loading secrets")
        return self

    def __exit__(self, *details: object) -> None:
        assert self.process.poll() is None, self.log.read_text()
        # How it ends is not asked: NSPR may be gone before threads of its own, whose destructors
        # then find no lock.
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def established(kind: str) -> str:
    return f"established IKE SA; authenticated peer.*{KINDS[kind][1]}.*authority"


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("profile", ["keys", "bulk", "all"])
def test_ikev2_with_keys_that_brokers_keep(
    sides: dict[str, Side], place: Path, profile: str, kind: str
) -> None:
    west, east = sides.values()
    with (
        Pluto(west, place / "west", profile, kind) as here,
        Pluto(east, place / "east", profile, kind) as there,
    ):
        here.whack("--name", "wire", "--initiate", "--asynchronous")
        here.says(established(kind))
        there.says(established(kind))
        for pluto in (here, there):
            wanted = {kind: pluto.side.secrets[kind]}
            workers = [worker["pid"] for worker in pluto.side.broker.status()["workers"]]
            assert any(seen(pid, wanted) for pid in workers), "the scan is blind"
            assert seen(pluto.process.pid, wanted) == {}
        # Whoever computes is replaced, and the daemon does not notice.
        for side in (west, east):
            side.broker.kill_worker()
        here.whack("--name", "wire", "--terminate")
        here.whack("--name", "wire", "--initiate", "--asynchronous")
        here.says(established(kind), times=2)
        there.says(established(kind), times=2)
    for pluto in (here, there):
        calls = set(CALLS.findall(pluto.trace.read_text()))
        assert {"C_SignInit", "C_Sign"} <= calls
        # In the profile `keys` nothing but the key's work comes to us.
        assert ("C_DigestInit" in calls) == (profile != "keys")
        assert ("C_EncryptInit" in calls) == (profile != "keys")


def test_a_daemon_whose_key_has_expired_is_nobody(sides: dict[str, Side], place: Path) -> None:
    west, east = sides.values()
    with (
        Pluto(west, place / "west", "keys", "ec") as here,
        Pluto(east, place / "east", "keys", "ec") as there,
    ):
        here.whack("--name", "wire", "--initiate", "--asynchronous")
        there.says(established("ec"))
        with west.broker.connect() as connection:
            connection.keys.change("ec", expires=1)
        here.whack("--name", "wire", "--terminate")
        here.whack("--name", "wire", "--initiate", "--asynchronous")
        here.says("encountered fatal error")
        assert len(re.findall(established("ec"), there.log.read_text())) == 1

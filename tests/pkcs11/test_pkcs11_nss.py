"""NSS itself on the module: certutil, selfserv and tstclnt, cmsutil, pk12util, its own trace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import Server, free_port, program, ran

if TYPE_CHECKING:
    from real_broker import Broker

TOKEN = "cryptofd keys"


def setup(*arguments: str | Path) -> str:
    """`cryptofd setup nss ...`"""
    return ran(
        sys.executable, "-m", "cryptofd", "setup", "nss", *arguments,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def database(folder: Path, profile: str | None) -> Path:
    """An NSS database of its own, with the module in it."""
    folder.mkdir()
    ran("certutil", "-N", "-d", f"sql:{folder}", "--empty-password")
    if profile is not None:
        setup("--db", folder, "--profile", profile)
    return folder


def certificate(db: Path, name: str, *options: str, token: str | None = TOKEN) -> None:
    """A key in the token and a certificate of its own for localhost."""
    noise = db / "noise"
    noise.write_bytes(os.urandom(64))
    where = ["-h", token] if token else []
    ran(
        "certutil", "-S", "-d", f"sql:{db}", *where, "-n", name, "-s", f"CN={name}", "-8",
        "localhost", "-x", "-t", "CT,C,C", "-z", noise, "-v", "12", *options,
    )  # fmt: skip


GET = b"GET / HTTP/1.0\r\n\r\n"
RSA, EC = ("-k", "rsa", "-g", "2048"), ("-k", "ec", "-q", "nistp256")


pytestmark = pytest.mark.usefixtures("fresh_token")


def handshake(
    db: Path, name: str, version: str, *options: str, trace: Path | None = None, client: str = ""
) -> str:
    """selfserv with a key of ours, tstclnt against it; what the client says."""
    port = free_port()
    env = {}
    if trace is not None:
        env = {
            "NSS_DEBUG_PKCS11_MODULE": "cryptofd", "NSPR_LOG_MODULES": "nss_mod_log:4",
            "NSPR_LOG_FILE": str(trace),
        }  # fmt: skip
    with Server(
        "selfserv", "-n", f"{TOKEN}:{name}", "-p", str(port), "-d", f"sql:{db}", "-V",
        f"{version}:{version}", *options, env=env,
    ) as server:  # fmt: skip
        server.listens(port)
        return ran(
            "tstclnt", "-h", "localhost", "-p", str(port), "-d", f"sql:{db}", "-V",
            f"{version}:{version}", "-o", "-Q", *client.split(), given=GET,
        )  # fmt: skip


@pytest.mark.parametrize("profile", ["keys", "bulk", "all"])
@pytest.mark.parametrize("kind", [RSA, EC], ids=["rsa", "ec"])
def test_tls_with_the_servers_key_in_our_token(
    broker: Broker, tmp_path: Path, profile: str, kind: tuple[str, ...]
) -> None:
    db = database(tmp_path / "db", profile)
    certificate(db, "web", *kind)
    with broker.connect() as connection:
        before = connection.keys.list()
    assert len(before) == 1
    assert not before[0].exportable
    for version in ("tls1.2", "tls1.3"):
        trace = tmp_path / f"trace-{version}"
        handshake(db, "web", version, trace=trace)
        calls = re.findall(r"(C_\w+)", trace.read_text())
        assert "C_SignInit" in calls, "our slot did not sign"
        assert "C_Sign" in calls
        # In the profile `keys` nothing but the key's work comes to us.
        assert ("C_DigestInit" in calls) == (profile != "keys")
    with broker.connect() as connection:
        assert [key.id for key in connection.keys.list()] == [key.id for key in before]


@pytest.mark.parametrize("profile", ["bulk", "all"])
def test_a_client_that_greases_as_firefox_does(
    broker: Broker, tmp_path: Path, profile: str
) -> None:
    db = database(tmp_path / "db", profile)
    certificate(db, "web", *EC)
    handshake(db, "web", "tls1.3", client="-i 100")


def test_certutil_makes_lists_signs_and_deletes(broker: Broker, tmp_path: Path) -> None:
    db = database(tmp_path / "db", "keys")
    certificate(db, "web", *RSA)
    listed = ran("certutil", "-K", "-d", f"sql:{db}", "-h", TOKEN)
    assert "rsa" in listed
    assert "web" in ran("certutil", "-L", "-d", f"sql:{db}", "-h", TOKEN)
    request = tmp_path / "request"
    ran(
        "certutil", "-R", "-d", f"sql:{db}", "-h", TOKEN, "-s", "CN=other", "-a", "-z",
        db / "noise",
        "-o", request, *EC,
    )  # fmt: skip
    from cryptography import x509

    csr = x509.load_pem_x509_csr(request.read_bytes()[request.read_bytes().index(b"-----BEGIN") :])
    assert csr.is_signature_valid
    # Another program, another database: the certificate and its key are found by the token.
    other = database(tmp_path / "other", "keys")
    assert "web" in ran("certutil", "-L", "-d", f"sql:{other}", "-h", TOKEN)
    handshake(other, "web", "tls1.3")
    ran("certutil", "-F", "-d", f"sql:{db}", "-n", f"{TOKEN}:web")
    with broker.connect() as connection:
        assert len(connection.keys.list()) == 1  # the request's
    assert "web" not in ran("certutil", "-L", "-d", f"sql:{db}", "-h", TOKEN)


def test_a_key_that_was_there_before_gets_a_certificate(broker: Broker, tmp_path: Path) -> None:
    db = database(tmp_path / "db", "keys")
    with broker.connect() as connection:
        connection.keys.generate(
            "shared", "rsa", bits=2048, usage={"sign", "verify", "sign-digest"}
        )
    listed = ran("certutil", "-K", "-d", f"sql:{db}", "-h", TOKEN)
    assert "shared" in listed
    identity = re.search(r"rsa\s+([0-9a-f]{40})", listed)
    assert identity is not None, listed
    certificate(db, "shared", "-k", identity[1])
    handshake(db, "shared", "tls1.3")


def test_no_key_is_in_the_memory_of_selfserv(broker: Broker, tmp_path: Path) -> None:
    from isolation_client import made, pieces
    from test_isolation import seen

    key = made("rsa")
    secrets = {"rsa": pieces("rsa", key)}
    with broker.connect() as connection:
        connection.keys.import_key("web", "rsa", key, usage={"sign", "verify", "sign-digest"})
    db = database(tmp_path / "db", "all")
    listed = ran("certutil", "-K", "-d", f"sql:{db}", "-h", TOKEN)
    identity = re.search(r"rsa\s+([0-9a-f]{40})", listed)
    assert identity is not None, listed
    certificate(db, "web", "-k", identity[1])
    port = free_port()
    with Server("selfserv", "-n", f"{TOKEN}:web", "-p", str(port), "-d", f"sql:{db}") as server:
        server.listens(port)
        ran("tstclnt", "-h", "localhost", "-p", str(port), "-d", f"sql:{db}", "-o", "-Q", given=GET)
        workers = [worker["pid"] for worker in broker.status()["workers"]]
        assert any(seen(pid, secrets) for pid in workers), "the scan is blind"
        assert seen(server.process.pid, secrets) == {}


SLOW = [pytest.param(profile, marks=pytest.mark.soak) for profile in ("keys", "bulk")]


@pytest.mark.parametrize("profile", [*SLOW, "all"])
def test_cmsutil_and_pk12util_still_work(broker: Broker, tmp_path: Path, profile: str) -> None:
    db = database(tmp_path / "db", profile)
    certificate(db, "mail", *RSA, "-7", "mail@localhost", token=None)
    message = tmp_path / "message"
    message.write_text("hello\n")
    signed, sealed = tmp_path / "signed", tmp_path / "sealed"
    ran(
        "cmsutil",
        "-S",
        "-N",
        "mail",
        "-d",
        f"sql:{db}",
        "-i",
        message,
        "-o",
        signed,
        "-H",
        "SHA256",
    )
    ran("cmsutil", "-D", "-d", f"sql:{db}", "-i", signed, "-o", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "hello\n"
    ran("cmsutil", "-E", "-r", "mail@localhost", "-d", f"sql:{db}", "-i", message, "-o", sealed)
    ran("cmsutil", "-D", "-d", f"sql:{db}", "-i", sealed, "-o", tmp_path / "back2")
    assert (tmp_path / "back2").read_text() == "hello\n"
    ran("pk12util", "-o", tmp_path / "p12", "-n", "mail", "-d", f"sql:{db}", "-W", "secret")
    other = database(tmp_path / "other", profile)
    ran("pk12util", "-i", tmp_path / "p12", "-d", f"sql:{other}", "-W", "secret")
    assert "mail" in ran("certutil", "-K", "-d", f"sql:{other}")


def test_cms_signed_by_our_key(broker: Broker, tmp_path: Path) -> None:
    db = database(tmp_path / "db", "keys")
    certificate(db, "mail", *RSA, "-7", "mail@localhost")
    message, signed = tmp_path / "message", tmp_path / "signed"
    message.write_text("hello\n")
    ran(
        "cmsutil", "-S", "-N", f"{TOKEN}:mail", "-d", f"sql:{db}", "-i", message, "-o", signed,
        "-H", "SHA256",
    )  # fmt: skip
    ran("cmsutil", "-D", "-d", f"sql:{db}", "-i", signed, "-o", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "hello\n"


@pytest.mark.parametrize("name", ["soft", "John's Example ID"])
def test_pk12util_gives_a_key_to_the_broker(broker: Broker, tmp_path: Path, name: str) -> None:
    db = database(tmp_path / "db", None)
    certificate(db, name, *RSA, token=None)
    ran("pk12util", "-o", tmp_path / "p12", "-n", name, "-d", f"sql:{db}", "-W", "secret")
    other = database(tmp_path / "other", "keys")
    ran("pk12util", "-i", tmp_path / "p12", "-d", f"sql:{other}", "-h", TOKEN, "-W", "secret")
    with broker.connect() as connection:
        assert [key.label for key in connection.keys.list()] == [name]
    handshake(other, name, "tls1.3")


#: What python-nss is asked in a process of its own; some Pythons have it.
BEST_SLOT = """
import sys
import nss.nss as nss
nss.nss_init(sys.argv[1])
for name in sys.argv[2:]:
    try:
        slot = nss.get_best_slot(int(name, 0))
        print(name, slot.token_name, sep="\\t")
    except Exception as error:
        print(name, "", sep="\\t")
"""


def best_slots(db: Path, mechanisms: list[int]) -> dict[int, str]:
    """NSS's own choice."""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", BEST_SLOT, f"sql:{db}", *map(hex, mechanisms)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "No module named 'nss'" in done.stderr:
        pytest.skip("python3-nss is not installed")
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        number, token = line.split("\t")
        found[int(number, 0)] = token
    return found


@pytest.mark.parametrize("profile", [None, "keys", "bulk", "all"])
def test_nss_chooses_as_the_doctor_says(
    broker: Broker, tmp_path: Path, profile: str | None
) -> None:
    from cryptofd.cli.nss_database import Database, mechanisms

    program("modutil")
    own = best_slots(database(tmp_path / "own", None), [kind.number for kind in mechanisms()])
    # What this NSS has itself; the rest is ours wherever we are.
    asked = [kind for kind in mechanisms() if own[kind.number] or not kind.ours]
    assert len(asked) > 40
    db = database(tmp_path / "db", profile)
    chosen = best_slots(db, [kind.number for kind in asked])
    said = Database.read(db)
    wrong = {
        kind.name: chosen[kind.number]
        for kind in asked
        if said.chooses_us(kind) != chosen[kind.number].startswith("cryptofd")
    }
    assert wrong == {}
    ours = sum(token.startswith("cryptofd") for token in chosen.values())
    assert (ours > 30) == (profile in ("bulk", "all"))
    assert (ours == 0) == (profile in (None, "keys"))

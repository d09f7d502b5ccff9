"""Direct sessions: the kernel's own socket on a key of the broker's, with no process in between."""

from __future__ import annotations

import errno
import hmac
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import cryptofd

sys.path.insert(0, str(Path(__file__).parents[2] / "broker"))

from real_broker import Broker, environment, opened, refused, until

GIVEN = "[[rule]]\ndirect = true\n"
KEY, IV, NONCE = bytes(range(32)), bytes(16), bytes(range(12))
BOTH = {"encrypt", "decrypt"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One for all tests: to begin is what takes long in an emulator."""
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.policy.write_text(GIVEN)
    broker.policy.chmod(0o600)

    def served() -> bool:
        try:
            broker.connect().keys.generate("first", "cbc(aes)", usage=BOTH)
        except cryptofd.NoEngine:
            return False
        return True

    until(served, "no worker begins")
    yield broker
    broker.end()


@pytest.fixture
def broker(running: Broker) -> Iterator[Broker]:
    running.policy.write_text(GIVEN)
    yield running
    for key in running.connect().keys.list():
        running.connect().keys.delete(key.label)


def imported(broker: Broker, algorithm: str, usage: set[str], **options: Any) -> None:
    broker.connect().keys.import_key("k", algorithm, KEY, usage=usage, exportable=False, **options)


def test_a_cipher(broker: Broker) -> None:
    imported(broker, "cbc(aes)", BOTH)
    fd = opened(broker.connect(), "cbc(aes)", "k", direct=True)
    info = fd.info()
    assert info.engine == "kernel"
    encryptor = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor()
    for length in (16, 4096, 1 << 20):
        data = os.urandom(length)
        assert fd.decrypt(fd.encrypt(data, iv=IV), iv=IV) == data
    data = os.urandom(64)
    assert fd.encrypt(data, iv=IV) == encryptor.update(data) + encryptor.finalize()
    padded = opened(broker.connect(), "cbc(aes)", "k", direct=True, padding="pkcs7")
    assert padded.decrypt(padded.encrypt(b"odd", iv=IV), iv=IV) == b"odd"


def test_an_aead_with_the_tag_of_its_key(broker: Broker) -> None:
    imported(broker, "gcm(aes)", BOTH | {"caller-iv"}, tag_size=12)
    fd = opened(broker.connect(), "gcm(aes)", "k", direct=True)
    box = fd.encrypt(b"text", iv=NONCE, aad=b"head")
    assert box == AESGCM(KEY).encrypt(NONCE, b"text", b"head")[:-4]
    assert fd.decrypt(box, iv=NONCE, aad=b"head") == b"text"
    with pytest.raises(cryptofd.BadTag):
        fd.decrypt(box[:-1] + bytes([box[-1] ^ 1]), iv=NONCE, aad=b"head")


def test_a_mac(broker: Broker) -> None:
    imported(broker, "hmac(sha256)", {"sign", "verify"})
    fd = opened(broker.connect(), "hmac(sha256)", "k", direct=True)
    fd.update(b"text")
    assert fd.digest() == hmac.digest(KEY, b"text", "sha256")


@pytest.mark.parametrize(
    ("algorithm", "usage", "options", "words"),
    [
        ("cbc(aes)", {"encrypt"}, {}, "no usage decrypt"),
        ("gcm(aes)", BOTH, {}, "no usage caller-iv"),
        ("hmac(sha256)", {"verify"}, {}, "no usage sign"),
        ("cbc(aes)", BOTH, {"uses": 1000}, "has a limit"),
        ("cbc(aes)", BOTH, {"expires": 4_000_000_000}, "has a limit"),
        ("hkdf(sha256)", {"derive-bytes"}, {}, "gives no descriptor"),
    ],
)
def test_keys_that_hold_less(
    broker: Broker, algorithm: str, usage: set[str], options: dict[str, int], words: str
) -> None:
    imported(broker, algorithm, usage, **options)
    assert words in refused(errno.EPERM, opened, broker.connect(), algorithm, "k", direct=True)


def test_a_grant_that_is_narrower(broker: Broker) -> None:
    imported(broker, "cbc(aes)", BOTH)
    said = refused(
        errno.EPERM, opened, broker.connect(), "cbc(aes)", "k", direct=True, usage={"encrypt"}
    )
    assert "no usage decrypt" in said
    said = refused(
        errno.EPERM, opened, broker.connect(), "cbc(aes)", "k", direct=True, engine="software"
    )
    assert "software" in said


def test_only_whom_the_policy_gives_it(broker: Broker) -> None:
    imported(broker, "cbc(aes)", BOTH)
    broker.policy.write_text("")
    assert "direct" in refused(errno.EPERM, opened, broker.connect(), "cbc(aes)", "k", direct=True)
    assert opened(broker.connect(), "cbc(aes)", "k").encrypt(bytes(16), iv=IV)


def test_it_is_listed_and_not_revocable(broker: Broker) -> None:
    imported(broker, "cbc(aes)", BOTH)
    program = (
        "import cryptofd, sys\n"
        "fd = cryptofd.open('cbc(aes)', key='cryptofd:k', direct=True)\n"
        "print(flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=environment(CRYPTOFD_BROKER=str(broker.socket)),
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdout.readline()
    connection = broker.connect()
    # This process has some of earlier tests too.
    listed = [one for one in connection.sessions() if one.pid == holder.pid]
    assert [(one.direct, one.algorithm) for one in listed] == [(True, "cbc(aes)")]
    assert "cannot be taken back" in refused(errno.EPERM, connection.close_session, listed[0].id)
    assert "direct: not revocable" in broker.command("sessions").stdout
    connection.keys.delete("k")
    assert any('"not-revoked"' in entry.text for entry in connection.audit(most=1000)[0])
    holder.stdin.close()
    assert holder.wait(60) == 0
    until(lambda: all(one.pid != holder.pid for one in connection.sessions()), "it stays listed")


def test_nobody_is_in_between(broker: Broker) -> None:
    # Last in this file: the broker begins anew.
    imported(broker, "cbc(aes)", BOTH)
    fd = opened(broker.connect(), "cbc(aes)", "k", direct=True)
    before = fd.encrypt(bytes(64), iv=IV)
    workers = [one["pid"] for one in broker.status()["workers"]]
    broker.process.kill()
    broker.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "a worker stays")
    assert fd.encrypt(bytes(64), iv=IV) == before
    broker.start()

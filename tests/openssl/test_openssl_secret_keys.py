"""Secret keys that stay in the broker: ciphers and MACs with them, by their names."""

from __future__ import annotations

import hmac
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import secret_keys
from hosts import Host

if TYPE_CHECKING:
    from real_broker import Broker

PROGRAM = Path(__file__).with_name("by_reference.py")


@pytest.fixture(scope="module")
def broker(broker: Broker) -> Broker:
    secret_keys.fill(broker)
    broker.connect().keys.generate("pair", "ecdsa-nist-p256")
    return broker


@pytest.fixture(scope="module", params=["keys", "bulk", "all"])
def host(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Host:
    """Programs in each profile, without default properties."""
    return Host(tmp_path_factory.mktemp("host"), request.param, None)


def run(host: Host, what: str, rounds: int = 40, seed: int = 1) -> None:
    said = host.run(sys.executable, PROGRAM, what, str(seed), str(rounds))
    assert said.split() == [b"done"]


@pytest.mark.parametrize("what", ["plain", "units", "aeads", "macs", "kdfs", "chosen", "refusals"])
def test_the_same_as_with_the_bytes(host: Host, what: str) -> None:
    run(host, what)


def test_who_does_not_ask_for_ours_has_the_default_providers(broker: Broker, host: Host) -> None:
    if not str(host.file.name).startswith("keys"):
        pytest.skip("the other profiles offer more than keys")
    run(host, "defaults")


class Living:
    """A program that goes on, asked line by line."""

    def __init__(self, host: Host) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, "lives", "1", "1"], env=host.environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.line() == "begun"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __call__(self, what: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.line()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@pytest.fixture
def living(broker: Broker, tmp_path: Path) -> Iterator[Living]:
    one = Living(Host(tmp_path, "keys", None))
    try:
        yield one
        one.end()
    finally:
        one.process.kill()
        one.process.wait()


def asked(host: Host, code: str) -> subprocess.Popen[str]:
    """A program of its own, which says `done` and waits for a line."""
    text = "import sys\nfrom libcrypto import Cipher, last_error\n" + textwrap.dedent(code)
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=host.environment(PYTHONPATH=str(PROGRAM.parent)),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    return process


def test_the_bytes_are_in_the_worker_alone(broker: Broker, tmp_path: Path) -> None:
    from real_broker import found

    key = secrets.token_bytes(32)
    broker.connect().keys.import_key("hidden", "cbc(aes)", key)
    code = """
        one = Cipher(None, "AES-256-CBC", "provider=cryptofd")
        assert one.init(None, bytes(16), 1, cryptofd_key="cryptofd:hidden"), last_error()
        message = bytes(range(256)) * 16
        assert one.update(message), last_error()
        print("done", flush=True)
        sys.stdin.readline()
        """
    with asked(Host(tmp_path, "keys", None), code) as process:
        assert found(process.pid, bytes(range(256)) * 16), "the scan is blind"
        assert not found(process.pid, key)
        assert any(found(one["pid"], key) for one in broker.status()["workers"])
        process.communicate("\n", timeout=60)
    assert process.returncode == 0


def test_a_key_that_is_deleted_says_so(broker: Broker, tmp_path: Path) -> None:
    keys = broker.connect().keys
    keys.import_key("short-lived", "cbc(aes)", bytes(32))
    code = """
        one = Cipher(None, "AES-256-CBC", "provider=cryptofd")
        assert one.init(None, bytes(16), 1, cryptofd_key="cryptofd:short-lived"), last_error()
        assert one.update(bytes(64)) is not None, last_error()
        print("done", flush=True)
        sys.stdin.readline()
        assert one.update(bytes(64)) is None
        print(last_error())
        """
    with asked(Host(tmp_path, "keys", None), code) as process:
        keys.delete("short-lived")
        said, _ = process.communicate("\n", timeout=60)
    assert "short-lived" in said


def test_without_a_broker_it_is_said(broker: Broker, tmp_path: Path) -> None:
    code = """
        one = Cipher(None, "AES-256-CBC", "provider=cryptofd")
        assert not one.init(None, bytes(16), 1, cryptofd_key="cryptofd:cbc")
        print(last_error())
        """
    text = "from libcrypto import Cipher, last_error\n" + textwrap.dedent(code)
    none = tmp_path / "none"
    said = Host(tmp_path, "keys", None).python(
        text, CRYPTOFD_BROKER=str(none), PYTHONPATH=str(PROGRAM.parent)
    )
    assert f"no broker at {none}" in said


def test_forks_go_on_with_what_their_parents_began(living: Living) -> None:
    for _ in range(3):
        assert living("child") == "fine"
    assert living("inherits") == "fine"
    assert living("ends") == "fine"


def test_another_worker_takes_over(living: Living, broker: Broker) -> None:
    """A cipher goes on: what it needs is here. A MAC in the middle says that it is lost."""
    assert living("cipher") == "fine"
    broker.kill_worker()
    assert living("cipher") == "fine"
    assert "lost" in living("ends")
    assert living("begins") == "fine"
    broker.kill_broker()
    assert living("cipher") == "fine"


def test_the_service_is_restarted(living: Living, broker: Broker) -> None:
    assert living("cipher") == "fine"
    broker.end()
    assert "no broker at" in living("begins")
    broker.start()
    assert living("cipher") == "fine"
    assert living("begins") == "fine"


def test_the_command_names_them(broker: Broker, host: Host) -> None:
    """`openssl mac` sets parameters by their names."""
    options = (
        "mac -propquery cryptofd.keys=yes -digest SHA256 -macopt cryptofd-key:cryptofd:hmac HMAC"
    )
    said = host.run("openssl", *options.split(), given=b"message")
    expected = hmac.new(secret_keys.KEYS["hmac"][1], b"message", "sha256").hexdigest()
    assert said.decode().strip().lower() == expected
    options = "kdf -propquery cryptofd.keys=yes -keylen 8 -kdfopt cryptofd-key:cryptofd:base HKDF"
    assert len(host.run("openssl", *options.split()).strip()) == len("00:" * 8) - 1

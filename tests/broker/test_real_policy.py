"""The policy as it takes hold: on the next call, without a restart, by every kind of rule."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_broker import Broker, opened, refused

import cryptofd
from cryptofd.broker.client import Connection


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.end()


@pytest.fixture
def b(real: Broker) -> Connection:
    connection = real.connect()
    for label in ("k", "other"):
        connection.keys.generate(label, "gcm(aes)")
    return connection


def test_it_holds_from_the_next_call_on(real: Broker, b: Connection) -> None:
    fd = opened(b, "gcm(aes)", "k")
    pids = real.status()
    real.policy.write_text('[[rule]]\nname = "only MACs"\nalgorithms = ["hmac(*)"]\n')
    said = refused(errno.EPERM, opened, b, "gcm(aes)", "k")
    assert "only MACs" in said
    assert str(real.policy) in said
    refused(errno.EPERM, b.keys.generate, "new", "gcm(aes)")
    refused(errno.EPERM, cryptofd.open, "gcm(aes)", key=bytes(32), broker=b)
    b.keys.generate("mac", "hmac(sha256)")
    # What was granted stays until somebody ends it.
    assert fd.seal(b"data")
    (session,) = (one.id for one in b.sessions())
    b.close_session(session)
    refused(errno.EPIPE, fd.seal, b"data")
    real.policy.unlink()
    assert opened(b, "gcm(aes)", "k").seal(b"data")
    assert [real.status()[name] for name in ("broker", "supervisor")] == [
        pids[name] for name in ("broker", "supervisor")
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[rule", "TOML"),
        ("level = 'SECURE'", "level"),
        ("[[rule]]\nalgorithm = ['x']", "algorithm"),
        ("[[rule]]\nsessions = 'many'", "sessions"),
        ("[[rule]]\nuid = 1.5", "uid"),
        ("[[rule]]\nkeys = { web = ['use'] }", "OWNER"),
        ("[[rule]]\nkeys = { 'a/b' = ['steal'] }", "rights"),
        ("colour = 'red'", "colour"),
        ("\x00", "policy"),
    ],
)
def test_a_broken_file_keeps_the_policy_that_was(
    real: Broker, b: Connection, text: str, why: str
) -> None:
    real.policy.write_text('[[rule]]\nname = "no CBC"\nalgorithms = ["gcm(aes)"]\n')
    refused(errno.EPERM, b.keys.generate, "cbc", "cbc(aes)")
    real.policy.write_text(text)
    refused(errno.EPERM, b.keys.generate, "cbc", "cbc(aes)")
    assert opened(b, "gcm(aes)", "k").seal(b"data")
    (problem,) = (one for one in real.status()["problems"] if "policy" in one)
    assert "the old one stays" in problem
    assert why.lower() in problem.lower()
    real.policy.write_text("")
    assert b.keys.generate("cbc", "cbc(aes)")
    assert not any("policy" in one for one in real.status()["problems"])


def test_a_file_that_others_write_is_no_policy(real: Broker, b: Connection) -> None:
    real.policy.write_text('[[rule]]\nalgorithms = ["gcm(aes)"]\n')
    refused(errno.EPERM, b.keys.generate, "cbc", "cbc(aes)")
    real.policy.write_text("")
    real.policy.chmod(0o666)
    refused(errno.EPERM, b.keys.generate, "cbc", "cbc(aes)")
    assert any("written by others" in one for one in real.status()["problems"])


def test_levels(real: Broker, b: Connection) -> None:
    b.keys.generate("rsa", "rsa", bits=2048)
    b.keys.generate("des", "cbc(des3_ede)")
    real.policy.write_text("level = 'FUTURE'\n")
    assert real.status()["level"] == "FUTURE"
    for algorithm, label in (("rsa", "rsa"), ("cbc(des3_ede)", "des")):
        refused(errno.EPERM, opened, b, algorithm, label)
    refused(errno.EPERM, b.keys.generate, "new", "rsa", bits=2048)
    assert b.keys.generate("long", "rsa", bits=3072)
    real.policy.write_text("level = 'FIPS'\n")
    refused(errno.EPERM, b.keys.generate, "stream", "rfc7539(chacha20,poly1305)")
    real.policy.write_text("level = 'LEGACY'\n")
    assert opened(b, "rsa", "rsa").sign(b"data", hash="sha256")


def test_engines_and_hardware(real: Broker, b: Connection) -> None:
    real.policy.write_text("[[rule]]\nengines = ['software']\nhardware = false\n")
    assert opened(b, "gcm(aes)", "k").info().engine == "software"
    refused(errno.EPERM, opened, b, "gcm(aes)", "k", engine="openssl")
    refused(errno.EPERM, opened, b, "gcm(aes)", "k", hardware="require")


def test_numbers(real: Broker, b: Connection) -> None:
    real.policy.write_text("[[rule]]\nsessions = 3\nkeys_max = 4\n")
    fds = [opened(b, "gcm(aes)", "k") for _ in range(3)]
    assert "3" in refused(errno.EDQUOT, opened, b, "gcm(aes)", "k")
    # A clone is the same session.
    assert fds[0].clone().seal(b"data")
    b.keys.generate("third", "gcm(aes)")
    b.keys.rotate("third")
    refused(errno.EDQUOT, b.keys.generate, "fifth", "gcm(aes)")
    refused(errno.EDQUOT, b.keys.rotate, "k")
    b.keys.delete("third")
    assert b.keys.generate("fifth", "gcm(aes)")


@pytest.mark.parametrize("ring", [0, 64 << 20])
def test_bytes_in_flight(real: Broker, b: Connection, ring: int) -> None:
    real.policy.write_text(f"[[rule]]\nin_flight = 300000\nring = {ring}\n")
    fd = opened(b, "gcm(aes)", "k")
    for _ in range(12):
        box = fd.seal(bytes(200_000))
        assert "300000" in refused(errno.EDQUOT, fd.seal, bytes(400_000))
        assert fd.unseal(box) == bytes(200_000)
    # What has landed counts no more, and one user's other session counts with the first.
    other = opened(b, "gcm(aes)", "other")
    assert other.unseal(other.seal(bytes(250_000))) == bytes(250_000)


def test_who_is_denied_gets_nothing(real: Broker, b: Connection) -> None:
    real.policy.write_text("[[rule]]\nname = 'closed'\nuid = 0\ndeny = true\n")
    for call in (
        lambda: opened(b, "gcm(aes)", "k"),
        lambda: b.keys.generate("new", "gcm(aes)"),
        lambda: cryptofd.open("gcm(aes)", key=bytes(32), broker=b),
        lambda: b.keys.delete("k"),
    ):
        with pytest.raises(cryptofd.CryptoFDError) as caught:
            call()
        assert caught.value.errno in (errno.EPERM, errno.ENOKEY)


def test_a_decision_is_explained(real: Broker, b: Connection) -> None:
    real.policy.write_text(
        "level = 'FUTURE'\n[[rule]]\nname = 'no RSA'\nalgorithms = ['gcm(*)', 'hmac(*)']\n"
        "[[rule]]\nname = 'guests'\nuid = 4001\nown = ['use']\n"
    )
    allowed, rules = b.check_policy(algorithm="rsa", key="k", right="use")
    assert not allowed
    assert any(rule.rule == "no RSA" and rule.verdict == "refuses" for rule in rules)
    assert all(rule.source for rule in rules)
    assert b.check_policy(algorithm="gcm(aes)", key="k", right="use")[0]
    assert not b.check_policy(uid=4001, key="4001/own", right="manage")[0]
    assert b.check_policy(uid=4001, key="4001/own", right="use")[0]
    done = real.command("policy", "check", "-a", "rsa")
    assert done.returncode == 1, done
    assert "no RSA" in done.stdout + done.stderr
    assert "allowed" in real.command("policy", "check", "-a", "gcm(aes)").stdout

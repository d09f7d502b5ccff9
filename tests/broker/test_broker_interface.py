"""The Varlink interface: its description is in the repository, and is what the broker tells."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from varlink_client import Client

from cryptofd.broker.interface import Broker, description, error_reply

ROOT = pathlib.Path(__file__).parents[2]


def test_the_description_is_generated() -> None:
    kept = ROOT / "interface" / "org.cryptofd.Broker.varlink"
    made = subprocess.run(
        [sys.executable, "-m", "cryptofd.broker.interface"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert kept.read_text() == made == description()


def test_every_method_and_error_says_what_it_is() -> None:
    lines = description().splitlines()
    for number, line in enumerate(lines):
        if line.startswith(("method ", "error ")):
            assert lines[number - 1].startswith("# "), line


def test_the_broker_tells_it(broker: Client) -> None:
    info = broker.call("org.varlink.service.GetInfo")
    assert info["interfaces"] == ["org.cryptofd.Broker", "org.varlink.service"]
    told = broker.call(
        "org.varlink.service.GetInterfaceDescription", interface="org.cryptofd.Broker"
    )["description"]
    assert [line.rstrip() for line in told.splitlines()] == description().splitlines()


def test_an_errno_that_has_no_error_keeps_its_number() -> None:
    reply = error_reply(5, "a disk").toreply()
    assert reply.error == "org.cryptofd.Broker.Gone"
    assert reply.parameters == {"errno": 5, "message": "a disk"}
    assert {name.rpartition(".")[2] for name in Broker._error_map} == {
        "Refused", "NoSuchKey", "Exists", "Invalid", "Limit", "Busy", "Unsupported", "Gone",
        "Expired", "Revoked",
    }  # fmt: skip

"""nginx with keys that stay in the broker: its workers have neither the key nor a right to it."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers import KEYS, VERSIONS, Served, load, program

if TYPE_CHECKING:
    from real_broker import Broker

CONFIGURATION = """
daemon off;
worker_processes 2;
pid {folder}/pid;
error_log {folder}/error.log notice;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache off;
    ssl_session_tickets off;
    {servers}
}}
"""

SERVER = """
    server {{
        listen unix:{folder}/{label}.socket ssl;
        ssl_certificate {folder}/{label}.pem;
        ssl_certificate_key {folder}/{label}.reference;
        return 200 "{label}\\n";
    }}
"""


class Nginx(Served):
    """On a socket for each key."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        nginx = program("nginx")
        super().__init__(broker, folder)
        servers = "".join(SERVER.format(folder=folder, label=label) for label in KEYS)
        (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, servers=servers))
        self.start(nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log")
        self.wait(lambda: all((folder / f"{label}.socket").exists() for label in KEYS))

    def connect(self, label: str) -> socket.socket:
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(60)
        plain.connect(str(self.folder / f"{label}.socket"))
        return plain


@pytest.fixture(scope="module")
def served(broker: Broker) -> Iterator[Served]:
    # A path of a socket is short.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="cfd-") as name:
        one = Nginx(broker, Path(name))
        yield one
        one.end()


@pytest.mark.parametrize("label", KEYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_handshakes(served: Served, label: str, version: ssl.TLSVersion) -> None:
    for _ in range(4):
        served.handshake(label, version)


def test_workers_have_no_right_to_the_key(served: Served) -> None:
    """The master opened its session; they have it from there."""
    pids = served.workers()
    assert len(pids) == 2
    if os.geteuid() == 0:
        assert all(Path(f"/proc/{pid}").stat().st_uid != 0 for pid in pids)


def test_no_handshake_fails_while_broker_and_worker_are_killed(served: Served) -> None:
    assert load(served, 0, 6) >= 24
    assert "[alert]" not in served.log()


@pytest.mark.soak
def test_a_minute_of_it(served: Served) -> None:
    print(f"{load(served, 60, 30)} handshakes, none failed")


def test_the_key_is_in_no_process_of_nginx(served: Served) -> None:
    """What the broker's worker has is looked for by test_isolation; here, that nothing was sent."""
    from real_broker import found

    connection = served.broker.connect()
    connection.keys.generate("seen", "ecdsa-nist-p256", usage={"sign"}, exportable=True)
    # In PKCS#8 of P-256 the number begins behind a header of fixed length.
    secret = connection.keys.export("seen")[36:68]
    reference = served.folder / "p256.reference"
    before = reference.read_text()
    try:
        said = served.broker.command("key", "reference", "seen")
        reference.write_text(said.stdout)
        served.host.run(
            "openssl", "req", "-x509", "-new", "-key", "cryptofd:seen", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-out", served.folder / "p256.pem",
        )  # fmt: skip
        old = set(served.workers())
        served.process.send_signal(1)  # SIGHUP: it reads its configuration again
        served.wait(lambda: len(served.workers()) == 2 and not old & set(served.workers()))
        for _ in range(8):
            served.handshake("p256", ssl.TLSVersion.TLSv1_3)
        (worker,) = [one["pid"] for one in served.broker.status()["workers"]]
        # The scan sees it where it is.
        assert found(worker, secret)
        for pid in (served.process.pid, *served.workers()):
            assert not found(pid, secret), pid
    finally:
        reference.write_text(before)

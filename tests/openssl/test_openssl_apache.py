"""Apache's prefork with keys that stay in the broker: children come and go all the time."""

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
from test_openssl_recipes import recipe

if TYPE_CHECKING:
    from real_broker import Broker

CONFIGURATION = """
ServerRoot {folder}
ServerName localhost
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ErrorLog {folder}/error.log
{modules}
{user}
StartServers 3
MinSpareServers 2
MaxSpareServers 4
# Each child serves a few connections, and another is forked.
MaxConnectionsPerChild 7
SSLSessionCache none
SSLSessionTickets off
{servers}
"""

MODULES = ("mpm_prefork", "authz_core", "dir", "ssl")


def ports(count: int) -> list[int]:
    """That are free now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    free = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return free


class Apache(Served):
    """On a port for each key."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        apache = program("apache2")
        super().__init__(broker, folder)
        for label in KEYS:
            (folder / label).mkdir()
            (folder / label / "index.html").write_text(f"{label}\n")
        while not self.begin(apache):
            # Somebody else has taken a port.
            assert "could not bind" in self.log(), self.log()
            (self.folder / "error.log").unlink()

    def begin(self, apache: Path) -> bool:
        """Whether it serves."""
        folder = self.folder
        self.ports = dict(zip(KEYS, ports(len(KEYS)), strict=True))
        place = apache.parents[1] / "lib" / "apache2" / "modules"
        modules = "".join(f"LoadModule {one}_module {place}/mod_{one}.so\n" for one in MODULES)
        servers = "".join(
            recipe("apache")
            .replace("8443", str(port))
            .replace("web.", f"{folder}/{label}.")
            .replace("SSLEngine", f"DocumentRoot {folder}/{label}\nSSLEngine")
            for label, port in self.ports.items()
        )
        user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
        (folder / "apache.conf").write_text(
            CONFIGURATION.format(folder=folder, modules=modules, servers=servers, user=user)
        )
        self.start(apache, "-DFOREGROUND", "-f", folder / "apache.conf")
        while self.process.poll() is None:
            if "resuming normal operations" in self.log():
                return True
            self.process.poll()
        return False

    def connect(self, label: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[label]), timeout=60)


@pytest.fixture(scope="module")
def served(broker: Broker) -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as name:
        one = Apache(broker, Path(name))
        yield one
        one.end()


@pytest.mark.parametrize("label", KEYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_children_come_and_go(served: Served, label: str, version: ssl.TLSVersion) -> None:
    before = set(served.workers())

    def others() -> bool:
        served.handshake(label, version)
        return set(served.workers()) != before

    served.wait(others)
    if os.geteuid() == 0:
        assert all(Path(f"/proc/{pid}").stat().st_uid != 0 for pid in served.workers())


def test_no_handshake_fails_while_broker_and_worker_are_killed(served: Served) -> None:
    assert load(served, 0, 6) >= 24
    assert "[core:error]" not in served.log(), served.log()
    assert "exit signal" not in served.log(), served.log()


@pytest.mark.soak
def test_a_minute_of_it(served: Served) -> None:
    print(f"{load(served, 60, 30)} handshakes, none failed")

"""nginx with keys that stay in the broker: its workers have neither the key nor a right to it."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hosts import Host

if TYPE_CHECKING:
    from real_broker import Broker

ROOT = Path(__file__).resolve().parents[2]

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

KEYS = {"p256": "ecdsa-nist-p256", "rsa": "rsa"}


@pytest.fixture(scope="module")
def nginx() -> Path:
    """Unpacked, not installed: it runs for these tests only."""
    for path in (Path("/usr/sbin/nginx"), ROOT / ".lab" / "nginx" / "usr" / "sbin" / "nginx"):
        if path.exists():
            return path
    pytest.skip("nginx is not there: make test fetches it where the release has it")


class Served:
    """nginx, and handshakes with it."""

    def __init__(self, broker: Broker, nginx: Path, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        folder.chmod(0o755)
        self.host = Host(folder, None, None)
        keys = broker.connect().keys
        for label, algorithm in KEYS.items():
            bits = 2048 if algorithm == "rsa" else None
            keys.generate(label, algorithm, bits=bits, usage={"sign"})
            said = broker.command("key", "reference", label, "-o", f"{folder}/{label}.reference")
            assert not said.returncode, said.stderr
            self.host.run(
                "openssl", "req", "-x509", "-new", "-key", f"cryptofd:{label}", "-subj",
                "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out",
                folder / f"{label}.pem",
            )  # fmt: skip
        servers = "".join(SERVER.format(folder=folder, label=label) for label in KEYS)
        (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, servers=servers))
        self.process = subprocess.Popen(
            [nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"],
            env=self.host.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.wait(lambda: all((folder / f"{label}.socket").exists() for label in KEYS))

    def wait(self, true: object) -> None:
        assert callable(true)
        end = time.monotonic() + 60
        while not true():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.01)

    def log(self) -> str:
        return (self.folder / "error.log").read_text(errors="replace")

    def workers(self) -> list[int]:
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(pid) for pid in Path(children).read_text().split()]

    def handshake(self, label: str, version: ssl.TLSVersion) -> None:
        """One, its certificate checked, and an answer over it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.folder / f"{label}.pem")
        context.minimum_version = context.maximum_version = version
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(60)
            plain.connect(str(self.folder / f"{label}.socket"))
            with context.wrap_socket(plain, server_hostname="localhost") as end:
                end.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: end.recv(4096), b""))
        assert answer.endswith(f"\r\n\r\n{label}\n".encode()), answer

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log()


@pytest.fixture(scope="module")
def served(
    broker: Broker, nginx: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    # A path of a socket is short.
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="cfd-") as name:
        one = Served(broker, nginx, Path(name))
        yield one
        one.end()


VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


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


def load(served: Served, seconds: float, kills: int) -> int:
    """Handshakes from four sides while broker and worker are killed; how many there were."""
    failures: list[BaseException] = []
    done = [0] * 4
    over = threading.Event()

    def handshakes(place: int) -> None:
        label = list(KEYS)[place % 2]
        version = VERSIONS[place // 2]
        try:
            while not over.is_set():
                served.handshake(label, version)
                done[place] += 1
        except BaseException as error:
            failures.append(error)
            over.set()

    threads = [threading.Thread(target=handshakes, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    try:
        begun = time.monotonic()
        killed = 0
        while not over.is_set() and (killed < kills or time.monotonic() < begun + seconds):
            # Each of them has gone on since the last kill.
            before = list(done)
            while not over.is_set() and not all(
                now > then for now, then in zip(done, before, strict=True)
            ):
                time.sleep(0.01)
            if killed % 3 == 2:
                served.broker.kill_broker()
            else:
                served.broker.kill_worker()
            killed += 1
            if seconds:
                over.wait(1)
        before = list(done)
        while not over.is_set() and not all(
            now > then for now, then in zip(done, before, strict=True)
        ):
            time.sleep(0.01)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures, f"{failures}\n{served.log()}"
    return sum(done)


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

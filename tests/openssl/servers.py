"""Web servers with keys that stay in the broker: certificates, handshakes, load."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hosts import Host

if TYPE_CHECKING:
    from real_broker import Broker

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"p256": "ecdsa-nist-p256", "rsa": "rsa"}
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def program(name: str) -> Path:
    """Unpacked, not installed: it runs for these tests only."""
    for path in (Path("/usr/sbin") / name, ROOT / ".lab" / name / "usr" / "sbin" / name):
        if path.exists():
            return path
    pytest.skip(f"{name} is not there: make test fetches it where the release has it")


class Served:
    """A server, with a key of each kind, and handshakes with it."""

    process: subprocess.Popen[bytes]

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        folder.chmod(0o755)
        self.host = Host(folder, None, None)
        keys = broker.connect().keys
        for label, algorithm in KEYS.items():
            bits = 2048 if algorithm == "rsa" else None
            if label not in {key.label for key in keys.list()}:
                keys.generate(label, algorithm, bits=bits, usage={"sign"})
            said = broker.command("key", "reference", label, "-o", f"{folder}/{label}.reference")
            assert not said.returncode, said.stderr
            self.host.run(
                "openssl", "req", "-x509", "-new", "-key", f"cryptofd:{label}", "-subj",
                "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out",
                folder / f"{label}.pem",
            )  # fmt: skip

    def start(self, *command: str | Path) -> None:
        """In the foreground, and silent."""
        self.process = subprocess.Popen(
            command, env=self.host.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            # Apache ends with a signal for its whole group.
            process_group=0,
        )  # fmt: skip

    def connect(self, label: str) -> socket.socket:
        """To the server that has this key."""
        raise NotImplementedError

    def wait(self, true: object) -> None:
        assert callable(true)
        end = time.monotonic() + 60
        while not true():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.01)

    def log(self) -> str:
        file = self.folder / "error.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def workers(self) -> list[int]:
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(pid) for pid in Path(children).read_text().split()]

    def handshake(self, label: str, version: ssl.TLSVersion) -> None:
        """One, its certificate checked, and an answer over it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.folder / f"{label}.pem")
        context.minimum_version = context.maximum_version = version
        with (
            self.connect(label) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as end,
        ):
            end.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: end.recv(4096), b""))
        assert answer.endswith(f"\r\n\r\n{label}\n".encode()), answer

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log()


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

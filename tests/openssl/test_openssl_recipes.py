"""The recipes of docs/openssl.md for servers: what stands there is what runs here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hosts import Host
from servers import program

if TYPE_CHECKING:
    from real_broker import Broker

ROOT = Path(__file__).resolve().parents[2]


def recipe(language: str) -> str:
    page = (ROOT / "docs" / "openssl.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture(scope="module")
def broker(broker: Broker) -> Broker:
    broker.connect().keys.generate("web", "ecdsa-nist-p256", usage={"sign", "verify"})
    return broker


@pytest.fixture
def folder(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With a certificate and a reference. A socket's path is short."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="cfd-") as name:
        here = Path(name)
        here.chmod(0o755)
        Host(here, None, None).run(
            "openssl", "req", "-x509", "-new", "-key", "cryptofd:web", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-out", here / "web.pem",
        )  # fmt: skip
        said = broker.command("key", "reference", "web")
        (here / "web.reference").write_text(said.stdout)
        both = (here / "web.pem").read_text() + said.stdout
        (here / "both.pem").write_text(both)
        monkeypatch.chdir(here)
        yield here


def answer(folder: Path, *command: str | Path) -> str:
    """What curl gets from the server on `socket`, while it runs."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=Host(folder, None, None).environment(), stdin=subprocess.DEVNULL,
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (folder / "socket").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        done = subprocess.run(
            ["curl", "-sS", "--unix-socket", folder / "socket", "--cacert", folder / "web.pem",
             "https://localhost/"],
            env={**os.environ, "OPENSSL_CONF": "/dev/null"}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + log.read_text()
        return done.stdout
    finally:
        process.terminate()
        process.wait(60)


def test_nginx(folder: Path) -> None:
    nginx = program("nginx")
    text = recipe("nginx").replace("listen 8443", f"listen unix:{folder}/socket")
    paths = "".join(
        f"{one}_temp_path {folder}/{one};"
        for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; events {{}} http {{ access_log off; {paths}\n{text} }}"
    )
    told = ("-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log")
    assert answer(folder, nginx, *told) == "hello\n"


def test_haproxy(folder: Path) -> None:
    haproxy = program("haproxy")
    text = recipe("haproxy").replace("bind :8443", f"bind unix@{folder}/socket")
    (folder / "haproxy.cfg").write_text(text)
    assert answer(folder, haproxy, "-db", "-f", folder / "haproxy.cfg") == "hello"


def test_node(folder: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (folder / "server.js").write_text(recipe("js"))
    said = Host(folder, None, None).run(node, "--openssl-shared-config", "server.js")
    assert said == b"hello\n"


def test_curl_as_a_client(folder: Path) -> None:
    """A server that asks for a certificate, of which curl has the reference."""
    nginx = program("nginx")
    text = recipe("nginx").replace("listen 8443", f"listen unix:{folder}/socket")
    asks = f"ssl_client_certificate {folder}/web.pem; ssl_verify_client on;"
    text = text.replace("return 200", f"{asks} return 200")
    paths = "".join(
        f"{one}_temp_path {folder}/{one};"
        for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; events {{}} http {{ access_log off; {paths}\n{text} }}"
    )
    told = ("-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log")
    assert "No required SSL certificate" in answer(folder, nginx, *told)
    (folder / "socket").unlink(missing_ok=True)
    process = subprocess.Popen(
        [nginx, *told], env=Host(folder, None, None).environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (folder / "socket").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        said = Host(folder, None, None).run(
            "curl", "-sS", "--unix-socket", folder / "socket", "--cacert", "web.pem", "--cert",
            "web.pem", "--key", "web.reference", "https://localhost/",
        )  # fmt: skip
        assert said == b"hello\n"
    finally:
        process.terminate()
        process.wait(60)

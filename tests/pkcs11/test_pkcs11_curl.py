"""curl on NSS and on GnuTLS: a server that demands a certificate, whose key is in our token."""

from __future__ import annotations

import ctypes
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import ran
from test_pkcs11_nss import EC, RSA, TOKEN, certificate, database

if TYPE_CHECKING:
    from real_broker import Broker

CLIENT = Path(__file__).with_name("curl_client.py")
PAGE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nhello\n"


class Demanding:
    """Serves a page to whoever has this certificate, and remembers who that was."""

    def __init__(self, folder: Path, client: Path) -> None:
        self.authority, key = folder / "server.pem", folder / "server.key"
        ran(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days",
            "9", "-keyout", key, "-out", self.authority,
        )  # fmt: skip
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.authority, key)
        self.context.load_verify_locations(client)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.seen: list[object] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(connection, server_side=True) as tls:
                    self.seen.append((tls.getpeercert() or {})["subject"])
                    tls.recv(4096)
                    tls.sendall(PAGE)
            except OSError as error:
                self.seen.append(repr(error))

    def end(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


@pytest.fixture(autouse=True)
def _fresh_token(broker: Broker) -> Iterator[None]:
    yield
    with broker.connect() as connection:
        for key in connection.keys.list():
            connection.keys.delete(key.label)
    for file in (Path(os.environ["CRYPTOFD_STATE"]) / "objects").iterdir():
        file.unlink()


@pytest.mark.parametrize("kind", [RSA, EC], ids=["rsa", "ec"])
@pytest.mark.parametrize("flavour", ["nss", "gnutls"])
def test_a_certificate_whose_key_the_broker_has(
    broker: Broker, library: Path, tmp_path: Path, flavour: str, kind: tuple[str, ...]
) -> None:
    try:
        ctypes.CDLL(f"libcurl-{flavour}.so.4")
    except OSError as error:
        pytest.skip(f"no curl on {flavour} is installed: {error}")
    db = database(tmp_path / "db", "keys")
    certificate(db, "my client", *kind)
    client = tmp_path / "client.pem"
    ran("certutil", "-L", "-d", f"sql:{db}", "-n", f"{TOKEN}:my client", "-a", "-o", client)
    name, key = f"{TOKEN}:my client", ""
    if flavour == "gnutls":
        with broker.connect() as connection:
            (label,) = (one.label for one in connection.keys.list())
        name = str(client)
        key = f"pkcs11:token=cryptofd%20keys;object={label};type=private"
    server = Demanding(tmp_path, client)
    try:
        said = ran(
            sys.executable, CLIENT, flavour, library, f"https://localhost:{server.port}/",
            server.authority, name, key, env={"SSL_DIR": str(db), "no_proxy": "localhost"},
        )  # fmt: skip
    finally:
        server.end()
    assert said == "hello\n"
    assert server.seen == [((("commonName", "my client"),),)]

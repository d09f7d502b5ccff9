"""A blocking Varlink client of a few lines, for tests only: it shares nothing with the server."""

from __future__ import annotations

import json
import os
import pathlib
import socket
from collections.abc import Callable
from typing import Any, Self


class Client:
    """One connection."""

    def __init__(self, where: pathlib.Path | socket.socket) -> None:
        if isinstance(where, socket.socket):
            self.sock = where
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(str(where))
        self.sock.settimeout(60)
        self.fds: list[int] = []
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()
        while self.fds:
            os.close(self.fds.pop())

    def send(self, method: str, fds: list[int] | None = None, **asked: Any) -> None:
        if "." not in method:
            method = f"org.cryptofd.Broker.{method}"
        data = json.dumps({"method": method, "parameters": asked}).encode() + b"\0"
        if fds:
            socket.send_fds(self.sock, [data], fds)
        else:
            self.sock.sendall(data)

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data, fds, _, _ = socket.recv_fds(self.sock, 65536, 16)
            self.fds += fds
            if not data:
                raise EOFError
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def call(self, method: str, fds: list[int] | None = None, **asked: Any) -> dict[str, Any]:
        """The answer's parameters; descriptors come to ``fds``. An error is an OSError."""
        self.send(method, fds, **asked)
        answer = self.receive()
        parameters: dict[str, Any] = answer.get("parameters", {})
        if "error" in answer:
            error = OSError(parameters.get("errno", 0), parameters.get("message", str(answer)))
            error.filename = answer["error"]
            raise error
        return parameters

    def take(self) -> int:
        """The descriptor of the last answer."""
        (fd,) = self.fds
        self.fds = []
        return fd

    def generate(self, label: str, algorithm: str = "gcm(aes)", **more: Any) -> dict[str, Any]:
        key: dict[str, Any] = self.call("GenerateKey", label=label, algorithm=algorithm, **more)[
            "key"
        ]
        return key

    def import_key(self, label: str, algorithm: str, key: bytes, **more: Any) -> dict[str, Any]:
        reading, writing = os.pipe()
        os.write(writing, key)
        os.close(writing)
        try:
            got: dict[str, Any] = self.call(
                "ImportKey", [reading], label=label, algorithm=algorithm, fd=0, **more
            )["key"]
        finally:
            os.close(reading)
        return got

    def export(self, key: str) -> bytes:
        self.call("ExportKey", key=key)
        fd = self.take()
        try:
            return os.read(fd, 65536)
        finally:
            os.close(fd)

    def open(self, **asked: Any) -> int:
        """A session's descriptor."""
        self.call("Open", **asked)
        return self.take()


def me() -> str:
    """The owner of what these tests make."""
    return f"uid:{os.getuid()}"


def code(call: Callable[[], Any]) -> int | None:
    """The errno of a call; None if it went well."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None

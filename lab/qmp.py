"""A QEMU monitor client: commands, and events waited for (QEMU Machine Protocol)."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from lab.common import LabError


class Monitor:
    """One connection to a running QEMU; not for several threads at once."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._events: list[dict[str, Any]] = []
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._message(time.monotonic() + timeout)  # the greeting
        self.command("qmp_capabilities")

    def command(self, name: str, timeout: float = 10.0, **arguments: Any) -> Any:
        """Runs a command and returns its answer; LabError when QEMU refuses it."""
        request = {"execute": name, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode())
        deadline = time.monotonic() + timeout
        while True:
            message = self._message(deadline)
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise LabError(f"QEMU refused {name}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_deleted(self, device: str, timeout: float) -> bool:
        """Whether the guest let go of the device within so many seconds."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self._events:
                if event["event"] == "DEVICE_DELETED" and event["data"].get("device") == device:
                    self._events.remove(event)
                    return True
            try:
                message = self._message(deadline)
            except TimeoutError:
                return False
            if "event" in message:
                self._events.append(message)

    def close(self) -> None:
        self._socket.close()

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("QEMU's monitor is silent")
            self._socket.settimeout(left)
            received = self._socket.recv(65536)
            if not received:
                raise LabError("QEMU closed its monitor")
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

"""Foreign programs, run beside the module: what they say, and what is not there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

#: Where Debian has the tools that NSS does not count among its supported ones.
MORE = ["/usr/sbin", "/usr/lib/nss/unsupported-tools"]


def program(name: str) -> str:
    """Its path; without it the test is skipped, visibly."""
    path = os.pathsep.join([os.environ["PATH"], *MORE])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def ran(
    *command: str | Path, fails: bool = False, given: bytes = b"", env: dict[str, str] | None = None
) -> str:
    """Both outputs of a program that succeeds (or, if it shall, fails); ``given`` is its input."""
    done = subprocess.run(
        [program(str(command[0])), *command[1:]], input=given, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=40, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    said = done.stdout.decode(errors="replace")
    assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{said}"
    return said


class Server:
    """A program that listens, until the end of a with block."""

    def __init__(self, *command: str | Path, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [program(str(command[0])), *command[1:]], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})},
        )  # fmt: skip

    def listens(self, port: int) -> None:
        """Waits until it does (/proc/net/tcp*: no connection that it would have to serve)."""
        wanted = re.compile(rf":{port:04X} [0-9A-F]+:0000 0A ")
        end = time.monotonic() + 60
        while not any(
            wanted.search(Path(f"/proc/net/{name}").read_text()) for name in ("tcp", "tcp6")
        ):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.02)

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read().decode(errors="replace")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *details: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def free_port() -> int:
    """A port on which nobody listens now."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port

"""A server of somebody's on a port of this host, for as long as it is measured."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a program; what it says when it fails ends the bench."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env
    )
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise SystemExit(f"bench: {command[0]}: {said}")


@contextlib.contextmanager
def serving(
    command: Callable[[int], Sequence[str | Path]], env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """The port, once what ``command`` makes of it takes connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = command(port)
    server = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=env,
    )
    try:
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"bench: {' '.join(map(str, words))}: it does not serve")
            time.sleep(0.02)
        yield port
    finally:
        server.terminate()
        server.wait()

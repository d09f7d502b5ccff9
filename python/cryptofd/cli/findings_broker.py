"""What the doctor looks at of the broker: its programs, who answers, its problems."""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptofd.cli.findings import Finding

TOPIC = "Broker"
#: The first Linux with SO_PEERPIDFD.
PEERPIDFD = (6, 5)
_MEMFD_SECRET = {"x86_64": 447, "aarch64": 447, "riscv64": 447}


def broker() -> Iterator[Finding]:
    """All of it; starts none."""
    whole = True
    for finding in _programs():
        whole = whole and finding.state == "ok"
        yield finding
    yield from _answering(whole)
    yield from _host()


def _programs() -> Iterator[Finding]:
    from cryptofd import daemon
    from cryptofd.errors import CryptoFDError

    if importlib.util.find_spec("asyncvarlink") is None:
        yield Finding(
            TOPIC, "absent", "asyncvarlink is not installed: no broker can be started here",
            ("pip install 'cryptofd[broker]'",),
        )  # fmt: skip
    else:
        yield Finding(TOPIC, "ok", "asyncvarlink is installed")
    try:
        yield Finding(TOPIC, "ok", f"supervisor and worker: {daemon.path()}")
    except CryptoFDError as error:
        yield Finding(TOPIC, "broken", f"{error.strerror}", ("install cryptofd again",))


def _answering(whole: bool) -> Iterator[Finding]:
    import cryptofd
    from cryptofd.errors import CryptoFDError

    try:
        with cryptofd.connect(start=False) as connection:
            status = connection.status()
            address = connection.address
    except CryptoFDError as error:
        if error.errno != errno.ECONNREFUSED:
            yield Finding(TOPIC, "broken", f"{error.strerror or error}")
            return
        todo = (
            "cryptofd broker (one of your own; commands start it when they need it)",
            "as root, for the host: systemctl enable --now cryptofd.socket",
        )
        yield Finding(TOPIC, "absent", "no broker answers", todo if whole else ())
        return
    yield Finding(
        TOPIC, "ok",
        f"{address}: processes {status['supervisor']} and {status['broker']}, "
        f"{len(status['workers'])} workers, {status['sessions']} sessions, {status['keys']} keys; "
        f"policy {status['policy']}, level {status['level']}",
    )  # fmt: skip
    if status["version"] != cryptofd.__version__:
        yield Finding(
            TOPIC, "broken",
            f"the broker is version {status['version']}, this is {cryptofd.__version__}",
            ("start it again; sessions end with the supervisor, keys stay",),
        )  # fmt: skip
    yield from _key_encryption(status.get("kek"))
    for problem in status["problems"]:
        yield Finding(TOPIC, "broken", problem)
    for advice in status["advice"]:
        yield Finding(TOPIC, "ok", advice)
    yield from _socket(address)


def _key_encryption(how: str | None) -> Iterator[Finding]:
    if how == "memfd_secret":
        yield Finding(TOPIC, "ok", "the key-encryption key is in secret memory (memfd_secret)")
    elif how == "process":
        yield Finding(
            TOPIC, "ok", "the key-encryption key is in a process that does nothing else",
            ("secret memory: boot with secretmem.enable=1 (Linux 5.14 or later)",),
        )  # fmt: skip


def _socket(address: str) -> Iterator[Finding]:
    """Who may put another socket in its place."""
    if address.startswith("fd:"):
        return
    folder = Path(address).parent
    try:
        about = folder.stat()
    except OSError:
        return
    others = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not about.st_mode & stat.S_ISVTX
    if others or about.st_uid not in {0, os.geteuid()}:
        yield Finding(
            TOPIC, "broken", f"{folder}: others could put another socket there",
            (f"chmod go-w {folder}; it belongs to root or to you",),
        )  # fmt: skip


def _host() -> Iterator[Finding]:
    """What this kernel has for it."""
    from cryptofd.cli.findings import release

    number = _MEMFD_SECRET.get(os.uname().machine)
    if number is not None:
        library = ctypes.CDLL(None, use_errno=True)
        fd = library.syscall(number, os.O_CLOEXEC)
        if fd >= 0:
            os.close(fd)
            yield Finding(TOPIC, "ok", "memfd_secret: keys can be where the kernel cannot read")
        else:
            yield Finding(
                TOPIC, "absent",
                f"no memfd_secret ({os.strerror(ctypes.get_errno())}): a process of its own holds "
                "the key-encryption key",
                ("boot with secretmem.enable=1 (Linux 5.14 or later)",),
            )  # fmt: skip
    if release() < PEERPIDFD:
        yield Finding(
            TOPIC, "absent",
            "no SO_PEERPIDFD before Linux 6.5: a unit's process is told by pid and start time",
        )  # fmt: skip


__all__ = ["broker"]

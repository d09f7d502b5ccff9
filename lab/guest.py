"""What a test that runs in a lab kernel can ask: where it is, and its machine's hardware to go."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any


def kernel() -> str | None:
    """The lab's name of the kernel that this process runs in; None on the host itself."""
    return os.environ.get("LAB_KERNEL") or None


def linux() -> str | None:
    """Whose AF_ALG answers this process gets, as `7.3:1`; None for the kernel's own."""
    return os.environ.get("LAB_LINUX") or None


def hardware() -> bool:
    """Whether this machine was booted with a virtio-crypto device."""
    return bool(os.environ.get("LAB_HARDWARE"))


def results() -> Path:
    """A directory whose contents the host sees too."""
    return Path(os.environ["LAB_RESULTS"])


def unplug(seconds: float = 30.0) -> bool:
    """Pulls the virtio-crypto device (QEMU's device_del, a PCI hot unplug).

    Returns whether the kernel let go of it within so many seconds.
    """
    return bool(_ask({"do": "unplug", "seconds": seconds}, seconds)["gone"])


def plug() -> None:
    """Plugs the device in again; the kernel finds it a moment later."""
    _ask({"do": "plug"}, 10.0)


def _ask(request: dict[str, object], seconds: float) -> dict[str, Any]:
    if not hardware():
        raise RuntimeError("no device to plug: boot a qemu kernel with --hardware")
    path = Path(os.environ["LAB_EXCHANGE"]) / "requests" / f"{uuid.uuid4()}.new"
    path.write_text(json.dumps(request))
    path.rename(path.with_suffix(".request"))
    reply = path.with_suffix(".reply")
    deadline = time.monotonic() + seconds + 10
    while not reply.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the host did not answer {request['do']!r}")
        time.sleep(0.02)
    answer: dict[str, Any] = json.loads(reply.read_text())
    reply.unlink()
    if "error" in answer:
        raise RuntimeError(f"{request['do']}: {answer['error']}")
    return answer

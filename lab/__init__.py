"""Real kernels for the tests: User-Mode Linux and QEMU, booted with this host's root as theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.common import LabError as LabError
    from lab.machine import Machine as Machine
    from lab.machine import Setting as Setting
    from lab.machine import run as run
    from lab.plugin import Selection as Selection

_HOME = {
    "LabError": "lab.common",
    "Machine": "lab.machine",
    "Setting": "lab.machine",
    "run": "lab.machine",
    "Selection": "lab.plugin",
}

__all__ = ["LabError", "Machine", "Selection", "Setting", "run"]


def __getattr__(name: str) -> object:
    # A guest under emulation imports only what it uses: a module costs it tens of milliseconds.
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)

"""The engine suite, the fd suite and the vectors, in real kernels with engine kernel."""

from __future__ import annotations

import pytest

from lab import Selection

pytestmark = pytest.mark.lab

SUITES = (
    "tests/vectors",
    "tests/test_session.py",
    "tests/test_fd.py",
    "tests/test_differential.py",
)
QUICK = ("-p", "no:cacheprovider", "-m", "not soak and not lab")
KERNEL = (*QUICK, "-k", "kernel")
SAMPLE = ("tests/test_fd.py", *QUICK, "-k", "kernel and (every_size or raw_readers)")
REFUSALS = ("tests/lab/inner/check_refusals.py", *QUICK)

whole = Selection("uml", *SUITES, *KERNEL)
sample = [Selection(kernel, *SAMPLE) for kernel in ("qemu-6.1", "qemu-6.12")]

refusals = [Selection("uml", *REFUSALS)] + [
    Selection("uml", *REFUSALS, linux=linux, uid=uid)
    for linux in ("7.2", "7.3:0", "7.3:1", "7.3:2")
    for uid in (0, 65534)
]
adopted = [
    Selection(kernel, "tests/lab/inner/check_adoption.py", *QUICK)
    for kernel in ("uml", "qemu-6.12")
]
restricted = Selection("uml", *SUITES, *KERNEL, linux="7.3:1")

hardware = [
    Selection(kernel, "tests/lab/inner/check_hardware_sessions.py", *QUICK, hardware=True)
    for kernel in ("qemu-6.1", "qemu-6.12")
]

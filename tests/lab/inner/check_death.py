"""Tests that do not survive: what the host says of them is what is tested."""

import os
import signal
import time
from pathlib import Path

import pytest

from lab import guest

if guest.kernel() is None:
    pytest.skip("this would be the end of the host", allow_module_level=True)


def test_kills_its_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_kills_its_kernel() -> None:
    Path("/proc/sysrq-trigger").write_text("c")
    time.sleep(60)

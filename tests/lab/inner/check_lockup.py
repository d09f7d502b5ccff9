"""A kernel that says that it is locked up, and does not go on."""

import signal
from pathlib import Path

from lab import guest


def test_passes() -> None:
    assert guest.kernel() is not None


def test_does_not_go_on() -> None:
    # A line of the kernel's log, as urgent as the watchdog's.
    Path("/dev/kmsg").write_text("<0>watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [init:1]\n")
    signal.pause()

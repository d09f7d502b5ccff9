"""A kernel that says that a CPU of its own is lost, and does not go on."""

import signal
from pathlib import Path

from lab import guest


def stop(line: str) -> None:
    # A line of the kernel's log, as urgent as its own.
    Path("/dev/kmsg").write_text(f"<0>{line}\n")
    signal.pause()


def test_passes() -> None:
    assert guest.kernel() is not None


def test_watchdog_barks() -> None:
    stop("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [init:1]")


def test_cpu_is_not_heard_of() -> None:
    stop("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:")

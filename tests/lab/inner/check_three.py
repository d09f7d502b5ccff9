"""Three tests that run in a lab kernel: one passes, one fails, one is skipped."""

import os

import pytest

from lab import guest


def test_passes() -> None:
    print(f"printed by Linux {os.uname().release}")
    assert guest.kernel() is not None


def test_fails() -> None:
    assert os.uname().nodename == "somewhere else", "this failure must reach the host"


def test_skips() -> None:
    pytest.skip("not in a lab kernel")

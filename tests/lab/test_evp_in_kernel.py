"""OpenSSL's own evp_test in a real kernel, with engine kernel forced."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab import Selection

sys.path.insert(0, str(Path(__file__).parents[1] / "openssl"))

from evp_suite import built

pytestmark = pytest.mark.lab

CHECK = "tests/lab/inner/check_evp.py"


class TestQuick:
    """All but thousands of stanzas of one algorithm."""

    @pytest.mark.timeout(900)
    def test_it_is_built(self) -> None:
        """Before the selection: a guest reaches no archive."""
        assert built()

    evp = Selection("uml", CHECK, "-m", "not soak", patience=600)


@pytest.mark.soak
class TestAll(TestQuick):
    """All of it."""

    evp = Selection("uml", CHECK, patience=1800)

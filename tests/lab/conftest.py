"""Tests in lab kernels are results here: see lab/plugin.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from lab.plugin import (
    pytest_pycollect_makeitem,
    pytest_runtest_protocol,
    pytest_sessionfinish,
)

__all__ = ["pytest_pycollect_makeitem", "pytest_runtest_protocol", "pytest_sessionfinish"]

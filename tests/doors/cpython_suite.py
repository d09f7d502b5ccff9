"""Runs a single test of CPython's suite as a part of ours."""

from __future__ import annotations

import unittest
from types import ModuleType

import pytest


def run_suite(module: ModuleType, name: str) -> None:
    """Runs ``Case.test`` of ``module``; its failure is ours, its skip too."""
    suite = unittest.defaultTestLoader.loadTestsFromName(name, module)
    result = unittest.TestResult()
    suite.run(result)
    for _, trace in [*result.failures, *result.errors]:
        pytest.fail(trace, pytrace=False)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1

"""What all tests share: an ``engine`` that stands for every engine of this host in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from host_engines import available, refusal

import cryptofd


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", available())


@pytest.fixture
def opened(engine: str) -> Callable[..., Any]:
    """``cryptofd.open`` on ``engine``; skips, with the reason, where that lacks the algorithm."""

    def open_(algorithm: str, *arguments: Any, **options: Any) -> Any:
        why = refusal(engine, algorithm)
        if why is not None:
            pytest.skip(f"{engine} does not offer {algorithm}: {why}")
        return cryptofd.open(algorithm, *arguments, engine=engine, **options)

    return open_

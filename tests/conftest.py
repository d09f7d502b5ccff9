"""What all tests share: an ``engine`` that stands for every engine of this host in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

import cryptofd


def available() -> list[str]:
    """The engines that are there."""
    return [engine.name for engine in cryptofd.engines() if engine.available]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", available())


@functools.cache
def refusal(engine: str, algorithm: str) -> str | None:
    """Why ``engine`` does not offer ``algorithm``; None if it does."""
    (candidate,) = cryptofd.explain(algorithm, engine=engine)
    return None if candidate.offers else candidate.why


@pytest.fixture
def opened(engine: str) -> Callable[..., Any]:
    """``cryptofd.open`` on ``engine``; skips, with the reason, where that lacks the algorithm."""

    def open_(algorithm: str, *arguments: Any, **options: Any) -> Any:
        why = refusal(engine, algorithm)
        if why is not None:
            pytest.skip(f"{engine} does not offer {algorithm}: {why}")
        return cryptofd.open(algorithm, *arguments, engine=engine, **options)

    return open_

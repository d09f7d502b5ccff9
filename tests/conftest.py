"""What all tests share: an ``engine`` that stands for every engine of this host in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from host_engines import available, refusal

import cryptofd


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", available())


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Brokers and commands are started hundreds of times: the first compiles for all, and nothing
    of it is left in the tree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", os.fspath(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture
def opened(engine: str) -> Callable[..., Any]:
    """``cryptofd.open`` on ``engine``; skips, with the reason, where that lacks the algorithm."""

    def open_(algorithm: str, *arguments: Any, **options: Any) -> Any:
        why = refusal(engine, algorithm)
        if why is not None:
            pytest.skip(f"{engine} does not offer {algorithm}: {why}")
        return cryptofd.open(algorithm, *arguments, engine=engine, **options)

    return open_

"""The extra that the broker needs, in the one version whose private members its transport uses."""

from __future__ import annotations

import importlib.metadata
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_the_version_is_pinned_and_there() -> None:
    pytest.importorskip("asyncvarlink", reason="the extra broker is not installed")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pinned,) = extras["optional-dependencies"]["broker"]
    assert pinned in extras["optional-dependencies"]["test"]
    assert pinned == f"asyncvarlink=={importlib.metadata.version('asyncvarlink')}"

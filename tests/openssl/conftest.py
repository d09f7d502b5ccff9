"""What the tests of the OpenSSL provider share: configurations of the profiles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "pkcs11"), str(TESTS / "broker")]

if TYPE_CHECKING:
    from hosts import Host


@pytest.fixture(scope="session")
def hosts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openssl")


@pytest.fixture(scope="session")
def bulk(hosts_folder: Path) -> Host:
    """Ours where we have it."""
    from hosts import Host

    return Host(hosts_folder, "bulk")


@pytest.fixture(scope="session")
def only(hosts_folder: Path) -> Host:
    """Ours and nothing else."""
    from hosts import Host

    return Host(hosts_folder, "all", "provider=cryptofd")


@pytest.fixture(scope="session")
def keys_only(hosts_folder: Path) -> Host:
    """The default profile."""
    from hosts import Host

    return Host(hosts_folder, None)

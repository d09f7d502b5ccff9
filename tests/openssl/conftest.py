"""What the tests of the OpenSSL provider share: configurations of the profiles."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "pkcs11"), str(TESTS / "broker")]

if TYPE_CHECKING:
    from hosts import Host
    from real_broker import Broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that every program of this test module asks; modules put their keys into it."""
    pytest.importorskip("asyncvarlink")
    from real_broker import Broker

    one = Broker(tmp_path_factory.mktemp("broker"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYPTOFD_BROKER", str(one.socket))
        yield one
    one.end()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What programs measure is not what this machine's programs shall know."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def hosts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openssl")


@pytest.fixture(scope="session")
def whole(hosts_folder: Path) -> Host:
    """Ours where we have it."""
    from hosts import Host

    return Host(hosts_folder)


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

"""What the tests of the PKCS#11 module share: the module, sessions on both slots, a broker."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from raw import CRYPTO, KEYS, Module, Session, loaded

sys.path.insert(0, str(Path(__file__).parents[1] / "broker"))

if TYPE_CHECKING:
    from real_broker import Broker


@pytest.fixture(scope="session")
def library() -> Path:
    """The module as it is installed."""
    import cryptofd

    return Path(cryptofd.__file__).parent / "lib" / "libcryptofd-pkcs11.so"


@pytest.fixture(scope="session")
def module(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    one = loaded(library, tmp_path_factory.mktemp("module"), "session")
    one.ok("Initialize", None)
    yield one
    one.ok("Finalize", None)


@pytest.fixture
def session(module: Module) -> Iterator[Session]:
    """On the slot of session crypto."""
    one = module.session(CRYPTO)
    yield one
    one.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker, and every program of this test module asks it."""
    pytest.importorskip("asyncvarlink")
    from real_broker import Broker

    folder = tmp_path_factory.mktemp("broker")
    one = Broker(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYPTOFD_BROKER", str(one.socket))
        patch.setenv("CRYPTOFD_STATE", str(folder / "objects-of-the-program"))
        yield one
    one.end()


@pytest.fixture(scope="module")
def keys_module(
    broker: Broker, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Module]:
    assert os.environ["CRYPTOFD_BROKER"] == str(broker.socket)
    one = loaded(library, tmp_path_factory.mktemp("module"), "keys")
    one.ok("Initialize", None)
    yield one
    one.ok("Finalize", None)


@pytest.fixture
def keys(keys_module: Module) -> Iterator[Session]:
    """On the slot of the broker's keys."""
    one = keys_module.session(KEYS)
    yield one
    one.close()


@pytest.fixture
def fresh_token(broker: Broker) -> Iterator[None]:
    """Neither keys nor certificates are left to the next test."""
    yield
    with broker.connect() as connection:
        for key in connection.keys.list():
            connection.keys.delete(key.label)
    shelf = Path(os.environ["CRYPTOFD_STATE"]) / "objects"
    for file in shelf.iterdir() if shelf.exists() else ():
        file.unlink()

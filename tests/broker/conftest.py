"""A broker for the tests: the real process, its supervisor and workers a fake."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from real_broker import Broker

    from cryptofd.broker.client import Connection

if importlib.util.find_spec("asyncvarlink") is None:
    # test_extra.py says so.
    collect_ignore_glob = ["test_broker_*.py"]
else:
    from fake_supervisor import Supervisor
    from varlink_client import Client


def _started(folder: pathlib.Path) -> Supervisor:
    (folder / "state").mkdir(mode=0o700)
    (folder / "policy").mkdir(mode=0o755)
    one = Supervisor(
        folder / "state",
        folder / "broker",
        CRYPTOFD_POLICY=str(folder / "policy" / "policy.toml"),
    )
    one.start()
    return one


@pytest.fixture
def supervisor(tmp_path: pathlib.Path) -> Iterator[Supervisor]:
    """A broker of the test's own, with no policy but the built-in one."""
    one = _started(tmp_path)
    yield one
    one.close()


@pytest.fixture
def connect(supervisor: Supervisor) -> Iterator[Callable[[], Client]]:
    """Makes connections to it."""
    made: list[Client] = []

    def one() -> Client:
        client = Client(supervisor.path)
        made.append(client)
        return client

    yield one
    for client in made:
        client.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A broker for all tests of a module that leave nothing but keys."""
    one = _started(tmp_path_factory.mktemp("broker"))
    yield one
    one.close()


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A connection to the test's own broker if it has one, else to a shared one without keys."""
    own = {"supervisor", "connect"} & set(request.fixturenames)
    name = "supervisor" if own else "shared"
    with Client(request.getfixturevalue(name).path) as client:
        yield client
    if not own:
        with Client(request.getfixturevalue(name).path) as client:
            while keys := client.call("ListKeys", all=True)["keys"]:
                for label in {key["label"] for key in keys}:
                    client.call("DeleteKey", key=label)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The real processes, for all tests of a module that leave nothing but keys."""
    from real_broker import Broker

    broker = Broker(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.end()


@pytest.fixture
def b(real: Broker) -> Iterator[Connection]:
    """A connection to them; the keys that a test leaves are deleted."""
    connection = real.connect()
    yield connection
    for label in {key.label for key in connection.keys.list()}:
        connection.keys.delete(label)

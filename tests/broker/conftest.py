"""A broker for the tests: the real process, its supervisor and workers a fake."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("asyncvarlink", reason="the broker needs the extra broker: pip install cryptofd[broker]")

from varlink_client import Client
from fake_supervisor import Supervisor


@pytest.fixture
def supervisor(tmp_path: pathlib.Path) -> Iterator[Supervisor]:
    """A broker that runs, with no policy but the built-in one."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    one = Supervisor(
        state, tmp_path / "broker", CRYPTOFD_POLICY=str(tmp_path / "policy" / "policy.toml")
    )
    (tmp_path / "policy").mkdir(mode=0o755)
    one.start()
    yield one
    one.close()


@pytest.fixture
def connect(supervisor: Supervisor) -> Iterator[Callable[[], Client]]:
    """Makes connections."""
    made: list[Client] = []

    def one() -> Client:
        client = Client(supervisor.path)
        made.append(client)
        return client

    yield one
    for client in made:
        client.close()


@pytest.fixture
def broker(connect: Callable[[], Client]) -> Client:
    """A connection."""
    return connect()

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from solver.clock import ManualClock
from solver.load.store.memory import MemoryStore
from tests.redis_server import RedisServer, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from solver.load.store.base import Store

NAMESPACES = count()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[Store]:
    """Every store, on a clock that only the test moves."""
    if request.param == "memory":
        yield MemoryStore(clock=clock)
        return
    from solver.load.store.redis import RedisStore

    server: RedisServer = request.getfixturevalue("redis_server")
    redis_store = RedisStore(
        server.url, replicas=1, namespace=f"contract-{next(NAMESPACES)}", clock=clock, timeout_s=5.0
    )
    yield redis_store
    redis_store.close()

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.redis_server import RedisServer, running

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESPACES = count()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for tests that keep to a namespace of their own."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that the test may stop and start."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return f"test-{next(NAMESPACES)}"

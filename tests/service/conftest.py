from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.http_service import HttpService
from tests.http_service import running as serving
from tests.redis_server import RedisServer, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

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


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    with serving(tmp_path_factory.mktemp("service")) as started:
        yield started


@pytest.fixture
def service(shared_service: HttpService) -> Iterator[HttpService]:
    """One service for all tests that leave it as they found it: that is checked."""
    with shared_service.client() as client:
        yield shared_service
        models = client.get("/v1/load").json()["models"]
        left = {one["model"]: one["active_requests"] for one in models if one["active_requests"]}
        assert left == {}, "the test gave something back too little"
        assert not any(one["stops"] for one in models if one["in_fleet"])


@pytest.fixture
def client(service: HttpService) -> Iterator[httpx.Client]:
    with service.client() as opened:
        yield opened

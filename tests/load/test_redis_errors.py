"""Whatever a Redis client raises, callers meet the states of an outage, and work goes on afterwards."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

from solver.errors import SpecError, StoreDownError
from solver.load.lease import Ask, LeaseState, ReleaseOutcome
from solver.load.refusal import Refusal, RefusalReason
from solver.load.store.base import Limits
from solver.load.store.redis import OutageCause, RedisStore

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

NAMES = itertools.count()


def errors() -> list[Exception]:
    """Return one error of each kind that redis-py defines and that can be made of a message, and some of sockets."""
    found: list[Exception] = [
        OSError("no route to host"),
        ConnectionResetError("reset"),
        TimeoutError("slow"),
    ]
    for name, kind in sorted(vars(redis.exceptions).items()):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            continue
        for message in (f"{name}: boom", "1 127.0.0.1:7000"):  # the latter as redirections have it
            try:
                found.append(kind(message))
            except (ValueError, TypeError):
                continue
            break
    return found


class Raising:
    """A client that raises instead of asking the server."""

    def __init__(self, server: RedisServer, error: Exception) -> None:
        self.real = redis.Redis.from_url(server.url)
        self.error: Exception | None = error
        self.works = True
        self.connection_pool = self.real.connection_pool

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if not self.works and self.error is not None:
                raise self.error
            return getattr(self.real, name)(*arguments)

        return call


@pytest.mark.parametrize(
    "error", errors(), ids=lambda error: f"{type(error).__module__}.{type(error).__name__}"
)
def test_every_error_is_an_outage(redis_server: RedisServer, error: Exception) -> None:
    client = Raising(redis_server, error)
    store = RedisStore(client, replicas=1, namespace=f"errors-{next(NAMES)}", retry_s=1e-9)
    store.configure("m", Limits(max_concurrent=2, max_queue=1))
    assert store.acquire(Ask(model="m", lease_id="a", ttl_s=60.0)) is LeaseState.RUNNING
    client.works = False
    answer = store.acquire(Ask(model="m", lease_id="b", ttl_s=60.0))
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.STORE_UNAVAILABLE
    for step in (
        lambda: store.renew("a", 60.0),
        lambda: store.lease_state("a"),
        lambda: store.view(),
        lambda: store.row("m"),
        lambda: store.adjust("m", active=1, queue=0),
        lambda: store.stop("m", "operator"),
        lambda: store.resume("m", "operator"),
        lambda: store.configure("m", Limits(max_concurrent=3)),
        lambda: store.exchange("topic", "text", 1.0),
        lambda: store.end_leases("m"),
    ):
        try:
            step()
        except StoreDownError:
            continue
    if not isinstance(error, redis.exceptions.OutOfMemoryError):  # a server that is full takes releases
        assert store.release("a", tokens=None, cost_nano_usd=None) is ReleaseOutcome.DEFERRED
        assert isinstance(store.cause, OutageCause)
    client.works = True
    states = [store.acquire(Ask(model="m", lease_id=f"c{k}", ttl_s=60.0)) for k in range(3)]
    assert states.count(LeaseState.RUNNING) >= 1
    store.close()


def test_a_client_of_asyncio_is_refused_with_what_to_give_instead() -> None:
    with pytest.raises(SpecError, match=r"server: expected redis\.Redis, .* got a client of redis\.asyncio"):
        RedisStore(redis.asyncio.Redis(), replicas=1)

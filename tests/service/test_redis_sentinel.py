"""A real Sentinel fails over while leases are held: nothing is granted twice, and nobody has to do anything."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.sentinel

from solver.load.lease import Lease, LeaseState
from solver.load.store.redis import RedisStore
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity
from tests.redis_server import RedisServer, executable, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WITHIN_S = 30.0


def until(done: Callable[[], Any]) -> None:
    """Wait until something holds; errors on the way there do not count."""
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            if done():
                return
        time.sleep(0.05)
    pytest.fail("it did not come about in time")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[RedisServer, redis.sentinel.Sentinel]]:
    with contextlib.ExitStack() as stack:
        folders = [tmp_path / name for name in ("primary", "replica", "sentinel")]
        for folder in folders:
            folder.mkdir()
        primary = RedisServer(folders[0])
        primary.start()
        stack.callback(primary.stop)
        replica = RedisServer(folders[1], options=("--replicaof", "127.0.0.1", str(primary.port)))
        replica.start()
        stack.callback(replica.stop)
        port = free_port()
        settings = folders[2] / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folders[2]}\n"
            f"sentinel monitor solver 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds solver 300\nsentinel failover-timeout solver 3000\n",
            "utf-8",
        )
        process = subprocess.Popen(
            [executable(), str(settings), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        sentinel = redis.sentinel.Sentinel([("127.0.0.1", port)], socket_timeout=0.3)
        until(lambda: sentinel.discover_slaves("solver"))
        yield primary, sentinel


def test_a_fail_over_grants_nothing_twice_and_ends_by_itself(
    fleet: tuple[RedisServer, redis.sentinel.Sentinel],
) -> None:
    primary, sentinel = fleet
    trackers = [
        LoadTracker(
            store=RedisStore(
                sentinel.master_for("solver", socket_timeout=0.3),
                replicas=2,
                max_ttl_s=20,
                retry_s=0.05,
                name=name,
                namespace="sentinel",
            )
        )
        for name in ("a", "b")
    ]
    first, second = trackers
    for tracker in trackers:
        tracker.set_pool("quota", max_concurrent=5)
        tracker.set_capacity("m", Capacity(max_concurrent=4), pools=["quota"])
    held = [lease for _ in range(3) if (lease := first.acquire("m", ttl_s=20)) is not None]
    assert len(held) == 3
    primary.stop()
    answers = []

    def granted() -> bool:
        answers.append(second.try_acquire("m", ttl_s=20))
        first.snapshot()  # the other one tells what it holds
        return isinstance(answers[-1], Lease)

    until(granted)
    assert not second.try_acquire("m", ttl_s=20)  # four are held by now
    assert [lease.renew() for lease in held] == [LeaseState.RUNNING] * 3
    assert second.snapshot().active.tolist() == [4]
    assert second.pool("quota").active == 4
    for tracker in trackers:
        tracker.store.close()  # type: ignore[attr-defined]

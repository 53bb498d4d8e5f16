"""What the shared store adds to a request, on loopback: one round trip an operation. Bar: p99 1 ms."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from benchmarks.bench_load import CALLS, report
from solver.load.lease import Demand
from solver.load.store.redis import RedisStore
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity
from tests.redis_server import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadTracker]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        store = RedisStore(server.url, replicas=1, timeout_s=5.0)
        tracker = LoadTracker(store=store)
        for j in range(20):
            tracker.set_capacity(f"m{j}", Capacity(max_concurrent=100))
        tracker.set_capacity(
            "metered",
            Capacity(max_concurrent=100),
            requests_per_minute=10**9,
            tokens_per_minute=10**12,
            budget_usd=1e6,
        )
        yield tracker
        store.close()


def bench_redis_acquire(benchmark: BenchmarkFixture, tracker: LoadTracker) -> None:
    """Acquire with a short time to live, so that expiry is part of the price."""
    report(benchmark, lambda: tracker.acquire("m7", ttl_s=0.01), CALLS, 1000, time.perf_counter)


def bench_redis_acquire_and_release(benchmark: BenchmarkFixture, tracker: LoadTracker) -> None:
    """Both, with the server's own account of the time in the script for each of the two calls."""

    def call() -> None:
        lease = tracker.acquire("m8")
        assert lease is not None
        lease.release()

    server = tracker.store._link._client  # type: ignore[attr-defined]  # noqa: SLF001 # for its statistics
    server.config_resetstat()
    report(benchmark, call, CALLS, 2000, time.perf_counter)
    in_script = server.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    benchmark.extra_info["script_us_a_call"] = in_script
    print(f"{benchmark.name}: {in_script} microseconds in the script a call")


def bench_redis_acquire_and_release_metered(benchmark: BenchmarkFixture, tracker: LoadTracker) -> None:
    demand = Demand(tokens=700, cost_usd=0.001)

    def call() -> None:
        lease = tracker.acquire("metered", demand)
        assert lease is not None
        lease.release(tokens=600)

    report(benchmark, call, CALLS, 2000, time.perf_counter)


def bench_redis_snapshot_of_twenty(benchmark: BenchmarkFixture, tracker: LoadTracker) -> None:
    report(benchmark, tracker.snapshot, CALLS, 1000, time.perf_counter)

"""What the live side adds to a request: median, p95 and p99 of single calls, in one process.

Bars (p99, one core): acquire and release 20 µs; one agent over 500 models with its reservation 100 µs; a batch
of 100 on 20 models 5 ms greedy or balanced, 10 ms optimal; a snapshot of 1,000 models 200 µs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.conftest import SMOKE
from solver.load.balance.balancer import LoadBalancer
from solver.load.balance.placement import ROUTINGS
from solver.load.balance.strategies import STRATEGIES
from solver.load.lease import Demand
from solver.load.tracker import LoadTracker
from solver.problem.spec import Agent, Capacity, Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

CALLS = 50 if SMOKE else 5_000
BATCHES = 3 if SMOKE else 200
SKILLS = ("coding", "math", "reasoning", "general")


def percentiles_us(
    call: Callable[[], Any], calls: int, now: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Return median, p95 and p99 of single calls, microseconds; by default of processor time only."""
    for _ in range(3):
        call()
    took = np.empty(calls)
    for k in range(calls):
        started = now()
        call()
        took[k] = now() - started
    p50, p95, p99 = np.percentile(took, [50, 95, 99]) * 1e6
    return {"p50_us": round(float(p50), 1), "p95_us": round(float(p95), 1), "p99_us": round(float(p99), 1)}


def report(
    benchmark: BenchmarkFixture,
    call: Callable[[], Any],
    calls: int,
    bar_us: float,
    now: Callable[[], float] = time.process_time,
) -> None:
    """Time single calls, keep the percentiles beside the benchmark's own figures, and print them."""
    figures = percentiles_us(call, calls, now)
    benchmark.extra_info.update(figures, bar_us=bar_us)
    print(f"{benchmark.name}: {figures} bar p99 {bar_us:g}")
    benchmark.pedantic(call, rounds=3)


def fleet(m: int, slots: int) -> list[Model]:
    rng = np.random.default_rng(0)
    return [
        Model(
            id=f"m{j}",
            capacity=Capacity(max_concurrent=slots, max_queue=5),
            capabilities={skill: float(rng.random()) for skill in SKILLS},
            context_tokens=128_000,
        )
        for j in range(m)
    ]


def crowd(n: int) -> list[Agent]:
    return [
        Agent(id=str(i), task_type=SKILLS[i % len(SKILLS)], input_tokens=500, output_tokens=200)
        for i in range(n)
    ]


@pytest.mark.parametrize("metered", [False, True], ids=["slots", "metered"])
def bench_acquire_and_release(benchmark: BenchmarkFixture, metered: bool) -> None:
    tracker = LoadTracker()
    limits = {"requests_per_minute": 10**9, "tokens_per_minute": 10**12, "budget_usd": 1e6} if metered else {}
    for j in range(20):
        tracker.set_capacity(f"m{j}", Capacity(max_concurrent=10), **limits)  # type: ignore[arg-type]  # mixed
    demand = Demand(tokens=700, cost_usd=0.001) if metered else None

    def call() -> None:
        lease = tracker.acquire("m7", demand)
        assert lease is not None
        lease.release()

    report(benchmark, call, CALLS, 20)


def bench_snapshot_of_a_thousand_models(benchmark: BenchmarkFixture) -> None:
    tracker = LoadTracker()
    for j in range(1000):
        tracker.set_capacity(f"m{j}", Capacity(max_concurrent=10))
    report(benchmark, lambda: tracker.snapshot().utilization, CALLS, 200)


@pytest.mark.parametrize("m", [50, 500])
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def bench_route_and_reserve_one(benchmark: BenchmarkFixture, strategy: str, routing: str, m: int) -> None:
    balancer = LoadBalancer(LoadTracker(), strategy, routing)
    models, agents = fleet(m, 10), crowd(1)

    def call() -> None:
        [reservation] = balancer.assign_and_reserve(agents, models)
        assert reservation.lease is not None
        reservation.lease.release()

    report(benchmark, call, CALLS, 100)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def bench_batch_of_a_hundred_on_twenty(benchmark: BenchmarkFixture, strategy: str, routing: str) -> None:
    balancer = LoadBalancer(LoadTracker(), strategy, routing)
    models, agents = fleet(20, 8), crowd(100)
    report(
        benchmark,
        lambda: balancer.select(agents, models),
        BATCHES,
        10_000 if routing == "optimal" else 5_000,
    )

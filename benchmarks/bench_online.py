"""What online routing adds to a request, and what a refresh costs; quality as a smoke test.

Bars on one core: route, reserve and release on 50 / 500 models while prices are refreshed every second, p50 15 / 20 µs
and p99 40 / 80 µs, 20,000 a second; a refresh of 2,000 × 50 with a budget 10 ms, with tables 40 ms of processor time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from benchmarks import online_horizon, online_steady
from benchmarks.conftest import SMOKE
from solver.online.horizon import HorizonPrices, horizon_prices
from solver.online.parameters import PriceParams, RefreshParams
from solver.online.steady import SteadyLimits, steady_prices
from solver.online.window import AgentRow, Window

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

CALLS = 300 if SMOKE else 60_000


@pytest.mark.parametrize("m", [50, 500])
def bench_route_reserve_release(m: int, benchmark: BenchmarkFixture) -> None:
    rows = np.random.default_rng(0).random((4096, m))
    models = [solver.Model(id=f"m{j}", capacity=solver.Capacity(max_concurrent=12)) for j in range(m)]
    pace = RefreshParams(every_arrivals=10**9, every_s=1.0)
    router = solver.OptimalRouter(solver.LoadTracker(), models, history=rows[:1000], refresh=pace)
    took = np.empty(CALLS)

    def run() -> None:
        for k in range(CALLS):
            started = time.perf_counter()
            router.route(scores=rows[k % 4096]).release()
            took[k] = time.perf_counter() - started

    benchmark.pedantic(run, rounds=1)
    micros = 1e6 * took[CALLS // 10 :]
    p50, p99 = np.quantile(micros, [0.5, 0.99])
    benchmark.extra_info |= {"p50_us": p50, "p99_us": p99, "per_s": 1e6 / micros.mean(), **vars_of(router)}
    print(
        f"\n{m} models: p50 {p50:.1f} us, p99 {p99:.1f} us, {1e6 / micros.mean():,.0f} a second, {router.status()}"
    )
    router.close()


def vars_of(router: solver.OptimalRouter) -> dict[str, float]:
    status = router.status()
    return {"refreshes": status.refreshes, "failures": status.failures}


@pytest.mark.parametrize("what", ["budget", "tables"])
def bench_refresh(what: str, benchmark: BenchmarkFixture) -> None:
    n, m = (100, 50) if SMOKE else (2000, 50)
    rng = np.random.default_rng(0)
    window = Window(m, n)
    for _ in range(n):
        window.add(AgentRow(rng.random(m), service_s=rng.uniform(1, 9, m), cost_usd=rng.uniform(0.1, 9, m)))
    sample = window.sample()

    state: dict[str, Any] = {"budget": HorizonPrices(np.zeros(m), 0.0, 0.0), "tables": None}

    def budget() -> None:
        state["budget"] = horizon_prices(
            sample,
            slots_left=np.full(m, n / 60),
            arrivals_left=n,
            usd_left=0.5 * n,
            before=state["budget"],
            params=PriceParams(),
        )

    limits = SteadyLimits(
        slots=np.full(m, 12),
        queue=np.zeros(m, np.int64),
        requests_per_s=np.full(m, np.inf),
        tokens_per_s=np.full(m, np.inf),
        usd_per_s=np.inf,
        tenant_shares=np.empty(0),
    )

    def tables() -> None:
        state["tables"] = steady_prices(
            sample,
            limits=limits,
            service_s=np.full(m, 5.0),
            rate_per_s=110.0,
            wait_cost_per_s=0.0,
            before=state["tables"],
            params=PriceParams(),
        )

    call = budget if what == "budget" else tables
    call()
    took: list[float] = []

    def timed() -> None:
        started = time.process_time()
        call()
        took.append(1e3 * (time.process_time() - started))

    for _ in range(0 if SMOKE else 20):
        timed()
    benchmark.pedantic(timed, rounds=1)
    print(f"\nrefresh {n} x {m}, {what}: {np.median(took):.1f} ms of processor time")


def bench_quality(benchmark: BenchmarkFixture) -> None:
    """One order, one seed: the tables of ``online_horizon`` and ``online_steady`` are commands of their own."""

    def both() -> None:
        case = online_horizon.Case("random", 0.9, 200)
        total, greedy, bound = online_horizon.run((case, 0))
        assert greedy < total <= bound
        steady = online_steady.run((online_steady.Case("poisson", 0.8), 0, 600))
        assert 0.7 < steady.score / steady.bound < 1.1

    benchmark.pedantic(both, rounds=1)

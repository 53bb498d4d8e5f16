"""How close in how much time: generated instances of types C, D and E, and a hundred thousand agents with tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.conftest import SMOKE
from solver.clock import Deadline
from solver.engines.base import load_engine
from solver.engines.certificate import certify
from solver.problem.instance import Instance, build_instance
from solver.problem.limits import Budget

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = ((20, 200),) if SMOKE else ((20, 200), (40, 400), (60, 900), (80, 1600))
MANY = 20_000 if SMOKE else 100_000


def hard(kind: str, m: int, n: int, seed: int) -> Instance:
    """Return an instance of a published family, cost turned into score."""
    rng = np.random.default_rng(seed)
    if kind == "c":
        demand, cost = rng.integers(5, 26, (n, m)).astype(float), rng.integers(10, 51, (n, m)).astype(float)
    elif kind == "d":
        demand = rng.integers(1, 101, (n, m)).astype(float)
        cost = 111 - demand + rng.integers(-10, 11, (n, m))
    else:
        demand = np.maximum(np.rint(1 - 10 * np.log(1 - rng.random((n, m)))), 1)
        cost = np.rint(1000 / demand - 10 * rng.random((n, m)))
    capacity = np.floor(0.8 * demand.sum(axis=0) / m)
    return build_instance(-cost, capacity, demand=demand, unassigned_penalty=np.inf)


def tokens(n: int, m: int, *, money: bool) -> Instance:
    """Return lognormal token demands, skewed capacities and, if asked, memory and a budget."""
    rng = np.random.default_rng(1)
    taken = np.rint(rng.lognormal(6, 1, (n, 1)) * rng.uniform(0.7, 1.4, m)) + 1
    price = rng.uniform(0.2, 3.0, m)
    score = 10 * (40 * rng.uniform(0, 1, m) - price * taken / 100 - rng.exponential(10, (n, m)))
    capacity = rng.dirichlet(np.full(m, 20.0)) * taken.mean() * n * (1.3 if money else 1.05)
    if not money:
        return build_instance(score, capacity, demand=taken, unassigned_penalty=np.inf)
    memory = np.broadcast_to(rng.uniform(1, 4, (n, 1)), (n, m))
    usd = taken * price / 1e6
    return build_instance(
        score,
        np.stack([capacity, np.full(m, 2.5 * n / m * 1.6)], axis=1),
        demand=np.stack([taken, memory], axis=2),
        unassigned_penalty=np.inf,
        limits=[Budget(name="usd", amount=float(0.9 * usd.mean() * n), cost=usd)],
    )


def record(benchmark: BenchmarkFixture, instance: Instance, deadline_ms: float) -> None:
    engine = load_engine("lagrangian")
    claim = benchmark.pedantic(
        lambda: engine.solve(instance, deadline=Deadline.after(deadline_ms)), rounds=1 if SMOKE else 3
    )
    benchmark.extra_info["deadline_ms"] = deadline_ms
    if claim is None:
        benchmark.extra_info["certified_gap"] = None
        return
    certificate = certify(instance, claim)
    assert certificate.violations == ()
    benchmark.extra_info["certified_gap"] = certificate.gap


@pytest.mark.parametrize("deadline_ms", [100, 1000])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["c", "d", "e"])
def bench_families(benchmark: BenchmarkFixture, kind: str, size: tuple[int, int], deadline_ms: int) -> None:
    record(benchmark, hard(kind, *size, seed=0), deadline_ms)


@pytest.mark.parametrize("kind", ["c", "d", "tokens"])
def bench_many_agents(benchmark: BenchmarkFixture, kind: str) -> None:
    instance = tokens(MANY, 50, money=False) if kind == "tokens" else hard(kind, 50, MANY, seed=0)
    record(benchmark, instance, 2000)


def bench_many_agents_with_a_budget(benchmark: BenchmarkFixture) -> None:
    record(benchmark, tokens(MANY, 50, money=True), 3000)

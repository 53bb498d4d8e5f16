"""How close in how much time: generated instances of types C, D and E, and a hundred thousand agents.

The bars for a hundred thousand agents and fifty models (certified gap and wall time of the public call, five seeds
each, one core) are asserted by ``bench_many_agents``::

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 pytest benchmarks/bench_gap.py -k many_agents --benchmark-only -s
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from benchmarks.conftest import SMOKE
from solver.clock import Deadline
from solver.engines.base import load_engine
from solver.engines.certificate import certify
from solver.problem.build import build_instance
from solver.problem.limit_kinds import Budget

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    Arguments = dict[str, Any]

SIZES = ((20, 200),) if SMOKE else ((20, 200), (40, 400), (60, 900), (80, 1600))
MANY = 20_000 if SMOKE else 100_000
SEEDS = range(1 if SMOKE else 5)
OVERRUN = 1.1  # of the deadline
BARS = {
    "c": (2000, 1e-4),
    "tokens": (2000, 1e-4),
    "skewed": (2000, 1e-4),
    "d": (2000, 5e-4),
    "tokens, memory and a budget": (3000, 5e-4),
}
"""Family of many agents: deadline in milliseconds, largest certified relative gap."""


def hard(kind: str, m: int, n: int, seed: int) -> Arguments:
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
    return {"scores": -cost, "capacity": capacity, "demand": demand, "unassigned_penalty": np.inf}


def tokens(n: int, m: int, seed: int, *, money: bool) -> Arguments:
    """Return lognormal token demands, skewed capacities and, if asked, memory and a budget."""
    rng = np.random.default_rng(seed)
    taken = np.rint(rng.lognormal(6, 1, (n, 1)) * rng.uniform(0.7, 1.4, m)) + 1
    price = rng.uniform(0.2, 3.0, m)
    score = 10 * (40 * rng.uniform(0, 1, m) - price * taken / 100 - rng.exponential(10, (n, m)))
    capacity = rng.dirichlet(np.full(m, 20.0)) * taken.mean() * n * (1.3 if money else 1.05)
    demand, limits = taken, []
    if money:
        capacity = np.stack([capacity, np.full(m, 2.5 * n / m * 1.6)], axis=1)
        demand = np.stack([taken, np.broadcast_to(rng.uniform(1, 4, (n, 1)), (n, m))], axis=2)
        usd = taken * price / 1e6
        limits = [Budget(name="usd", amount=float(0.9 * usd.mean() * n), cost=usd)]
    return {
        "scores": score,
        "capacity": capacity,
        "demand": demand,
        "unassigned_penalty": np.inf,
        "limits": limits,
    }


def skewed(n: int, m: int, seed: int) -> Arguments:
    """Return whole-numbered token demands that differ by pair, and capacities that differ by a factor of five."""
    rng = np.random.default_rng(seed)
    demand = (
        np.rint(rng.lognormal(6, 1, (n, 1)) * rng.uniform(0.7, 1.4, m) * rng.uniform(0.8, 1.25, (n, m))) + 1
    )
    price, quality = rng.uniform(0.2, 3, m), rng.uniform(0, 1, m)
    cost = np.rint(10 * (price * demand / 100 + (1 - quality) * rng.exponential(40, (n, m))))
    capacity = np.rint(rng.dirichlet(np.full(m, 5.0)) * demand.mean() * n * 1.05)
    return {"scores": -cost, "capacity": capacity, "demand": demand, "unassigned_penalty": np.inf}


def many(family: str, seed: int) -> Arguments:
    if family == "skewed":
        return skewed(MANY, 50, seed)
    if family.startswith("tokens"):
        return tokens(MANY, 50, seed, money=family != "tokens")
    return hard(family, 50, MANY, seed)


def record(benchmark: BenchmarkFixture, arguments: Arguments, deadline_ms: float) -> None:
    engine, instance = load_engine("lagrangian"), build_instance(**arguments)
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


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", BARS)
def bench_many_agents(benchmark: BenchmarkFixture, family: str, seed: int) -> None:
    deadline_ms, most_gap = BARS[family]
    arguments = many(family, seed)
    elapsed: list[float] = []

    def call() -> solver.Solution:
        started = time.perf_counter()
        solution = solver.assign(**arguments, deadline_ms=deadline_ms)
        elapsed.append(1e3 * (time.perf_counter() - started))
        return solution

    solution = benchmark.pedantic(call, rounds=1)
    benchmark.extra_info.update(deadline_ms=deadline_ms, certified_gap=solution.gap, elapsed_ms=elapsed[0])
    print(f"{family}, seed {seed}: gap {100 * solution.gap:.5f} %, {elapsed[0]:.0f} of {deadline_ms} ms")
    assert SMOKE or solution.gap <= most_gap * (100_000 / MANY)  # one agent weighs more among fewer
    assert SMOKE or elapsed[0] <= OVERRUN * deadline_ms

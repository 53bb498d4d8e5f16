"""As many models as agents, or more, against every tool that does it; overhead; warm starts with other capacities.

Run: python -m pytest benchmarks/bench_many_models.py -s -o addopts="" (BENCH_SMOKE=1 takes the smallest, once).
Certificate and prices are included on our side, and none on theirs. Runs are interleaved; medians of the wall clock.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from benchmarks.conftest import SMOKE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DENSE = ((20, 6_000), (300, 5_000), (500, 500), (1_000, 1_000), (2_000, 2_000), (4_000, 4_000))
SPARSE = (5_000, 20_000)
SLOWER, OVERHEAD_MS = 1.3, 0.2  # than the best peer, at most
VARIANTS = 8
FLOW_PAIRS, POT_ROWS, HIGHS_ROWS = 1_500_000, 1_000, 5_000
"""Up to which these peers are asked: beyond, they take tens of times as long as the best."""


def dense_peers(scores: NDArray[np.float64]) -> dict[str, Callable[[], Any]]:
    """Return the peers that take a dense matrix, each called on what it likes best, made ready before the clock."""
    from scipy.optimize import linear_sum_assignment

    runs: dict[str, Callable[[], Any]] = {"scipy LSA": lambda: linear_sum_assignment(scores, maximize=True)}
    n, m = scores.shape
    if n * m <= FLOW_PAIRS:
        runs["OR-Tools flow"] = flow_peer(scores)
    if n == m <= POT_ROWS:
        runs |= pot_peer(scores)
    try:
        import lap
    except ImportError:
        return runs
    cost = scores.max() - scores
    if m <= 10 * n:  # it pads rectangles to squares
        runs["lapx lapjv"] = lambda: lap.lapjv(cost, extend_cost=True)
        runs["lapx lapjvc"] = lambda: lap.lapjvc(cost)
        runs["lapx lapjvs, float32"] = lambda: lap.lapjvs(cost)
        runs["lapx lapjvs, float64"] = lambda: lap.lapjvs(cost, prefer_float32=False)
    return runs


def flow_peer(scores: NDArray[np.float64]) -> Callable[[], Any]:
    """Return a call of OR-Tools' flow with costs of 20 bits, network and all: it has no other interface."""
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    n, m = scores.shape
    agent, model = np.repeat(np.arange(n), m), np.tile(np.arange(m), n) + n
    cost = np.rint((scores.max() - scores) * 2**20).astype(np.int64).ravel()
    ends = np.arange(n, n + m)

    def run() -> None:
        network = SimpleMinCostFlow()
        add = network.add_arcs_with_capacity_and_unit_cost
        add(agent, model, np.ones(n * m, np.int64), cost)
        add(ends, np.full(m, n + m), np.ones(m, np.int64), np.zeros(m, np.int64))
        supply = np.concatenate([np.ones(n, np.int64), np.zeros(m, np.int64), [-n]])
        network.set_nodes_supplies(np.arange(n + m + 1), supply)
        assert network.solve() == network.OPTIMAL

    return run


def pot_peer(scores: NDArray[np.float64]) -> dict[str, Callable[[], Any]]:
    """Return POT's network simplex on a square."""
    try:
        import ot
    except ImportError:
        return {}
    mass, cost = np.full(len(scores), 1.0 / len(scores)), scores.max() - scores
    return {"POT emd": lambda: ot.emd(mass, mass, cost, numItermax=10_000_000)}


def highs_peer(matrix: Any) -> dict[str, Callable[[], Any]]:
    """Return HiGHS on the linear program of a sparse one-to-one assignment."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    n, entries = matrix.shape[0], matrix.tocoo()
    pairs = np.arange(entries.nnz)
    place = np.concatenate([entries.row, entries.col + n])
    rows: Any = csr_array(
        (np.ones(2 * entries.nnz), (place, np.concatenate([pairs, pairs]))), shape=(2 * n, entries.nnz)
    )
    return {
        "HiGHS": lambda: linprog(-entries.data, A_eq=rows, b_eq=np.ones(2 * n), bounds=(0, 1), method="highs")
    }


def medians(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - started) * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def check(what: str, median: dict[str, float]) -> None:
    ours = median.pop("ours")
    best = min(median.values())
    print(f"\n{what}: ours {ours:.2f} ms, " + ", ".join(f"{k} {v:.2f}" for k, v in median.items()), end="")
    print(f"; ours ÷ best peer {ours / best:.2f}")
    assert SMOKE or ours <= SLOWER * best + OVERHEAD_MS


@pytest.mark.parametrize("shape", DENSE[:1] if SMOKE else DENSE, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def bench_dense(shape: tuple[int, int]) -> None:
    scores = np.random.default_rng(1).uniform(size=shape)
    slots = np.ones(shape[1], np.int64)
    runs = {"ours": lambda: solver.assign(scores, slots)} | dense_peers(scores)
    solution = solver.assign(scores, slots)
    assert solution.status is solver.Status.OPTIMAL
    check(f"{shape[0]} x {shape[1]}", medians(runs, 1 if SMOKE else 101 if shape[0] < 100 else 5))


@pytest.mark.parametrize("n", () if SMOKE else SPARSE)
def bench_sparse(n: int) -> None:
    """Ten random pairs an agent, and a perfect matching."""
    from scipy import sparse
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    rng = np.random.default_rng(0)
    row = np.concatenate([np.repeat(np.arange(n), 10), np.arange(n)])
    column = np.concatenate([rng.integers(0, n, 10 * n), rng.permutation(n)])
    pair = np.unique(row * n + column)
    value = rng.integers(1, 1_000, len(pair)).astype(float)
    matrix = sparse.csr_matrix((value, (pair // n, pair % n)), shape=(n, n))
    slots = np.ones(n, np.int64)
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: solver.assign(matrix, slots, unassigned_penalty=np.inf),
        "scipy sparse matching": lambda: min_weight_full_bipartite_matching(matrix, maximize=True),
    }
    if n <= HIGHS_ROWS:
        runs |= highs_peer(matrix)
    solution = solver.assign(matrix, slots, unassigned_penalty=np.inf)
    picked = min_weight_full_bipartite_matching(matrix, maximize=True)
    assert solution.status is solver.Status.OPTIMAL
    assert solution.objective == matrix[picked].sum()
    try:
        import lap
    except ImportError:
        pass
    else:
        cost = 1_000 - matrix.data
        runs["lapx lapmod"] = lambda: lap.lapmod(n, cost, matrix.indptr, matrix.indices)
    check(f"sparse {n} x {n}", medians(runs, 5))


def bench_overhead() -> None:
    """A hundred agents and five models: what the call adds to scipy's bare one."""
    scores, slots = np.random.default_rng(1).uniform(size=(100, 5)), np.full(5, 22)
    wide = scores[:, np.repeat(np.arange(5), slots)]
    runs = {"scipy": dense_peers(wide)["scipy LSA"], "ours": lambda: solver.assign(scores, slots)}
    median = medians(runs, 1 if SMOKE else 501)
    print(f"\n100 x 5: ours {median['ours']:.3f} ms, scipy's bare call {median['scipy']:.3f} ms")
    assert SMOKE or median["ours"] <= median["scipy"] + 0.15


@pytest.mark.parametrize("shape", ((2_000, 5),) if SMOKE else ((10_000, 20), (100_000, 20), (60_000, 50)))
def bench_warm_starts_with_other_capacities(shape: tuple[int, int]) -> None:
    """Ten percent on one model, five percent on all, ten slots: never slower than without the old solution."""
    n, m = shape
    rng = np.random.default_rng(0)
    scores = 0.3 * rng.uniform(size=(n, m)) + rng.uniform(size=m)
    slots = np.full(m, int(0.9 * n) // m)
    before = solver.assign(scores, slots)
    cold_ms = warm_ms = 0.0
    for number in range(1 if SMOKE else VARIANTS):
        other = slots.copy()
        if number < 4:
            other[number] = int(other[number] * (1.1 if number % 2 else 0.9))
        elif number < 7:
            other = (slots * rng.uniform(0.95, 1.05, m)).astype(np.int64)
        else:
            other[3] += 10
        started = time.process_time()
        cold = solver.assign(scores, other)
        half = time.process_time()
        warm = solver.assign(scores, other, warm_start=before)
        warm_ms += (time.process_time() - half) * 1e3
        cold_ms += (half - started) * 1e3
        assert warm.objective == pytest.approx(cold.objective, rel=1e-9)
    print(f"\n{n:,} x {m}: {VARIANTS} variants, cold {cold_ms:.0f} ms, warm {warm_ms:.0f} ms")
    assert SMOKE or warm_ms <= 1.1 * cold_ms

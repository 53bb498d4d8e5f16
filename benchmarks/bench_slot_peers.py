"""Slot instances against every tool that solves them bare: scipy, lapx, POT and OR-Tools' flow, with 10 % to spare.

Run: python -m pytest benchmarks/bench_slot_peers.py -s -o addopts="--import-mode=importlib" --benchmark-disable

Certificate and smallest prices are included on our side, and none on theirs, whose matrices are ready before the clock
starts. Runs are interleaved; medians of the wall clock. ``BENCH_SLOW=1`` also asks the tools that need seconds.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from benchmarks.conftest import SMOKE
from solver.engines import kernels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RUNGS = ((100, 5), (1_000, 10), (2_000, 20), (5_000, 20))
BARS = {"random": 2.0, "correlated": 2.0, "five levels": 1.3}
"""How many times faster than the fastest tool, from 1,000 agents on."""
WITHIN_MS = 0.05
"""Of the fastest tool, at 100 agents."""
PATIENCE_S = 3600.0 if os.environ.get("BENCH_SLOW") == "1" else 0.25
"""A tool that needs longer in its first run is not asked again, and counts with that run."""
SECONDS = 0.1 if SMOKE else 3.0


def scores_of(kind: str, n: int, m: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    if kind == "random":
        return rng.uniform(size=(n, m))
    if kind == "five levels":
        return rng.integers(0, 5, (n, m)).astype(float)
    return rng.uniform(size=(n, 1)) * rng.uniform(size=(1, m))


def peers(scores: NDArray[np.float64], slots: NDArray[np.int64]) -> dict[str, Callable[[], Any]]:
    """Return the tools, each called on what it likes best, made ready before the clock; each returns the optimum."""
    from scipy.optimize import linear_sum_assignment

    n, m = scores.shape
    cost = scores.max() - scores
    most = n * float(scores.max())
    copied = np.repeat(cost, slots, axis=1)

    def scipy_lsa() -> Any:
        return most - float(copied[linear_sum_assignment(copied)].sum())

    runs: dict[str, Callable[[], Any]] = {"scipy LSA": scipy_lsa, "OR-Tools flow": _flow(cost, slots, most)}
    try:
        import ot
    except ImportError:
        pass
    else:
        supply = np.append(np.ones(n), float(slots.sum() - n))
        padded = np.vstack([cost, np.zeros(m)])
        room = slots.astype(float)
        runs["POT emd"] = lambda: (
            most - float((ot.emd(supply, room, padded, numItermax=10_000_000)[:n] * cost).sum())
        )
    try:
        import lap
    except ImportError:
        return runs
    square = np.vstack([copied, np.zeros((copied.shape[1] - n, copied.shape[1]))])  # idle slots cost nothing
    runs["lapx lapjv"] = lambda: most - lap.lapjv(square)[0]
    for name in ("lapjvs", "lapjvr", "lapjvh"):
        if hasattr(lap, name):
            runs[f"lapx {name}"] = _on(getattr(lap, name), square, most)
    return runs


def _on(engine: Callable[..., Any], square: NDArray[np.float64], most: float) -> Callable[[], Any]:
    return lambda: most - engine(square)[0]


def _flow(cost: NDArray[np.float64], slots: NDArray[np.int64], most: float) -> Callable[[], Any]:
    """Return a call of OR-Tools' flow with costs of 20 bits, network and all: it has no other interface."""
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    n, m = cost.shape
    agent, model = np.repeat(np.arange(n), m), np.tile(np.arange(m), n) + n
    whole = np.rint(cost * 2**20).astype(np.int64).ravel()
    ends, units, free = np.arange(n, n + m), np.ones(n * m, np.int64), np.zeros(m, np.int64)
    supply = np.concatenate([np.ones(n, np.int64), free, [-n]])
    nodes = np.arange(n + m + 1)

    def run() -> Any:
        network = SimpleMinCostFlow()
        network.add_arcs_with_capacity_and_unit_cost(agent, model, units, whole)
        network.add_arcs_with_capacity_and_unit_cost(ends, np.full(m, n + m), slots, free)
        network.set_nodes_supplies(nodes, supply)
        assert network.solve() == network.OPTIMAL
        return most - network.optimal_cost() / 2**20

    return run


def medians(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    ends = time.perf_counter() + SECONDS
    asked = dict(runs)
    while time.perf_counter() < ends or len(times["ours"]) < 3:
        for name, run in list(asked.items()):
            started = time.perf_counter()
            run()
            took = time.perf_counter() - started
            times[name].append(took * 1e3)
            if took > PATIENCE_S and name != "ours":
                del asked[name]
    return {name: float(np.median(values)) for name, values in times.items()}


@pytest.mark.skipif(not kernels.available(), reason="the compiled kernels were not built")
@pytest.mark.parametrize("kind", BARS)
@pytest.mark.parametrize("rung", RUNGS[:1] if SMOKE else RUNGS, ids=lambda rung: f"{rung[0]}x{rung[1]}")
def bench_rung(rung: tuple[int, int], kind: str) -> None:
    solver.warm_up()
    n, m = rung
    scores, slots = scores_of(kind, n, m), np.full(m, -(-11 * n // (10 * m)))
    runs = {"ours": lambda: solver.assign(scores, slots).objective, **peers(scores, slots)}
    optimum = runs["ours"]()
    for name, run in runs.items():
        if n * m <= 500:  # that they solve the same problem
            assert run() == pytest.approx(optimum, abs=1e-3), name
    median = medians(runs)
    ours = median.pop("ours")
    best = min(median, key=median.__getitem__)
    print(f"\n{n:,} × {m} {kind}: ours {ours:.3f} ms, ", end="")
    print(
        ", ".join(f"{name} {took:.3g}" for name, took in sorted(median.items(), key=lambda item: item[1])),
        end="",
    )
    print(f"; {median[best] / ours:.2f} × the speed of {best}", end="")
    if SMOKE:
        return
    if n <= 100:
        assert ours <= median[best] + WITHIN_MS
    else:
        assert median[best] >= BARS[kind] * ours

"""Floors, copies and counts at size, beside OR-Tools' minimum-cost flow on all pairs in the same run.

    python -m benchmarks.network_shapes

Prints, for each shape, the best of a few runs in milliseconds, what the plain flow takes, and their ratio; objectives
must agree. The plain flow has its costs scaled to whole numbers beforehand; only its solve and its set-up are timed.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

import solver

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Shape", "main", "shapes"]

_SCALE = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One instance.

    Parameters
    ----------
    name : str
        What it stands for.
    cost : (n, m) float64
        Costs, to be minimised.
    slots, floor : int
        Of every model.
    copies, count : int
        Of every agent.
    """

    name: str
    cost: NDArray[np.float64]
    slots: int
    floor: int
    copies: int = 1
    count: int = 1


def shapes() -> list[Shape]:
    """Return the instances that are timed."""
    clusters = np.random.default_rng(0)
    distance = ((clusters.normal(size=(17_000, 1, 2)) - clusters.normal(size=(1, 50, 2))) ** 2).sum(-1)
    papers = np.random.default_rng(5)
    reviewers = -np.round(papers.beta(1, 4, size=(60, 40)), 3)
    conference = -papers.beta(1, 4, size=(5_000, 500))
    popular = -(papers.random((5_000, 500)) * 0.3 + papers.random(500))
    kinds = papers.normal(size=(2_000, 20))
    return [
        Shape(name="clusters of 300 to 400", cost=distance, slots=400, floor=300),
        Shape(name="60 papers, 3 of 40 reviewers", cost=reviewers, slots=6, floor=2, copies=3),
        Shape(name="5,000 papers, 3 of 500", cost=conference, slots=36, floor=20, copies=3),
        Shape(name="the same, reviewers unlike", cost=popular, slots=36, floor=20, copies=3),
        Shape(name="2,000 kinds of 500 agents", cost=kinds, slots=60_000, floor=40_000, count=500),
    ]


def _plain_flow(shape: Shape) -> tuple[float, float]:
    """Return the milliseconds and the cost of OR-Tools' flow on all pairs, floors as lower bounds."""
    n, m = shape.cost.shape
    whole = np.rint((shape.cost - shape.cost.min()) * _SCALE).astype(np.int64).ravel()
    agent, model = np.repeat(np.arange(n), m), np.tile(np.arange(n, n + m), n)
    started = time.perf_counter()
    network = SimpleMinCostFlow()
    add = network.add_arcs_with_capacity_and_unit_cost
    pairs = add(agent, model, np.full(n * m, shape.count), whole)
    add(
        np.arange(n, n + m),
        np.full(m, n + m),
        np.full(m, shape.slots - shape.floor),
        np.zeros(m, np.int64),
    )
    units = shape.copies * shape.count
    supply = np.concatenate([np.full(n, units), np.full(m, -shape.floor), [m * shape.floor - n * units]])
    network.set_nodes_supplies(np.arange(n + m + 1), supply)
    if network.solve() != SimpleMinCostFlow.OPTIMAL:
        raise RuntimeError(f"{shape.name}: expected an optimal flow")
    elapsed_ms = (time.perf_counter() - started) * 1e3
    return elapsed_ms, float(shape.cost.ravel() @ np.asarray(network.flows(pairs)))


def _ours(shape: Shape) -> tuple[float, solver.Solution]:
    options: dict[str, Any] = {"min_load": shape.floor, "unassigned_penalty": np.inf, "sense": "minimize"}
    if shape.copies > 1:
        options["copies"] = shape.copies
    if shape.count > 1:
        options["count"] = shape.count
    started = time.perf_counter()
    solution = solver.assign(shape.cost, [shape.slots] * shape.cost.shape[1], **options)
    return (time.perf_counter() - started) * 1e3, solution


def main(argv: list[str] | None = None) -> int:
    """Print the table; the exit code says whether all answers were proven and equal to the peer's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(argv)
    solver.warm_up()
    right = True
    for shape in shapes():
        _ours(shape)
        ours_ms, theirs_ms = np.inf, np.inf
        for _ in range(options.runs):
            elapsed_ms, solution = _ours(shape)
            ours_ms = min(ours_ms, elapsed_ms)
            elapsed_ms, cost = _plain_flow(shape)
            theirs_ms = min(theirs_ms, elapsed_ms)
        agrees = abs(solution.objective - cost) <= 1e-6 * max(1.0, abs(cost))
        right &= agrees and solution.status is solver.Status.OPTIMAL
        sys.stdout.write(
            f"{shape.name:<30} {ours_ms:9.1f} ms  plain flow {theirs_ms:9.1f} ms  ratio {ours_ms / theirs_ms:5.2f}  "
            f"{solution.status.value}  gap {solution.gap:.1e}  {'equal' if agrees else 'UNEQUAL'}\n"
        )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())

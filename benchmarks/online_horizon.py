"""A batch that trickles in, against the certified optimum of all of it: ``python -m benchmarks.online_horizon``.

Prints mean and 5th percentile over orders, in per cent of the optimum, beside greedy in the same run.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

import solver
from benchmarks.online_data import outcomes
from solver.clock import ManualClock
from solver.online.window import History
from solver.online.window_prices import window_prices


class Case(NamedTuple):
    """One line of the table."""

    order: str
    fill: float
    n: int = 805
    history: int = 0
    mean_bar: float = 0.0
    low_bar: float = 0.0


CASES = (
    Case("random", 0.9, mean_bar=98.6, low_bar=97.9),
    Case("random", 1.0, mean_bar=98.4, low_bar=97.7),
    Case("random", 1.2, mean_bar=97.9, low_bar=97.2),
    Case("random", 0.9, 605, 200, 98.9, 98.2),
    Case("random", 1.0, 605, 200, 98.7, 98.0),
    Case("random", 1.2, 605, 200, 98.4, 97.8),
    Case("source", 0.9, mean_bar=98.3, low_bar=97.5),
    Case("source", 0.9, 605, 200, 98.7, 98.0),
    Case("budget", 0.9, mean_bar=98.1, low_bar=97.0),
    Case("budget", 0.9, 605, 200, 98.7, 98.0),
    Case("hardest first", 0.9, 605, 200, 95.0, 93.0),
    Case("replaced", 0.9, 800),
    Case("replaced", 0.9, 6400, 0, 99.6),
)


def run(job: tuple[Case, int]) -> tuple[float, float, float]:
    """Return (router, greedy, optimum or bound) in score."""
    case, seed = job
    data, rng = outcomes(), np.random.default_rng(seed)
    m = data.scores.shape[1]
    order = rng.permutation(len(data.scores))
    rows, past = order[: case.n], order[case.n : case.n + case.history]
    if case.order == "replaced":
        rows = rng.integers(len(data.scores), size=case.n)
    if case.order == "source":
        rank = {name: r for r, name in enumerate(rng.permutation(sorted(set(data.source.tolist()))))}
        rows = np.array(sorted(rows, key=lambda i: rank[data.source[i]]))
    if case.order == "hardest first":
        rows = rows[np.argsort(data.scores[rows].mean(axis=1))]
    scores, slots = data.scores[rows], np.full(m, round(case.n / case.fill / m))
    best = solver.assign(scores, slots, unassigned_penalty=0.0)
    bound, cost, budget = best.objective, None, None
    if case.order == "budget":
        cost, served = data.cost_usd[rows], np.flatnonzero(best.choice >= 0)
        budget = 0.4 * float(cost[served, best.choice[served]].sum())
        bound = _budget_bound(scores, slots, cost, budget)
    history = None
    if case.history:
        history = History(
            scores=data.scores[past], cost_usd=data.cost_usd[past], whole_batch=case.order == "hardest first"
        )
    router = solver.OptimalRouter(
        solver.LoadTracker(clock=ManualClock()),
        [
            solver.Model(id=str(j), capacity=solver.Capacity(max_concurrent=int(c)))
            for j, c in enumerate(slots)
        ],
        solver.Objective(unassigned_penalty=0.0),
        case.n,
        budget,
        history,
        background=False,
    )
    total = 0.0
    for i, row in enumerate(scores):
        total += router.route(scores=row, cost_usd=None if cost is None else cost[i]).score
    return total, _greedy(scores, slots, cost, budget), bound


def _budget_bound(scores: np.ndarray, slots: np.ndarray, cost: np.ndarray, budget: float) -> float:
    """Return a bound by weak duality: any prices prove one."""
    n, m = scores.shape
    start, bound = None, np.inf
    for temperature in (5e-3, 1e-3, 3e-4):
        found = window_prices(
            scores,
            weights=np.ones(n),
            unserved=np.zeros(n),
            rates=np.append(slots, budget) / n,
            shared=(cost,),
            start=start,
            temperature=temperature,
        )
        start = np.append(found.of_models[0], found.shared)
        net = scores - start[:m] - start[m] * cost
        bound = min(bound, float(np.maximum(net.max(axis=1), 0).sum() + start @ np.append(slots, budget)))
    return bound


def _greedy(scores: np.ndarray, slots: np.ndarray, cost: np.ndarray | None, budget: float | None) -> float:
    left, spent, total = slots.copy(), 0.0, 0.0
    for i, row in enumerate(scores):
        room = left > 0
        if cost is not None and budget is not None:
            room &= spent + cost[i] <= budget
        j = int(np.where(room, row, -1.0).argmax())
        if room[j]:
            left[j] -= 1
            spent += 0.0 if cost is None else cost[i, j]
            total += row[j]
    return total


def table(orders: int, cases: tuple[Case, ...] = CASES, processes: int = 2) -> list[str]:
    """Return a line for each case."""
    lines = [f"{'order':14s} fill    n history |  mean    5th (bars)         | greedy"]
    with ProcessPoolExecutor(processes) as pool:
        for case in cases:
            count = orders if case.n < 3000 else max(1, orders // 10)
            got = np.array(list(pool.map(run, [(case, seed) for seed in range(count)])))
            share, greedy = 100 * got[:, 0] / got[:, 2], 100 * got[:, 1] / got[:, 2]
            lost = f"  lost {(got[:, 2] - got[:, 0]).mean():.1f}" if case.order == "replaced" else ""
            bars = f"({case.mean_bar:.1f}, {case.low_bar:.1f})"
            lines.append(
                f"{case.order:14s} {case.fill:.1f} {case.n:5d} {case.history:6d} | {share.mean():6.2f} "
                f"{np.quantile(share, 0.05):6.2f} {bars} | {greedy.mean():6.2f}{lost}"
            )
            print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=20)
    table(parser.parse_args().orders)

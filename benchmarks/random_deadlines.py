"""Random shapes under random deadlines: answers in time, and never worse than greedy's where greedy had time.

    python -m benchmarks.random_deadlines --count 200 --seed 0

Shapes are those of `bench_deadlines.py` at random sizes. The clock of the calls counts processor time, so that what
other processes take does not show. Greedy is run by itself first; a deadline that leaves room for reading the input
and several times what greedy took has to end with an answer that ranks at least as high.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

import solver
import solver.clock
from benchmarks import bench_deadlines as shapes
from solver.clock import Deadline
from solver.engines.portfolio.incumbent import CallSettings, greedy_incumbent
from solver.engines.portfolio.params import PortfolioParams
from solver.problem.build import build_instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance

__all__ = ["main"]

_GREEDY_TIMES = 4.0
"""Processor times of greedy, besides the reading, from which on an answer has to be as good as greedy's."""

_CLOSE = 1e-9
"""Relative difference of objectives that rounding explains."""


def draw(rng: np.random.Generator) -> shapes.Shape:
    """Return a shape of random kind and size."""
    n, m = round(10 ** rng.uniform(0.5, 4.2)), round(10 ** rng.uniform(0.3, 2.5))
    if rng.random() < 0.15:
        n, m = max(1, n // 20), m * 20
    options: dict[str, Any] = {"unassigned_penalty": np.inf} if rng.random() < 0.3 else {}
    kind = int(rng.integers(5))
    if kind == 0:
        return shapes.slots_shape(
            n,
            m,
            float(rng.uniform(0.3, 1.5)),
            priorities=int(rng.choice([0, 0, 4, 30])),
            forbidden=float(rng.choice([0.0, 0.0, 0.5])),
        )
    if kind == 1:
        return shapes.sparse_shape(
            n, m, int(rng.integers(1, 12)), max(1, round(n / m * rng.uniform(0.8, 1.5)))
        )
    if kind == 2:
        return shapes.demand_shape(n, m, int(rng.integers(1, 4)), **options)
    if kind == 3:
        limit = str(rng.choice(["apart", "teams apart", "quota", "floor", "budget", "mixed"]))
        count = min(int(rng.integers(3, 60 if limit != "budget" else 8)), max(3, n - 2), m + 3)
        return shapes.limits_shape(max(n, 10), m, limit, count, **options)
    extra: dict[str, Any] = {} if rng.random() < 0.7 else {"floor_if_open": 0.5, "opening_cost": 5.0}
    floor = 0.0 if extra else float(rng.choice([0.0, 0.5, 0.9]))
    copies = min(m, int(rng.integers(1, 4)))
    return shapes.network_shape(
        n, m, copies=copies, count=int(rng.choice([1, 1, 30])), floor=floor, **options, **extra
    )


def check(number: int, rng: np.random.Generator) -> str | None:
    """Return what is wrong with the answers to one random instance under three deadlines, or None."""
    shape = draw(rng)
    arguments, options = shape.build(rng)
    started = time.process_time()
    instance = build_instance(*arguments, **{**options, "limits": options.get("limits", ())})
    reading_ms = (time.process_time() - started) * 1e3
    call = CallSettings(
        deadline=Deadline.after(None), seed=0, threads=1, named=False, params=PortfolioParams()
    )
    started = time.process_time()
    greedy = greedy_incumbent(instance, call.deadline, call)
    greedy_ms = (time.process_time() - started) * 1e3
    enough_ms = 2 * reading_ms + _GREEDY_TIMES * greedy_ms + 5.0
    faults = []
    for factor in (1.0, float(rng.uniform(1, 10)), float(rng.uniform(0.05, 1))):
        deadline_ms = enough_ms * factor
        started = time.process_time()
        answer = solver.assign(*arguments, deadline_ms=deadline_ms, **options)
        wall_ms = (time.process_time() - started) * 1e3
        due_ms = max(deadline_ms, reading_ms)
        if wall_ms > 1.25 * due_ms + 10:
            faults.append(f"{wall_ms:.1f} ms for {deadline_ms:.1f} (reading {reading_ms:.1f})")
        if (
            greedy is None
            or greedy.certificate.violations
            or factor < 1
            or answer.status.value == "infeasible"
        ):
            continue
        ours, its = (
            _rank(instance, answer),
            _plain_rank(instance, greedy.claim.choice, greedy.certificate.objective),
        )
        if (
            math.isnan(ours[-1])
            or ours[:-1] < its[:-1]
            or (ours[:-1] == its[:-1] and _less(ours[-1], its[-1]))
        ):
            faults.append(
                f"{deadline_ms:.1f} ms: {answer.engine} {ours}, greedy {its} in {greedy_ms:.1f} ms {answer.notes}"
            )
    return f"number {number}, {shape.name}: {'; '.join(faults)}" if faults else None


def _less(ours: float, its: float) -> bool:
    return ours < its - _CLOSE * max(1.0, abs(its))


def _rank(instance: Instance, answer: solver.Solution) -> tuple[Any, ...]:
    """Return service, by priority from the highest where it comes first, and the score."""
    if instance.network is not None:
        served = -1 if answer.choice.size and answer.status.value == "unknown" else 0
        return (served, answer.objective if np.isfinite(answer.objective) else -math.inf)
    return _plain_rank(instance, answer.choice, answer.objective)


def _plain_rank(instance: Instance, choice: NDArray[np.int64], objective: float) -> tuple[Any, ...]:
    if instance.network is not None:
        return (0, objective)
    if not instance.serve_first:
        return (0, objective)
    served = choice >= 0
    ranks = np.zeros(instance.n, np.int64) if instance.rank is None else instance.rank
    return (
        int(served.sum()),
        np.bincount(ranks[served], minlength=int(ranks.max()) + 1)[::-1].tolist(),
        objective,
    )


def main() -> int:
    """Run from the command line; exit code 1 when an answer is late or worse than greedy's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    solver.clock.MonotonicClock.now = lambda self: time.process_time()  # type: ignore[method-assign]
    solver.warm_up()
    faults = []
    for number in range(given.count):
        fault = check(number, np.random.default_rng([given.seed, number]))
        if fault is not None:
            faults.append(fault)
    print(f"{given.count} instances, three deadlines each; late or worse than greedy: {len(faults)}")
    for fault in faults:
        print(f"  {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

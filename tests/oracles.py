"""Independent answers to compare engines with: brute force, and assertions that can fail."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver import UNASSIGNED, Solution, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """A slot instance small enough to enumerate, as the arguments of ``solver.assign``."""

    scores: NDArray[np.float64]
    capacity: NDArray[np.int64]
    priority: NDArray[np.float64] | None = None
    penalty: float | None = None

    def best(self) -> tuple[tuple[int, ...], float] | None:
        """Return (agents served per priority; objective) of the best assignment, by enumeration."""
        n, m = self.scores.shape
        best = None
        for choice in itertools.product(range(UNASSIGNED, m), repeat=n):
            value = self.value(np.array(choice))
            if value is not None and (best is None or value > best):
                best = value
        return best

    def value(self, choice: NDArray[np.int64]) -> tuple[tuple[int, ...], float] | None:
        """Return the sort key of a choice, None when it is infeasible."""
        n, m = self.scores.shape
        served = choice != UNASSIGNED
        own = self.scores[np.arange(n)[served], choice[served]]
        if (np.bincount(choice[served], minlength=m) > self.capacity).any() or not np.isfinite(own).all():
            return None
        priority = np.ones(n) if self.priority is None else self.priority
        if self.penalty is None:
            levels = sorted(set(priority.tolist()), reverse=True)
            return tuple(int((priority[served] == level).sum()) for level in levels), float(own.sum())
        if np.isinf(self.penalty):
            return ((), float(own.sum())) if served.all() else None
        return (), float(own.sum() - self.penalty * priority[~served].sum())


def random_case(rng: np.random.Generator, *, most_agents: int = 6, most_models: int = 3) -> Case:
    """Return a random tiny instance: ties, forbidden pairs, zero capacities, priorities, penalties."""
    n, m = int(rng.integers(1, most_agents + 1)), int(rng.integers(1, most_models + 1))
    scores = (
        rng.integers(-4, 5, (n, m)).astype(float)
        if rng.random() < 0.5
        else rng.normal(scale=3.0, size=(n, m))
    )
    scores[rng.random((n, m)) < rng.choice([0.0, 0.2, 0.5])] = -np.inf
    return Case(
        scores=scores,
        capacity=rng.integers(0, 4, m),
        priority=rng.integers(1, 4, n).astype(float) if rng.random() < 0.5 else None,
        penalty=[None, None, 1.5, np.inf][int(rng.integers(4))],
    )


def dual_value(
    scores: NDArray[np.float64], capacity: NDArray[np.int64], prices: NDArray[np.float64]
) -> float:
    """Return the Lagrangian bound of a problem in which everyone is served, written out plainly."""
    return float((scores - prices).max(axis=1).sum() + capacity @ prices)


def assert_optimal(solution: Solution, case: Case) -> None:
    """Assert that a solution is the proven optimum of a case, or rightly infeasible."""
    best = case.best()
    if best is None:
        assert solution.status is Status.INFEASIBLE, solution
        return
    assert solution.status is Status.OPTIMAL, (solution, best)
    value = case.value(solution.choice)
    assert value is not None, "the choice is infeasible"
    assert value[0] == best[0], (value, best)
    assert abs(value[1] - best[1]) <= 1e-9 * max(1.0, abs(best[1])), (value, best)
    assert abs(solution.objective - value[1]) <= 1e-9 * max(1.0, abs(value[1])), solution
    assert solution.bound >= solution.objective - 1e-9
    assert (solution.prices >= 0).all()

"""Plans to compare: simple rules, and the joint assignment that spends no more and serves as many, all checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.instance import UNASSIGNED
from solver.solution.solution import Status
from solver.solution.solving import assign

if TYPE_CHECKING:
    from numpy.typing import NDArray

BASELINES = ("greedy", "first-come", "constant", "random")
"""Rules that the joint assignment is compared with: globally best pair first, each agent in its turn its best
model with room, the model with the best mean score as far as it has room, and any model with room."""

_COST_ROUNDING = 1e-9
"""Relative difference that the order of summation may make to the cost of a rival."""

_BISECTIONS = 14
"""Halvings of the interval that holds a budget's multiplier."""


class Audit:
    """Counts of plans that were checked against the table they were made for.

    Attributes
    ----------
    plans, proven : int
        Assignments made, and those whose certificate proves that nothing is better.
    broken : int
        Those over a model's slots, on a forbidden pair, or, where matched with a rival, with another number served
        or at a higher cost. Anything but 0 is a fault of this package.
    """

    def __init__(self) -> None:
        self.plans = self.proven = self.broken = 0

    def assigned(self, known: NDArray[np.float64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the optimal assignment, checked."""
        solution = assign(known, slots)
        choice = np.asarray(solution.choice)
        self.plans += 1
        self.proven += solution.status is Status.OPTIMAL
        self.broken += not feasible(choice, known, slots)
        return choice

    def matched(
        self,
        choice: NDArray[np.int64],
        rival: NDArray[np.int64],
        spending: NDArray[np.float64] | None,
    ) -> None:
        """Check that a plan serves as many as its rival, for no more."""
        same = (choice != UNASSIGNED).sum() == (rival != UNASSIGNED).sum()
        dearer = spending is not None and total_of(spending, choice) > _budget(spending, rival)
        self.broken += bool(not same or dearer)

    def to_dict(self) -> dict[str, int]:
        """Return the counts as a mapping."""
        return {"plans": self.plans, "proven_optimal": self.proven, "broken": self.broken}


def feasible(choice: NDArray[np.int64], known: NDArray[np.float64], slots: NDArray[np.int64]) -> bool:
    """Return whether a plan keeps to slots and to allowed pairs, those with a score above minus infinity."""
    rows = np.flatnonzero(choice != UNASSIGNED)
    load = np.bincount(choice[rows], minlength=len(slots))
    return bool((load <= slots).all() and (known[rows, choice[rows]] > -np.inf).all())


def _budget(spending: NDArray[np.float64], rival: NDArray[np.int64]) -> float:
    return total_of(spending, rival) * (1 + _COST_ROUNDING)


def total_of(values: NDArray[np.float64], choice: NDArray[np.int64]) -> float:
    """Return the sum of the values of the pairs chosen."""
    rows = np.flatnonzero(choice != UNASSIGNED)
    return float(values[rows, choice[rows]].sum())


def matched_plan(
    known: NDArray[np.float64],
    slots: NDArray[np.int64],
    spending: NDArray[np.float64] | None,
    free: NDArray[np.int64],
    rival: NDArray[np.int64],
    audit: Audit,
) -> NDArray[np.int64]:
    """Return the joint assignment that serves as many as a rival and is expected to spend no more.

    The budget is priced (Lagrangian relaxation, bisection on its multiplier): each step is an assignment solved to
    optimality, and the cheapest multiplier that keeps the budget gives the answer. What is lost to the duality
    gap of this one row is a fraction of one agent's score.
    """
    if int((free != UNASSIGNED).sum()) > int((rival != UNASSIGNED).sum()):
        known = np.where((rival != UNASSIGNED)[:, None], known, -np.inf)  # the same agents, then
        free = audit.assigned(known, slots)
    if spending is None:
        return free
    amount = _budget(spending, rival)
    if total_of(spending, free) <= amount:
        return free
    finite = known[known > -np.inf]
    low, high = 0.0, 4.0 * float(np.ptp(finite)) / max(float(spending.std()), 1e-300)
    best = rival  # feasible, whatever the multiplier
    for _ in range(_BISECTIONS):
        price = 0.5 * (low + high)
        choice = audit.assigned(known - price * spending, slots)
        if total_of(spending, choice) > amount:
            low = price
            continue
        high = price
        if total_of(known, choice) > total_of(known, best):
            best = choice
    return best


def simple_plan(
    policy: str, known: NDArray[np.float64], slots: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the choices of a simple rule; agents arrive in the order of their rows."""
    n, m = known.shape
    left = slots.copy()
    choice = np.full(n, UNASSIGNED, np.int64)
    if policy == "greedy":
        order = np.argsort(-known, axis=None, kind="stable")
        for i, j in zip(*np.unravel_index(order, known.shape), strict=True):
            if choice[i] == UNASSIGNED and left[j] > 0 and known[i, j] > -np.inf:
                choice[i], left[j] = j, left[j] - 1
        return choice
    if policy == "first-come":
        ranked = known
    elif policy == "constant":
        allowed = known > -np.inf
        mean = np.where(allowed, known, 0.0).sum(axis=0) / np.maximum(allowed.sum(axis=0), 1)
        ranked = np.where(allowed, mean, -np.inf)
    else:
        ranked = np.where(known > -np.inf, rng.random((n, m)), -np.inf)
    for i in range(n):
        values = np.where(left > 0, ranked[i], -np.inf)
        j = int(values.argmax())
        if values[j] > -np.inf:
            choice[i], left[j] = j, left[j] - 1
    return choice

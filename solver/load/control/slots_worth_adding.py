"""How many more slots a model needs, by its target or by what a batch would have paid for them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.solution.solving import assign

if TYPE_CHECKING:
    from solver.load.balance.decision import Decision


def missing_slots(wanted: int, slots: int, target: float) -> int:
    """Return how many slots bring utilization down to the target."""
    return max(0, math.ceil(wanted / target - 1e-9) - slots)


def slots_worth_adding(decision: Decision, model: str, *, min_worth: float = 0.0) -> tuple[int, float]:
    """Return how many more slots of a model a batch would have paid for, and what the first is worth.

    The shadow price of a capacity never rises as the capacity grows (the optimal value is concave in it),
    so the number is found by bisection: O(log n) solves of the batch.

    Parameters
    ----------
    decision : Decision
        The batch.
    model : str
        One of its models.
    min_worth : float
        Score that a slot must add to count; serving one more agent always counts.

    Raises
    ------
    SpecError
        If the decision does not concern the model.
    """
    if model not in decision.models or decision.work is None:
        raise SpecError(
            Violation("model", "expected one of the decision's models", model, kind=ViolationKind.UNKNOWN)
        )
    work, j = decision.work, decision.models.index(model)
    value = np.where(work.eligible, work.quality, -np.inf)

    def total(extra: int) -> tuple[int, float]:
        """Return agents served and total score with some more slots."""
        room = work.room.copy()
        room[j] += extra
        solution = assign(value, room, priority=work.rank)
        return len(solution.choice) - len(solution.unassigned), solution.objective

    def is_worth(extra: int) -> bool:
        """Return whether the last of some more slots pays."""
        before, after = total(extra - 1), total(extra)
        return after[0] > before[0] or after[1] - before[1] > max(min_worth, 1e-9)

    low, high = 0, len(work.quality)  # low slots are known to pay, more than high cannot
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_worth(middle) else (low, middle - 1)
    return low, 0.0 if low == 0 else total(1)[1] - total(0)[1]

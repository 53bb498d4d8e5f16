"""Scores of few levels that are multiples of a grid only to the rounding of float32, such as 0.2, 0.4, 0.6.

Prices on the grid treat values as equal that differ in the eighth digit. That proves a gap of 1e-10 to 1e-8, which may
be above what is called optimal: here it is looked at, before another engine would be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.certificate import best_response
from solver.problem.tolerances import OPTIMALITY_TOLERANCE

if TYPE_CHECKING:
    from solver.engines.price.optimum import Outcome
    from solver.engines.slot_supply import Supply
    from solver.problem.instance import Instance


def is_proven(instance: Instance, supply: Supply, outcome: Outcome, threads: int) -> bool:
    """Return whether the prices of an outcome prove its choice optimal, to the tolerance of the certificate. O(n m).

    Costs of slots are not looked at: outcomes with any, and those that are not exact, count as proven.

    Parameters
    ----------
    instance : Instance
        With slots.
    supply : Supply
        All slots, those of equal models pooled.
    outcome : Outcome
        A choice among pooled models, m for unassigned, and (m,) prices.
    threads : int
        Threads that share the pass.
    """
    if outcome.choice is None or not outcome.exact or supply.cost.any():
        return True
    m, choice = instance.m, np.asarray(outcome.choice)
    prices = np.where(supply.closed, 0.0, outcome.prices)
    best = best_response(instance, np.where(supply.closed, np.inf, prices), threads=threads).value
    served = choice < m
    own = np.zeros(instance.n)
    own[served] = instance.score[np.flatnonzero(served), choice[served]]
    outside = instance.unserved if instance.may_leave else np.zeros(instance.n)
    if instance.may_leave:
        best = np.maximum(best, outside)
    earned = np.where(served, own - prices[np.minimum(choice, m - 1)], outside)
    unsold = supply.total - np.bincount(choice, minlength=m + 1)[:m]
    slack = (best - earned).sum() + (prices * unsold).sum()
    return bool(slack <= OPTIMALITY_TOLERANCE * abs(own.sum()))

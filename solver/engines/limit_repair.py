"""From an assignment that knows no limits to one that keeps them: leave out whom the limits do not bear.

For deadlines too short for a search: a few passes over the agents per broken row, whatever the number of pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.limit_rows import NO_ROW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.problem.limit_rows import LimitRows

__all__ = ["repaired"]

_LIMIT_REPAIR_ROUNDS = 8
"""Rounds of repair at most."""

_LIMIT_EXCESS = 1e-9
"""Relative excess that the certificate allows."""


def repaired(instance: Instance, choice: NDArray[np.int64], deadline: Deadline) -> NDArray[np.int64] | None:
    """Return an assignment that keeps all limits by leaving agents out, or None where that is not enough.

    Parameters
    ----------
    instance : Instance
        With limits across models.
    choice : (n,) int64
        Within all capacities.
    deadline : Deadline
        Checked between rounds: beyond it there is no answer.

    Notes
    -----
    O(n · layers) a round. Of a broken row those agents leave first that give up least score per unit they free;
    agents tied to each other leave together. Lower limits are only checked.
    """
    limits = instance.limits
    if limits is None:
        return choice
    choice = choice.copy()
    may_leave = np.isfinite(instance.unserved)
    for group in limits.together:
        if (choice[group] != choice[group[0]]).any():
            choice[group] = UNASSIGNED
    tied = np.arange(instance.n)
    for group in limits.together:
        tied[group] = group[0]
    for _ in range(_LIMIT_REPAIR_ROUNDS):
        served = np.flatnonzero(choice != UNASSIGNED)
        excess = np.where(limits.hard, limits.usage(choice) - limits.bound, 0.0)
        broken = excess > _LIMIT_EXCESS * limits.magnitude(choice)
        if not broken.any():
            stays = (choice != UNASSIGNED) | may_leave
            return choice if bool(stays.all()) else None
        if deadline.expired():
            return None
        leaving = _leaving(instance, limits, choice, served, np.where(broken, excess, 0.0))
        leaving = leaving[may_leave[leaving]]
        if not len(leaving):
            return None
        choice[np.isin(tied, tied[leaving])] = UNASSIGNED
    return None


def _leaving(
    instance: Instance,
    limits: LimitRows,
    choice: NDArray[np.int64],
    served: NDArray[np.intp],
    excess: NDArray[np.float64],
) -> NDArray[np.intp]:
    """Return the agents who leave the broken rows, cheapest first in each, until its excess is gone."""
    lost = instance.scores_of(served, choice[served]) - instance.unserved[served]
    out = []
    for layer in limits.layers:
        row = layer.row[served, choice[served]]
        freed = layer.coefficient[served, choice[served]]
        inside = np.flatnonzero((row != NO_ROW) & (freed > 0))
        inside = inside[excess[row[inside]] > 0]
        if not len(inside):
            continue
        row, freed = row[inside], freed[inside]
        order = np.lexsort((lost[inside] / freed, row))
        row, freed = row[order], freed[order]
        start = np.flatnonzero(np.diff(row, prepend=-1))
        before = np.cumsum(freed) - freed
        before -= np.repeat(before[start], np.diff(np.append(start, len(row))))
        out.append(served[inside[order[before < excess[row]]]])
    return np.unique(np.concatenate(out)) if out else np.zeros(0, np.intp)

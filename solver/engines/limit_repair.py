"""Repairs an assignment that violates limits: agents leave broken rows, and return where there is room.

For deadlines too short for a search: a few passes over the agents per broken row, and over the pairs of those who left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.limit_insertion import insert_left_out
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.limit_rows import entries_at
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.problem.limit_rows import LimitRows

_LIMIT_REPAIR_ROUNDS = 8
"""Rounds of repair at most."""

_INSERTION_SHARE = 0.5
"""Share of the time left for giving agents who left another model."""

_SECONDS_PER_SORTED = 1e-7
"""Seconds to order an agent by the score it gives up, per layer of limits (`benchmarks/bench_deadlines.py`)."""

_SECONDS_PER_COUNTED = 2e-8
"""Seconds to add an agent to the loads of limit rows, per layer of limits."""


def repair_seconds(instance: Instance) -> float:
    """Return about how long one round and the look at its result take; 0 without limits."""
    return (_SECONDS_PER_SORTED + 2 * _SECONDS_PER_COUNTED) * _entries(instance)


def _entries(instance: Instance) -> int:
    """Return agents times layers of limits."""
    return 0 if instance.limits is None else instance.n * max(1, len(instance.limits.layers))


def repaired(instance: Instance, choice: NDArray[np.int64], deadline: Deadline) -> NDArray[np.int64] | None:
    """Return an assignment that keeps all limits, agents moved or left out, or None where that is not enough.

    Parameters
    ----------
    instance : Instance
        With limits across models.
    choice : (n,) int64
        Within all capacities.
    deadline : Deadline
        A round that would not end before it is not begun: there is no answer then.

    Notes
    -----
    O(n · layers) a round. Of a broken row those agents leave first that give up least score per unit they free;
    agents tied to each other leave together. Who left bids for what has room (:mod:`~solver.engines.limit_insertion`),
    and more for what lower limits ask for; these are only checked otherwise.
    """
    limits = instance.limits
    if limits is None:
        return choice
    choice = choice.copy()
    entries = _entries(instance)
    for group in limits.together:
        if (choice[group] != choice[group[0]]).any():
            choice[group] = UNASSIGNED
    tied = np.arange(instance.n)
    for group in limits.together:
        tied[group] = group[0]
    for _ in range(_LIMIT_REPAIR_ROUNDS):
        if deadline.remaining_s() < _SECONDS_PER_COUNTED * entries:
            return None
        served = np.flatnonzero(choice != UNASSIGNED)
        beyond = excess(limits, choice)
        if not beyond.any():
            break
        if deadline.remaining_s() < _SECONDS_PER_SORTED * entries:
            return None
        leaving = _leaving(instance, limits, choice, served, beyond)
        if not len(leaving):  # a lower limit
            break
        out = np.zeros(instance.n, bool)
        out[tied[leaving]] = True
        choice[out[tied]] = UNASSIGNED
    share_s = _INSERTION_SHARE * max(0.0, deadline.remaining_s())
    insert_left_out(instance, limits, choice, replace(deadline, ends_s=deadline.clock.now() + share_s))
    stays = (choice != UNASSIGNED) | np.isfinite(instance.unserved)
    return choice if bool(stays.all()) and not excess(limits, choice).any() else None


def excess(limits: LimitRows, choice: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return by how much each row that must hold is broken, 0 for all others."""
    used, size = limits.usage_and_magnitude(choice)
    excess = np.where(limits.hard, used - limits.bound, 0.0)
    return np.where(excess > EXCESS_TOLERANCE * size, excess, 0.0)


def _leaving(
    instance: Instance,
    limits: LimitRows,
    choice: NDArray[np.int64],
    served: NDArray[np.intp],
    excess: NDArray[np.float64],
) -> NDArray[np.intp]:
    """Return who leaves the broken rows, some of them twice: cheapest first in each, until its excess is gone."""
    models = choice[served]
    lost = instance.scores_of(served, models) - instance.unserved[served]
    beyond = np.append(excess, 0.0)  # NO_ROW indexes the last entry
    out = []
    for layer in limits.layers:
        row = entries_at(layer.row, served, models)
        freed = entries_at(layer.coefficient, served, models)
        inside = np.flatnonzero((freed > 0) & (beyond[row] > 0))
        if not len(inside):
            continue
        row, freed = row[inside], freed[inside]
        rate = lost[inside] / freed
        order = np.argsort(rate) if row.min() == row.max() else np.lexsort((rate, row))
        row, freed = row[order], freed[order]
        start = np.flatnonzero(np.diff(row, prepend=-1))
        before = np.cumsum(freed) - freed
        before -= np.repeat(before[start], np.diff(np.append(start, len(row))))
        out.append(served[inside[order[before < excess[row]]]])
    return np.concatenate(out) if out else np.zeros(0, np.intp)

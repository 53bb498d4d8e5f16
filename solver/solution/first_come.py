"""First come, first served: what a router does that decides one by one. A baseline, not an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.blocks import chunks
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray


def first_come(instance: Instance) -> NDArray[np.int64]:
    """Return the choice when each agent, in order, takes its best model that still has a slot.

    Parameters
    ----------
    instance : Instance
        With slot capacities.

    Returns
    -------
    (n,) int64

    Notes
    -----
    Computed in rounds rather than agent by agent: where every model prefers earlier agents, serving in order
    is the only stable matching, which deferred acceptance finds whatever order it works in (Gale and Shapley
    1962). At most n·m proposals, all waiting agents of a round in one numpy pass.
    """
    n, m = instance.n, instance.m
    choice = np.full(n, UNASSIGNED, np.int64)
    # A model that has turned agent i away is full of earlier agents and will turn every later one away too.
    closed_from = np.where(instance.slots > 0, n, 0)
    waiting = np.arange(n)
    while len(waiting):
        bid = np.empty(len(waiting), np.int64)
        for block in chunks(len(waiting), m):
            agents = waiting[block]
            value = np.where(agents[:, None] < closed_from, instance.score[agents], -np.inf)
            best = value.argmax(axis=1)
            bid[block] = np.where(value[np.arange(len(agents)), best] > -np.inf, best, UNASSIGNED)
        choice[waiting] = bid
        held = np.flatnonzero(choice != UNASSIGNED)
        order = held[np.argsort(choice[held], kind="stable")]  # per model, earlier agents first
        model = choice[order]
        count = np.bincount(model, minlength=m)
        place = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        over = place >= instance.slots[model]
        turned_away, by = order[over], model[over]
        np.minimum.at(closed_from, by, turned_away)
        choice[turned_away] = UNASSIGNED
        waiting = np.sort(turned_away)
    return choice

"""Inserts agents that are left out where capacities and limits have room for them.

Rounds of bids, as greedy's: every agent left out bids for its best model among those whose capacity and limit rows hold
it, and the bids of highest rank and regret are taken as far as they fit together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.limit_rows import NO_ROW, LimitRows, entries_at
from solver.problem.sparse import CompressedScores
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline

_S_PER_ENTRY = 1.5e-8
"""Upper estimate of the seconds of a round, per agent left out, model and layer (`benchmarks.random_deadlines`)."""

_ROUND_S = 3e-4
"""The same, for the round itself."""

_MODELS_TRIED = 8
"""Models of the highest score that are tried for a group of agents."""

_MAX_ENTRIES = 20_000_000
"""Agents left out times models at most: 160 MB of bids."""


def insert_left_out(
    instance: Instance, limits: LimitRows, choice: NDArray[np.int64], deadline: Deadline
) -> None:
    """Give agents left out a model in place, where nothing is broken by it. O(k m · layers) a round for k of them.

    Agents that must share a model come first, a group on the best of a few models that hold all of it. Limits that may
    be exceeded are kept, too. Pairs that a lower limit still asks for come before others.

    Parameters
    ----------
    instance, limits : Instance, LimitRows
        The problem.
    choice : (n,) int64
        Within all capacities and upper limits.
    deadline : Deadline
        A round that would not end before it is not begun.
    """
    if isinstance(instance.score, CompressedScores):
        return
    out = choice == UNASSIGNED
    for group in limits.together:
        out[group] = False
    waiting = np.flatnonzero(out)
    room = instance.capacity - instance.usage(choice, np.flatnonzero(choice != UNASSIGNED))
    used, size = limits.usage_and_magnitude(choice)
    slack = limits.bound - used + 0.5 * EXCESS_TOLERANCE * size
    _place_groups(instance, limits, choice, room, slack, deadline)
    layers = 1 + instance.r + len(limits.layers)
    for _ in range(instance.n):  # every round places an agent, or is the last
        entries = len(waiting) * instance.m
        if not entries or entries > _MAX_ENTRIES:
            break
        if deadline.remaining_s() < entries * layers * _S_PER_ENTRY + _ROUND_S:
            break
        value = _values(instance, limits, waiting, room, slack)
        index = np.arange(len(waiting))
        bid = value.argmax(axis=1)
        best = value[index, bid]
        value[index, bid] = -np.inf
        unserved = instance.unserved[waiting]
        bidding = (best > -np.inf) & (best >= unserved)
        second = np.maximum(value.max(axis=1), unserved)
        regret = np.where(np.isneginf(second), np.inf, best - np.maximum(second, -1e300))
        rank = np.zeros(len(waiting)) if instance.rank is None else instance.rank[waiting]
        order = np.lexsort((-regret, -rank, ~np.isneginf(unserved)))
        order = order[bidding[order]]
        waiting, bid = waiting[order], bid[order]
        if not len(waiting):
            break
        taken = _taken(instance, limits, waiting, bid, room, slack)
        choice[waiting[taken]] = bid[taken]
        waiting = waiting[~taken]


def _place_groups(
    instance: Instance,
    limits: LimitRows,
    choice: NDArray[np.int64],
    room: NDArray[np.float64],
    slack: NDArray[np.float64],
    deadline: Deadline,
) -> None:
    """Give groups left out the best of a few models that have room for all of their agents; take it off in place."""
    for group in limits.together:
        if choice[group[0]] != UNASSIGNED:
            continue
        if deadline.limited and deadline.expired():
            break
        amount = np.full((instance.m, 1), float(len(group)))
        if instance.demand is not None:
            amount = instance.demand[group].sum(axis=0)
        value = np.asarray(instance.score[group], dtype=np.float64).sum(axis=0)
        value = np.where((amount <= room).all(axis=1), value, -np.inf)
        for model in np.argsort(-value, kind="stable")[:_MODELS_TRIED]:
            if not value[model] > -np.inf or value[model] < instance.unserved[group].sum():
                break
            added = np.zeros(limits.count + 1)
            for layer in limits.layers:
                row, coefficient = layer.row[group, model], layer.coefficient[group, model]
                added += np.bincount(row % len(added), weights=coefficient, minlength=len(added))
            if (added[:-1] > np.maximum(slack, 0.0)).any():
                continue
            choice[group] = model
            room[model] -= amount[model]
            slack -= added[:-1]
            break


def _values(
    instance: Instance,
    limits: LimitRows,
    waiting: NDArray[np.intp],
    room: NDArray[np.float64],
    slack: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return (k, m) scores, ``-inf`` where the model or a limit has no room."""
    value = np.asarray(instance.score[waiting], dtype=np.float64).copy()
    if instance.demand is None:
        value[:, room[:, 0] < 1] = -np.inf
    else:
        for k in range(instance.r):
            value[instance.demand[waiting, :, k] > room[:, k]] = -np.inf
    beyond = np.append(np.maximum(slack, 0.0), np.inf)  # NO_ROW indexes the last entry
    short = np.append((slack < 0) & limits.hard, False)
    low, high = instance.score_range
    for layer in limits.layers:
        row, coefficient = layer.row[waiting], layer.coefficient[waiting]
        value[coefficient > beyond[row]] = -np.inf
        if short.any():
            value[short[row] & (coefficient < 0)] += high - low + 1.0
    return value


def _taken(
    instance: Instance,
    limits: LimitRows,
    agents: NDArray[np.intp],
    bid: NDArray[np.int64],
    room: NDArray[np.float64],
    slack: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return whose bids fit with all bids before them, the first always; take them off room and slack in place."""
    fits = np.ones(len(agents), bool)
    amounts = []
    for k in range(instance.r):
        amount = np.ones(len(agents)) if instance.demand is None else instance.demand[agents, bid, k]
        fits &= _before(bid, amount) + amount <= room[bid, k]
        amounts.append(amount)
    rows = []
    for layer in limits.layers:
        row, amount = entries_at(layer.row, agents, bid), entries_at(layer.coefficient, agents, bid)
        asked = np.where(row == NO_ROW, 0.0, np.maximum(amount, 0.0))
        fits &= (asked == 0) | (_before(row, asked) + asked <= slack[row])
        rows.append((row, amount))
    for k, amount in enumerate(amounts):
        room[:, k] -= np.bincount(bid[fits], weights=amount[fits], minlength=instance.m)
    for row, amount in rows:
        counted = fits & (row != NO_ROW)
        slack -= np.bincount(row[counted], weights=amount[counted], minlength=limits.count)
    return fits


def _before(group: NDArray[np.int64], amount: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of the amounts before each within its group."""
    order = np.argsort(group, kind="stable")
    total = np.cumsum(amount[order])
    start = np.flatnonzero(np.diff(group[order], prepend=group[order[:1]] - 1))
    size = np.diff(np.append(start, len(group)))
    before = np.empty(len(group))
    before[order] = total - amount[order] - np.repeat(total[start] - amount[order[start]], size)
    return before

"""Greedy for floors, copies and counts: floors first, then best models with room, by regret."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.network import UnitFlow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.problem.instance import Instance
    from solver.problem.network import NetworkShape

_GREEDY_S_PER_PAIR = 2e-8
"""Seconds per pair of the first round, its copy of the scores included."""

_GREEDY_S_PER_ROW = 1.5e-6
"""Seconds per row, mostly for sorting."""


def round_seconds(instance: Instance) -> float:
    """Return an upper estimate of the seconds of a round in which all rows bid."""
    return instance.n * (instance.m * _GREEDY_S_PER_PAIR + _GREEDY_S_PER_ROW)


def greedy_flow(
    instance: Instance, shape: NetworkShape, deadline: Deadline, prices: NDArray[np.float64]
) -> UnitFlow | None:
    """Return a flow within all capacities; floors may be missed and agents left out. None without time for a round.

    In rounds, every row with units left bids for the model that is best at some prices, each model takes the bids of
    highest rank and regret as far as they fit (Martello and Toth 1981). Models short of their floors are filled before
    all others.

    Parameters
    ----------
    instance, shape
        The problem.
    deadline : Deadline
        No round is begun that is not expected to end before it.
    prices : (m,) float64
        Any; good ones spread the bids, so that few rounds do.

    Notes
    -----
    O(n m) per round, at most as many rounds as a row has bids to make.
    """
    pace_s = round_seconds(instance)
    if deadline.remaining_s() < pace_s:
        return None
    state = _State(instance, shape, prices)
    for floors in (True, False):
        for _ in range(instance.n * instance.m):  # every round uses a pair up, or is the last
            if deadline.remaining_s() <= pace_s:
                break
            began = deadline.clock.now()
            limit = np.minimum(state.need, state.room) if floors else state.room - state.need
            if not state.bid(limit, only_worthwhile=not floors):
                break
            pace_s = deadline.clock.now() - began
    if deadline.limited and shape.is_single and deadline.remaining_s() <= pace_s:
        state.hand_out()
    if not state.parts:
        nothing = np.zeros(0, np.int64)
        return UnitFlow(agent=nothing, model=nothing, units=nothing)
    agent, model, units = (np.concatenate(column) for column in zip(*state.parts, strict=True))
    return UnitFlow.of_arcs(agent, model, units)


class _State:
    """What is left of supplies, capacities and floors while rounds go on."""

    def __init__(self, instance: Instance, shape: NetworkShape, prices: NDArray[np.float64]) -> None:
        self.prices = prices
        self.unserved = instance.unserved
        self.rank = np.zeros(instance.n, np.int64) if instance.rank is None else instance.rank
        self.value = np.subtract(instance.score, prices, dtype=np.float64)
        self.width = shape.width
        self.left = shape.supply.copy()
        self.room = instance.slots.copy()
        self.need = np.minimum(shape.floor, self.room)
        self.parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []

    def bid(self, limit: NDArray[np.int64], *, only_worthwhile: bool) -> bool:
        """Run one round in which no model takes more than its limit; return whether anything was taken."""
        models = np.flatnonzero(limit > 0)
        rows = np.flatnonzero(self.left > 0)
        if not len(models) or not len(rows):
            return False
        block = self.value[np.ix_(rows, models)]
        index = np.arange(len(rows))
        first = block.argmax(axis=1)
        best = block[index, first]
        block[index, first] = -np.inf
        second = np.maximum(block.max(axis=1), self.unserved[rows])
        bids = best > -np.inf
        if only_worthwhile:
            bids &= best + self.prices[models[first]] >= self.unserved[rows]
        rows, model, best, second = rows[bids], models[first[bids]], best[bids], second[bids]
        if not len(rows):
            return False
        regret = np.where(np.isneginf(second), np.inf, best - np.maximum(second, -1e300))
        order = np.lexsort((-regret, -self.rank[rows], model))
        rows, model = rows[order], model[order]
        wanted = np.minimum(self.left[rows], self.width[rows])
        total = np.cumsum(wanted)
        start = np.searchsorted(model, model)
        before = total - wanted - (total - wanted)[start]
        units = np.clip(limit[model] - before, 0, wanted)
        taken = units > 0
        rows, model, units = rows[taken], model[taken], units[taken]
        self.value[rows, model] = -np.inf
        np.subtract.at(self.left, rows, units)
        used = np.bincount(model, units, len(self.room)).astype(np.int64)
        self.room -= used
        self.need = np.maximum(self.need - used, 0)
        self.parts.append((rows, model, units))
        return True

    def hand_out(self) -> None:
        """Give free slots to rows that have none, by rank and then in order, where they gain. O(n + m)."""
        rows = np.flatnonzero(self.left > 0)
        rows = rows[np.argsort(-self.rank[rows], kind="stable")]
        models = np.repeat(np.arange(len(self.room)), self.room)[: len(rows)]
        rows = rows[: len(models)]
        gains = self.value[rows, models] + self.prices[models] > self.unserved[rows]
        rows, models = rows[gains], models[gains]
        self.parts.append((rows, models, np.ones(len(rows), np.int64)))

"""Greedy for floors, copies and counts: floors first, then best models with room, by regret."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.blocks import chunks, row_maxima
from solver.problem.network import UnitFlow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.problem.instance import Instance
    from solver.problem.network import NetworkShape

_GREEDY_S_PER_PAIR = 3e-9
"""Seconds per pair of the first round."""

_GREEDY_S_PER_ROW = 2.5e-7
"""Seconds per row, mostly for sorting."""

_GATHERING_COST = 4
"""How many times longer a pair takes where only some models are looked at, one by one, instead of all."""


def round_seconds(instance: Instance) -> float:
    """Return an upper estimate of the seconds of a round in which all rows bid."""
    return instance.n * (instance.m * _GREEDY_S_PER_PAIR + _GREEDY_S_PER_ROW)


def greedy_flow(
    instance: Instance, shape: NetworkShape, deadline: Deadline, prices: NDArray[np.float64]
) -> UnitFlow:
    """Return a flow within all capacities; floors may be missed and agents left out.

    In rounds, every row with units left bids for the model that is best at some prices, each model takes the bids of
    highest rank and regret as far as they fit (Martello and Toth 1981). Models short of their floors are filled before
    all others.

    Parameters
    ----------
    instance, shape
        The problem.
    deadline : Deadline
        No round is begun that is not expected to end before it. Rows that are not reached get what slots are left where
        they ask for one each.
    prices : (m,) float64
        Any; good ones spread the bids, so that few rounds do.

    Notes
    -----
    O(n m) per round, at most as many rounds as a row has bids to make.
    """
    pace_s = round_seconds(instance)
    state = _State(instance, shape, prices, deadline)
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

    def __init__(
        self, instance: Instance, shape: NetworkShape, prices: NDArray[np.float64], deadline: Deadline
    ) -> None:
        self.score, self.prices, self.deadline = np.asarray(instance.score), prices, deadline
        self.unserved = instance.unserved
        self.rank = instance.rank
        self.width = shape.width
        self.left = shape.supply.copy()
        self.room = instance.slots.copy()
        self.need = np.minimum(shape.floor, self.room)
        self.used = None if shape.is_single else np.zeros(instance.score.shape, bool)
        self.parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []

    def bid(self, limit: NDArray[np.int64], *, only_worthwhile: bool) -> bool:
        """Run one round in which no model takes more than its limit; return whether anything was taken."""
        models = np.flatnonzero(limit > 0)
        rows = np.flatnonzero(self.left > 0)
        if not len(models) or not len(rows):
            return False
        model, best, second = self._two_best(rows, models)
        second = np.maximum(second, self.unserved[rows])
        bids = best > -np.inf
        if only_worthwhile:
            bids &= best + self.prices[model] >= self.unserved[rows]
        rows, model, best, second = rows[bids], model[bids], best[bids], second[bids]
        if not len(rows):
            return False
        loss = np.where(np.isneginf(second), -np.inf, np.maximum(second, -1e300) - best)
        order = np.argsort(loss) if self.rank is None else np.lexsort((loss, -self.rank[rows]))
        order = order[
            np.argsort(model[order].astype(np.uint16 if len(limit) <= 1 << 16 else int), kind="stable")
        ]
        rows, model = rows[order], model[order]
        wanted = np.minimum(self.left[rows], self.width[rows])
        total = np.cumsum(wanted)
        start = np.searchsorted(model, model)
        before = total - wanted - (total - wanted)[start]
        units = np.clip(limit[model] - before, 0, wanted)
        taken = units > 0
        rows, model, units = rows[taken], model[taken], units[taken]
        if self.used is not None:
            self.used[rows, model] = True
        self.left[rows] -= units
        used = np.bincount(model, units, len(self.room)).astype(np.int64)
        self.room -= used
        self.need = np.maximum(self.need - used, 0)
        self.parts.append((rows, model, units))
        return True

    def _two_best(
        self, rows: NDArray[np.int64], models: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the best of some models for each row at the prices, its value, and the second best value.

        Values are ``-inf`` where there is none, or the row was not reached before the deadline.
        """
        n, m = self.score.shape
        gathers = _GATHERING_COST * len(models) < m
        charged = self.prices[models] if gathers else np.full(m, np.inf)
        if not gathers:
            charged[models] = self.prices[models]
        best, second = np.full(len(rows), -np.inf), np.full(len(rows), -np.inf)
        model = np.zeros(len(rows), np.int64)
        for part in chunks(len(rows), len(charged)):
            if self.deadline.limited and self.deadline.expired():
                break
            some: slice | NDArray[np.int64] = part if len(rows) == n else rows[part]
            pairs = np.ix_(rows[part], models) if gathers else some
            value = np.subtract(self.score[pairs], charged, dtype=np.float64)
            if self.used is not None:
                value[self.used[pairs]] = -np.inf
            index = np.arange(len(value))
            first = value.argmax(axis=1)
            best[part] = value[index, first]
            value[index, first] = -np.inf
            second[part] = row_maxima(value)
            model[part] = models[first] if gathers else first
        return model, best, second

    def hand_out(self) -> None:
        """Give free slots to rows that have none, by rank and then in order, where they gain. O(n + m)."""
        rows = np.flatnonzero(self.left > 0)
        if self.rank is not None:
            rows = rows[np.argsort(-self.rank[rows], kind="stable")]
        models = np.repeat(np.arange(len(self.room)), self.room)[: len(rows)]
        rows = rows[: len(models)]
        gains = self.score[rows, models] > self.unserved[rows]
        rows, models = rows[gains], models[gains]
        self.parts.append((rows, models, np.ones(len(rows), np.int64)))

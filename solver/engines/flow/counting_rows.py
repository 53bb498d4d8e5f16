"""Limit rows as bounds on how many agents of a set are served: what they count, forbid, or leave idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.limit_rows import NO_ROW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.limit_rows import LimitRows

_WHOLE_TOLERANCE = 1e-9
"""Relative distance below a whole number of agents at which a bound allows that number, as certificates do."""

_COUNTED_SAMPLE = 64
"""Agents looked at before all are."""

_MIN_EDGES = 3
"""Pairs of agents kept apart from which a clique is looked for."""

_MAX_NODE_UNITS = 2**60
"""Bounds on numbers of agents are cut off here, so that they are whole numbers of 64 bits."""

_CLIQUE_ROUNDS = 8
"""Rounds of looking for cliques."""


def may_count(limits: LimitRows, n: int) -> bool:
    """Whether a look at some agents finds no row that weighs its pairs differently; such rows are seldom idle."""
    some = np.arange(0, n, max(1, n // _COUNTED_SAMPLE))
    for layer in limits.layers:
        row, weight = layer.row[some], layer.coefficient[some]
        row, weight = row[(row != NO_ROW) & (weight != 0)], weight[(row != NO_ROW) & (weight != 0)]
        least, most = np.full(limits.count, np.inf), np.full(limits.count, -np.inf)
        np.minimum.at(least, row, weight)
        np.maximum.at(most, row, weight)
        if ((least < most) & (limits.bound != 0)).any():
            return False
    return True


class CountingRows:
    """The rows of an instance as sets of its allowed pairs.

    Parameters
    ----------
    limits : LimitRows
        The rows.
    allowed : (n, m) bool
        Pairs that may be used; those of rows that forbid are taken out.

    Attributes
    ----------
    weight_of : (g,) float64
        Coefficient of the pairs of a row that may be exceeded, 0 for rows that must hold.
    certain : list of int
        Rows that are exceeded whatever anybody does, because no pair that may be used counts for them.
    """

    def __init__(self, limits: LimitRows, allowed: NDArray[np.bool_]) -> None:
        self.limits, self.allowed = limits, allowed
        count = limits.count
        self.unit = np.ones(count)
        self.least = np.zeros(count, np.int64)
        self.most = np.full(count, np.iinfo(np.int64).max)
        self.idle = np.zeros(count, bool)
        self.weight_of = np.zeros(count)
        self.infeasible = False
        self.forbidding: list[int] = []
        self.merged: list[int] = []
        self.certain: list[int] = []
        entries = [self._entries(k) for k in range(len(limits.layers))]
        self.row = np.concatenate([np.zeros(0, np.int64), *(entry[0] for entry in entries)])
        self.agent = np.concatenate([np.zeros(0, np.int64), *(entry[1] for entry in entries)])
        self.model = np.concatenate([np.zeros(0, np.int64), *(entry[2] for entry in entries)])
        self.weight = np.concatenate([np.zeros(0), *(entry[3] for entry in entries)])

    def _entries(
        self, at: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return row, agent, model and coefficient of every pair that a layer touches."""
        layer = self.limits.layers[at]
        agent, model = np.nonzero((layer.row != NO_ROW) & (layer.coefficient != 0) & self.allowed)
        return layer.row[agent, model].astype(np.int64), agent, model, layer.coefficient[agent, model]

    def understand(self) -> bool:
        """Turn every row into bounds on a number of agents; return False where one is nothing of the kind."""
        count = self.limits.count
        low, high = np.full(count, np.inf), np.full(count, -np.inf)  # of no pairs
        np.minimum.at(low, self.row, self.weight)
        np.maximum.at(high, self.row, self.weight)
        self.idle = low > high
        hard = self.limits.hard
        self.infeasible = bool((self.idle & hard & (self.limits.bound < 0)).any())
        counts = low == high
        soft = ~hard & ~self.idle
        if (soft & ~counts).any():
            return False
        self.weight_of[soft], self.unit[soft] = low[soft], np.abs(low[soft])
        self._count(np.flatnonzero(hard & counts), low)
        unequal = np.flatnonzero(hard & (low < high))
        if len(unequal):
            order = np.argsort(self.row, kind="stable")
            ends = (
                np.searchsorted(self.row[order], unequal),
                np.searchsorted(self.row[order], unequal, "right"),
            )
            for g, start, end in zip(unequal.tolist(), *ends, strict=True):
                if not self._is_simple(g, order[start:end], float(low[g])):
                    return False
        if self.forbidding or self.idle.any():
            kept = ~self.idle[self.row]
            kept &= self.allowed[self.agent, self.model]
            self.row, self.agent, self.model = self.row[kept], self.agent[kept], self.model[kept]
        left = np.bincount(self.row, minlength=count) > 0
        self.certain = np.flatnonzero(~hard & ~left & (self.limits.bound < 0)).tolist()
        self.weight_of[~left] = 0.0
        self._merge_cliques()
        return True

    def _merge_cliques(self) -> None:
        """Replace pairs of agents that are kept apart by one set, where all pairs of some agents are.

        One set of them says more than its pairs do for fractions of agents, and the same for whole ones: the first
        row of each clique takes all its agents, the others are idle.
        """
        n = len(self.allowed)
        size = np.bincount(self.row, minlength=self.limits.count)
        apart = np.flatnonzero(
            (size == 2) & (self.most == 1) & (self.least == 0) & ~self.idle & self.limits.hard
        )
        single = np.flatnonzero(np.isin(self.row, apart))
        entry = single[np.argsort(self.row[single], kind="stable")].reshape(-1, 2)
        entry = entry[self.model[entry[:, 0]] == self.model[entry[:, 1]]]
        if len(entry) < _MIN_EDGES:
            return
        key = self.model[entry] * n + self.agent[entry]
        vertex, ends = np.unique(key, return_inverse=True)
        ends = np.sort(ends.reshape(-1, 2), axis=1)
        part = _components(ends, len(vertex))
        vertices = np.bincount(part)
        edge = np.unique(ends, axis=0)
        edges = np.bincount(part[edge[:, 0]], minlength=len(vertices))
        clique = (vertices > 2) & (edges == vertices * (vertices - 1) // 2)
        own = part[ends[:, 0]]
        row = self.row[entry[:, 0]][clique[own]]
        own = own[clique[own]]
        if not len(row):
            return
        first = np.full(len(vertices), self.limits.count, np.int64)
        np.minimum.at(first, own, row)
        self.idle[np.setdiff1d(row, first)] = True
        self.merged = first[clique].tolist()
        kept = ~np.isin(self.row, row)
        members = np.flatnonzero(clique[part])
        self.row = np.concatenate([self.row[kept], first[part[members]]])
        self.agent = np.concatenate([self.agent[kept], vertex[members] % n])
        self.model = np.concatenate([self.model[kept], vertex[members] // n])

    def _count(self, rows: NDArray[np.intp], low: NDArray[np.float64]) -> None:
        """Note rows whose pairs all count the same, ``low`` of each row."""
        weight, bound = low[rows], self.limits.bound[rows]
        self.unit[rows] = np.abs(weight)
        upper = weight > 0
        self.infeasible |= bool((upper & (bound < 0)).any())
        with np.errstate(over="ignore"):  # more than any number of agents
            ratio = bound / weight
        most = np.floor(ratio[upper] * (1 + _WHOLE_TOLERANCE) + 1e-12)
        self.most[rows[upper]] = np.clip(most, 0, _MAX_NODE_UNITS).astype(np.int64)
        least = np.ceil(ratio[~upper] * (1 - _WHOLE_TOLERANCE) - 1e-12)
        self.least[rows[~upper]] = np.clip(least, 0, _MAX_NODE_UNITS).astype(np.int64)
        self.idle[rows[~upper]] = self.least[rows[~upper]] == 0
        forbidding = rows[upper & (bound == 0)]
        if len(forbidding):
            self._forbid(forbidding)

    def _forbid(self, rows: NDArray[np.intp]) -> None:
        """Take the pairs of rows that allow none of them out of all sets."""
        self.forbidding += rows.tolist()
        self.idle[rows] = True
        pairs = np.flatnonzero(np.isin(self.row, rows))
        self.allowed[self.agent[pairs], self.model[pairs]] = False

    def _is_simple(self, g: int, own: NDArray[np.intp], least: float) -> bool:
        """Note a row of unequal weights that forbids all its pairs, or that no plan can break."""
        bound = float(self.limits.bound[g])
        if least > 0 and bound == 0:
            self._forbid(np.array([g]))
            return True
        most = np.zeros(len(self.allowed))
        np.maximum.at(most, self.agent[own], self.weight[own])
        self.idle[g] = float(most.sum()) <= bound
        return bool(self.idle[g])


def _components(ends: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the (count,) number of every vertex's component in a graph of edges, by label propagation.

    Cliques are found in two rounds; what is not settled after a few is no clique, and its labels do not matter.
    """
    label = np.arange(count)
    for _ in range(_CLIQUE_ROUNDS):
        least = np.minimum(label[ends[:, 0]], label[ends[:, 1]])
        before = label.copy()
        np.minimum.at(label, ends[:, 0], least)
        np.minimum.at(label, ends[:, 1], least)
        if np.array_equal(before, label):
            break
    return np.unique(label, return_inverse=True)[1]

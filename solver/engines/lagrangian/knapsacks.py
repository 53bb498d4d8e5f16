"""The knapsack of every column at given multipliers of the agents: exact, by dynamic programming over the capacity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines import kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.standard_form import StandardForm

_MOST_TABLE_CELLS = 40_000_000
"""Cells of the table of optima, agents times largest capacity, beyond which knapsacks are not looked at."""

_MOST_PROFIT = 2.0**29
"""Total of all losses, in fixed point, that keeps every sum of profits within 32 bits."""


class Knapsacks:
    """Which agents a column would take if each were worth its multiplier, for all columns.

    Losses and multipliers are in fixed point, so that optima are exact: a loss is rounded down to a multiple of the
    step, which only lowers the bound.

    Parameters
    ----------
    loss : (c, n) int32
        Losses in steps.
    weight : (c, n) int32
        Units taken, whole and >= 0.
    capacity : (c,) int64
        Units each column has.
    open_ : (c, n) bool
        Pairs allowed.
    step : float
        Loss of one step.
    """

    def __init__(
        self,
        loss: NDArray[np.int32],
        weight: NDArray[np.int32],
        capacity: NDArray[np.int64],
        open_: NDArray[np.bool_],
        step: float,
    ) -> None:
        self.loss, self.weight, self.step = loss, weight, step
        self.capacity, self.open = capacity, open_
        largest = int(capacity.max(initial=0))
        self._kernel = kernels.KnapsackKernel(loss, weight, largest) if kernels.available() else None

    @property
    def most_multiplier(self) -> float:
        """Largest sum of multipliers that fixed point can hold."""
        return _MOST_PROFIT * self.step

    def steps(self, multiplier: NDArray[np.float64]) -> NDArray[np.int32]:
        """Return (n,) multipliers in whole steps."""
        return np.rint(multiplier / self.step).astype(np.int32)

    def solve(
        self, capacity: NDArray[np.int64], open_: NDArray[np.bool_], multiplier: NDArray[np.int32]
    ) -> tuple[float, NDArray[np.bool_]]:
        """Return the Lagrangian bound at multipliers in steps, and who is taken by each column, (c, n).

        O(Σ capacity × agents of positive profit).
        """
        value, chosen = (
            self._solve(capacity, open_, multiplier)
            if self._kernel is None
            else self._kernel.solve(capacity, open_, multiplier)
        )
        return self.step * float(multiplier.sum(dtype=np.int64) - value.sum()), chosen

    def forced(
        self, capacity: NDArray[np.int64], open_: NDArray[np.bool_], multiplier: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Return what the bound rises by when a column must take an agent, (c, n); ``inf`` where it cannot."""
        lost = (
            self._forced(capacity, open_, multiplier)
            if self._kernel is None
            else self._kernel.forced(capacity, open_, multiplier)
        )
        return np.where(lost < 0, np.inf, self.step * lost)

    def _listed(
        self, column: int, room: int, open_: NDArray[np.bool_], profit: NDArray[np.int32]
    ) -> NDArray[np.intp]:
        return np.flatnonzero(open_[column] & (profit > 0) & (self.weight[column] <= room))

    def _table(
        self, column: int, listed: NDArray[np.intp], room: int, profit: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Return the largest profits of the first q agents listed within every capacity, (q + 1, room + 1)."""
        rows = np.zeros((len(listed) + 1, room + 1), np.int32)
        for q, i in enumerate(listed.tolist()):
            weight = int(self.weight[column, i])
            rows[q + 1] = rows[q]
            np.maximum(rows[q, weight:], rows[q, : room + 1 - weight] + profit[i], out=rows[q + 1, weight:])
        return rows

    def _solve(
        self, capacity: NDArray[np.int64], open_: NDArray[np.bool_], multiplier: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Do in numpy what ``solver_knapsacks`` does."""
        value, chosen = np.zeros(len(capacity), np.int64), np.zeros(self.loss.shape, bool)
        for j, room in enumerate(capacity.tolist()):
            if room < 0:
                continue
            profit = multiplier - self.loss[j]
            listed = self._listed(j, room, open_, profit)
            if int(self.weight[j, listed].sum(dtype=np.int64)) <= room:
                chosen[j, listed] = True
                value[j] = profit[listed].sum(dtype=np.int64)
                continue
            rows = self._table(j, listed, room, profit)
            value[j], left = rows[-1, room], room
            for q in range(len(listed) - 1, -1, -1):
                if rows[q + 1, left] > rows[q, left]:
                    chosen[j, listed[q]] = True
                    left -= int(self.weight[j, listed[q]])
        return value, chosen

    def _forced(
        self, capacity: NDArray[np.int64], open_: NDArray[np.bool_], multiplier: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Do in numpy what ``solver_knapsacks_forced`` does."""
        lost = np.full(self.loss.shape, -1, np.int32)
        for j, room in enumerate(capacity.tolist()):
            if room < 0:
                continue
            profit = multiplier - self.loss[j]
            listed = self._listed(j, room, open_, profit)
            rows = self._table(j, listed, room, profit)
            back = self._table(j, listed[::-1], room, profit)[::-1]
            fits = np.flatnonzero(open_[j] & (self.weight[j] <= room))
            lost[j, fits] = rows[-1, room] - profit[fits] - rows[-1, room - self.weight[j, fits]]
            for q, i in enumerate(listed.tolist()):
                left = room - int(self.weight[j, i])
                split = (rows[q, : left + 1] + back[q + 1, left::-1]).max()
                lost[j, i] = rows[-1, room] - profit[i] - split
        return lost


def knapsacks_of(form: StandardForm) -> Knapsacks | None:
    """Return the knapsacks of a form, or None where its columns are no knapsacks of one whole resource.

    Parameters
    ----------
    form : StandardForm
        One resource, whole demands and capacities of moderate size, no limit rows.
    """
    if form.resources != 1 or form.rows or not form.n:
        return None
    room, demand = np.floor(form.room[0]), form.demand[0]
    if form.leave:
        room[-1] = 0.0  # no agent there takes anything
    largest = float(room.max(initial=0.0))
    total = float(form.worst)
    if (
        not np.isfinite(largest)
        or largest < 0
        or (form.n + 1) * (largest + 1) > _MOST_TABLE_CELLS
        or not total > 0
    ):
        return None
    if (demand < 0).any() or (np.rint(demand) != demand).any() or demand.max(initial=0.0) >= _MOST_PROFIT:
        return None
    step = 2.0 ** np.ceil(np.log2(8 * total / _MOST_PROFIT))
    if form.integral:
        step = min(step, 1.0)  # a power of two: whole losses are whole steps
        if step < 1.0 / 1024:
            step = 1.0 / 1024
    allowed = np.isfinite(form.loss)
    loss = np.floor(np.where(allowed, form.loss, 0.0) / step)
    return Knapsacks(
        loss.astype(np.int32), demand.astype(np.int32), room.astype(np.int64), allowed, float(step)
    )

"""Limit rows inside the search: priced into the losses, paid for exactly when a move is chosen.

A limit row is shared by many agents, and one move changes it by little. Its multiplier is therefore added to
the losses that the beam sees: the dual price while the row is nearly used up, a penalty on top while it
is broken, nothing while there is plenty left. The few moves that the beam proposes are then valued
exactly, penalty by penalty, before one is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.engines.lagrangian.ejection_chains import EjectionChains, Move
    from solver.engines.standard_form import StandardForm

_TINY_EXCESS_SHARE = 0.05
"""Share of a typical contribution below which an excess is charged as if it were a typical one."""

_NEARLY_USED_UP = 4.0
"""Typical contributions left below which a row counts as nearly used up."""


class RowPrices:
    """Use, penalties and multipliers of the limit rows of a form.

    Parameters
    ----------
    form : StandardForm
        With at least one limit row.
    row_price : (g,) float64
        Dual prices, loss per unit.
    chains : EjectionChains
        Whose losses are repriced.
    pull : float
        Typical difference between two near pairs of an agent, in the beam's unit.
    """

    def __init__(
        self, form: StandardForm, row_price: NDArray[np.float64], chains: EjectionChains, *, pull: float
    ) -> None:
        self.form, self.chains = form, chains
        rows, n = form.rows, form.n
        self.price = row_price / chains.unit
        self.loss, self.pull = chains.loss, pull
        self.row = np.full((len(form.row), n + 1, form.columns), rows, np.int64)
        self.row[:, :n] = form.row.transpose(0, 2, 1)
        self.coefficient = np.zeros(self.row.shape, np.float32)
        self.coefficient[:, :n] = form.coefficient.transpose(0, 2, 1)
        touched = np.bincount(self.row.ravel(), minlength=rows + 1)[:-1]
        size = np.bincount(self.row.ravel(), np.abs(self.coefficient).ravel(), minlength=rows + 1)[:-1]
        self.typical = np.where(size > 0, size / np.maximum(touched, 1), 1.0)
        self.start = np.maximum(1.5 * self.price, 2 * pull / self.typical)
        self.most = 8 * self.start + 50 * pull / self.typical
        self.base = self.start.copy()
        self.penalty = self.start.copy()
        self.room = form.row_room
        self.use = np.zeros(rows)
        self._applied: NDArray[np.float64] | None = None

    def refresh(self) -> None:
        """Recompute the use of every row from the beam's assignment."""
        self.use = self.form.row_load(self.chains.column[:-1])

    @property
    def broken(self) -> NDArray[np.bool_]:
        """(g,) bool, rows that are exceeded."""
        return self.use > self.room

    def reprice(self) -> None:
        """Put the current multipliers into the beam's losses, if they have changed."""
        left = self.room - self.use
        multiplier = np.where(left < _NEARLY_USED_UP * self.typical, self.price, 0.0)
        # A tiny excess has a huge penalty: as a price it would drown everything else a move does.
        steep = np.minimum(self.penalty, 2 * self.start)
        multiplier = np.where(left < 0, self.price + steep, multiplier)
        if self._applied is not None and np.array_equal(multiplier, self._applied):
            return
        self._applied = multiplier
        padded = np.append(multiplier, 0.0).astype(np.float32)
        priced = self.loss.copy()
        for row, coefficient in zip(self.row, self.coefficient, strict=True):
            priced += padded[row] * coefficient
        self.chains.reprice(priced)

    def deltas(self, moves: Sequence[Move]) -> NDArray[np.float64]:
        """Return the (moves, g) change of every row's use."""
        sizes = [len(move.agents) for move in moves]
        which = np.repeat(np.arange(len(moves)), sizes)
        agents = np.array([a for move in moves for a in move.agents])
        targets = np.array([t for move in moves for t in move.targets])
        sources = self.chains.column[agents]
        side = self.form.rows + 1
        total = np.zeros(len(moves) * side)
        for row, coefficient in zip(self.row, self.coefficient, strict=True):
            for column, sign in ((targets, 1.0), (sources, -1.0)):
                index = which * side + row[agents, column]
                total += np.bincount(index, sign * coefficient[agents, column], minlength=len(total))
        return total.reshape(len(moves), side)[:, :-1]

    def exact(self, moves: Sequence[Move], deltas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the change of the true penalised loss that each move brings now."""
        assert self._applied is not None
        values = np.array([move.value for move in moves]) - deltas @ self._applied
        paid = np.maximum(self.use - self.room, 0.0)
        due = np.maximum(self.use + deltas - self.room, 0.0)
        exact: NDArray[np.float64] = values + (due - paid) @ self.penalty
        return exact

    def restart(self) -> None:
        """Forget how far the penalties have swung."""
        self.base = self.start.copy()
        self.penalty = self.start.copy()

    def swing(self, *, rise: float, fall: float, noise: NDArray[np.float64]) -> None:
        """Raise the penalties of broken rows, lower all by ``fall``, and perturb them."""
        self.base[self.broken] *= rise
        self.base *= fall
        np.clip(self.base, 0.3 * self.start, self.most, out=self.base)
        self.penalty = self.base * np.exp(noise)
        excess = self.use - self.room
        tiny = (excess > 0) & (excess < _TINY_EXCESS_SHARE * self.typical)
        self.penalty[tiny] = np.maximum(self.penalty[tiny], self.pull / excess[tiny])

"""The agents' rows where few pairs are allowed: passes over the stored pairs alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.agent_rows import Reduction
from solver.problem.sparse import maxima

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.sparse import CompressedScores


class CompressedRows:
    """Rows of compressed scores.

    Parameters
    ----------
    score : CompressedScores
        Every agent has an option: an open model among the stored ones, or staying unassigned.
    outside : (n,) float64 or None
        Value of staying unassigned; None when that is no option for anyone.
    closed : (m,) bool
        Models without slots, never used.
    """

    def __init__(
        self, score: CompressedScores, outside: NDArray[np.float64] | None, closed: NDArray[np.bool_]
    ) -> None:
        self.n, self.m = score.shape
        self._score = score
        self._outside = outside
        self._closed = closed

    def sample(self, rows: NDArray[np.int64]) -> CompressedRows:
        """Return some of the agents."""
        outside = None if self._outside is None else self._outside[rows]
        return CompressedRows(self._score.rows(rows), outside, self._closed)

    def dense(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return scores as (n, m) float64 and the values of staying unassigned."""
        score = np.asarray(self._score).astype(np.float64, copy=False)
        return np.where(self._closed, -np.inf, score), self._outside

    def span(self) -> float:
        """Return the range of all finite scores and values of staying unassigned."""
        finite = [self._score.data]
        if self._outside is not None:
            finite.append(self._outside[np.isfinite(self._outside)])
        least = min((float(part.min()) for part in finite if len(part)), default=0.0)
        return max((float(part.max()) for part in finite if len(part)), default=0.0) - least

    def standing(
        self, prices: NDArray[np.float64], apart: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return what agents have, see :meth:`solver.engines.price.agent_rows.DenseRows.standing`."""
        others = np.where(self._closed, np.inf, prices)
        others[apart] = np.inf
        _, best = self._score.best(others)
        outside = np.full(self.n, -np.inf) if self._outside is None else self._outside
        return best, outside, self._score[:, apart].astype(np.float64)

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Reduction:
        """Find the contested arcs for a box, in one pass of O(n + stored pairs)."""
        n, m, outside = self.n, self.m, self._outside
        choice = np.full(n, m)
        low_charge, high_charge = (np.where(self._closed, np.inf, side) for side in (low, high))
        code, value = [], []
        for rows, data, models, row in self._score.blocks():
            floor = maxima(data - high_charge[models], self._score.degree[rows])
            if outside is not None:
                leaves = outside[rows] >= floor
                np.maximum(floor, outside[rows], out=floor)
            near = np.flatnonzero(data - low_charge[models] >= floor[row])
            row, model, score = row[near], models[near], data[near].astype(np.float64)
            choice[rows][row] = model
            degree = np.bincount(row, minlength=len(floor))
            if outside is not None:
                degree += leaves
                row = np.append(row, np.flatnonzero(leaves))
                model = np.append(model, np.full(len(row) - len(model), m))
                score = np.append(score, outside[rows][leaves])
            contested = np.flatnonzero(degree[row] > 1)
            code.append((row[contested] + rows.start) * (m + 1) + model[contested])
            value.append(score[contested])
        pair = np.concatenate(code)
        order = np.argsort(pair, kind="stable")  # whoever may leave has that arc last
        pair = pair[order]
        owner = pair // (m + 1)
        return Reduction.of(choice, owner, pair - owner * (m + 1), np.concatenate(value)[order], low, high)

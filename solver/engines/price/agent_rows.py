"""The agents' rows: where samples come from, and the one full pass that finds who is contested in a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines import kernels
from solver.engines.price.contested_arcs import Contested
from solver.problem.blocks import chunks, map_blocks, priced_blocks, row_maxima

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from solver.engines.price.row_protocols import Choice

_CHUNKS_PER_CALL = 8
"""Consecutive chunks that one call of the compiled pass takes: calls are then a percent of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """A full pass over the agents for a box.

    Parameters
    ----------
    choice : (n,) int64
        Choice of every settled agent, m for unassigned; arbitrary for contested ones.
    agent : (g,) int64
        The contested agents, ascending.
    contested : Contested
        Their arcs.
    """

    choice: NDArray[np.int64]
    agent: NDArray[np.int64]
    contested: Contested

    @classmethod
    def of(
        cls,
        choice: NDArray[np.int64],
        agent: NDArray[np.int64],
        model: NDArray[np.int64],
        value: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
    ) -> Reduction:
        """Group the contested arcs, given agent by agent, and count who is settled."""
        m = len(low)
        starts = np.flatnonzero(np.diff(agent, prepend=-1))
        contested = agent[starts]
        settled = np.bincount(choice, minlength=m + 1) - np.bincount(choice[contested], minlength=m + 1)
        arcs = Contested(
            first=np.append(starts, len(agent)),
            model=model,
            value=value,
            weight=None,
            settled=settled.astype(np.float64),
            low=low,
            high=high,
        )
        return cls(choice=choice, agent=contested, contested=arcs)

    def whole(self) -> Reduction:
        """Return the outermost of nested boxes, its agents being the positions of the contested ones."""
        groups = self.contested.groups
        unassigned = np.full(groups, self.contested.m)
        return Reduction(choice=unassigned, agent=np.arange(groups), contested=self.contested)

    def gathered(self) -> Reduction:
        """Return itself: its arcs are in memory."""
        return self

    def resolved(self, found: Choice) -> NDArray[np.int64]:
        """Return every agent's choice, given that of the contested agents by position."""
        self.choice[self.agent] = np.asarray(found)
        return self.choice

    def inside(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Reduction:
        """Return the reduction to a smaller box; this one stays as it is."""
        contested, kept, still = self.contested.inside(low, high)
        owner = self.contested.owner
        lone = np.flatnonzero(kept & ~still[owner])
        choice = self.choice.copy()
        choice[self.agent[owner[lone]]] = self.contested.model[lone]
        return Reduction(choice=choice, agent=self.agent[still], contested=contested)


class DenseRows:
    """Rows of a score matrix.

    Parameters
    ----------
    score : (n, m) float32 or float64
        Never copied whole. Every agent has an option: an eligible open model, or staying unassigned.
    outside : (n,) float64 or None
        Value of staying unassigned; None when that is no option for anyone.
    closed : (m,) bool
        Models without slots, never used.
    threads : int
        Threads that share a pass.
    among : (k,) int64, optional
        Only these rows, which are read where they are: a pass over a sample costs less than a copy of it.
    """

    def __init__(
        self,
        score: NDArray[Any],
        outside: NDArray[np.float64] | None,
        closed: NDArray[np.bool_],
        threads: int = 1,
        among: NDArray[np.int64] | None = None,
    ) -> None:
        self.n, self.m = score.shape if among is None else (len(among), score.shape[1])
        self._score = score
        self._outside = outside
        self._closed = closed
        self._threads = threads
        self._among = among

    def sample(self, rows: NDArray[np.int64]) -> DenseRows:
        """Return some of the agents."""
        outside = None if self._outside is None else self._outside[rows]
        among = rows if self._among is None else self._among[rows]
        return DenseRows(self._score, outside, self._closed, self._threads, among)

    def dense(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return scores as (n, m) float64 and the values of staying unassigned."""
        score = self._score[self._at(slice(None))]
        score = score.astype(np.float64, copy=False)
        if self._closed.any():
            score = np.where(self._closed, -np.inf, score)
        return score, self._outside

    def span(self) -> float:
        """Return the range of all finite scores and values of staying unassigned, in one pass."""
        low, high = np.inf, -np.inf
        for rows in chunks(self.n, self.m):
            block = self._score[self._at(rows)]
            finite = np.isfinite(block)
            low = min(low, float(block.min(where=finite, initial=np.inf)))
            high = max(high, float(block.max(where=finite, initial=-np.inf)))
        if self._outside is not None:
            finite = np.isfinite(self._outside)
            low = min(low, float(self._outside.min(where=finite, initial=np.inf)))
            high = max(high, float(self._outside.max(where=finite, initial=-np.inf)))
        return max(high - low, 0.0)

    def standing(
        self, prices: NDArray[np.float64], apart: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return what agents have, in one pass of O(n m) and as much memory as a few models' scores take.

        Parameters
        ----------
        prices : (m,) float64
            Prices of the models.
        apart : (t,) int64
            Models that are left out.

        Returns
        -------
        best : (n,) float64
            Score less price at the best of the other models.
        outside : (n,) float64
            Value of staying unassigned, ``-inf`` where that is no option.
        worth : (n, t) float64
            Scores of the models left out.
        """
        best = np.empty(self.n)
        others = prices.copy()
        others[apart] = np.inf

        def scan(parts: list[slice]) -> None:
            for rows, net in self._priced(others, parts):
                best[rows] = row_maxima(net)

        map_blocks(scan, self.n, self.m, self._threads)
        outside = np.full(self.n, -np.inf) if self._outside is None else self._outside
        return best, outside, self._score[self._at(slice(None))][:, apart].astype(np.float64)

    def _at(self, rows: slice | NDArray[np.int64]) -> slice | NDArray[np.int64]:
        """Return where some rows of a sample are in the score matrix."""
        return rows if self._among is None else self._among[rows]

    def _priced(
        self, prices: NDArray[np.float64], parts: list[slice]
    ) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Yield blocks of rows with their scores less prices, closed models at ``-inf``."""
        return priced_blocks(self._score, np.where(self._closed, np.inf, prices), parts, self._among)

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Reduction:
        """Find the contested arcs for a box, in one pass of O(n m)."""
        n, m = self.n, self.m
        choice = np.empty(n, np.int64)
        found = map_blocks(lambda parts: self._scan(low, high, parts, choice), n, m, self._threads)
        row, model = (np.concatenate([part[k] for lane in found for part in lane]) for k in range(2))
        pair = self._at(row) * m + (model if self._outside is None else np.minimum(model, m - 1))
        value = self._score.ravel()[pair].astype(np.float64)
        if self._outside is not None:
            leaving = np.flatnonzero(model == m)
            value[leaving] = self._outside[row[leaving]]
        return Reduction.of(choice, row, model, value, low, high)

    def _scan(
        self,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        parts: list[slice],
        choice: NDArray[np.int64],
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Write the choice of every settled agent; return row and model of all contested arcs, row by row.

        Nothing in here depends on how the scores compare: a branch on random numbers costs more than the arithmetic.
        Scores at the high prices are those at the low ones less the sides, so that rounding cannot drop the best arc.
        """
        if kernels.available():
            return self._scan_compiled(low, high, parts, choice)
        m, outside = self.m, self._outside
        width = m if outside is None else m + 1
        size = max((part.stop - part.start for part in parts), default=0)
        side = np.tile(np.where(self._closed, 0.0, high - low), (size, 1))
        at_high = np.empty((size, m))
        masks = np.empty((size, width), bool)
        found = []
        for rows, net in self._priced(low, parts):
            count = len(net)
            mask = masks[:count]
            floor = row_maxima(np.subtract(net, side[:count], out=at_high[:count]))
            if outside is not None:
                np.greater_equal(outside[rows], floor, out=mask[:, m])
                np.maximum(floor, outside[rows], out=floor)
            np.greater_equal(net, floor[:, None], out=mask[:, :m])
            arc = np.flatnonzero(mask)
            row = arc // width
            arc -= row * width
            choice[rows][row] = arc
            contested = np.flatnonzero(np.bincount(row, minlength=count)[row] > 1)
            found.append((row[contested] + rows.start, arc[contested]))
        return found

    def _scan_compiled(
        self,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        parts: list[slice],
        choice: NDArray[np.int64],
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Do what ``_scan`` does with the compiled kernel, bit for bit."""
        side = np.where(self._closed, 0.0, high - low)
        low = np.where(self._closed, np.inf, low)
        found = []
        for first in range(0, len(parts), _CHUNKS_PER_CALL):
            some = parts[first : first + _CHUNKS_PER_CALL]
            rows = slice(some[0].start, some[-1].stop)
            found.append(
                kernels.reduce_rows(
                    self._score,
                    among=self._among,
                    outside=self._outside,
                    low=low,
                    side=side,
                    rows=rows,
                    choice=choice,
                )
            )
        return found

"""The agents' rows: where samples come from, and the one full pass that finds who is contested in a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from solver.engines.pricing.arcs import Contested
from solver.problem.instance import chunks, in_lanes, priced_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["DenseRows", "Reduction", "Rows"]

_MANY_RIVALS = 8  # per row of a block: more, and it pays to know the floor exactly


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

    def inside(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Reduction:
        """Return the reduction to a smaller box; this one stays as it is."""
        contested, kept, still = self.contested.inside(low, high)
        owner = self.contested.owner
        lone = np.flatnonzero(kept & ~still[owner])
        choice = self.choice.copy()
        choice[self.agent[owner[lone]]] = self.contested.model[lone]
        return Reduction(choice=choice, agent=self.agent[still], contested=contested)


class Rows(Protocol):
    """Agents with their scores, dense or sparse."""

    n: int
    m: int

    def sample(self, rows: NDArray[np.int64]) -> Rows:
        """Return some of the agents."""
        ...

    def dense(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return scores as (n, m) float64 and the values of staying unassigned."""
        ...

    def span(self) -> float:
        """Return the range of all finite scores and values of staying unassigned."""
        ...

    def standing(
        self, prices: NDArray[np.float64], apart: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return what agents have: their best elsewhere at these prices, unassigned, and their scores apart."""
        ...

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Reduction:
        """Find the contested arcs for a box."""
        ...


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
    """

    def __init__(
        self,
        score: NDArray[Any],
        outside: NDArray[np.float64] | None,
        closed: NDArray[np.bool_],
        threads: int = 1,
    ) -> None:
        self.n, self.m = score.shape
        self._score = score
        self._outside = outside
        self._closed = closed
        self._threads = threads

    def sample(self, rows: NDArray[np.int64]) -> DenseRows:
        """Return some of the agents."""
        outside = None if self._outside is None else self._outside[rows]
        return DenseRows(self._score[rows], outside, self._closed)

    def dense(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return scores as (n, m) float64 and the values of staying unassigned."""
        score = self._score.astype(np.float64, copy=False)
        if self._closed.any():
            score = np.where(self._closed, -np.inf, score)
        return score, self._outside

    def span(self) -> float:
        """Return the range of all finite scores and values of staying unassigned, in one pass."""
        low, high = np.inf, -np.inf
        for rows in chunks(self.n, self.m):
            block = self._score[rows]
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
        best, choice = np.empty(self.n), np.empty(self.n, np.int64)
        others = prices.copy()
        others[apart] = np.inf

        def scan(parts: list[slice]) -> None:
            for rows, net, top in self._priced(others, parts, choice):
                best[rows] = net.ravel()[np.arange(len(net)) * self.m + top]

        in_lanes(scan, self.n, self.m, self._threads)
        outside = np.full(self.n, -np.inf) if self._outside is None else self._outside
        return best, outside, self._score[:, apart].astype(np.float64)

    def _priced(
        self, prices: NDArray[np.float64], parts: list[slice], choice: NDArray[np.int64]
    ) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.int64]]]:
        """Yield blocks of rows with their scores less prices and their best models, written to ``choice``."""
        for rows, net in priced_blocks(self._score, np.where(self._closed, np.inf, prices), parts):
            yield rows, net, net.argmax(axis=1, out=choice[rows])

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Reduction:
        """Find the contested arcs for a box, in one pass of O(n m)."""
        n, m = self.n, self.m
        choice = np.empty(n, np.int64)
        found = in_lanes(lambda parts: self._scan(low, high, parts, choice), n, m, self._threads)
        codes = np.concatenate([codes for lane in found for codes in lane])
        row = codes // (m + 1)
        model = codes - row * (m + 1)
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        agent = row[starts]
        if self._outside is None:
            codes -= row
            value = self._score.ravel()[codes].astype(np.float64)
        else:
            value = self._score[row, np.minimum(model, m - 1)].astype(np.float64)
            leaving = np.flatnonzero(model == m)
            value[leaving] = self._outside[row[leaving]]
        settled = np.bincount(choice, minlength=m + 1) - np.bincount(choice[agent], minlength=m + 1)
        contested = Contested(
            first=np.append(starts, len(row)),
            model=model,
            value=value,
            weight=None,
            settled=settled.astype(np.float64),
            low=low,
            high=high,
        )
        # The scan knows a lower bound of each agent's floor; among the few arcs it left, the floor itself is cheap.
        return Reduction(choice=choice, agent=agent, contested=contested).inside(low, high)

    def _scan(
        self,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        parts: list[slice],
        choice: NDArray[np.int64],
    ) -> list[NDArray[np.int64]]:
        """Write the best choice of each row at ``low``; return all arcs that may be contested.

        The best model j of row i at the low prices bounds the floor ``max_k (s_ik − high_k)`` from below by
        ``s_ij − high_j``: whoever has no rival above that is settled. Where that leaves many arcs the floor
        itself is computed. Arcs are coded row·(m + 1) + model, ascending.
        """
        m = self.m
        side = np.where(self._closed, 0.0, high - low)
        size = max((part.stop - part.start for part in parts), default=0)
        masks = np.zeros((size, m + 1), bool)
        net_base, mask_base = np.arange(size) * m, np.arange(size) * (m + 1)
        found = []
        for rows, net, top in self._priced(low, parts, choice):
            count = len(net)
            mask, flat_net, flat = masks[:count], net.ravel(), masks[:count].ravel()
            at = net_base[:count] + top
            best = flat_net[at]
            floor = best - side[top]
            first = top
            outside = None if self._outside is None else self._outside[rows]
            if outside is not None:
                np.maximum(floor, outside, out=floor)
                first = np.where(outside > best, m, top)
                choice[rows] = first
                # An agent who may leave has that arc too, unless it is worth less than the floor.
                np.greater_equal(outside, floor, out=mask[:, m])
                mask[:, m] &= first < m
            np.greater_equal(net, floor[:, None], out=mask[:, :m])
            flat[mask_base[:count] + first] = False
            rivals = np.flatnonzero(flat)
            if len(rivals) > _MANY_RIVALS * count:
                net -= side
                np.maximum(floor, net.max(axis=1), out=floor)
                net += side
                np.greater_equal(net, floor[:, None], out=mask[:, :m])
                flat[mask_base[:count] + first] = False
                rivals = np.flatnonzero(flat)
            agents = rivals // (m + 1)
            flat[mask_base[agents] + first[agents]] = True
            codes = np.flatnonzero(flat)
            codes += rows.start * (m + 1)
            found.append(codes)
        return found

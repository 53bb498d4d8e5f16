"""The agents' rows: where samples come from, and the one full pass that finds who is contested in a box."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from solver.engines.pricing.arcs import Contested
from solver.problem.instance import chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DenseRows", "Reduction", "Rows"]


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

    def choose(self, prices: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return everyone's best model at these prices, m for unassigned."""
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

    def choose(self, prices: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return everyone's best model at these prices, m for unassigned: half the work of a reduction."""
        choice = np.empty(self.n, np.int64)
        dearest = np.where(self._closed, np.inf, prices)

        def scan(parts: list[slice]) -> None:
            size = parts[0].stop - parts[0].start
            buffer, base = np.empty((size, self.m)), np.arange(size) * self.m
            for rows in parts:
                net = buffer[: rows.stop - rows.start]
                np.subtract(self._score[rows], dearest, out=net)
                top = net.argmax(axis=1, out=choice[rows])
                if self._outside is not None:
                    top[self._outside[rows] > net.ravel()[base[: len(net)] + top]] = self.m

        lanes = self._lanes()
        if len(lanes) == 1:
            scan(lanes[0])
        else:
            with ThreadPoolExecutor(len(lanes)) as pool:
                list(pool.map(scan, lanes))
        return choice

    def _lanes(self) -> list[list[slice]]:
        """Return the chunks of a pass, shared out to the threads in order."""
        parts = list(chunks(self.n, self.m))
        lanes = self._threads if len(parts) >= 4 * self._threads else 1
        cut = np.linspace(0, len(parts), lanes + 1).astype(int)
        return [parts[a:b] for a, b in pairwise(cut)]

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Reduction:
        """Find the contested arcs for a box, in one pass of O(n m)."""
        n, m = self.n, self.m
        choice = np.empty(n, np.int64)
        jobs = [(low, high, parts, choice) for parts in self._lanes()]
        if len(jobs) == 1:
            found = self._scan(*jobs[0])
        else:
            with ThreadPoolExecutor(len(jobs)) as pool:
                found = [codes for lane in pool.map(lambda job: self._scan(*job), jobs) for codes in lane]
        codes = np.concatenate(found)
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
        return Reduction(choice=choice, agent=agent, contested=contested)

    def _scan(
        self,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        parts: list[slice],
        choice: NDArray[np.int64],
    ) -> list[NDArray[np.int64]]:
        """Write the best choice of each row at ``high``; return the arcs of contested rows.

        Arcs are coded row·(m + 1) + model, ascending.
        """
        m = self.m
        dearest = np.where(self._closed, np.inf, high)
        side = np.where(self._closed, 0.0, high - low)
        size = parts[0].stop - parts[0].start
        net_buffer, mask_buffer = np.empty((size, m)), np.zeros((size, m + 1), bool)
        net_base, mask_base = np.arange(size) * m, np.arange(size) * (m + 1)
        found = []
        for rows in parts:
            count = rows.stop - rows.start
            net, mask = net_buffer[:count], mask_buffer[:count]
            np.subtract(self._score[rows], dearest, out=net)
            top = net.argmax(axis=1, out=choice[rows])
            floor = net.ravel()[net_base[:count] + top]
            if self._outside is not None:
                outside = self._outside[rows]
                top[outside > floor] = m
                np.maximum(floor, outside, out=floor)
                mask[:, m] = False
            net += side
            np.greater_equal(net, floor[:, None], out=mask[:, :m])
            flat = mask.ravel()
            best = mask_base[:count] + top
            flat[best] = False
            rivals = np.flatnonzero(flat) // (m + 1)
            flat[best[rivals]] = True
            codes = np.flatnonzero(flat)
            codes += rows.start * (m + 1)
            found.append(codes)
        return found

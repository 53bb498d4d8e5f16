"""Sparse bipartite matching on the pairs that matter: all of them where few are allowed, else a core of them.

An optimal assignment of n agents to about as many models uses pairs that are nearly the best of their agent once
every model is charged for being wanted by many. One pass finds those pairs, about a dozen an agent, and a sparse
matching solves them in a fraction of the time that all pairs would take (the core approach of Volgenant 1996).
Nothing here proves anything: an optimum of the core is one of the instance if its prices support it over all pairs.

References
----------
R. Jonker, A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems",
Computing 38 (1987).
A. Volgenant, "Linear and semi-assignment problems: a core oriented approach", Comput. Oper. Res. 23 (1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from solver.problem.blocks import chunks, priced_blocks, row_maxima
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreParameters:
    """How the core of a dense instance is chosen; measured in ``benchmarks/bench_one_to_one.py``."""

    pairs_per_agent: int = 10
    """Pairs that a typical agent has in the core."""
    sampled_agents: int = 48
    """Agents whose losses say how wide the core has to be for that."""
    most_left: tuple[float, ...] = (0.6, 0.25, 0.1, 0.05, 0.0, 0.0)
    """Part of the agents that a core may leave out, core by core; beyond, all pairs are solved instead."""
    leaving: float = 8.0
    """Where a core does not serve all agents, they may stay out of it at this many times its width below their best,
    which tells the prices of what they compete for; twice that each time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Core:
    """Pairs of a dense instance that an optimum most likely uses.

    Parameters
    ----------
    pairs : CompressedScores
        The pairs.
    best : (n,) float64
        Every agent's largest score less price.
    reach : float
        How much less a pair in the core may bring.
    charge : (m,) float64
        The prices at which it was found.
    """

    pairs: CompressedScores
    best: NDArray[np.float64]
    reach: float
    charge: NDArray[np.float64]

    def charged(self, charge: NDArray[np.float64]) -> CompressedScores:
        """Return the pairs with (m,) charges taken off their scores."""
        pairs = self.pairs
        return CompressedScores(pairs.data - charge[pairs.models], pairs.models, pairs.first, pairs.m)


def core_pairs(
    instance: Instance,
    parameters: CoreParameters,
    prices: NDArray[np.float64] | None = None,
    before: CompressedScores | None = None,
) -> Core:
    """Return the pairs of a dense slot instance that an optimum most likely uses. O(n m), in a few passes.

    Parameters
    ----------
    instance : Instance
        With slots and a score matrix.
    parameters : CoreParameters
        How many pairs to keep.
    prices : (m,) float64, optional
        Prices of an earlier core. None: models are charged for what the agent who wants them most would lose there
        if every slot is sold, and nothing if not.
    before : CompressedScores, optional
        Pairs to keep in any case.
    """
    n, m = instance.n, instance.m
    score = np.asarray(instance.score)
    closed = instance.slots < 1
    top = row_maxima(score)
    top = np.where(np.isfinite(top), top, 0.0).astype(np.float64)
    crowded = prices is None and int(instance.slots.sum()) <= n
    least = np.full(m, np.inf)
    if crowded:
        for rows in chunks(n, m):
            np.minimum(least, (top[rows, None] - score[rows]).min(axis=0), out=least)
    charge = np.where(np.isfinite(least), -least, 0.0) if prices is None else prices
    charge = np.where(closed, np.inf, charge)
    sample = np.unique(np.linspace(0, n - 1, min(n, parameters.sampled_agents)).astype(np.int64))
    value = score[sample] - charge
    loss = row_maxima(value)[:, None] - value
    kept = min(parameters.pairs_per_agent, m - 1)
    width = np.partition(np.where(np.isfinite(loss), loss, np.inf), kept, axis=1)[:, kept]
    width = width[np.isfinite(width)]
    reach = float(np.median(width)) if len(width) else np.inf
    best = np.empty(n)
    found, values = [], []
    for rows, value in priced_blocks(score, charge, list(chunks(n, m))):
        best[rows] = row_maxima(value)
        near = value >= (best[rows] - reach)[:, None]
        if crowded:  # whoever loses least at a model stays in its reach
            near |= top[rows, None] - score[rows] <= least
        near &= value > -np.inf
        pair = np.flatnonzero(near)
        found.append(pair + rows.start * m)
        values.append(score[rows].ravel()[pair])
    pair, data = np.concatenate(found), np.concatenate(values).astype(np.float64)
    if before is not None:
        kept_pair = np.repeat(np.arange(n) * m, before.degree) + before.models
        pair, at = np.unique(np.concatenate((kept_pair, pair)), return_index=True)
        data = np.concatenate((before.data, data))[at]
    first = np.searchsorted(pair, np.arange(n + 1) * m)
    pairs = CompressedScores(data, pair % m, first, m)
    return Core(pairs=pairs, best=best, reach=reach, charge=charge)


def replicated_pairs(pairs: CompressedScores, slots: NDArray[np.int64]) -> int:
    """Return how many pairs there are once every model is replicated to its slots, or to its agents if fewer."""
    degree = np.bincount(pairs.models, minlength=pairs.m)
    return int((degree * np.minimum(degree, slots)).sum())


def match_pairs(
    pairs: CompressedScores, slots: NDArray[np.int64], outside: NDArray[np.float64] | None
) -> NDArray[np.int64] | None:
    """Return an optimal choice among some pairs, or None if they do not serve all agents that must be served.

    Parameters
    ----------
    pairs : CompressedScores
        The pairs, n by m.
    slots : (m,) int64
        Slots of the models.
    outside : (n,) float64, optional
        Value of staying unassigned, ``-inf`` where that is no option; None where no agent may.

    Returns
    -------
    (n,) int64 or None

    Notes
    -----
    O(n · replicated pairs · log n) at most, see :func:`replicated_pairs`; usually a small part of that.
    """
    n, m = pairs.shape
    degree = np.bincount(pairs.models, minlength=m)
    copies = np.minimum(degree, slots)
    end = np.cumsum(copies)
    count = copies[pairs.models]
    row = np.repeat(np.repeat(np.arange(n), pairs.degree), count)
    within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    column = np.repeat((end - copies)[pairs.models], count) + within
    value = np.repeat(pairs.data.astype(np.float64, copy=False), count)
    places = int(end[-1])
    model = np.repeat(np.arange(m), copies)
    if outside is not None:
        leaving = np.flatnonzero(outside > -np.inf)
        row = np.append(row, leaving)
        column = np.append(column, places + np.arange(len(leaving)))
        value = np.append(value, outside[leaving])
        places += len(leaving)
        model = np.append(model, np.full(len(leaving), UNASSIGNED))
        order = np.argsort(row, kind="stable")
        row, column, value = row[order], column[order], value[order]
    first = np.searchsorted(row, np.arange(n + 1))
    if places < n or (first[1:] == first[:-1]).any():
        return None
    cost = np.maximum.reduceat(value, first[:-1])[row] - value
    highest = float(cost.max())
    cost += 2.0 ** np.floor(np.log2(highest)) if highest > 0 else 1.0  # a weight of zero would be no pair
    try:
        _, picked = min_weight_full_bipartite_matching(csr_matrix((cost, column, first), shape=(n, places)))
    except ValueError:  # no complete matching; the input was checked before
        return None
    choice: NDArray[np.int64] = model[picked]
    return choice

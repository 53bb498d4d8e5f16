"""Models with equal columns of scores: solved as one pooled model, whose agents are then divided among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.slot_supply import Supply

_FINGERPRINT_ROWS = 64, 512, 4096
"""Rows compared, in turn, before columns are compared in full; most of a sparse mask looks alike."""

_FORBIDDEN_MARK = -1.618033988749895e7
"""Number that stands for `-inf` in a fingerprint."""


def first_duplicates(score: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return, for each model, the first model with an equal column; None when all columns differ.

    A few rows rule out nearly all pairs; the rest are compared in full.
    """
    n, m = score.shape
    for probed in _FINGERPRINT_ROWS:
        kinds = _kinds(score[:: max(1, n // probed)][:probed])
        if kinds.max() == m - 1:
            return None
    first = np.arange(m)
    for j in range(1, m):
        for k in np.flatnonzero(kinds[:j] == kinds[j]):
            if first[k] == k and np.array_equal(score[:, k], score[:, j]):
                first[j] = k
                break
    return None if (first == np.arange(m)).all() else first


def _kinds(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return (m,) which columns have the same fingerprint, a randomly weighted sum; equal columns do."""
    weight = np.random.default_rng(0).random((len(rows), 1))
    prints = (weight * np.where(rows == -np.inf, _FORBIDDEN_MARK, rows)).sum(axis=0)
    return np.unique(prints, return_inverse=True)[1]


def share_out(
    choice: NDArray[np.int64], first_duplicate: NDArray[np.int64], supply: Supply
) -> NDArray[np.int64]:
    """Hand the agents of each pool to its members, cheapest tiers first."""
    m = len(first_duplicate)
    load = np.bincount(choice, minlength=m + 1)
    pool = first_duplicate[supply.model]
    order = np.lexsort((supply.cost, pool))
    slots = supply.slots[order]
    before = np.cumsum(slots) - slots
    start = np.full(m, np.inf)
    np.minimum.at(start, pool[order], before)
    sold = np.clip(load[pool[order]] - (before - start[pool[order]]), 0, slots).astype(np.int64)
    pooled = np.isin(choice, np.unique(first_duplicate[first_duplicate != np.arange(m)]))
    agents = np.flatnonzero(pooled)
    agents = agents[np.argsort(choice[agents], kind="stable")]
    mixed = np.isin(pool[order], choice[agents])
    shared = choice.copy()
    shared[agents] = np.repeat(supply.model[order][mixed], sold[mixed])
    return shared

"""The certificate's terms of rows that take units of several models; see :mod:`solver.engines.network_terms`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.network_terms import best_of_rows
from solver.scale.certificate import BlockTerms
from solver.scale.first_pass import depths, widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.scale.pieces import Block
    from solver.scale.unit_rows import RowUnits


def unit_terms(
    block: Block,
    taken: RowUnits,
    prices: NDArray[np.float64],
    closed: NDArray[np.bool_],
    outside: NDArray[np.float64],
    may_leave: bool,
) -> BlockTerms:
    """Return the terms of some rows. O(k m).

    Parameters
    ----------
    block : Block
        The rows.
    taken : RowUnits
        What they take, by row and model.
    prices : (m,) float64
        Shadow prices.
    closed : (m,) bool
        Models without slots.
    outside : (k,) float64
        What a unit is worth that stays unassigned; ``-inf`` where that is no option.
    may_leave : bool
        Whether that is compared with.
    """
    score, row, model, units = block.score, taken.row, taken.model, taken.units
    k, m = score.shape
    width, depth = widths(block), depths(block)
    own = score[row, model].astype(np.float64)
    served = np.bincount(row, units, k).astype(np.int64)
    left = width * depth - served
    repeated = np.diff(row * m + model, prepend=-1) <= 0
    excess = int(((units > width[row]) | (units < 1) | repeated).sum()) + int((left < 0).sum())
    out = np.flatnonzero(left > 0)
    leaving = outside[out] * left[out]
    ineligible, unserved = np.isneginf(own), np.isneginf(leaving)
    net = np.subtract(score, np.where(closed, np.inf, prices), dtype=np.float64)
    best = best_of_rows(net, depth, outside if may_leave else None) * width
    earned = np.bincount(row, (own - prices[model]) * units, k).astype(np.float64)
    earned[out] += leaving
    fine = not (ineligible.any() or unserved.any() or excess)
    worth = np.full(m, -np.inf)
    if closed.any() and fine:  # a first slot of theirs would replace the worst unit that a row has
        worst = np.full(k, np.inf)
        np.minimum.at(worst, row, own - prices[model])
        worst[out] = np.minimum(worst[out], outside[out])
        worth[closed] = (score[:, closed] - worst[:, None]).max(axis=0)
    load = np.append(np.bincount(model, units, m), left[out].sum()).astype(np.int64)
    return BlockTerms(
        own=float((own * units).sum()),
        left=float(leaving.sum()),
        magnitude=float(np.abs(own * units).sum() + np.abs(leaving).sum()),
        forgone=float((best - earned).sum()) if fine else math.inf,
        load=load,
        ineligible=int(ineligible.sum()),
        unserved=int(unserved.sum()),
        worth=worth,
        rows=k,
        whole=int((left <= 0).sum()),
        excess=excess,
    )

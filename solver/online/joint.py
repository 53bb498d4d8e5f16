"""Agents that wait at the same moment are placed together: one assignment problem at present prices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.online.live_load import LiveLoad
    from solver.online.pricing_protocol import Pricing
    from solver.online.window import AgentRow

_MAX_JOINT_CELLS = 4_000_000
"""Cells of the assignment problem up to which agents at one moment are placed together; beyond, one by one."""


def place_jointly(rows: Sequence[AgentRow], pricing: Pricing[Any], load: LiveLoad) -> list[int]:
    """Return the column of each agent, -1 for none.

    Model j is offered in as many copies as it has places, the k-th at the price it has with k more let in.
    O(n² c) for c copies: compiled (:func:`solver.engines.kernels.match`), or by scipy (Crouse 2016).

    Parameters
    ----------
    rows : sequence of AgentRow
        Those who wait.
    pricing : Pricing
        Present prices.
    load : LiveLoad
        Present load.
    """
    if not rows:
        return []
    free = np.maximum(load.limit - load.taken(), 0)
    copies = np.minimum(free, len(rows))
    if len(rows) < 2 or len(rows) * int(copies.sum()) > _MAX_JOINT_CELLS:
        return [-1] * len(rows)
    levels = pricing.levels(load, int(copies.max()))
    offered = np.argwhere(np.arange(len(levels))[:, None] < copies)
    layer, model = offered[:, 0], offered[:, 1]
    value = _nets(rows, pricing, levels)[:, layer, model]
    finite = value[np.isfinite(value)]
    if not finite.size:
        return [-1] * len(rows)
    lowest = float(finite.min())
    value_of_none = np.array([pricing.refusal_value(row) for row in rows])
    value_of_none = np.where(
        np.isfinite(value_of_none), value_of_none, lowest - 1.0 - float(np.ptp(finite)) * len(rows)
    )
    chosen = _matched(np.where(np.isfinite(value), value, -np.inf), value_of_none)
    return [int(offered[k, 1]) if k >= 0 else -1 for k in chosen.tolist()]


def _nets(
    rows: Sequence[AgentRow], pricing: Pricing[Any], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what each model is worth to each agent at each level, (n, k, m)."""
    first = rows[0]
    if any(
        row.tenant >= 0
        or row.tokens != first.tokens
        or (row.service_s is None) != (first.service_s is None)
        or (row.cost_usd is None) != (first.cost_usd is None)
        for row in rows
    ):
        return np.array([pricing.net(row, levels) for row in rows])
    every = first._replace(
        scores=np.array([row.scores for row in rows])[:, None],
        service_s=None if first.service_s is None else np.array([row.service_s for row in rows])[:, None],
        cost_usd=None if first.cost_usd is None else np.array([row.cost_usd for row in rows])[:, None],
    )
    return pricing.net(every, levels)


def _matched(value: NDArray[np.float64], value_of_none: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the column of each row, -1 for none, of the highest total; a column serves one row.

    Parameters
    ----------
    value : (n, k) float64
        ``-inf`` forbids a pair.
    value_of_none : (n,) float64
        Finite value of no column at all.
    """
    n, k = value.shape
    if kernels.available():
        found = kernels.match(value, value_of_none, np.ones(k, np.int64))
        if found.outcome is kernels.Outcome.SOLVED:
            return found.choice
    from scipy.optimize import linear_sum_assignment  # 0.4 s to import: only where it is used

    allowed = np.isfinite(value)
    lowest = min(float(value[allowed].min()), float(value_of_none.min()))
    impossible = lowest - 1.0 - (float(value[allowed].max()) - lowest) * n
    cost = np.concatenate([np.where(allowed, value, impossible), np.tile(value_of_none[:, None], n)], axis=1)
    chosen = linear_sum_assignment(cost, maximize=True)[1]
    taken = (chosen < k) & allowed[np.arange(n), np.minimum(chosen, k - 1)]
    return np.where(taken, chosen, -1)

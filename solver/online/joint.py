"""Agents that wait at the same moment are placed together: one assignment problem at present prices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.online.live import LiveLoad
    from solver.online.pricing import Pricing
    from solver.online.window import AgentRow

__all__ = ["place_jointly"]

_MOST_JOINT_CELLS = 4_000_000
"""Cells of the assignment problem up to which agents at one moment are placed together; beyond, one by one."""


def place_jointly(rows: Sequence[AgentRow], pricing: Pricing[Any], load: LiveLoad) -> list[int]:
    """Return the column of each agent, -1 for nobody.

    Model j is offered in as many copies as it has places, the k-th at the price it has with k more let in.
    O(n² c) for c copies (Crouse 2016).

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
    if len(rows) < 2 or len(rows) * int(copies.sum()) > _MOST_JOINT_CELLS:
        return [-1] * len(rows)
    from scipy.optimize import linear_sum_assignment  # 0.4 s to import: only where it is used

    levels = [pricing.level(load, more) for more in range(int(copies.max()))]
    layers = np.array([[pricing.net(row, level) for level in levels] for row in rows])
    layers = layers.reshape(len(rows), -1, len(free))
    offered = np.argwhere(np.arange(layers.shape[1])[:, None] < copies)
    value = layers[:, offered[:, 0], offered[:, 1]]
    nobody = np.array([pricing.nobody(row) for row in rows])
    finite = value[np.isfinite(value)]
    if not finite.size:
        return [-1] * len(rows)
    lowest = float(finite.min())
    nobody = np.where(np.isfinite(nobody), nobody, lowest - 1.0 - float(np.ptp(finite)) * len(rows))
    impossible = float(min(lowest, nobody.min())) - 1.0 - (float(finite.max()) - lowest) * len(rows)
    cost = np.concatenate(
        [np.where(np.isfinite(value), value, impossible), np.tile(nobody[:, None], len(rows))], axis=1
    )
    chosen = linear_sum_assignment(cost, maximize=True)[1]
    columns = [-1] * len(rows)
    for i, k in enumerate(chosen.tolist()):
        if k < len(offered) and np.isfinite(value[i, k]):
            columns[i] = int(offered[k, 1])
    return columns

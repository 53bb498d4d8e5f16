"""From a nearly balanced choice to a feasible one, when there is no time for exactness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance

__all__ = ["drop_overload"]


def drop_overload(
    instance: Instance, choice: NDArray[np.int64], prices: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Move the agents of over-used models that lose least to models with room, best losses first.

    Parameters
    ----------
    instance : Instance
        With slots.
    choice : (n,) int64
        Model of each agent, m for unassigned.
    prices : (m,) float64
        Prices at which losses are measured.

    Returns
    -------
    (n,) int64
        No model above its slots. Agents without any room left stay unassigned.
    """
    m = instance.m
    choice = choice.copy()
    room = instance.slots - np.bincount(choice, minlength=m + 1)[:m]
    for j in np.flatnonzero(room < 0):
        agents = np.flatnonzero(choice == j)
        score = instance.score[agents].astype(np.float64)
        net = np.where(room > 0, score - prices, -np.inf)
        loss = score[:, j] - prices[j] - np.maximum(net.max(axis=1), instance.unserved[agents])
        leaving = np.argpartition(loss, -room[j] - 1)[: -room[j]]
        room[j] = 0
        for position in leaving[np.argsort(loss[leaving], kind="stable")]:
            options = np.where(room > 0, score[position] - prices, -np.inf)
            target = int(options.argmax())
            if options[target] > instance.unserved[agents[position]]:
                choice[agents[position]] = target
                room[target] -= 1
            else:
                choice[agents[position]] = m
    return choice

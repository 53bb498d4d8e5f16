"""Repairs a nearly balanced choice to a feasible one, when there is no time for an exact optimum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.params import DEFAULTS
from solver.problem.blocks import row_maxima

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.price.params import PriceEngineParams
    from solver.problem.instance import Instance

_PAIRS_AT_ONCE = 4_000_000
"""Pairs of unassigned agents looked at in one block."""


def drop_overload(
    instance: Instance,
    choice: NDArray[np.int64],
    prices: NDArray[np.float64],
    deadline: Deadline,
    params: PriceEngineParams = DEFAULTS,
) -> NDArray[np.int64]:
    """Move agents of over-used models to models with room, those that lose least among some candidates.

    Parameters
    ----------
    instance : Instance
        With slots.
    choice : (n,) int64
        Model of each agent, m for unassigned.
    prices : (m,) float64
        Prices at which losses are measured.
    deadline : Deadline
        After it no further waiting agent gets a model.

    Returns
    -------
    (n,) int64
        No model above its slots. Agents who find no room, or lose by every model that has some, are unassigned.

    Notes
    -----
    O(m) work per agent looked at, about three for each one that moves.
    """
    m = instance.m
    choice = choice.copy()
    load = np.bincount(choice, minlength=m + 1)
    room = instance.slots - load[:m]
    # Narrow integers are radix sorted.
    order = np.argsort(choice.astype(np.min_scalar_type(m)), kind="stable")
    start = np.cumsum(load) - load
    movers = []
    for j in np.flatnonzero(room < 0):
        agents = order[start[j] : start[j] + load[j]]
        over = int(-room[j])
        agents = agents[
            :: max(
                1,
                len(agents) // max(params.repair.candidates_per_move * over, params.repair.least_candidates),
            )
        ]
        net = instance.score.take(agents, axis=0) - prices
        rival = row_maxima(np.where(room > 0, net, -np.inf))
        loss = net[:, j] - np.maximum(rival, instance.unserved[agents])
        movers.append(agents[np.argpartition(loss, over - 1)[:over]])
        room[j] = 0
    for agents in movers:
        choice[agents] = m
    # Prices that are not exact may have kept others out who would gain: whoever is unassigned may try.
    waiting = np.flatnonzero(choice == m) if (room > 0).any() else np.zeros(0, np.int64)
    for some in np.array_split(waiting, 1 + len(waiting) * m // _PAIRS_AT_ONCE):
        _seat(instance, choice, prices, room, some, deadline, params)
    return choice


def _seat(
    instance: Instance,
    choice: NDArray[np.int64],
    prices: NDArray[np.float64],
    room: NDArray[np.int64],
    waiting: NDArray[np.int64],
    deadline: Deadline,
    params: PriceEngineParams,
) -> None:
    """Give unassigned agents the models with room that are best for them, who gains most first; updates both arrays."""
    m = instance.m
    many = len(waiting) > params.repair.waiting_share * instance.n
    if many and deadline.remaining_s() < len(waiting) * m * params.times.round_s_per_pair:
        return _fill(instance, choice, room, waiting)
    score, stay = instance.score.take(waiting, axis=0), instance.unserved[waiting]
    for _ in range(m + 1):  # a round fills a model or places every agent
        if not len(waiting) or not (room > 0).any():
            return None
        if many and deadline.remaining_s() < len(waiting) * m * params.times.round_s_per_pair:
            return _fill(instance, choice, room, waiting)
        net = np.where(room > 0, score - prices, -np.inf)
        target = net.argmax(axis=1)
        able = np.flatnonzero(net[np.arange(len(net)), target] > -np.inf)
        gain = np.full(len(waiting), -np.inf)
        gain[able] = score[able, target[able]] - stay[able]
        order = np.lexsort((-gain, target))
        order = order[gain[order] > 0]
        aim = target[order]
        place = np.arange(len(aim)) - np.searchsorted(aim, aim)  # how many better ones want the same model
        fits = place < room[aim]
        seated, order = order[fits], order[~fits]
        choice[waiting[seated]] = target[seated]
        room -= np.bincount(target[seated], minlength=m)
        waiting, score, stay = waiting[order], score[order], stay[order]
    return None


def _fill(
    instance: Instance, choice: NDArray[np.int64], room: NDArray[np.int64], waiting: NDArray[np.int64]
) -> None:
    """Give unassigned agents the slots that are left as they come, where they gain; O(n), updates both arrays."""
    offered = np.repeat(np.arange(instance.m), np.maximum(room, 0))[: len(waiting)]
    agents = waiting[: len(offered)]
    gains = instance.scores_of(agents, offered) > instance.unserved[agents]
    choice[agents[gains]] = offered[gains]
    room -= np.bincount(offered[gains], minlength=instance.m)

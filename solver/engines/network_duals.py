"""Prices of a flow with floors, copies and counts, read off its residual graph on the models.

A flow is optimal if and only if prices exist that no residual arc contradicts (complementary slackness): one unit
moved from model j to model k loses ``W_jk >= p_j − p_k``, an unserved unit that k could take asks for ``p_k >= unserved
− score``, a model above its floor has a price of at least the cost of its last slot, one below its capacity at most
the cost of its next. Node m stands for whatever is outside the models and has the price 0. Prices below 0 belong to
floors that bind. The optimal prices form a lattice (Murota 2003); the smallest are the right derivatives of the optimum
with respect to every capacity and every floor at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.blocks import chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.network import UnitFlow

_DENSE_MODELS = 1_500
"""Models up to which exchanges are a matrix over pairs of models."""

_ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""Change of a price, relative to the largest that changes, that ends the search for prices."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exchanges:
    """What moving one unit from one node to another loses: ``p_target >= p_source − loss``. Node m is outside.

    Parameters
    ----------
    source, target : (e,) int64
        Nodes, 0 to m.
    loss : (e,) float64
        Least loss of the move.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    loss: NDArray[np.float64]

    @classmethod
    def least(
        cls, source: NDArray[np.int64], target: NDArray[np.int64], loss: NDArray[np.float64], nodes: int
    ) -> Exchanges:
        """Return the least loss of every ordered pair of nodes that has one."""
        key = source * nodes + target
        if nodes <= _DENSE_MODELS:
            matrix = np.full(nodes * nodes, np.inf)
            np.minimum.at(matrix, key, loss)
            found = np.flatnonzero(np.isfinite(matrix))
            return cls(source=found // nodes, target=found % nodes, loss=matrix[found])
        order = np.argsort(key)
        key = key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        if not len(first):
            return cls(source=source, target=target, loss=loss)
        found = key[first]
        return cls(source=found // nodes, target=found % nodes, loss=np.minimum.reduceat(loss[order], first))


def network_prices(instance: Instance, flow: UnitFlow) -> NDArray[np.float64]:
    """Return the smallest prices that support an optimal flow, (m, 1) float64, negative where floors bind.

    For a flow that is not optimal the result proves a looser bound.

    Notes
    -----
    O(a m + m³) for a pairs in use, in blocks.
    """
    return exchange_prices(network_exchanges(instance, flow), instance.m)[:, None]


def supply_exchanges(instance: Instance, load: NDArray[np.int64]) -> Exchanges:
    """Return the exchanges between models and the outside that floors, capacities and load costs allow. O(m t)."""
    shape = instance.network
    m = instance.m
    floor = np.zeros(m, np.int64) if shape is None else shape.floor
    slots = instance.slots
    last, following = np.zeros(m), np.zeros(m)
    if instance.load_cost is not None:
        _, cost, tier_slots = instance.tiers
        t = instance.load_cost.shape[1]
        end = np.cumsum(tier_slots.reshape(m, t), axis=1)
        costs = cost.reshape(m, t)
        row = np.arange(m)
        last = costs[row, np.minimum((end < load[:, None]).sum(axis=1), t - 1)]
        following = costs[row, np.minimum((end <= load[:, None]).sum(axis=1), t - 1)]
    above, below = np.flatnonzero(load > floor), np.flatnonzero(load < slots)
    outside = np.full(m, m)
    return Exchanges(
        source=np.concatenate([outside[: len(above)], below]),
        target=np.concatenate([above, outside[: len(below)]]),
        loss=np.concatenate([-last[above], following[below]]),
    )


def network_exchanges(instance: Instance, flow: UnitFlow) -> Exchanges:
    """Return the exchanges of a flow over all allowed pairs."""
    shape = instance.network
    m, nodes = instance.m, instance.m + 1
    width = np.ones(instance.n, np.int64) if shape is None else shape.width
    supply = width if shape is None else shape.supply
    unserved = instance.unserved
    parts = [supply_exchanges(instance, flow.load(m))]
    order = np.argsort(flow.model, kind="stable")
    matrix = np.full((nodes, nodes), np.inf)
    full = flow.units >= width[flow.agent]
    first_of = np.searchsorted(flow.agent, np.arange(instance.n + 1))
    for block in chunks(len(order), m):
        arcs = order[block]
        agent, model = flow.agent[arcs], flow.model[arcs]
        own = instance.scores_of(agent, model)
        score = _without_full(instance, flow, agent, full, first_of)
        first = np.flatnonzero(np.diff(model, prepend=-1))
        least = np.minimum.reduceat(own[:, None] - score, first, axis=0)
        np.minimum.at(matrix[:, :m], model[first], least)
        np.minimum.at(matrix[:, m], model, own - unserved[agent])
    left = np.flatnonzero((flow.served(instance.n) < supply) & np.isfinite(unserved))
    for block in chunks(len(left), m):
        agent = left[block]
        score = _without_full(instance, flow, agent, full, first_of)
        np.minimum(matrix[m, :m], (unserved[agent][:, None] - score).min(axis=0), out=matrix[m, :m])
    np.fill_diagonal(matrix, np.inf)
    source, target = np.nonzero(np.isfinite(matrix))
    parts.append(Exchanges(source=source, target=target, loss=matrix[source, target]))
    return Exchanges.least(
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.loss for part in parts]),
        nodes,
    )


def _without_full(
    instance: Instance,
    flow: UnitFlow,
    agent: NDArray[np.int64],
    full: NDArray[np.bool_],
    first_of: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the scores of some rows, ``-inf`` where the pair already carries all it may."""
    score = instance.score[agent].astype(np.float64)
    count = first_of[agent + 1] - first_of[agent]
    row = np.repeat(np.arange(len(agent)), count)
    arc = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + first_of[agent][row]
    row, arc = row[full[arc]], arc[full[arc]]
    score[row, flow.model[arc]] = -np.inf
    return score


def exchange_prices(exchanges: Exchanges, m: int) -> NDArray[np.float64]:
    """Return the smallest (m,) prices that no exchange contradicts, where there are any (Bellman 1958).

    Models whose price nothing keeps from falling, because their floors could not be raised at all, take the highest
    price up to 0 that the rest allows. Around a cycle of exchanges that lose nothing, rounding would raise prices
    for ever: changes that rounding explains end the search.
    """
    price = np.full(m + 1, -np.inf)
    price[m] = 0.0
    source, target, loss = exchanges.source, exchanges.target, exchanges.loss
    order = np.argsort(target, kind="stable")
    source, target, loss = source[order], target[order], loss[order]
    first = np.flatnonzero(np.diff(target, prepend=-1))
    into = target[first]
    for _ in range(m + 1 if len(first) else 0):  # a longest path visits every node at most once
        raised = np.maximum(price[into], np.maximum.reduceat(price[source] - loss, first))
        raised[into == m] = 0.0
        before = price[into]
        if _is_rounding(before, raised):
            break
        price[into] = raised
    free = np.isneginf(price)
    if free.any():
        price[free] = 0.0
        leaving = free[source]
        source, target, loss = source[leaving], target[leaving], loss[leaving]
        for _ in range(m + 1 if len(source) else 0):
            lowered = price.copy()
            np.minimum.at(lowered, source, price[target] + loss)
            if _is_rounding(price, lowered):
                break
            price = lowered
    return price[:m]


def _is_rounding(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    """Whether prices, some of them ``-inf``, changed by no more than float64 rounding explains."""
    changed = np.flatnonzero(before != after)
    if not len(changed):
        return True
    before, after = before[changed], after[changed]
    largest = float(np.abs(after).max())
    return bool(np.abs(after - before).max() <= _ROUNDING * largest)

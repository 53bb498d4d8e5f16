"""The reduced problem solved exactly: min-cost flow inside a box of prices, and the duals read back.

Leaving the box is allowed for a fee: a model may be over-used at a cost of ``high − low`` per agent, and a
slot may stay empty although its price cannot fall below ``low``. So the flow always exists, its duals stay
inside the box, and a box that is too small shows as over-use or as an empty slot that costs less than
``low`` (the boxstep method of Marsten, Hogan and Blankenship 1975). If neither occurs the flow is optimal
for the problem at large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ortools.graph.python import min_cost_flow

from solver.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.pricing.arcs import Contested
    from solver.engines.pricing.supply import Supply

__all__ = ["BoxedFlow", "solve_boxed_flow"]

_SIDES_PER_GRID = 5.0  # sides of a box lie on fifths of a grid
_NEVER = np.int64(1) << 58


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxedFlow:
    """An optimal flow of the reduced problem.

    Parameters
    ----------
    flow : (a,) int64
        Agents on each arc.
    prices : (m,) float64
        The smallest dual prices inside the box.
    centre : (m,) float64
        The middle of the optimal duals inside the box.
    rises, falls : (m,) bool
        Prices that want to leave the box upwards or downwards.
    """

    flow: NDArray[np.int64]
    prices: NDArray[np.float64]
    centre: NDArray[np.float64]
    rises: NDArray[np.bool_]
    falls: NDArray[np.bool_]

    @property
    def binds(self) -> NDArray[np.bool_]:
        """(m,) bool, prices that want to leave the box."""
        return self.rises | self.falls


def solve_boxed_flow(
    contested: Contested, supply: Supply, *, resolution: float, grid: float | None = None
) -> BoxedFlow:
    """Solve the reduced problem of a box exactly.

    Parameters
    ----------
    contested : Contested
        Agents and arcs; slots already taken by settled agents are in ``settled``.
    supply : Supply
        Whole slots.
    resolution : float
        Costs are rounded to multiples of about this. Coarser is faster, and good enough for samples.
    grid : float, optional
        All scores and costs are multiples of it and all sides of the box multiples of ``grid / 5``: costs
        are then small exact integers.

    Returns
    -------
    BoxedFlow
    """
    m, groups = contested.m, contested.groups
    low = np.append(contested.low, 0.0)
    side = np.where(supply.closed, 0.0, contested.high - contested.low)
    net = contested.value - low[contested.model]
    owner = contested.owner
    cost = np.maximum.reduceat(net, contested.first[:-1])[owner] - net if groups else net
    cost_of_tier = supply.cost if supply.anchor is None else np.full(len(supply.cost), -np.inf)
    open_tiers = np.flatnonzero((supply.slots > 0) & (cost_of_tier <= contested.high[supply.model]))
    tier_model = supply.model[open_tiers]
    tier_slots = supply.slots[open_tiers].astype(np.int64)
    tier_fee = np.maximum(cost_of_tier[open_tiers] - contested.low[tier_model], 0.0)
    scale = _scale(max(float(cost.max(initial=0.0)), float(side.max())), groups + m + 2, resolution, grid)
    arc_cost = np.rint(cost * scale).astype(np.int64)
    tier_cost = np.rint(tier_fee * scale).astype(np.int64)
    over_cost = np.rint(side * scale).astype(np.int64)

    sink = groups + m + 1  # after the agents, the models, and the node of the unassigned
    weight = np.ones(groups, np.int64) if contested.weight is None else contested.weight
    settled = contested.settled.astype(np.int64)
    everyone = int(weight.sum() + settled.sum())
    exits = np.arange(m + 1)
    network = min_cost_flow.SimpleMinCostFlow()
    add = network.add_arcs_with_capacity_and_unit_cost
    arcs = add(owner, groups + contested.model, weight[owner], arc_cost)
    tiers = add(groups + tier_model, np.full(len(tier_model), sink), tier_slots, tier_cost)
    over = add(groups + exits, np.full(m + 1, sink), np.full(m + 1, everyone), np.append(over_cost, 0))
    network.set_nodes_supplies(np.arange(groups + m + 2), np.concatenate((weight, settled, [-everyone])))
    status = network.solve()
    if status != network.OPTIMAL:
        raise EngineError(f"boxed flow: expected an optimal flow, got {status.name}")
    flow = network.flows(arcs)
    sold = network.flows(tiers)
    rises = network.flows(over)[:m] > 0
    falls = np.zeros(m, bool)
    falls[tier_model[(sold < tier_slots) & (cost_of_tier[open_tiers] < contested.low[tier_model])]] = True
    least = np.zeros(m, np.int64)
    paid = sold > 0
    np.maximum.at(least, tier_model[paid], tier_cost[paid])
    least[rises] = over_cost[rises]
    most = np.where(supply.closed, 0, over_cost)
    spare = sold < tier_slots
    np.minimum.at(most, tier_model[spare], tier_cost[spare])
    slack = _least_losses(contested, flow, arc_cost)
    lowest = _raise(least, slack)
    idle = settled[:m] + np.bincount(contested.model, flow, m + 1)[:m] == 0
    highest = _lower(np.where(idle, lowest, most), slack)
    centre = (lowest + highest) // 2
    if supply.anchor is not None:
        # All prices can fall together until one is 0; the smallest are then those below that one's.
        pinned = least.copy()
        last = int((contested.low + centre / scale)[~supply.closed].argmin())
        last = int(np.flatnonzero(~supply.closed)[last])
        pinned[last] = centre[last]
        lowest = _raise(pinned, slack)
    return BoxedFlow(
        flow=flow,
        prices=contested.low + lowest / scale,
        centre=contested.low + centre / scale,
        rises=rises,
        falls=falls,
    )


def _scale(largest: float, nodes: int, resolution: float, grid: float | None) -> float:
    """Return the factor from costs to integers: a power of two, so that scaling itself loses nothing.

    The solver multiplies costs by the number of nodes, which must fit into 62 bits.
    """
    if grid is not None:
        return _SIDES_PER_GRID / grid
    room = 61.0 - math.log2(nodes + 1)
    if largest > 0:
        room -= math.log2(largest)
    return 2.0 ** math.floor(min(room, -math.log2(resolution)))


def _least_losses(
    contested: Contested, flow: NDArray[np.int64], cost: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return (m + 1, m + 1): the least any agent that uses j would lose on k, node m for unassigned.

    Every used arc is a best arc of its agent if and only if ``y_j − y_k`` never exceeds it.
    """
    m = contested.m
    used = np.flatnonzero(flow > 0)
    degree = contested.degree[contested.owner[used]]
    source = np.repeat(used, degree)
    begin = contested.first[contested.owner[used]]
    target = np.arange(len(source)) + np.repeat(begin - (np.cumsum(degree) - degree), degree)
    slack = np.full((m + 1, m + 1), _NEVER)
    pair = contested.model[source] * (m + 1) + contested.model[target]
    np.minimum.at(slack.reshape(-1), pair, cost[target] - cost[source])
    np.fill_diagonal(slack, 0)
    return slack


def _raise(least: NDArray[np.int64], slack: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the smallest y >= least with ``y_j − y_k <= slack``: longest paths (Bellman 1958).

    Optimal duals form a lattice, so there is a smallest one. The unassigned have price 0 for good.
    """
    level = np.append(least, 0)
    for _ in range(len(level) + 1):
        raised = np.maximum(level, (level[:, None] - slack).max(axis=0))
        if (raised == level).all():
            break
        level = raised
    return level[:-1]


def _lower(most: NDArray[np.int64], slack: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the largest y <= most with ``y_j − y_k <= slack``: shortest paths."""
    level = np.append(most, 0)
    for _ in range(len(level) + 1):
        lowered = np.minimum(level, (slack + level).min(axis=1))
        if (lowered == level).all():
            break
        level = lowered
    return level[:-1]

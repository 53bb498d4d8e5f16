"""The reduced problem solved exactly: min-cost flow inside a box of prices, and the duals read back.

Leaving the box is allowed for a fee: a model may be over-used at a cost of ``high − low`` per agent, and a
slot may stay empty although its price cannot fall below ``low``. So the flow always exists, its duals stay
inside the box, and a box that is too small shows as over-use or as an empty slot that costs less than
``low`` (the boxstep method of Marsten, Hogan and Blankenship 1975). If neither occurs the flow is optimal
for the problem at large.
"""

from __future__ import annotations

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


def solve_boxed_flow(contested: Contested, supply: Supply, *, bits: int = 38, grid: float | None = None) -> BoxedFlow:
    """Solve the reduced problem of a box exactly.

    Parameters
    ----------
    contested : Contested
        Agents and arcs; slots already taken by settled agents are in ``settled``.
    supply : Supply
        Whole slots.
    bits : int
        Costs are scaled to below ``2**bits``: the solver multiplies them by the number of nodes, within 62
        bits. Fewer bits are faster and good enough for samples.
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
    scale = _scale(max(float(cost.max(initial=0.0)), float(side.max())), bits, grid)
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
    over = add(
        groups + exits, np.full(m + 1, sink), np.full(m + 1, everyone), np.append(over_cost, 0)
    )
    network.set_nodes_supplies(
        np.arange(groups + m + 2), np.concatenate((weight, settled, [-everyone]))
    )
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
    lowest, highest = _dual_range(contested, flow, arc_cost, least, most)
    return BoxedFlow(
        flow=flow,
        prices=contested.low + lowest / scale,
        centre=contested.low + (lowest + highest) * (0.5 / scale),
        rises=rises,
        falls=falls,
    )


def _scale(largest: float, bits: int, grid: float | None) -> float:
    if grid is not None:
        return 5.0 / grid
    return float(2.0 ** (bits - np.ceil(np.log2(largest)))) if largest > 1e-200 else 1.0


def _dual_range(
    contested: Contested,
    flow: NDArray[np.int64],
    cost: NDArray[np.int64],
    least: NDArray[np.int64],
    most: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the smallest and largest ``least <= y <= most`` for which every used arc is a best arc.

    An agent on j for whom k costs d more asks for ``y_j − y_k <= d``. Optimal duals form a lattice, so both
    ends exist; they are longest and shortest paths on the m models, found by Bellman and Ford's method. The
    unassigned have price 0 for good.
    """
    m = contested.m
    used = np.flatnonzero(flow > 0)
    degree = contested.degree[contested.owner[used]]
    source = np.repeat(used, degree)
    begin = contested.first[contested.owner[used]]
    target = np.arange(len(source)) + np.repeat(begin - (np.cumsum(degree) - degree), degree)
    slack = np.full((m + 1) * (m + 1), _NEVER)
    pair = contested.model[source] * (m + 1) + contested.model[target]
    np.minimum.at(slack, pair, cost[target] - cost[source])
    slack = slack.reshape(m + 1, m + 1)
    np.fill_diagonal(slack, 0)
    lowest = np.append(least, 0)
    for _ in range(m + 2):
        raised = np.maximum(lowest, (lowest[:, None] - slack).max(axis=0))
        if (raised == lowest).all():
            break
        lowest = raised
    idle = contested.settled[:m] == 0
    idle[contested.model[used][contested.model[used] < m]] = False
    highest = np.append(np.where(idle, lowest[:m], most), 0)
    for _ in range(m + 2):
        lowered = np.minimum(highest, (slack + highest).min(axis=1))
        if (lowered == highest).all():
            break
        highest = lowered
    return lowest[:m], highest[:m]

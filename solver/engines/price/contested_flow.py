"""The reduced problem solved exactly: min-cost flow inside a box of prices.

Leaving the box is allowed for a fee: a model may be over-used at a cost of ``high − low`` per agent, and a
slot may stay empty although its price cannot fall below ``low``. So the flow always exists, its duals stay
inside the box, and a box that is too small shows as over-use or as an empty slot that costs less than
``low`` (the boxstep method of Marsten, Hogan and Blankenship 1975). If neither occurs the flow is optimal
for the problem at large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ortools.graph.python import min_cost_flow

from solver.engines.price.box_duals import BoxCosts, BoxedFlow
from solver.errors import EngineError

if TYPE_CHECKING:
    from solver.engines.price.contested_arcs import Contested
    from solver.engines.slot_supply import Supply


def solve_boxed_flow(
    contested: Contested,
    supply: Supply,
    *,
    resolution: float,
    grid: float | None = None,
    rounding: float = 0.0,
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
    rounding : float
        If coarser than the resolution, the flow is found for costs rounded to this, and only then judged by
        duals in the resolution. Nearly always it is optimal all the same; if not, the result says so.

    Returns
    -------
    BoxedFlow
    """
    m, groups = contested.m, contested.groups
    rounded = rounding > resolution
    costs = BoxCosts.of(contested, supply, resolution=max(resolution, rounding), grid=grid)
    sink = groups + m + 1  # after the agents, the models, and the node of the unassigned
    weight = np.ones(groups, np.int64) if contested.weight is None else contested.weight
    settled = contested.settled.astype(np.int64)
    total = int(weight.sum() + settled.sum())
    exits = np.arange(m + 1)
    owner = contested.owner
    network = min_cost_flow.SimpleMinCostFlow()
    add = network.add_arcs_with_capacity_and_unit_cost
    room = contested.room
    arcs = add(owner, groups + contested.model, weight[owner] if room is None else room, costs.arc)
    tiers = add(groups + costs.tier_model, np.full(len(costs.tier_model), sink), costs.tier_slots, costs.tier)
    over = add(groups + exits, np.full(m + 1, sink), np.full(m + 1, total), np.append(costs.over, 0))
    network.set_nodes_supplies(np.arange(groups + m + 2), np.concatenate((weight, settled, [-total])))
    status = network.solve()
    if status != network.OPTIMAL:
        raise EngineError(f"boxed flow: expected an optimal flow, got {status.name}")
    found = network.flows(arcs), network.flows(tiers), network.flows(over)[:m] > 0
    if rounded:
        exact = BoxCosts.of(contested, supply, resolution=resolution, grid=grid).duals(*found)
        if exact is not None:
            return exact
    solved = costs.duals(*found, exact=not rounded)
    if solved is None:
        raise EngineError("boxed flow: expected duals of an optimal flow, got a contradiction")
    return solved

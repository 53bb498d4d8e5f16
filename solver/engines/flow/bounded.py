"""A flow with floors on its models, on some arcs of an instance, solved by OR-Tools in whole numbers.

Agents send their units to models or outside, models send at least their floors and at most their capacities to the
sink. With a *fee*, a floor may be missed and an agent that must be served left out, at that cost per unit: the flow
then always exists, and whether fees are paid says what is infeasible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

from solver.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance

_COST_BITS = 44
"""Bits of a scaled cost at most, so that sums over millions of units stay within 63."""

_EXACT_COSTS = 2**20
"""Whole costs below this are not scaled."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arcs:
    """Some allowed pairs of an instance.

    Parameters
    ----------
    agent, model : (a,) int64
        The pairs, by agent.
    score : (a,) float64
        Their scores.
    """

    agent: NDArray[np.int64]
    model: NDArray[np.int64]
    score: NDArray[np.float64]

    def with_more(self, other: Arcs) -> Arcs:
        """Return these arcs and others, by agent."""
        agent = np.concatenate([self.agent, other.agent])
        order = np.argsort(agent, kind="stable")
        return Arcs(
            agent=agent[order],
            model=np.concatenate([self.model, other.model])[order],
            score=np.concatenate([self.score, other.score])[order],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundedFlow:
    """An optimal flow for scaled costs.

    Parameters
    ----------
    units : (a,) int64
        Units along each arc.
    left : (n,) int64
        Units of each row that no model serves.
    missing : (m,) int64
        Units by which each floor is missed.
    rounding : float
        Most that one arc's cost is off by.
    """

    units: NDArray[np.int64]
    left: NDArray[np.int64]
    missing: NDArray[np.int64]
    rounding: float


def solve_bounded(
    instance: Instance, arcs: Arcs, outside: NDArray[np.float64], floor_fee: float
) -> BoundedFlow:
    """Solve the flow on some arcs exactly, up to the rounding of costs.

    Parameters
    ----------
    instance : Instance
        Where agents take slots, with a network shape.
    arcs : Arcs
        Pairs that may carry flow.
    outside : (n,) float64
        Value of leaving a unit of each row out, finite.
    floor_fee : float
        Cost of each unit by which a floor is missed.

    Returns
    -------
    BoundedFlow

    Notes
    -----
    Cost-scaling push-relabel (Goldberg and Tarjan 1990) over n + m + 1 nodes.
    """
    n, m, shape = instance.n, instance.m, instance.network
    if shape is None:
        raise EngineError("bounded flow: expected an instance with a network shape")
    top = outside.copy()
    np.maximum.at(top, arcs.agent, arcs.score)
    cost = top[arcs.agent] - arcs.score
    leave_cost = top - outside
    tier_model, tier_cost, tier_slots = _tiers_above_floors(instance)
    costs = np.concatenate([cost, leave_cost, tier_cost, [floor_fee]])
    scale = cost_scale(costs, n + m + 3)
    whole = [np.rint(part * scale).astype(np.int64) for part in (cost, leave_cost, tier_cost)]
    floor = np.minimum(shape.floor, instance.slots)
    sink = n + m
    network = SimpleMinCostFlow()
    add = network.add_arcs_with_capacity_and_unit_cost
    pairs = add(arcs.agent, arcs.model + n, shape.width[arcs.agent], whole[0])
    leaving = add(np.arange(n), np.full(n, sink), shape.supply, whole[1])
    add(tier_model + n, np.full(len(tier_model), sink), tier_slots, whole[2])
    floored = np.flatnonzero(floor)
    short = add(
        np.full(len(floored), sink),
        floored + n,
        floor[floored],
        np.full(len(floored), round(floor_fee * scale), np.int64),
    )
    supply = np.concatenate([shape.supply, -floor, [int(floor.sum()) - int(shape.supply.sum())]])
    network.set_nodes_supplies(np.arange(n + m + 1), supply)
    status = network.solve()
    if status != SimpleMinCostFlow.OPTIMAL:
        raise EngineError(f"bounded flow: expected an optimal flow, got {status.name}")
    missing = shape.floor - floor
    missing[floored] += np.asarray(network.flows(short), np.int64)
    return BoundedFlow(
        units=np.asarray(network.flows(pairs), np.int64),
        left=np.asarray(network.flows(leaving), np.int64),
        missing=missing,
        rounding=0.0 if scale == 1.0 else 0.5 / scale,
    )


def _tiers_above_floors(
    instance: Instance,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the tiers of slots that are left once every floor has taken its model's cheapest."""
    model, cost, slots = instance.tiers
    if instance.network is None or not instance.network.floor.any():
        return model, cost, slots
    floor = np.minimum(instance.network.floor, instance.slots)
    t = len(model) // instance.m
    table = slots.reshape(instance.m, t)
    before = np.cumsum(table, axis=1) - table
    left = table - np.clip(floor[:, None] - before, 0, table)
    return model, cost, left.ravel()


def cost_scale(costs: NDArray[np.float64], nodes: int, *, bits: int = _COST_BITS) -> float:
    """Return the factor to whole numbers: 1 where costs are whole and small, else as fine as overflow allows."""
    highest = float(costs.max(initial=0.0))
    if highest < _EXACT_COSTS and np.array_equal(np.rint(costs), costs):
        return 1.0
    room = 61 - math.ceil(math.log2(nodes))  # |cost| · nodes < 2**62
    return 2.0 ** (min(bits, room) - math.ceil(math.log2(highest)))

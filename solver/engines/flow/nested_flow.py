"""Solves the flow of nested limits, and reads prices of its nodes off the residual graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

from solver.engines.flow.bounded import cost_scale
from solver.engines.network_duals import Exchanges, exchange_prices
from solver.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.flow.laminar import LaminarNetwork

_FEW_AGENTS = 1_000
"""Agents up to which costs are as fine as float64 holds: sums of them stay within 63 bits."""

_FINE_COST_BITS = 52
"""Bits of a cost then."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaminarFlow:
    """An optimal flow: the arc each agent uses, the (k + 1,) prices of the nodes, the sink's being 0."""

    used: NDArray[np.int64]
    price: NDArray[np.float64]

    def step(self, network: LaminarNetwork) -> NDArray[np.float64]:
        """Return (k,) prices of the nodes less those of the nodes they lead to."""
        return self.price[:-1] - self.price[network.parent]

    def shortfall(self, network: LaminarNetwork, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return by how much each arc, at the prices and (a,) values, falls short of the one its agent uses."""
        net = value - self.price[network.node]
        return net[self.used[network.agent]] - net


def solve_flow(n: int, network: LaminarNetwork, value: NDArray[np.float64]) -> LaminarFlow | None:
    """Return the flow of largest value, or None if there is none.

    Notes
    -----
    Cost-scaling push-relabel (Goldberg and Tarjan 1990) in whole numbers. Prices are shortest paths in its residual
    graph (Bellman 1958), exact for the costs as rounded.
    """
    sink = network.nodes
    if np.bincount(network.agent, minlength=n).min(initial=1) == 0:
        return None
    first = np.searchsorted(network.agent, np.arange(n))
    top = np.maximum.reduceat(value, first) if n else value
    loss = top[network.agent] - value
    soft_costs = network.violation_costs
    charged, units, violation_cost = soft_costs.arcs()
    costs = np.concatenate([loss, np.abs(violation_cost)])
    few = n <= _FEW_AGENTS
    scale = cost_scale(costs, n + sink + 3, bits=_FINE_COST_BITS) if few else cost_scale(costs, n + sink + 3)
    cost = np.rint(loss * scale).astype(np.int64)
    solver = SimpleMinCostFlow()
    add = solver.add_arcs_with_capacity_and_unit_cost
    arcs = add(network.agent, network.node + n, np.ones(len(cost), np.int64), cost)
    inner = np.arange(sink)
    room = network.high - network.low
    room[soft_costs.node] = 0  # goes over arcs of its own
    tree = add(inner + n, network.parent + n, room, np.zeros(sink, np.int64))
    charge = np.rint(violation_cost * scale)
    paying = add(charged + n, network.parent[charged] + n, units, charge.astype(np.int64))
    supply = np.zeros(n + sink + 1, np.int64)
    supply[:n] = 1
    supply[n : n + sink] -= network.low
    np.add.at(supply, network.parent + n, network.low)
    supply[n + sink] -= n
    solver.set_nodes_supplies(np.arange(n + sink + 1), supply)
    status = solver.solve()
    if status == SimpleMinCostFlow.INFEASIBLE:
        return None
    if status != SimpleMinCostFlow.OPTIMAL:
        raise EngineError(f"flow: expected an optimal flow, got {status.name}")
    used = np.flatnonzero(solver.flows(arcs))
    flow = np.asarray(solver.flows(tree), np.int64) + network.low
    np.add.at(flow, charged, np.asarray(solver.flows(paying), np.int64))
    price = _prices(network, cost, used, flow, scale)
    return LaminarFlow(used=used, price=price / scale)


def _prices(
    network: LaminarNetwork,
    cost: NDArray[np.int64],
    used: NDArray[np.int64],
    flow: NDArray[np.int64],
    scale: float,
) -> NDArray[np.float64]:
    """Return (k + 1,) prices that support a flow: the smallest, and none that a bound not reached would have.

    Prices are in units of ``cost``, which are losses times ``scale``.
    """
    sink, parent = network.nodes, network.parent
    own = used[network.agent]  # agents use one arc each, in their order
    other = np.flatnonzero(network.node != network.node[own])
    more, less = np.flatnonzero(flow < network.high), np.flatnonzero(flow > network.low)
    soft_costs = network.violation_costs
    next_cost, last_cost = np.zeros(sink), np.zeros(sink)
    next_cost[soft_costs.node] = np.rint(soft_costs.marginal(flow[soft_costs.node] + 1) * scale)
    last_cost[soft_costs.node] = np.rint(soft_costs.marginal(flow[soft_costs.node]) * scale)
    exchanges = Exchanges.least(
        np.concatenate([network.node[own[other]], more, parent[less]]),
        np.concatenate([network.node[other], parent[more], less]),
        np.concatenate(
            [(cost[other] - cost[own[other]]).astype(np.float64), next_cost[more], -last_cost[less]]
        ),
        sink + 1,
    )
    price = np.append(exchange_prices(exchanges, sink), 0.0)
    # Nothing goes through a node whose price is below its parent's without a floor: it may as well be equal.
    floored = network.low > 0
    fixed = floored & (network.low == network.high)
    least, max_cost = np.zeros(sink), np.full(sink, np.inf)
    least[soft_costs.node] = np.rint(soft_costs.first * scale)
    max_cost[soft_costs.node] = np.rint(soft_costs.beyond * scale)
    for level in tree_levels(parent, sink):
        above = price[parent[level]]
        lowered = np.minimum(price[level], above)
        raised = np.clip(price[level], above + least[level], above + max_cost[level])
        price[level] = np.where(fixed[level], price[level], np.where(floored[level], lowered, raised))
    return price


def tree_levels(parent: NDArray[np.int64], sink: int) -> list[NDArray[np.int64]]:
    """Return the nodes by their distance to the sink, nearest first; at most as many levels as nodes."""
    depth = np.zeros(sink + 1, np.int64)
    for _ in range(sink):
        deeper = np.append(depth[parent] + 1, 0)
        if np.array_equal(deeper, depth):
            break
        depth = deeper
    order = np.argsort(depth[:sink], kind="stable")
    return np.split(order, np.flatnonzero(np.diff(depth[order])) + 1)

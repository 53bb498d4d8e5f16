"""The optimum of an instance whose limits are a network, with multipliers of every row that prove it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

from solver.engines.base import Claim
from solver.engines.certificate import reduced_scores
from solver.engines.flow.bounded import cost_scale
from solver.engines.flow.generation import solve_network
from solver.engines.flow.laminar import LaminarNetwork, find_network, recognition_seconds
from solver.engines.network_duals import Exchanges, exchange_prices
from solver.engines.network_terms import principal_choice
from solver.engines.serve_first import service_order
from solver.errors import EngineError
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.network import NetworkShape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline

_LAMINAR_S_PER_ARC = 1e-6
"""Upper estimate of the seconds per arc."""

_MANY_LAMINAR_NODES = 50_000
"""Nodes by which the time per arc doubles."""

_LOOKING_SHARE = 0.5
"""Share of the time left that finding out may take: the flow, or another answer, takes time as well."""

_LAMINAR_OVERHEAD_S = 1e-3
"""Seconds of the call itself."""

_MAX_LAMINAR_ARCS = 5_000_000
"""Arcs at most."""

_FEW_AGENTS = 1_000
"""Agents up to which costs are as fine as float64 holds: sums of them stay within 63 bits."""

_FINE_COST_BITS = 52
"""Bits of a cost then."""

_GENERATED_PAIRS = 30_000
"""Pairs above which floors and capacities are left to column generation."""

_LAMINAR_S_PER_PAIR = 2e-7
"""Seconds per pair of column generation and its certificate."""


def unsupported_limits(instance: Instance, remaining_s: float) -> str | None:
    """Return why limits are no network, or why the time left does not suffice to find out or to solve it."""
    looking_s = recognition_seconds(instance)
    if looking_s > _LOOKING_SHARE * remaining_s:
        return f"flow: looking for a network needs about {looking_s * 1e3:.0f} ms"
    network = find_network(instance)
    if network is None:
        return "flow: limits are not all counts of agents whose sets are nested"
    arcs = len(network.agent)
    if arcs > _MAX_LAMINAR_ARCS:
        return f"flow: up to {arcs:,} arcs, at most {_MAX_LAMINAR_ARCS:,}"
    estimate = _seconds(instance, network)
    if estimate > remaining_s:
        return f"flow: needs about {estimate * 1e3:.0f} ms, {max(remaining_s, 0) * 1e3:.0f} ms left"
    return None


def _seconds(instance: Instance, network: LaminarNetwork) -> float:
    """Return about how long one flow takes, its prices included."""
    if network.whole_models and instance.n * instance.m > _GENERATED_PAIRS:
        return instance.n * (instance.m * _LAMINAR_S_PER_PAIR + 5 * _LAMINAR_S_PER_ARC) + _LAMINAR_OVERHEAD_S
    nodes = instance.n + network.nodes
    return len(network.agent) * _LAMINAR_S_PER_ARC * (1 + nodes / _MANY_LAMINAR_NODES) + _LAMINAR_OVERHEAD_S


def solve_laminar(instance: Instance, deadline: Deadline) -> Claim | None:
    """Return the optimum with the multipliers of all rows, the proof that there is none, or None.

    Parameters
    ----------
    instance : Instance
        Whose limits are a network, see :func:`~solver.engines.flow.laminar.find_network`.
    deadline : Deadline
        Looked at between flows.

    Notes
    -----
    Where service comes first: a flow that serves all agents if there is one, else one that serves as well as possible
    and one for the best score with as many of every priority served.
    """
    network = find_network(instance)
    if network is None or deadline.expired():
        return None
    if network.infeasible:
        return _infeasible(instance)
    if not instance.serve_first:
        return _optimum(instance, network, deadline)
    everyone = replace(instance, penalty=np.full(instance.n, np.inf))
    claim = _optimum(everyone, network.everyone_served(), deadline)
    if claim is None or not claim.infeasible:
        return claim
    return _best_service(instance, network, deadline)


def _optimum(instance: Instance, network: LaminarNetwork, deadline: Deadline) -> Claim | None:
    """Return the optimum where service does not come first."""
    if network.whole_models and instance.n * instance.m > _GENERATED_PAIRS:
        return _generated(instance, network, deadline)
    value = _values(instance, network)
    outside = network.model == network.outside
    value[outside] = instance.unserved[network.agent[outside]]
    solved = _solve(instance.n, network, value)
    return _infeasible(instance) if solved is None else _claim(instance, network, solved, value)


def _values(instance: Instance, network: LaminarNetwork) -> NDArray[np.float64]:
    """Return the scores of all arcs, 0 for staying unassigned."""
    value = np.zeros(len(network.agent))
    inside = np.flatnonzero(network.model != network.outside)
    value[inside] = instance.scores_of(network.agent[inside], network.model[inside])
    return value


def _infeasible(instance: Instance) -> Claim:
    return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)


def _best_service(instance: Instance, network: LaminarNetwork, deadline: Deadline) -> Claim | None:
    """Return the best score among the plans that serve as well as possible."""
    if deadline.remaining_s() < _seconds(instance, network):
        return None
    order = service_order(instance)
    outside = network.model == network.outside
    free = replace(
        network, violation_costs=network.violation_costs.waived()
    )  # service comes before what limits charge
    served = _solve(instance.n, free, np.where(outside, -order.weight[network.agent], 0.0))
    if served is None:
        return _infeasible(instance)
    rank = np.zeros(instance.n, np.int64) if instance.rank is None else instance.rank
    left = np.bincount(rank[network.agent[served.used]], outside[served.used], rank.max() + 1)
    fixed = network.with_left(rank, left.astype(np.int64))
    if fixed is None or deadline.remaining_s() < _seconds(instance, network):
        return Claim(choice=_choice(network, served), serves_most=order.exact)
    value = _values(instance, fixed)
    solved = _solve(instance.n, fixed, value)
    if solved is None:
        raise EngineError("flow: expected a plan that serves as well as the one just found")
    return replace(_claim(instance, fixed, solved, value), serves_most=order.exact)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Solved:
    """An optimal flow: the arc each agent uses, the (k + 1,) prices of the nodes, the sink's being 0."""

    used: NDArray[np.int64]
    price: NDArray[np.float64]


def _solve(n: int, network: LaminarNetwork, value: NDArray[np.float64]) -> _Solved | None:
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
    return _Solved(used=used, price=price / scale)


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
    for level in _levels(parent, sink):
        above = price[parent[level]]
        lowered = np.minimum(price[level], above)
        raised = np.clip(price[level], above + least[level], above + max_cost[level])
        price[level] = np.where(fixed[level], price[level], np.where(floored[level], lowered, raised))
    return price


def _levels(parent: NDArray[np.int64], sink: int) -> list[NDArray[np.int64]]:
    """Return the nodes by their distance to the sink, nearest first; at most as many levels as nodes."""
    depth = np.zeros(sink + 1, np.int64)
    for _ in range(sink):
        deeper = np.append(depth[parent] + 1, 0)
        if np.array_equal(deeper, depth):
            break
        depth = deeper
    order = np.argsort(depth[:sink], kind="stable")
    return np.split(order, np.flatnonzero(np.diff(depth[order])) + 1)


def _choice(network: LaminarNetwork, solved: _Solved) -> NDArray[np.int64]:
    """Return the model of each agent."""
    model = network.model[solved.used]
    return np.where(model == network.outside, UNASSIGNED, model)


def _claim(instance: Instance, network: LaminarNetwork, solved: _Solved, value: NDArray[np.float64]) -> Claim:
    """Return the choice with its multipliers: what a node's price is above or below its parent's."""
    step = solved.price[:-1] - solved.price[network.parent]
    prices = np.maximum(step[: instance.m], 0.0)[:, None]
    rows = np.zeros(len(network.row_node))
    some = np.flatnonzero(network.row_node >= 0)
    rows[some] = (
        np.maximum(network.row_sign[some] * step[network.row_node[some]], 0.0) / network.row_unit[some]
    )
    choice = _choice(network, solved)
    charged = _charge_certain(instance, network, rows)
    _deter(instance, network, choice, prices, rows)
    bound = None
    if network.strengthened:
        bound = _dual_value(instance.n, network, solved.price, value) - charged
    return Claim(choice=choice, prices=prices, limit_prices=rows, bound=bound)


def _charge_certain(instance: Instance, network: LaminarNetwork, rows: NDArray[np.float64]) -> float:
    """Give rows that are exceeded whatever anybody does, in place, their prices; return what they charge."""
    limits, certain = instance.limits, list(network.certain)
    if limits is None or limits.violation_price is None or not certain:
        return 0.0
    rows[certain] = limits.violation_price[certain]
    return float(-(rows[certain] * limits.bound[certain]).sum())


def _dual_value(
    n: int, network: LaminarNetwork, price: NDArray[np.float64], value: NDArray[np.float64]
) -> float:
    """Return the bound that prices of the nodes prove for the network: weak duality, sets as they stand there."""
    best = np.full(n, -np.inf)
    np.maximum.at(best, network.agent, value - price[network.node])
    step = price[:-1] - price[network.parent]
    units = np.where(step > 0, network.high, network.low)
    units[network.violation_costs.node] = 0
    return float(best.sum() + (step * units).sum()) + network.violation_costs.most(
        step[network.violation_costs.node]
    )


def _deter(
    instance: Instance,
    network: LaminarNetwork,
    choice: NDArray[np.int64],
    prices: NDArray[np.float64],
    rows: NDArray[np.float64],
) -> None:
    """Give rows that forbid pairs, in place, multipliers so large that no agent prefers them."""
    limits = instance.limits
    if limits is None or not network.forbidding:
        return
    value = reduced_scores(instance, slice(0, instance.n), prices, limit_prices=rows)
    own = np.where(choice == UNASSIGNED, instance.unserved, value[np.arange(instance.n), choice])
    excess = np.where(np.isfinite(value), value - own[:, None], -np.inf)
    for g in network.forbidding:
        for layer in limits.layers:
            pair = np.nonzero((layer.row == g) & (layer.coefficient != 0) & (excess > 0))
            if len(pair[0]):
                rows[g] = max(rows[g], float((excess[pair] / layer.coefficient[pair]).max()))


def _generated(instance: Instance, network: LaminarNetwork, deadline: Deadline) -> Claim | None:
    """Return the optimum where limits only narrow capacities and set floors, by column generation."""
    m = instance.m
    floor, most = np.zeros(m, np.int64), instance.slots.copy()
    model, some = _column_of(network, m), np.flatnonzero(network.row_node >= 0)
    nodes = network.row_node[some]
    np.maximum.at(floor, model[nodes], network.low[nodes])
    np.minimum.at(most, model[nodes], network.high[nodes])
    if (floor > most).any():
        return _infeasible(instance)
    zeros = np.zeros(m)
    shape = NetworkShape(
        floor=floor,
        floor_if_open=zeros.astype(np.int64),
        opening_cost=zeros,
        copies=None,
        count=None,
        agents=instance.n,
    )
    plain = replace(instance, limits=None, network=shape, capacity=most[:, None].astype(np.float64))
    found = solve_network(plain, deadline)
    must = np.isposinf(instance.penalty) if instance.penalty is not None else np.zeros(instance.n, bool)
    if found.missing.any() or (found.left > 0)[must].any():
        return _infeasible(instance) if found.complete else None
    prices, rows = np.maximum(found.prices, 0.0), np.zeros(len(network.row_node))
    upper = np.full(m, -1, np.int64)
    for g, node in zip(some.tolist(), nodes.tolist(), strict=True):
        j = int(model[node])
        if network.low[node] and network.low[node] == floor[j] and found.prices[j] < 0 and not rows[g]:
            rows[g], floor[j] = -found.prices[j] / network.row_unit[g], -1
        elif network.high[node] == most[j] < instance.slots[j] and prices[j] > 0 and upper[j] < 0:
            rows[g], prices[j], upper[j] = prices[j] / network.row_unit[g], 0.0, g
    choice = principal_choice(plain, found.flow)
    prices = prices[:, None]
    _charge_certain(instance, network, rows)
    _deter(instance, network, choice, prices, rows)
    return Claim(choice=choice, prices=prices, limit_prices=rows)


def _column_of(network: LaminarNetwork, m: int) -> NDArray[np.int64]:
    """Return the (k,) models that nodes belong to where no group of models is among them."""
    column = np.arange(network.nodes)
    for level in _levels(network.parent, network.nodes)[1:]:
        column[level] = column[network.parent[level]]
    return column

"""The optimum of an instance whose limits are a network, with multipliers of every row that prove it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.engines.certificate import reduced_scores
from solver.engines.flow.generation import solve_network
from solver.engines.flow.laminar import LaminarNetwork, find_network, recognition_seconds
from solver.engines.flow.nested_flow import LaminarFlow, solve_flow, tree_levels
from solver.engines.network_terms import principal_choice
from solver.engines.serve_first import ServiceOrder, service_order
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

_SAME_SERVICE = 0.5
"""Weights of service are whole: what falls short by less serves as well."""

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
    serve_all = replace(instance, penalty=np.full(instance.n, np.inf))
    claim = _optimum(serve_all, network.all_served(), deadline)
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
    solved = solve_flow(instance.n, network, value)
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
    served = solve_flow(instance.n, free, np.where(outside, -order.weight[network.agent], 0.0))
    if served is None:
        return _infeasible(instance)
    rank = np.zeros(instance.n, np.int64) if instance.rank is None else instance.rank
    left = np.bincount(rank[network.agent[served.used]], outside[served.used], rank.max() + 1)
    fixed = network.with_left(rank, left.astype(np.int64))
    claim = None
    if deadline.remaining_s() < _seconds(instance, network):
        pass
    elif fixed is None:
        claim = _among_best_service(instance, network, served, order) if order.exact else None
    else:
        value = _values(instance, fixed)
        solved = solve_flow(instance.n, fixed, value)
        if solved is None:
            raise EngineError("flow: expected a plan that serves as well as the one just found")
        claim = _claim(instance, fixed, solved, value)
    return replace(claim or Claim(choice=_choice(network, served)), serves_most=order.exact)


def _among_best_service(
    instance: Instance, network: LaminarNetwork, served: LaminarFlow, order: ServiceOrder
) -> Claim | None:
    """Return the best score among the flows of the best service; None where rounding hides which they are.

    They are those that use no arc that falls short at the prices of service, and every node with a price of its own
    up to its bound (complementary slackness). Their multipliers, with those of service as often as it takes for all
    other arcs to fall short again, hold for the whole network.
    """
    outside = network.model == network.outside
    weight = np.where(outside, order.weight[network.agent], 0.0)
    short, step = served.shortfall(network, -weight), served.step(network)
    kept = np.flatnonzero(short < _SAME_SERVICE)
    above, below = step > _SAME_SERVICE, step < -_SAME_SERVICE
    narrowed = replace(
        network,
        agent=network.agent[kept],
        node=network.node[kept],
        model=network.model[kept],
        low=np.where(above, network.high, network.low),
        high=np.where(below, network.low, network.high),
    )
    value = _values(instance, network)
    found = solve_flow(instance.n, narrowed, value[kept])
    if found is None:
        return None
    best = LaminarFlow(used=kept[found.used], price=found.price)
    left = float(weight[best.used].sum())
    if left != float(weight[served.used].sum()):
        return None
    lacking, gain = best.shortfall(network, value), best.step(network)
    others = np.delete(np.arange(len(short)), kept)
    bound = above | below
    times = max(
        float((-lacking[others] / short[others]).max(initial=0.0)),
        float((-gain[bound] / step[bound]).max(initial=0.0)),
    )
    whole = replace(best, price=best.price + times * served.price)
    claim, score = (
        _claim(instance, network, whole, value - times * weight),
        _claim(instance, network, best, value),
    )
    return replace(
        claim,
        score_prices=score.prices,
        score_limit_prices=score.limit_prices,
        bound=None if claim.bound is None else claim.bound + times * left,
    )


def _choice(network: LaminarNetwork, solved: LaminarFlow) -> NDArray[np.int64]:
    """Return the model of each agent."""
    model = network.model[solved.used]
    return np.where(model == network.outside, UNASSIGNED, model)


def _claim(
    instance: Instance, network: LaminarNetwork, solved: LaminarFlow, value: NDArray[np.float64]
) -> Claim:
    """Return the choice with its multipliers: what a node's price is above or below its parent's."""
    step = solved.step(network)
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
    score = _without_forbidden(instance, network) if network.forbidding else instance.score
    plain = replace(
        instance, score=score, limits=None, network=shape, capacity=most[:, None].astype(np.float64)
    )
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


def _without_forbidden(instance: Instance, network: LaminarNetwork) -> NDArray[np.float64]:
    """Return (n, m) scores, ``-inf`` where the network has no arc."""
    score = np.full((instance.n, instance.m), -np.inf)
    inside = np.flatnonzero(network.model != network.outside)
    agent, model = network.agent[inside], network.model[inside]
    score[agent, model] = instance.scores_of(agent, model)
    return score


def _column_of(network: LaminarNetwork, m: int) -> NDArray[np.int64]:
    """Return the (k,) models that nodes belong to where no group of models is among them."""
    column = np.arange(network.nodes)
    for level in tree_levels(network.parent, network.nodes)[1:]:
        column[level] = column[network.parent[level]]
    return column

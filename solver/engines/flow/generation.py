"""Floors, copies and counts at size: the flow on few arcs, and more arcs where prices say that some are missing.

An optimum of n·m pairs uses little more than one arc for each unit. The flow is solved on the arcs that look best at
prices found for a sample of the agents; prices of that flow are then held against all pairs, and every pair that would
improve it joins (column generation; Ford and Fulkerson 1958, for networks Barr and Turner 1981). When no pair is left
that would, the flow is optimal on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.flow.arc_pricing import (
    GenerationParams,
    all_arcs,
    core_arcs,
    count_pairs,
    improving_arcs,
)
from solver.engines.flow.bounded import Arcs, BoundedFlow, solve_bounded
from solver.engines.network_balance import balanced_prices
from solver.engines.network_duals import Exchanges, exchange_prices, network_prices, supply_exchanges
from solver.problem.instance import Instance
from solver.problem.network import NetworkShape, UnitFlow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline

_GOLDEN = 0.6180339887498949
"""The golden ratio less one: its multiples, modulo one, are spread evenly and with no period that data have."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkOptimum:
    """What column generation found.

    Parameters
    ----------
    flow : UnitFlow
        Units served.
    prices : (m,) float64
        Prices that support it.
    left : (n,) int64
        Units that stay unserved.
    missing : (m,) int64
        Units by which floors are missed; any mean that the instance is infeasible.
    complete : bool
        No pair would improve the flow.
    """

    flow: UnitFlow
    prices: NDArray[np.float64]
    left: NDArray[np.int64]
    missing: NDArray[np.int64]
    complete: bool


def solve_network(
    instance: Instance,
    deadline: Deadline,
    *,
    prices: NDArray[np.float64] | None = None,
    params: GenerationParams | None = None,
) -> NetworkOptimum:
    """Solve an instance whose agents take slots, with floors, copies and counts.

    Parameters
    ----------
    instance : Instance
        With a network shape and without openings.
    deadline : Deadline
        Looked at between flows; the last flow is returned when it has passed.
    prices : (m,) float64, optional
        Prices to choose the first arcs by; by default those of a sample.
    params : GenerationParams, optional
        Tuning constants.

    Returns
    -------
    NetworkOptimum
    """
    params = params or GenerationParams()
    value_range = _value_range(instance)
    full_fee = 2.0 * (instance.m + 2) * value_range + _highest_outside(instance)
    everything = count_pairs(instance) <= params.all_pairs
    if everything:
        arcs = all_arcs(instance)
    else:
        if prices is None:
            prices = _sample_prices(instance, deadline, params)
        arcs = core_arcs(instance, prices, params)
    fee = full_fee if everything else min(params.modest_fee * value_range, full_fee)
    for _ in range(params.max_rounds):
        outside, own_fee = _outside(instance, fee, full_fee)
        floor_fee = own_fee if own_fee < full_fee else 2.0 * own_fee + _highest_outside(instance)
        began = deadline.clock.now()
        solved = solve_bounded(instance, arcs, outside, floor_fee)
        pace_s = deadline.clock.now() - began
        if everything:
            found = exchange_prices(_core_exchanges(instance, arcs, solved, outside, None), instance.m)
            return _optimum(instance, arcs, solved, found, complete=True)
        found = exchange_prices(_core_exchanges(instance, arcs, solved, outside, floor_fee), instance.m)
        more = improving_arcs(instance, arcs, solved, found, outside, params)
        if len(more.agent):
            if deadline.remaining_s() < params.patience * pace_s:
                return _optimum(instance, arcs, solved, found, complete=False)
            arcs = arcs.with_more(more)
            continue
        # Where nothing in the core, or only the fee, keeps a price from falling, all pairs say what it is.
        unused = np.bincount(arcs.model, solved.units, instance.m) == 0
        loose = (found <= -0.99 * floor_fee) | (unused & (found == 0.0))
        if loose.any() and not solved.missing.any() and instance.m <= params.most_models:
            found = network_prices(instance, UnitFlow.of_arcs(arcs.agent, arcs.model, solved.units))[:, 0]
        paid = solved.missing.any() or (solved.left > 0)[_is_fee(instance)].any()
        if not paid or fee >= full_fee:
            return _optimum(instance, arcs, solved, found, complete=True)
        fee = full_fee
    return _optimum(instance, arcs, solved, found, complete=False)


def _optimum(
    instance: Instance,
    arcs: Arcs,
    solved: BoundedFlow,
    prices: NDArray[np.float64],
    *,
    complete: bool,
) -> NetworkOptimum:
    return NetworkOptimum(
        flow=UnitFlow.of_arcs(arcs.agent, arcs.model, solved.units),
        prices=prices,
        left=solved.left,
        missing=solved.missing,
        complete=complete,
    )


def _shape(instance: Instance) -> NetworkShape:
    if instance.network is None:
        raise ValueError("expected an instance with a network shape")
    return instance.network


def _value_range(instance: Instance) -> float:
    """Return by how much two arcs' values can differ, load costs included; positive."""
    low, high = instance.score_range
    max_cost = 0.0 if instance.load_cost is None else float(instance.load_cost.max())
    return (high - low + max_cost) or 1.0


def _highest_outside(instance: Instance) -> float:
    """Return how far finite values of staying out lie beyond the scores."""
    if instance.penalty is None:
        return float(np.abs(instance.unserved).max()) + max(map(abs, instance.score_range))
    finite = instance.penalty[np.isfinite(instance.penalty)]
    return float(finite.max(initial=0.0)) + max(map(abs, instance.score_range))


def _is_fee(instance: Instance) -> NDArray[np.bool_]:
    """Return (n,) whether leaving a row out has a value that stands for more than itself."""
    if instance.penalty is None:
        return np.ones(instance.n, bool)
    return np.isposinf(instance.penalty)


def _outside(instance: Instance, fee: float, full_fee: float) -> tuple[NDArray[np.float64], float]:
    """Return the (n,) values of leaving a unit out while fees are what they are, and the fee itself."""
    low, _ = instance.score_range
    if instance.penalty is None:
        if fee >= full_fee:
            return np.array(instance.unserved), full_fee
        rank = 0 if instance.rank is None else instance.rank
        return np.broadcast_to(low - fee * (1.0 + rank), (instance.n,)).copy(), fee
    return np.where(np.isposinf(instance.penalty), low - fee, -instance.penalty), fee


def _core_exchanges(
    instance: Instance,
    arcs: Arcs,
    solved: BoundedFlow,
    outside: NDArray[np.float64],
    floor_fee: float | None,
) -> Exchanges:
    """Return the exchanges of a flow over the arcs of a core, floors missed at a fee included if there is one."""
    n, m, shape = instance.n, instance.m, _shape(instance)
    first = np.searchsorted(arcs.agent, np.arange(n + 1))
    used = np.flatnonzero(solved.units)
    open_arc = solved.units < shape.width[arcs.agent]
    count = np.diff(first)[arcs.agent[used]]
    source = np.repeat(used, count)
    target = np.arange(len(source)) - np.repeat(np.cumsum(count) - count, count) + first[arcs.agent[source]]
    kept = open_arc[target] & (source != target)
    source, target = source[kept], target[kept]
    waiting = np.flatnonzero(open_arc & (solved.left[arcs.agent] > 0))
    load = np.bincount(arcs.model, solved.units, m).astype(np.int64)
    supply = supply_exchanges(instance, load)
    floored, short = np.flatnonzero(shape.floor), np.flatnonzero(solved.missing)
    if floor_fee is None:
        floored, short, floor_fee = floored[:0], short[:0], 0.0
    node = np.full(max(len(floored), len(waiting), len(used)), m)
    return Exchanges.least(
        np.concatenate(
            [
                supply.source,
                node[: len(floored)],
                short,
                arcs.model[source],
                arcs.model[used],
                node[: len(waiting)],
            ]
        ),
        np.concatenate(
            [
                supply.target,
                floored,
                node[: len(short)],
                arcs.model[target],
                node[: len(used)],
                arcs.model[waiting],
            ]
        ),
        np.concatenate(
            [
                supply.loss,
                np.full(len(floored), floor_fee),
                np.full(len(short), -floor_fee),
                arcs.score[source] - arcs.score[target],
                arcs.score[used] - outside[arcs.agent[used]],
                outside[arcs.agent[waiting]] - arcs.score[waiting],
            ]
        ),
        m + 1,
    )


def _sample_prices(instance: Instance, deadline: Deadline, params: GenerationParams) -> NDArray[np.float64]:
    """Return the prices of some agents with their share of slots and floors, balanced ones where there are too few."""
    n, m, shape = instance.n, instance.m, _shape(instance)
    size = max(int(n * params.sample_share), int(params.sample_per_model * m * n / shape.supply.sum()))
    if size > n // 2 or size * m <= params.all_pairs // 4 or size < 64:
        return balanced_prices(instance, pairs=params.balanced_pairs, rounds=params.balancing_rounds)
    place = np.arange(size)
    rows = np.unique(((place + place * _GOLDEN % 1.0) * (n / size)).astype(np.int64))
    size = len(rows)
    chosen = _select(shape, rows)
    share = chosen.supply.sum() / shape.supply.sum()
    capacity = _shares(instance.capacity[:, 0].clip(max=instance.units), share)
    chosen = replace(
        chosen, floor=np.minimum(np.floor(shape.floor * share).astype(np.int64), capacity.astype(np.int64))
    )
    sample = Instance(
        score=instance.score[rows],
        capacity=capacity[:, None],
        penalty=None if instance.penalty is None else instance.penalty[rows],
        rank=None if instance.rank is None else instance.rank[rows],
        load_cost=instance.load_cost,
        network=chosen,
    )
    return solve_network(sample, deadline, params=replace(params, max_rounds=12)).prices


def _select(shape: NetworkShape, rows: NDArray[np.int64]) -> NetworkShape:
    return replace(
        shape,
        copies=None if shape.copies is None else shape.copies[rows],
        count=None if shape.count is None else shape.count[rows],
        agents=len(rows),
    )


def _shares(slots: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return whole shares of slots by largest remainder, rounded up in total."""
    exact = slots * share
    whole = np.floor(exact)
    extra = int(np.ceil(exact.sum() - 1e-9) - whole.sum())
    if extra > 0:
        whole[np.argsort(whole - exact, kind="stable")[:extra]] += 1
    return whole

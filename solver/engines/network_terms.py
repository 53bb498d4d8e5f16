"""The certificate's terms where agents take slots under floors, with copies, counts or openings.

For any prices ``p``, negative ones allowed where a model has a floor, weak duality gives

    bound(p) = Σ_i count_i · Σ_{t <= copies_i} (t-th largest of score_ij − p_j and unserved_i)
               + Σ_j max over the loads l that model j may have of (p_j l − cost of l)

where staying unserved may be taken any number of times and a pair only once per agent. A load may be 0 or from
the floor to the capacity; an open model costs its opening cost. Terms are differences of complementary slackness, each
of them >= 0, so that the gap is not a difference of two large numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import Violation, ViolationKind
from solver.problem.blocks import chunks, map_blocks, priced_blocks, row_maxima
from solver.problem.instance import UNASSIGNED
from solver.problem.network import UnitFlow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.base import Claim
    from solver.problem.instance import Instance
    from solver.problem.network import NetworkShape

_MAX_NAMED_AGENTS = 1000
"""Offending agents that are spelled out."""

_FEW_LARGEST = 16
"""Largest entries up to which finding one after the other is faster than a partition."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkTerms:
    """The recomputed side of a flow that needs no prices.

    Parameters
    ----------
    objective : float
        Scores, less load costs, opening costs and penalties of units left out.
    scale : float
        Sum of absolute values, for rounding.
    load : (m, 1) float64
        Units served by each model.
    left : (n,) int64
        Units of each row that are not served.
    violations : tuple of Violation
        Constraints broken.
    """

    objective: float
    scale: float
    load: NDArray[np.float64]
    left: NDArray[np.int64]
    violations: tuple[Violation, ...]

    @property
    def limit_load(self) -> NDArray[np.float64]:
        """(0,) float64: limit rows and networks exclude each other."""
        return np.zeros(0)


def claimed_flow(claim: Claim) -> UnitFlow:
    """Return the flow of a claim: as given, or one unit for each agent's choice."""
    return UnitFlow.of_choice(claim.choice) if claim.flow is None else claim.flow


def network_terms(instance: Instance, shape: NetworkShape, flow: UnitFlow) -> NetworkTerms:
    """Recompute objective, loads and feasibility of a flow. O(n + a) for a pairs in use."""
    own = instance.scores_of(flow.agent, flow.model)
    load = flow.load(instance.m)
    left = shape.supply - flow.served(instance.n)
    violations = _broken(instance, shape, flow, own, load, left)
    served_value = own * flow.units
    left_value = np.zeros(0)
    out = np.flatnonzero(left > 0)
    if len(out):
        left_value = instance.unserved[out] * left[out]
    objective = float(served_value.sum())
    if instance.load_cost is not None:
        objective -= float(instance.load_charge(load.astype(np.float64)).sum())
    objective -= float(shape.opening_cost[load > 0].sum())
    if not instance.serve_first:
        objective += float(left_value.sum())
    scale = float(np.abs(served_value).sum()) + float(np.abs(left_value).sum())
    return NetworkTerms(
        objective=objective,
        scale=scale,
        load=load[:, None].astype(np.float64),
        left=left,
        violations=violations,
    )


def unserved_agents(must: NDArray[np.bool_]) -> list[Violation]:
    """Return the violations of agents who must be served and are not, the first thousand by name."""
    rows, kind = np.flatnonzero(must).tolist(), ViolationKind.UNSERVED
    found = [
        Violation(f"choice[{i}]", f"agent {i} must be served", kind=kind, position=(i,))
        for i in rows[:_MAX_NAMED_AGENTS]
    ]
    if len(rows) > _MAX_NAMED_AGENTS:
        found.append(
            Violation("choice", f"{len(rows) - _MAX_NAMED_AGENTS} more agents must be served", kind=kind)
        )
    return found


def _broken(
    instance: Instance,
    shape: NetworkShape,
    flow: UnitFlow,
    own: NDArray[np.float64],
    load: NDArray[np.int64],
    left: NDArray[np.int64],
) -> tuple[Violation, ...]:
    wrong = ~np.isfinite(own)
    broken = [
        Violation(
            f"choice[{i}]",
            f"agent {i} is not eligible for model {j}",
            kind=ViolationKind.NOT_ELIGIBLE,
            position=(i, j),
        )
        for i, j in zip(flow.agent[wrong].tolist(), flow.model[wrong].tolist(), strict=True)
    ]
    wide = np.flatnonzero(flow.units > shape.width[flow.agent])
    pair = flow.agent * instance.m + flow.model
    repeated = np.flatnonzero(np.diff(np.sort(pair)) == 0)
    if len(repeated):
        i = int(np.sort(pair)[repeated[0]]) // instance.m
        broken.append(
            Violation(
                f"choice[{i}]", "expected different models", kind=ViolationKind.DUPLICATE, position=(i,)
            )
        )
    broken += [
        Violation(
            f"flow[{flow.agent[k]}, {flow.model[k]}]",
            f"expected <= {shape.width[flow.agent[k]]}",
            int(flow.units[k]),
            position=(int(flow.agent[k]), int(flow.model[k])),
        )
        for k in wide[:_MAX_NAMED_AGENTS]
    ]
    over, short = load > instance.capacity[:, 0], load < shape.floor
    half = (load > 0) & (load < shape.floor_if_open)
    most = [f"<= {units:g}" for units in instance.capacity[:, 0]]
    least = [f">= {units}" for units in shape.floor]
    either = [f"0 or >= {units}" for units in shape.floor_if_open]
    above, below = ViolationKind.OVER_CAPACITY, ViolationKind.BELOW_FLOOR
    for kind, models, rule in ((above, over, most), (below, short, least), (below, half, either)):
        broken += [
            Violation(f"load[{j}, 0]", f"expected {rule[j]}", int(load[j]), kind=kind, position=(j, 0))
            for j in np.flatnonzero(models).tolist()
        ]
    broken += [
        Violation(f"choice[{i}]", f"agent {i} is served {-left[i]} times too often", position=(i,))
        for i in np.flatnonzero(left < 0)[:_MAX_NAMED_AGENTS].tolist()
    ]
    if instance.penalty is not None:
        broken += unserved_agents((left > 0) & np.isposinf(instance.penalty))
    return tuple(broken)


def network_slack(
    instance: Instance,
    shape: NetworkShape,
    flow: UnitFlow,
    terms: NetworkTerms,
    prices: NDArray[np.float64],
    threads: int,
) -> float:
    """Return bound(prices) − objective of a feasible flow. O(n m) time in one pass.

    Parameters
    ----------
    instance, shape, flow, terms
        The problem, a feasible flow and what was recomputed of it.
    prices : (m,) float64
        Finite; below 0 only where that helps.
    threads : int
        Threads that share the pass.
    """
    # In serve-first mode a full service can only be compared with full services: leaving is no option then.
    may_leave = not (instance.serve_first and not terms.left.any())
    unserved = instance.unserved
    net = instance.scores_of(flow.agent, flow.model) - prices[flow.model]
    earned = np.bincount(flow.agent, net * flow.units, instance.n).astype(np.float64, copy=False)
    out = np.flatnonzero(terms.left > 0)
    earned[out] += unserved[out] * terms.left[out]
    closed = instance.slots < 1
    shown = np.where(closed, np.inf, prices) if closed.any() else prices

    def misjudged(lane: list[slice]) -> float:
        total = 0.0
        for rows, value in priced_blocks(instance.score, shown, lane):
            best = best_of_rows(value, shape.depth[rows], unserved[rows] if may_leave else None)
            total += float((best * shape.width[rows] - earned[rows]).sum())
        return total

    total = sum(map_blocks(misjudged, instance.n, instance.m, threads))
    return total + _supply_slack(instance, shape, flow.load(instance.m), prices)


def quick_network_slack(instance: Instance, shape: NetworkShape, terms: NetworkTerms) -> float:
    """Return how far the objective is from every unit having the largest of all scores, free of charge. O(n)."""
    if instance.serve_first:
        return instance.highest * float((shape.supply - terms.left).sum()) - terms.objective
    best = np.maximum(instance.highest, instance.unserved)
    return float(best @ shape.supply) - terms.objective


def most_score(instance: Instance, shape: NetworkShape, units: int) -> float:
    """Return the most that so many units can score, or all with what staying unserved is worth; no capacity is kept.

    Parameters
    ----------
    instance, shape
        The problem.
    units : int
        Units served, where service comes first: plans that serve as many are what a score is compared with.

    Notes
    -----
    O(n m) time, O(n d) memory for d copies at most.
    """
    closed = np.where(instance.slots < 1, np.inf, 0.0)
    deepest = int(min(shape.depth.max(initial=1), instance.m))
    best = np.empty((instance.n, deepest))
    for rows, value in priced_blocks(instance.score, closed, list(chunks(instance.n, instance.m))):
        best[rows] = row_maxima(value)[:, None] if deepest == 1 else largest(value, deepest)
    if int(shape.depth.min(initial=deepest)) < deepest:
        best = np.where(np.arange(deepest) < shape.depth[:, None], best, -np.inf)
    if not instance.serve_first:
        must = np.isneginf(instance.unserved)
        base = np.where(must, 0.0, instance.unserved)
        least = np.where(must, -np.inf, 0.0)[:, None]
        gain = np.maximum(np.where(np.isfinite(best), best - base[:, None], 0.0), least).sum(axis=1)
        return float((gain * shape.width).sum() + (base * shape.supply).sum())
    value, width = best.ravel(), np.repeat(shape.width, deepest)
    order = np.argsort(-value)
    taken = np.diff(np.minimum(np.cumsum(width[order]), units), prepend=0)
    some = taken > 0
    return float((value[order][some] * taken[some]).sum())


def best_of_rows(
    value: NDArray[np.float64], depth: NDArray[np.int64], unserved: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return the sum of the largest ``depth`` entries of every row, each at least the value of staying unserved.

    ``value`` may be overwritten.
    """
    deepest = int(min(depth.max(), value.shape[1]))
    if deepest == 1 and int(depth.max()) == 1:
        best = row_maxima(value)
        return best if unserved is None else np.maximum(best, unserved)
    top = largest(value, deepest)
    if unserved is not None:
        np.maximum(top, unserved[:, None], out=top)
    if int(depth.min()) < deepest:
        top = np.where(np.arange(deepest) < depth[:, None], top, 0.0)
    total: NDArray[np.float64] = top.sum(axis=1)
    beyond = np.flatnonzero(depth > deepest)  # more copies than there are models
    if unserved is not None and len(beyond):
        total[beyond] += (depth[beyond] - deepest) * unserved[beyond]
    return total


def largest(value: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the (rows, count) largest entries of every row, the largest first; ``value`` may be overwritten."""
    if count > _FEW_LARGEST:
        rest = value.shape[1] - count
        return np.sort(np.partition(value, rest, axis=1)[:, rest:] if rest else value, axis=1)[:, ::-1]
    top = np.empty((len(value), count))
    rows = np.arange(len(value))
    for k in range(count):
        first = value.argmax(axis=1)
        top[:, k] = value[rows, first]
        value[rows, first] = -np.inf
    return top


def _supply_slack(
    instance: Instance, shape: NetworkShape, load: NDArray[np.int64], price: NDArray[np.float64]
) -> float:
    """Return what the models could earn at these prices less what they do. O(m t)."""
    least, most = shape.floor, instance.slots
    if instance.load_cost is None:
        # Products of differences: exactly zero where a load is where its price would have it.
        above, below = np.maximum(price, 0.0), np.maximum(-price, 0.0)
        fixed = ~shape.opens
        total = float((above * (most - load) + below * (load - least))[fixed].sum())
        if fixed.all():
            return total
        opens = shape.opens
        price, load, cost = price[opens], load[opens], shape.opening_cost[opens]
        low, high = np.maximum(np.maximum(least, shape.floor_if_open)[opens], 1), most[opens]
        open_value = np.maximum(price * low, price * high) - cost
        best = np.where(high < low, -np.inf, open_value)
        best = np.where(least[opens] > 0, best, np.maximum(best, 0.0))
        return total + float((best - (price * load - np.where(load > 0, cost, 0.0))).sum())
    model, cost, slots = instance.tiers
    margin = price[model] - cost
    t = instance.load_cost.shape[1]
    table = slots.reshape(instance.m, t)
    before = (np.cumsum(table, axis=1) - table).ravel()
    used = np.clip(load[model] - before, 0, slots)
    held = np.clip(shape.floor[model] - before, 0, slots)
    best_units = np.where(margin > 0, slots, held)
    return float(((best_units - used) * margin).sum())


def principal_choice(instance: Instance, flow: UnitFlow) -> NDArray[np.int64]:
    """Return the model that serves most units of each row, (n,) int64, UNASSIGNED for none."""
    if not len(flow.agent):
        return np.full(instance.n, UNASSIGNED, np.int64)
    return flow.choice(instance.n, 1, instance.scores_of(flow.agent, flow.model))[:, 0]

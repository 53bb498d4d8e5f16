"""How far an objective is from the bound that prices prove, as a sum of complementary-slackness terms.

Every term is >= 0: what an agent forgoes against its best model at the prices, and what a capacity or a limit would
be worth beyond its use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from solver.engines.attainable_bounds import attainable_bounds
from solver.engines.certificate.reduced_scores import reduced_blocks, reduced_scores
from solver.engines.slot_prices import score_prices
from solver.problem.blocks import ONE_BLOCK, chunks, least_of, map_blocks, priced_blocks, row_maxima
from solver.problem.instance import UNASSIGNED
from solver.problem.sparse import CompressedScores
from solver.problem.tolerances import EXCESS_TOLERANCE, OPTIMALITY_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.base import Claim
    from solver.engines.certificate.responses import BestResponse
    from solver.errors import Violation
    from solver.problem.instance import Instance


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AssignmentTerms:
    """The recomputed side of an assignment that needs no prices.

    Parameters
    ----------
    choice : (n,) int64
        Model of each agent.
    served : (k,) int
        Agents that are served.
    own : (k,) float64
        Their scores.
    left_value : (n - k,) float64
        What leaving the others is worth.
    objective : float
        Recomputed objective.
    load : (m, r) float64
        Units used.
    limit_load : (g,) float64
        Left-hand sides of the limit rows.
    violations : tuple of Violation
        Constraints broken.
    """

    choice: NDArray[np.int64]
    served: NDArray[np.intp]
    own: NDArray[np.float64]
    left_value: NDArray[np.float64]
    objective: float
    load: NDArray[np.float64]
    limit_load: NDArray[np.float64]
    violations: tuple[Violation, ...]

    @property
    def served_magnitude(self) -> float:
        """Sum of the absolute scores of the agents served, against which rounding is measured."""
        return float(np.abs(self.own).sum())

    @property
    def magnitude(self) -> float:
        """Sum of the absolute scores of the agents served and of the absolute values of leaving the others."""
        left = float(np.abs(self.left_value).sum()) if len(self.left_value) else 0.0
        return self.served_magnitude + left


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Multipliers:
    """Lagrange multipliers of (m, r) capacities and, unless None for zeros, of (g,) limit rows."""

    prices: NDArray[np.float64]
    limit_prices: NDArray[np.float64] | None


def multipliers_of(instance: Instance, claim: Claim) -> Multipliers | None:
    """Return the claim's multipliers, zeros where it has none, or None if they prove nothing."""
    prices = np.zeros((instance.m, instance.r)) if claim.prices is None else claim.prices
    # A price below zero is that of a floor; where there is none it proves what it proves, a looser bound.
    least = 0.0 if instance.network is None else -np.inf
    if prices.shape != (instance.m, instance.r):
        return None
    low, high = prices.min(), prices.max()
    if not (low >= least and low > -np.inf and high < np.inf):  # written so that NaN is refused, too
        return None
    limit_prices = claim.limit_prices
    if instance.limits is None or limit_prices is None:
        return Multipliers(prices=prices, limit_prices=None)
    if limit_prices.shape != (instance.limits.count,):
        return None
    if not (np.isfinite(limit_prices) & (limit_prices >= 0)).all():
        return None
    if instance.limits.violation_price is not None:  # exceeding a soft limit costs no more than its price
        limit_prices = np.minimum(limit_prices, instance.limits.violation_price)
    return Multipliers(prices=prices, limit_prices=limit_prices)


def violation_charge(instance: Instance, limit_load: NDArray[np.float64]) -> float:
    """Return what exceeding soft limits takes off the objective."""
    return 0.0 if instance.limits is None else float(instance.limits.violation_charges(limit_load).sum())


class FullService(NamedTuple):
    """What is proven where every agent takes a slot that costs nothing."""

    objective: float
    """Sum of the scores."""
    slack: float
    """Distance to the bound at the prices, within the tolerance of an optimum."""
    load: NDArray[np.float64]
    """(m,), slots used."""


def full_service_proof(
    score: NDArray[Any], units: NDArray[np.float64], choice: NDArray[np.int64], prices: NDArray[np.float64]
) -> FullService | None:
    """Return the proof that a choice of a slot for every agent is optimal, None where these prices are none.

    As :func:`duality_slack`, for (n, m) finite scores, (m,) units of capacity and (m,) prices. One pass.
    """
    n, m = score.shape
    if choice.shape != (n,) or choice.dtype != np.int64 or prices.shape != (m,):
        return None
    try:
        paid = prices.take(choice)
        load = np.bincount(choice, minlength=m).astype(np.float64)
    except (IndexError, ValueError):  # the first refuses models beyond the last, the second -1 for unassigned
        return None
    room = units - load
    if least_of(room) < 0 or least_of(prices) < 0:
        return None
    first = np.arange(0, n * m, m)
    own = score.take(first + choice)
    if n * m <= ONE_BLOCK:
        best = np.maximum.reduceat((score - prices).ravel(), first)
    else:
        best = np.concatenate(
            [row_maxima(net) for _, net in priced_blocks(score, prices, list(chunks(n, m)))]
        )
    objective = float(np.add.reduce(own, dtype=np.float64))
    slack = float(np.add.reduce(best - (own - paid))) + float(np.vdot(prices, room))
    # Written so that prices without bounds, whose sums are no numbers, are refused.
    return FullService(objective, slack, load) if slack <= OPTIMALITY_TOLERANCE * abs(objective) else None


def duality_slack(
    instance: Instance,
    terms: AssignmentTerms,
    multipliers: Multipliers | None,
    response: BestResponse | None,
    threads: int,
) -> float:
    """Return bound − objective at some multipliers, ``inf`` without any. O(n m r) in one pass.

    Parameters
    ----------
    instance, terms
        The problem, and what was recomputed of a feasible assignment.
    multipliers : Multipliers or None
        What the bound is computed from.
    response : BestResponse or None
        Every agent's best model, if known; the pass over all pairs is spared where it is at the same prices.
    threads : int
        Threads that share the pass.
    """
    if multipliers is None:
        return math.inf
    prices, limit_prices = multipliers.prices, multipliers.limit_prices
    # In serve-first mode a full service can only be compared with full services: leaving is no option then.
    may_leave = not (instance.serve_first and len(terms.served) == instance.n)
    if response is not None and instance.limits is None and response.is_at(prices[:, 0]):
        total = _forgone_against(response, instance, terms, may_leave=may_leave)
    elif isinstance(instance.score, CompressedScores):
        _, best = instance.score.best(np.where(instance.capacity[:, 0] < 1, np.inf, prices[:, 0]))
        total = _forgone(instance, terms, prices[:, 0], best, may_leave=may_leave)
    else:
        total = _forgone_in_blocks(instance, terms.choice, multipliers, threads, may_leave=may_leave)
    if limit_prices is not None and instance.limits is not None:
        total += float(limit_prices @ (attainable_bounds(instance) - terms.limit_load))
    total += violation_charge(instance, terms.limit_load)
    if instance.load_cost is not None:
        return total + _tier_slack(instance, terms.load[:, 0], prices[:, 0])
    return total + float(np.vdot(prices, instance.capacity - terms.load))


def quick_slack(instance: Instance, terms: AssignmentTerms) -> float:
    """Return how far the objective is from all agents having the largest of all scores, free of charge. O(n).

    Where service comes first, the bound is that of as many agents as are served. A load cost only takes away from
    it, so that it holds without one.
    """
    paid = 0.0
    if instance.load_cost is not None:
        paid = float(instance.load_charge(terms.load[:, 0]).sum())
    paid += violation_charge(instance, terms.limit_load)
    if instance.serve_first:
        return float((instance.highest - terms.own).sum()) + paid
    best = np.maximum(instance.highest, instance.unserved)
    earned = np.array(instance.unserved, np.float64)
    earned[terms.served] = terms.own
    return float((best - earned).sum()) + paid


def fixed_service_slack(instance: Instance, terms: AssignmentTerms, claim: Claim, threads: int) -> float:
    """Return how far the score is from a bound for all plans that serve as many agents of every rank.

    At any multipliers >= 0 such a plan has at most the sum of the largest reduced scores, as many of each rank
    as are served, and what the capacities and rows are worth. The service's own value is no part of it.
    """
    tried = [Multipliers(prices=np.zeros((instance.m, instance.r)), limit_prices=None)]
    multipliers = multipliers_of(instance, claim)
    if multipliers is not None and claim.prices is not None:
        tried.append(multipliers)
        in_score: Multipliers | None = None
        if claim.score_prices is not None:
            alone = replace(claim, prices=claim.score_prices, limit_prices=claim.score_limit_prices)
            in_score = multipliers_of(instance, alone)
        elif claim.limit_prices is None or instance.limits is None:
            in_score = replace(multipliers, prices=score_prices(instance, multipliers.prices))
        if in_score is not None:
            tried.append(in_score)
    rank = np.zeros(instance.n, np.int64) if instance.rank is None else instance.rank
    served = np.bincount(rank[terms.served], minlength=int(rank.max()) + 1)
    bounds = [_fixed_service_bound(instance, rank, served, given, threads) for given in tried]
    return max(0.0, min(bounds) - terms.objective)


def _fixed_service_bound(
    instance: Instance,
    rank: NDArray[np.int64],
    served: NDArray[np.int64],
    multipliers: Multipliers,
    threads: int,
) -> float:
    """Return the bound at some multipliers for plans that serve so many agents of each rank."""
    prices, limit_prices = multipliers.prices, multipliers.limit_prices
    if isinstance(instance.score, CompressedScores):
        _, best = instance.score.best(np.where(instance.capacity[:, 0] < 1, np.inf, prices[:, 0]))
    else:
        best = np.empty(instance.n)

        def fill(parts: list[slice]) -> None:
            for rows, value in reduced_blocks(instance, parts, prices, limit_prices):
                best[rows] = row_maxima(value)

        map_blocks(fill, instance.n, instance.m, threads)
    order = np.lexsort((-best, rank))
    first = np.searchsorted(rank[order], np.arange(len(served)))
    place = np.arange(instance.n) - first[rank[order]]
    total = float(best[order[place < served[rank[order]]]].sum())
    if limit_prices is not None and instance.limits is not None:
        total += float(limit_prices @ attainable_bounds(instance))
    if instance.load_cost is not None:
        model, cost, slots = instance.tiers
        return total + float((slots * np.maximum(prices[model, 0] - cost, 0.0)).sum())
    return total + float(np.vdot(prices, instance.capacity))


def _forgone_in_blocks(
    instance: Instance, choice: NDArray[np.int64], multipliers: Multipliers, threads: int, *, may_leave: bool
) -> float:
    """Return what all agents forgo against their best at some multipliers, groups that move together taken as one."""
    groups = () if instance.limits is None else instance.limits.together
    single = None
    if groups:
        single = np.ones(instance.n, bool)
        single[np.concatenate(groups)] = False

    def forgone(parts: list[slice]) -> float:
        total = 0.0
        for rows, value in reduced_blocks(instance, parts, multipliers.prices, multipliers.limit_prices):
            unserved = instance.unserved[rows] if may_leave else None
            short = _shortfall(value, choice[rows], unserved)
            total += float(short.sum() if single is None else short[single[rows]].sum())
        return total

    total = sum(map_blocks(forgone, instance.n, instance.m, threads))
    for group in groups:
        value = reduced_scores(instance, group, multipliers.prices, limit_prices=multipliers.limit_prices)
        value = value.sum(axis=0, keepdims=True)
        asked = len(group) if instance.demand is None else instance.demand[group].sum(axis=0)
        value[0, (asked > instance.capacity * (1 + EXCESS_TOLERANCE)).any(axis=1)] = -np.inf
        unserved = instance.unserved[group].sum(keepdims=True) if may_leave else None
        total += float(_shortfall(value, choice[group[:1]], unserved).sum())
    return total


def _forgone_against(
    response: BestResponse, instance: Instance, terms: AssignmentTerms, *, may_leave: bool
) -> float:
    """Return what all agents forgo against their known best models. O(n)."""
    if may_leave:
        return _forgone(instance, terms, response.prices, response.value, may_leave=True)
    # All agents are served then, and an agent that has its best model forgoes exactly nothing.
    moved = np.flatnonzero(terms.choice != response.model)
    best = response.score[moved] - response.prices[response.model[moved]]
    return float((best - (terms.own[moved] - response.prices[terms.choice[moved]])).sum())


def _forgone(
    instance: Instance,
    terms: AssignmentTerms,
    prices: NDArray[np.float64],
    best: NDArray[np.float64],
    *,
    may_leave: bool,
) -> float:
    """Return what all agents forgo, given the best reduced score of each. O(n)."""
    earned = np.array(instance.unserved, np.float64)
    earned[terms.served] = terms.own - prices[terms.choice[terms.served]]
    return float(((np.maximum(best, instance.unserved) if may_leave else best) - earned).sum())


def _shortfall(
    value: NDArray[np.float64], pick: NDArray[np.int64], unserved: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return by how much each row's choice falls short of its best, in reduced score."""
    flat, first = value.ravel(), np.arange(0, value.size, value.shape[1])
    best: NDArray[np.float64] = np.maximum.reduceat(flat, first)
    if unserved is None:  # all agents are served, then
        short: NDArray[np.float64] = best - flat[first + pick]
        return short
    own = np.where(pick == UNASSIGNED, unserved, flat[first + np.maximum(pick, 0)])
    short = np.maximum(best, unserved)
    short -= own
    return short


def _tier_slack(instance: Instance, load: NDArray[np.float64], price: NDArray[np.float64]) -> float:
    """Return what all tiers of slots are worth at these prices, less what their use earns."""
    model, cost, slots = instance.tiers
    end = np.cumsum(slots)
    first = np.flatnonzero(np.diff(model, prepend=-1))
    before = end - slots - np.repeat((end - slots)[first], np.diff(np.append(first, len(model))))
    used = np.clip(load[model] - before, 0, slots)
    margin = price[model] - cost
    # Products of differences: exactly zero where a load is where its price would have it.
    return float((np.maximum(margin, 0.0) * (slots - used) + np.maximum(-margin, 0.0) * used).sum())

"""The judge: recomputes objective, loads, feasibility and bound of a claim from the Instance alone.

Weak Lagrangian duality makes the bound valid for any prices ``p >= 0``, wherever they came from:

    bound(p, u) = Σ_i max( max_j (score_ij − Σ_k p_jk demand_ijk − Σ_g u_g a_gij), unserved_i )
                  + Σ_jk p_jk capacity_jk + Σ_g u_g b_g

with ``Σ_t slots_t max(p_j(t) − cost_t, 0)`` for the sum over capacities where slots cost by tiers, and
with one more multiplier ``u_g >= 0`` for every limit row ``Σ a_g <= b_g``, at most the price of a violation where
the row is soft. Pairs that ask for more than their
model has when empty are left out, agents that must share a model are taken as one, and where every score
is a whole number the bound is rounded down to one.

The gap is summed as complementary-slackness terms, each of them >= 0, rather than as the difference of two
large numbers. Everything is float64, whatever the precision of the scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines import kernels
from solver.engines.attainable_bounds import attainable_bounds
from solver.engines.network_terms import claimed_flow, network_slack, network_terms, unserved_agents
from solver.errors import Violation, ViolationKind
from solver.problem.blocks import chunks, map_blocks, priced_blocks, row_maxima
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from solver.engines.base import Claim

__all__ = [
    "OPTIMALITY_TOLERANCE",
    "Certificate",
    "best_response",
    "certify",
    "reduced_scores",
    "relative_gap",
    "verification_seconds",
]

OPTIMALITY_TOLERANCE = 1e-9
"""Largest relative gap that is called optimal."""

_ROUNDING = 1e-13  # of the sum of absolute values: below this, a gap is float64 noise
_SECONDS_PER_TERM, _SECONDS_PER_AGENT, _OVERHEAD_S = 3e-9, 5e-8, 2e-4  # of a pass over all pairs, generously
_LAYER_TERMS = 3  # looking up the price of a limit row takes as long as so many subtractions
_OVERLOAD = 1e-9  # relative, for resources measured in real numbers; slots are counted exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is proven about an assignment.

    Parameters
    ----------
    objective : float
        Recomputed objective.
    bound : float
        No feasible assignment (in serve-first mode: none that serves as well) exceeds it; ``inf`` if unknown.
    load : (m, r) float64
        Units used.
    limit_load : (g,) float64
        Left-hand sides of the limit rows.
    violations : tuple of Violation
        Every constraint broken; empty for a feasible assignment.
    optimal : bool
        Feasible, and the gap is within :data:`OPTIMALITY_TOLERANCE` or float64 rounding.
    bound_is_claimed : bool
        The bound was vouched for by an engine, not recomputed from prices.
    """

    objective: float
    bound: float
    load: NDArray[np.float64]
    violations: tuple[Violation, ...]
    optimal: bool
    bound_is_claimed: bool = False
    limit_load: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def gap(self) -> float:
        """Relative distance from objective to bound, >= 0."""
        return relative_gap(self.objective, self.bound)


def relative_gap(objective: float, bound: float) -> float:
    """Return ``(bound − objective) / max(|objective|, |bound|)``, 0 when they are equal, never negative."""
    if bound <= objective:
        return 0.0
    if math.isinf(bound):
        return math.inf
    return (bound - objective) / max(abs(objective), abs(bound))


def certify(instance: Instance, claim: Claim, *, threads: int = 1, quick: bool = False) -> Certificate:
    """Verify a claim. O(n m r) time in one pass, O(n) memory beyond the input.

    Parameters
    ----------
    instance : Instance
        The problem.
    claim : Claim
        What an engine says.
    threads : int
        Threads that share the pass.
    quick : bool
        Take the largest score there is for everybody's best instead of a pass over all pairs: O(n), and a much
        looser bound, for when no time is left.

    Returns
    -------
    Certificate
    """
    violations = _malformed(instance, claim.choice)
    if violations:
        nothing = np.zeros((instance.m, instance.r))
        return Certificate(
            objective=-math.inf, bound=math.inf, load=nothing, violations=violations, optimal=False
        )
    if instance.network is not None:
        flow = claimed_flow(claim)
        terms = network_terms(instance, instance.network, flow)
        slack = math.inf
        multipliers = None if terms.violations else _multipliers(instance, claim)
        if multipliers is not None:
            slack = network_slack(instance, instance.network, flow, terms, multipliers[0][:, 0], threads)
        load = terms.load[:, None].astype(np.float64)
        return _concluded(
            instance,
            claim,
            objective=terms.objective,
            slack=slack,
            scale=terms.scale,
            load=load,
            violations=terms.violations,
            limit_load=np.zeros(0),
        )
    choice = claim.choice
    load = instance.usage(choice)
    served = np.flatnonzero(choice != UNASSIGNED)
    if not quick:
        _respond_compiled(instance, claim, threads)
    own = _own_scores(instance, choice, served)
    violations = _broken(instance, choice, load, own, served)
    everyone = len(served) == instance.n
    left_value = np.zeros(0) if everyone else instance.unserved[choice == UNASSIGNED]
    objective = float(own.sum())
    if instance.load_cost is not None:
        objective -= float(instance.load_charge(load[:, 0]).sum())
    if not instance.serve_first:
        objective += float(left_value.sum())
    limit_load = np.zeros(0) if instance.limits is None else instance.limits.usage(choice)
    objective -= _violation_charge(instance, limit_load)
    violations += _broken_limits(instance, choice, limit_load)
    if violations:
        slack = math.inf
    elif quick:
        slack = _quick_slack(instance, choice, own)
    else:
        slack = _slack(instance, choice, own, load, limit_load, claim, threads)
    scale = float(np.abs(own).sum()) + (0.0 if everyone else float(np.abs(left_value).sum()))
    if instance.serve_first and not everyone and not violations and not quick:
        weighted = slack > _ROUNDING * scale or not instance.is_slots
        if weighted:  # else the weighted problem is solved, and its bound is that of the score
            slack = _fixed_service_slack(instance, choice, objective, claim, threads)
            most = claim.serves_most or len(served) == _servable(instance)
            certificate = _concluded(
                instance,
                claim,
                objective=objective,
                slack=slack,
                scale=float(np.abs(own).sum()),
                load=load,
                violations=violations,
                limit_load=limit_load,
            )
            claimed = certificate.bound_is_claimed or len(served) < _servable(instance)
            if not most:
                return replace(certificate, optimal=False)
            return replace(certificate, bound_is_claimed=claimed)
    certificate = _concluded(
        instance,
        claim,
        objective=objective,
        slack=slack,
        scale=scale,
        load=load,
        violations=violations,
        limit_load=limit_load,
        quick=quick,
    )
    # A look without a pass over all pairs does not see whether more could be served.
    unsure = quick and instance.serve_first and not everyone
    return replace(certificate, optimal=False) if unsure else certificate


def _concluded(
    instance: Instance,
    claim: Claim,
    *,
    objective: float,
    slack: float,
    scale: float,
    load: NDArray[np.float64],
    violations: tuple[Violation, ...],
    limit_load: NDArray[np.float64],
    quick: bool = False,
) -> Certificate:
    """Return the certificate of a recomputed objective and its distance to the bound."""
    rounding = _ROUNDING * scale if math.isfinite(scale) else 0.0
    bound = objective + slack
    if slack > rounding and not quick:
        bound = _whole(instance, bound, scale)
    claimed = claim.bound is not None and claim.bound < bound
    if claimed and claim.bound is not None:
        bound = claim.bound
    tight = bound - objective <= max(
        OPTIMALITY_TOLERANCE * max(abs(objective), abs(bound)) if math.isfinite(bound) else 0.0,
        rounding,
    )
    if not tight and bound - objective <= OPTIMALITY_TOLERANCE * (1.0 + scale):
        # Where scores cancel, or nobody is served, rounding is still that of single scores.
        tight = bound - objective <= _ROUNDING * max(map(abs, instance.score_range))
    return Certificate(
        objective=objective,
        bound=bound,
        load=load,
        violations=violations,
        optimal=tight and not violations,
        bound_is_claimed=claimed,
        limit_load=limit_load,
    )


def _malformed(instance: Instance, choice: NDArray[np.int64]) -> tuple[Violation, ...]:
    if choice.shape != (instance.n,) or choice.dtype != np.int64:
        shown = f"{choice.dtype} of shape {choice.shape}"
        rule = f"expected int64 of shape ({instance.n},)"
        return (Violation("choice", rule, shown=shown, kind=ViolationKind.TYPE),)
    if choice.min() >= UNASSIGNED and choice.max() < instance.m:
        return ()
    wrong = np.flatnonzero((choice < UNASSIGNED) | (choice >= instance.m))
    rule = f"expected -1 to {instance.m - 1}"
    return tuple(Violation(f"choice[{i}]", rule, choice[i], position=(int(i),)) for i in wrong)


def _broken(
    instance: Instance,
    choice: NDArray[np.int64],
    load: NDArray[np.float64],
    own: NDArray[np.float64],
    served: NDArray[np.intp],
) -> tuple[Violation, ...]:
    broken = []
    if not own.min(initial=np.inf) > -np.inf:
        broken += [
            Violation(
                f"choice[{i}]",
                f"agent {i} is not eligible for model {choice[i]}",
                kind=ViolationKind.NOT_ELIGIBLE,
                position=(i, int(choice[i])),
            )
            for i in served[~np.isfinite(own)].tolist()
        ]
    room = instance.capacity if instance.demand is None else instance.capacity * (1 + _OVERLOAD) + 1e-12
    over = load > room
    if over.any():
        broken += [
            Violation(
                f"load[{j}, {k}]",
                f"expected <= {instance.capacity[j, k]:g}",
                float(load[j, k]),
                shown=f"{load[j, k]:g}",
                kind=ViolationKind.OVER_CAPACITY,
                position=(j, k),
            )
            for j, k in np.argwhere(over).tolist()
        ]
    if instance.penalty is not None:
        broken += unserved_agents((choice == UNASSIGNED) & np.isposinf(instance.penalty))
    return tuple(broken)


def _broken_limits(
    instance: Instance, choice: NDArray[np.int64], limit_load: NDArray[np.float64]
) -> tuple[Violation, ...]:
    limits = instance.limits
    if limits is None:
        return ()
    room = np.where(limits.hard, limits.bound + _OVERLOAD * limits.magnitude(choice), np.inf)
    broken = [
        Violation(
            f"limit {limits.names[g]}",
            f"expected <= {limits.bound[g]:g}",
            float(limit_load[g]),
            shown=f"{limit_load[g]:g}",
            kind=ViolationKind.LIMIT,
            position=(g,),
        )
        for g in np.flatnonzero(limit_load > room).tolist()
    ]
    broken += [
        Violation(
            f"limit {name}",
            f"expected one model for agents {group.tolist()[:5]}",
            np.unique(choice[group]).tolist(),
            kind=ViolationKind.TOGETHER,
            position=tuple(group.tolist()),
        )
        for name, group in zip(limits.together_names, limits.together, strict=True)
        if (choice[group] != choice[group[0]]).any()
    ]
    return tuple(broken)


def _whole(instance: Instance, bound: float, scale: float) -> float:
    """Round a bound down to a whole number where no objective can be anything else."""
    soft = instance.limits is not None and instance.limits.is_soft
    if not math.isfinite(bound) or instance.load_cost is not None or soft:
        return bound
    noise = 1e-9 * max(1.0, abs(bound)) + _ROUNDING * scale
    if noise > 0.01 or not instance.is_integral:
        return bound
    penalty = instance.penalty
    if penalty is not None and (np.floor(penalty) != penalty)[np.isfinite(penalty)].any():
        return bound
    if instance.network is not None and (np.floor(cost := instance.network.opening_cost) != cost).any():
        return bound
    return float(math.floor(bound + noise))


def _multipliers(
    instance: Instance, claim: Claim
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None] | None:
    """Return the claim's multipliers, zeros where it has none, or None if they prove nothing."""
    prices = np.zeros((instance.m, instance.r)) if claim.prices is None else claim.prices
    # A price below zero is that of a floor; where there is none it proves what it proves, a looser bound.
    least = 0.0 if instance.network is None else -np.inf
    if prices.shape != (instance.m, instance.r) or not np.isfinite(prices).all() or prices.min() < least:
        return None
    if instance.limits is None or claim.limit_prices is None:
        return prices, None
    limit_prices = claim.limit_prices
    if (
        limit_prices.shape != (instance.limits.count,)
        or not (np.isfinite(limit_prices) & (limit_prices >= 0)).all()
    ):
        return None
    if instance.limits.violation_price is not None:  # nobody pays more than breaking the limit costs
        limit_prices = np.minimum(limit_prices, instance.limits.violation_price)
    return prices, limit_prices


def _violation_charge(instance: Instance, limit_load: NDArray[np.float64]) -> float:
    """Return what exceeding soft limits takes off the objective."""
    return 0.0 if instance.limits is None else float(instance.limits.violation_charges(limit_load).sum())


def _servable(instance: Instance) -> int:
    """Return how many agents some empty model could take, each by itself."""
    if isinstance(instance.score, CompressedScores):
        return instance.n
    able = 0
    for rows in chunks(instance.n, instance.m):
        fits = np.isfinite(instance.score[rows])
        if instance.has_oversized:
            fits = fits & ~instance.oversized(rows)
        able += int(fits.any(axis=1).sum())
    return able


def _fixed_service_slack(
    instance: Instance, choice: NDArray[np.int64], objective: float, claim: Claim, threads: int
) -> float:
    """Return how far the score is from a bound for all plans that serve as many agents of every rank.

    At any multipliers >= 0 such a plan has at most the sum of the largest reduced scores, as many of each rank
    as are served, and what the capacities and rows are worth. The service's own value is no part of it.
    """
    slots = claim.limit_prices is None or instance.limits is None
    zeros = np.zeros((instance.m, instance.r))
    tried: list[tuple[NDArray[np.float64], NDArray[np.float64] | None]] = [(zeros, None)]
    multipliers = _multipliers(instance, claim)
    if multipliers is not None and claim.prices is not None:
        tried.append(multipliers)
        if claim.score_prices is not None:
            alone = replace(claim, prices=claim.score_prices, limit_prices=claim.score_limit_prices)
            given = _multipliers(instance, alone)
        else:
            given = (instance.score_prices(multipliers[0]), multipliers[1]) if slots else None
        if given is not None:
            tried.append(given)
    rank = np.zeros(instance.n, np.int64) if instance.rank is None else instance.rank
    served = np.bincount(rank[choice != UNASSIGNED], minlength=int(rank.max()) + 1)
    bounds = [_best_of_each_rank(instance, rank, served, *prices, threads) for prices in tried]
    return max(0.0, min(bounds) - objective)


def _best_of_each_rank(
    instance: Instance,
    rank: NDArray[np.int64],
    served: NDArray[np.int64],
    prices: NDArray[np.float64],
    limit_prices: NDArray[np.float64] | None,
    threads: int,
) -> float:
    """Return the bound at some multipliers for plans that serve so many agents of each rank."""
    if isinstance(instance.score, CompressedScores):
        _, best = instance.score.best(np.where(instance.capacity[:, 0] < 1, np.inf, prices[:, 0]))
    else:
        best = np.empty(instance.n)

        def fill(lane: list[slice]) -> None:
            for rows, value in _reduced_blocks(instance, lane, prices, limit_prices):
                if instance.has_oversized:
                    value[instance.oversized(rows)] = -np.inf
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


def _slack(
    instance: Instance,
    choice: NDArray[np.int64],
    own: NDArray[np.float64],
    load: NDArray[np.float64],
    limit_load: NDArray[np.float64],
    claim: Claim,
    threads: int,
) -> float:
    """Return bound(prices) − objective as a sum of complementary-slackness terms."""
    multipliers = _multipliers(instance, claim)
    if multipliers is None:
        return math.inf
    prices, limit_prices = multipliers
    # In serve-first mode a full service can only be compared with full services: leaving is no option then.
    may_leave = not (instance.serve_first and choice.min() >= 0)
    tied = None
    if instance.limits is not None and instance.limits.together:
        tied = np.zeros(instance.n, bool)
        tied[np.concatenate(instance.limits.together)] = True

    def misjudged(lane: list[slice]) -> float:
        """Sum what the agents of some blocks forgo."""
        total = 0.0
        for rows, value in _reduced_blocks(instance, lane, prices, limit_prices):
            if instance.has_oversized:
                value[instance.oversized(rows)] = -np.inf
            unserved = instance.unserved[rows] if may_leave else None
            short = _shortfall(value, choice[rows], unserved)
            total += float(short.sum() if tied is None else short[~tied[rows]].sum())
        return total

    seen: _Response | None = vars(instance).get(_RESPONSE)
    if seen is not None and instance.limits is None and np.array_equal(seen.prices, prices[:, 0]):
        total = _forgone_by_memory(instance, choice, own, seen, may_leave=may_leave)
    elif isinstance(instance.score, CompressedScores):
        _, best = instance.score.best(np.where(instance.capacity[:, 0] < 1, np.inf, prices[:, 0]))
        total = _forgone(instance, choice, own, prices[:, 0], best, may_leave=may_leave)
    else:
        total = sum(map_blocks(misjudged, instance.n, instance.m, threads))
    if tied is not None and instance.limits is not None:
        for group in instance.limits.together:
            value = reduced_scores(instance, group, prices, limit_prices=limit_prices)
            value = value.sum(axis=0, keepdims=True)
            asked = len(group) if instance.demand is None else instance.demand[group].sum(axis=0)
            value[0, (asked > instance.capacity * (1 + _OVERLOAD)).any(axis=1)] = -np.inf
            unserved = instance.unserved[group].sum(keepdims=True) if may_leave else None
            total += float(_shortfall(value, choice[group[:1]], unserved).sum())
    if limit_prices is not None and instance.limits is not None:
        total += float(limit_prices @ (attainable_bounds(instance) - limit_load))
    total += _violation_charge(instance, limit_load)
    if instance.load_cost is not None:
        return total + _tier_slack(instance, load[:, 0], prices[:, 0])
    return total + float(np.vdot(prices, instance.capacity - load))


def _quick_slack(instance: Instance, choice: NDArray[np.int64], own: NDArray[np.float64]) -> float:
    """Return how far the objective is from everybody having the largest score there is, free of charge. O(n).

    Where service comes first, from as many as are served having it.
    """
    # A load cost only takes away: a bound without it holds.
    paid = (
        0.0 if instance.load_cost is None else float(instance.load_charge(instance.usage(choice)[:, 0]).sum())
    )
    if instance.limits is not None and instance.limits.is_soft:
        paid += _violation_charge(instance, instance.limits.usage(choice))
    if instance.serve_first:
        return float((instance.highest - own).sum()) + paid
    best = np.maximum(instance.highest, instance.unserved)
    earned = np.array(instance.unserved, np.float64)
    earned[choice != UNASSIGNED] = own
    return float((best - earned).sum()) + paid


def verification_seconds(instance: Instance, claim: Claim | None = None) -> float:
    """Return about how long :func:`certify` takes; less where everybody's best at the claim's prices is known."""
    seen: _Response | None = vars(instance).get(_RESPONSE)
    prices = (
        None if claim is None or claim.prices is None or instance.limits is not None else claim.prices[:, 0]
    )
    if seen is not None and prices is not None and np.array_equal(seen.prices, prices):
        return 0.0  # as long as without a bound
    score = instance.score
    pairs = len(score.data) if isinstance(score, CompressedScores) else instance.n * instance.m
    terms = 1 + (0 if instance.demand is None else instance.r)
    if instance.limits is not None:
        terms += _LAYER_TERMS * len(instance.limits.layers)
    return pairs * terms * _SECONDS_PER_TERM + instance.n * _SECONDS_PER_AGENT + _OVERHEAD_S


@dataclass(frozen=True, slots=True)
class _Response:
    """What all agents of a slot instance would like best at some prices, as this module found it."""

    prices: NDArray[np.float64]
    model: NDArray[Any]
    score: NDArray[np.float64]


# Pairs up to which the certificate's pass is numpy's: the judge of the compiled transport shares no code with it.
_NUMPY_PAIRS = 2_000_000

# Where an instance remembers the last one: a pass over large scores is a deadline's worth.
_RESPONSE = "_best_response"


def best_response(
    instance: Instance, prices: NDArray[np.float64], *, threads: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return every agent's best model at some prices, in one pass that a certificate at the same prices is spared.

    Parameters
    ----------
    instance : Instance
        With slots.
    prices : (m,) float64
        Shadow prices.
    threads : int
        Threads that share the pass.

    Returns
    -------
    model : (n,) int64
        Staying unassigned is not considered.
    value : (n,) float64
        Score less price there.
    """
    if isinstance(instance.score, CompressedScores):
        model, value = instance.score.best(prices)
        own = instance.score[np.arange(instance.n), model].astype(np.float64)
        vars(instance)[_RESPONSE] = _Response(prices.copy(), model.copy(), own)
        return model, value
    model = np.empty(instance.n, np.int64)
    score = np.empty(instance.n)
    matrix = instance.score

    def respond(lane: list[slice]) -> None:
        if kernels.available():
            kernels.best_models(matrix, prices, slice(lane[0].start, lane[-1].stop), model, score)
            return
        for rows, net in priced_blocks(matrix, prices, lane):
            top = net.argmax(axis=1, out=model[rows])
            score[rows] = matrix[rows].ravel()[np.arange(len(net)) * instance.m + top]

    map_blocks(respond, instance.n, instance.m, threads)
    narrow = model.astype(np.min_scalar_type(instance.m))
    vars(instance)[_RESPONSE] = _Response(prices.copy(), narrow, score)
    return model, score - prices[model]


def _respond_compiled(instance: Instance, claim: Claim, threads: int) -> None:
    """Find everyone's best at the claim's prices in a compiled pass, where that is right and a pass is long."""
    if instance.n * instance.m <= _NUMPY_PAIRS or not (instance.is_slots and kernels.available()):
        return
    multipliers = None if isinstance(instance.score, CompressedScores) else _multipliers(instance, claim)
    if multipliers is None or instance.has_oversized:
        return
    prices = multipliers[0][:, 0]
    seen: _Response | None = vars(instance).get(_RESPONSE)
    if seen is None or not np.array_equal(seen.prices, prices):
        best_response(instance, prices, threads=threads)


def _own_scores(
    instance: Instance, choice: NDArray[np.int64], served: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the scores of the served: from memory where they have what they were found to like best."""
    seen: _Response | None = vars(instance).get(_RESPONSE)
    if seen is None:
        return instance.scores_of(served, choice[served])
    own = seen.score[served]
    moved = np.flatnonzero(choice[served] != seen.model[served])
    own[moved] = instance.scores_of(served[moved], choice[served[moved]])
    return own


def _forgone_by_memory(
    instance: Instance,
    choice: NDArray[np.int64],
    own: NDArray[np.float64],
    seen: _Response,
    *,
    may_leave: bool,
) -> float:
    """Return what all agents forgo at prices their best models are known for, given the scores of the served. O(n)."""
    if not may_leave:  # then everyone is served, and who has what they like best forgoes exactly nothing
        moved = np.flatnonzero(choice != seen.model)
        best = seen.score[moved] - seen.prices[seen.model[moved]]
        return float((best - (own[moved] - seen.prices[choice[moved]])).sum())
    best = seen.score - seen.prices[seen.model]
    return _forgone(instance, choice, own, seen.prices, best, may_leave=True)


def _forgone(
    instance: Instance,
    choice: NDArray[np.int64],
    own: NDArray[np.float64],
    prices: NDArray[np.float64],
    best: NDArray[np.float64],
    *,
    may_leave: bool,
) -> float:
    """Return what all agents forgo, given the scores of the served and the best of all, less prices. O(n)."""
    served = choice != UNASSIGNED
    earned = instance.unserved.copy()
    earned[served] = own - prices[choice[served]]
    return float(((np.maximum(best, instance.unserved) if may_leave else best) - earned).sum())


def _reduced_blocks(
    instance: Instance,
    parts: list[slice],
    prices: NDArray[np.float64],
    limit_prices: NDArray[np.float64] | None,
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield blocks of rows with their reduced scores, in one buffer: fresh pages cost as much as sums."""
    if instance.demand is None and limit_prices is None:
        yield from priced_blocks(instance.score, prices[:, 0], parts)
        return
    buffer = np.empty((parts[0].stop - parts[0].start, instance.m))
    for rows in parts:
        out = buffer[: rows.stop - rows.start]
        yield rows, reduced_scores(instance, rows, prices, limit_prices=limit_prices, out=out)


def _shortfall(
    value: NDArray[np.float64], pick: NDArray[np.int64], unserved: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return what each row's choice falls short of its best, by reduced value."""
    flat, first = value.ravel(), np.arange(len(value)) * value.shape[1]
    own = flat[first + np.maximum(pick, 0)]
    if unserved is not None:
        own = np.where(pick == UNASSIGNED, unserved, own)
    best = row_maxima(value)
    if unserved is not None:
        best = np.maximum(best, unserved)
    short: NDArray[np.float64] = best - own
    return short


def _tier_slack(instance: Instance, load: NDArray[np.float64], price: NDArray[np.float64]) -> float:
    """Return what the models would earn at these prices less what they do: slots of each tier they misjudge."""
    model, cost, slots = instance.tiers
    end = np.cumsum(slots)
    first = np.flatnonzero(np.diff(model, prepend=-1))
    before = end - slots - np.repeat((end - slots)[first], np.diff(np.append(first, len(model))))
    used = np.clip(load[model] - before, 0, slots)
    margin = price[model] - cost
    return float((slots * np.maximum(margin, 0.0) - used * margin).sum())


def reduced_scores(
    instance: Instance,
    rows: slice | NDArray[np.int64],
    prices: NDArray[np.float64],
    *,
    limit_prices: NDArray[np.float64] | None = None,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return ``score − price·demand − limit price·coefficient`` of some rows, in ``out`` if given."""
    value: NDArray[np.float64]
    if instance.demand is None:
        value = np.subtract(instance.score[rows], prices[:, 0], out=out, dtype=np.float64)
    else:
        score = instance.score[rows]
        value = np.empty(score.shape) if out is None else out
        value[...] = score
        for k in range(instance.r):
            value -= instance.demand[rows, :, k] * prices[:, k]
    if limit_prices is not None and instance.limits is not None and instance.limits.layers:
        value -= instance.limits.charge(rows, limit_prices)
    return value

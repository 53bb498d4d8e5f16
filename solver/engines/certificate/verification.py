"""Verifies one claim of an engine and returns its certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines import kernels
from solver.engines.certificate.feasibility import broken_constraints, broken_limits, malformed_choice
from solver.engines.certificate.responses import BestResponse, best_response
from solver.engines.certificate.slack import (
    AssignmentTerms,
    duality_slack,
    fixed_service_slack,
    full_service_proof,
    multipliers_of,
    quick_slack,
    violation_charge,
)
from solver.engines.network_terms import (
    claimed_flow,
    most_score,
    network_slack,
    network_terms,
    quick_network_slack,
)
from solver.problem.blocks import chunks
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores
from solver.problem.tolerances import GAP_ROUNDING, OPTIMALITY_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.base import Claim
    from solver.engines.network_terms import NetworkTerms
    from solver.errors import Violation
    from solver.problem.network import NetworkShape

_WHOLE_NOISE = 0.01
"""Rounding error of a bound above which it is not rounded down to a whole number."""

_VERIFY_S_PER_TERM = 3e-9
"""Upper estimate of the seconds of a certificate, per pair and term."""

_VERIFY_S_PER_AGENT = 5e-8
"""Upper estimate of the seconds of a certificate, per agent."""

_VERIFY_OVERHEAD_S = 2e-4
"""Upper estimate of the seconds of a certificate, for the call itself."""

_SECONDS_PER_RANKED, _SETS_OF_PRICES = 2.5e-7, 3
"""Seconds to sort an agent by rank, and how often that is done, in serve-first mode with agents left out."""

_LAYER_TERMS = 3
"""Terms that a layer of limit rows counts for: looking up the price of a row takes as long as three subtractions."""

_PROVEN_AT_ONCE_PAIRS = 1 << 18
"""Pairs up to which asking first whether prices prove everybody's service is little beside the rest."""

_NO_TERMS = np.zeros(0)

_NUMPY_PAIRS = 2_000_000
"""Pairs up to which the pass is numpy's, so that the verification of the compiled engine shares no code with it."""


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
        Feasible, and the gap is within :data:`~solver.problem.tolerances.OPTIMALITY_TOLERANCE` or float64 rounding.
    bound_is_claimed : bool
        The bound was asserted by an engine, not recomputed from prices.
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
        Take the largest of all scores as the best of every agent instead of a pass over all pairs: O(n), and a
        much looser bound, for when no time is left.

    Returns
    -------
    Certificate
    """
    proven = _proven_at_once(instance, claim)
    if proven is not None:
        return proven
    broken = malformed_choice(instance, claim.choice)
    if broken:
        nothing = np.zeros((instance.m, instance.r))
        return Certificate(
            objective=-math.inf, bound=math.inf, load=nothing, violations=broken, optimal=False
        )
    if instance.network is not None:
        return _certify_flow(instance, instance.network, claim, threads, quick=quick)
    response = _known_response(instance, claim, None if quick else threads)
    terms = _assignment_terms(instance, claim.choice, response)
    service_is_open = instance.serve_first and bool(len(terms.left_value))
    if terms.violations:
        slack = math.inf
    elif quick:
        slack = quick_slack(instance, terms)
    else:
        slack = duality_slack(instance, terms, multipliers_of(instance, claim), response, threads)
        # With no slack the weighted problem is solved, and its bound is that of the score.
        if service_is_open and (slack > GAP_ROUNDING * terms.magnitude or not instance.is_slots):
            return _certify_fixed_service(instance, claim, terms, threads)
    certificate = _concluded(instance, claim, terms, slack, terms.magnitude, quick=quick)
    # Without a pass over all pairs nothing shows whether more agents could be served.
    return replace(certificate, optimal=False) if quick and service_is_open else certificate


def _proven_at_once(instance: Instance, claim: Claim) -> Certificate | None:
    """Return the certificate of a small instance of plain slots where it proves that everyone is served best."""
    if not instance.is_slots or not instance.serve_first or instance.load_cost is not None:
        return None
    if (
        claim.prices is None
        or claim.prices.shape != (instance.m, 1)
        or instance.n * instance.m > _PROVEN_AT_ONCE_PAIRS
    ):
        return None
    if isinstance(instance.score, CompressedScores) or instance.forbids:
        return None
    proof = full_service_proof(instance.score, instance.capacity[:, 0], claim.choice, claim.prices[:, 0])
    if proof is None:
        return None
    bound = proof.objective + proof.slack
    load = proof.load.reshape(-1, 1)
    return Certificate(objective=proof.objective, bound=bound, load=load, violations=(), optimal=True)


def verification_seconds(instance: Instance, claim: Claim | None = None, *, leaves: bool = False) -> float:
    """Return about how long :func:`certify` takes; 0 where the claim carries every agent's best at its prices.

    ``leaves`` says of a claim that is still to come that it will leave agents out.
    """
    if claim is not None and claim.response is not None and claim.prices is not None:
        known = claim.response.fits(instance) and claim.response.is_at(claim.prices[:, 0])
        if known and instance.limits is None:
            return 0.0  # as long as without a bound
    score = instance.score
    pairs = len(score.data) if isinstance(score, CompressedScores) else instance.n * instance.m
    terms = 1 + (0 if instance.demand is None else instance.r) + (instance.network is not None)
    if instance.limits is not None:
        terms += _LAYER_TERMS * len(instance.limits.layers)
    seconds = pairs * terms * _VERIFY_S_PER_TERM + instance.n * _VERIFY_S_PER_AGENT + _VERIFY_OVERHEAD_S
    leaves = leaves or (claim is not None and claim.choice.min(initial=0) < 0)
    if instance.serve_first and leaves:
        # Who could be served at all, and the best of every rank at three sets of prices.
        ranking_s = pairs * terms * _VERIFY_S_PER_TERM + instance.n * _SECONDS_PER_RANKED
        seconds += pairs * _VERIFY_S_PER_TERM + _SETS_OF_PRICES * ranking_s
    return seconds


def _certify_flow(
    instance: Instance, shape: NetworkShape, claim: Claim, threads: int, *, quick: bool
) -> Certificate:
    """Verify a claim about an instance with floors, copies or counts."""
    flow = claimed_flow(claim)
    terms = network_terms(instance, shape, flow)
    if quick and not terms.violations:
        slack = quick_network_slack(instance, shape, terms)
        return replace(_concluded(instance, claim, terms, slack, terms.scale, quick=True), optimal=False)
    slack = math.inf
    multipliers = None if terms.violations else multipliers_of(instance, claim)
    if multipliers is not None:
        slack = network_slack(instance, shape, flow, terms, multipliers.prices[:, 0], threads)
    certificate = _concluded(instance, claim, terms, slack, terms.scale)
    if terms.violations or certificate.optimal or isinstance(instance.score, CompressedScores):
        return certificate
    # Multipliers may hold the value of service, or of what floors ask for: no score is above what so many can have.
    most = most_score(instance, shape, int(flow.units.sum()))
    if not most < certificate.bound:
        return certificate
    capped = _concluded(instance, claim, terms, max(0.0, most - terms.objective), terms.scale)
    could_serve_more = instance.serve_first and bool(terms.left.any())
    return replace(capped, optimal=capped.optimal and not could_serve_more)


def _certify_fixed_service(
    instance: Instance, claim: Claim, terms: AssignmentTerms, threads: int
) -> Certificate:
    """Verify the score among plans that serve as many of every rank, and whether more could be served."""
    slack = fixed_service_slack(instance, terms, claim, threads)
    certificate = _concluded(instance, claim, terms, slack, terms.served_magnitude)
    servable = _servable(instance)
    if not (claim.serves_most or len(terms.served) == servable):
        return replace(certificate, optimal=False)
    claimed = certificate.bound_is_claimed or len(terms.served) < servable
    return replace(certificate, bound_is_claimed=claimed)


def _assignment_terms(
    instance: Instance, choice: NDArray[np.int64], response: BestResponse | None
) -> AssignmentTerms:
    """Recompute objective, loads and feasibility of a choice. O(n r)."""
    left = choice == UNASSIGNED
    everyone = not left.any()
    served = np.arange(instance.n) if everyone else np.flatnonzero(~left)
    load = instance.usage(choice, served)
    own = _own_scores(instance, choice, served, response)
    left_value = _NO_TERMS if everyone else instance.unserved[left]
    limit_load = limit_size = _NO_TERMS
    if instance.limits is not None:
        limit_load, limit_size = instance.limits.usage_and_magnitude(choice)
    objective = float(own.sum()) - violation_charge(instance, limit_load)
    if instance.load_cost is not None:
        objective -= float(instance.load_charge(load[:, 0]).sum())
    if not instance.serve_first:
        objective += float(left_value.sum())
    violations = broken_constraints(instance, choice, load, own, served)
    return AssignmentTerms(
        choice=choice,
        served=served,
        own=own,
        left_value=left_value,
        objective=objective,
        load=load,
        limit_load=limit_load,
        violations=violations + broken_limits(instance, choice, limit_load, limit_size),
    )


def _concluded(
    instance: Instance,
    claim: Claim,
    terms: AssignmentTerms | NetworkTerms,
    slack: float,
    scale: float,
    *,
    quick: bool = False,
) -> Certificate:
    """Return the certificate of a recomputed objective and its distance to the bound."""
    objective = terms.objective
    rounding = GAP_ROUNDING * scale if math.isfinite(scale) else 0.0
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
        # Where scores cancel, or no agent is served, rounding is still that of single terms.
        tight = bound - objective <= GAP_ROUNDING * _largest_term(instance)
    return Certificate(
        objective=objective,
        bound=bound,
        load=terms.load,
        violations=terms.violations,
        optimal=tight and not terms.violations,
        bound_is_claimed=claimed,
        limit_load=terms.limit_load,
    )


def _largest_term(instance: Instance) -> float:
    """Return the largest score, or charge of one agent on a limit that may be exceeded, in size."""
    largest = max(map(abs, instance.score_range))
    limits = instance.limits
    if limits is None or limits.violation_price is None:
        return largest
    price = np.append(
        np.where(limits.hard, 0.0, limits.violation_price), 0.0
    )  # NO_ROW indexes the last entry
    charges = (
        float((price[layer.row] * np.abs(layer.coefficient)).max(initial=0.0)) for layer in limits.layers
    )
    return max(largest, *charges)


def _whole(instance: Instance, bound: float, scale: float) -> float:
    """Round a bound down to a whole number where no objective can be anything else."""
    soft = instance.limits is not None and instance.limits.is_soft
    if not math.isfinite(bound) or instance.load_cost is not None or soft:
        return bound
    noise = OPTIMALITY_TOLERANCE * max(1.0, abs(bound)) + GAP_ROUNDING * scale
    if noise > _WHOLE_NOISE or not instance.is_integral:
        return bound
    penalty = instance.penalty
    if penalty is not None and (np.floor(penalty) != penalty)[np.isfinite(penalty)].any():
        return bound
    if instance.network is not None and (np.floor(cost := instance.network.opening_cost) != cost).any():
        return bound
    return float(math.floor(bound + noise))


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


def _known_response(instance: Instance, claim: Claim, threads: int | None) -> BestResponse | None:
    """Return every agent's best model: the claim's, or those of a compiled pass where it is right and worth its call.

    With ``threads`` None no pass is made.
    """
    given = claim.response if claim.response is not None and claim.response.fits(instance) else None
    compiled = instance.is_slots and kernels.available() and not isinstance(instance.score, CompressedScores)
    if threads is None or not compiled or instance.n * instance.m <= _NUMPY_PAIRS or instance.has_oversized:
        return given
    multipliers = multipliers_of(instance, claim)
    if multipliers is None or (given is not None and given.is_at(multipliers.prices[:, 0])):
        return given
    return best_response(instance, multipliers.prices[:, 0], threads=threads)


def _own_scores(
    instance: Instance, choice: NDArray[np.int64], served: NDArray[np.intp], response: BestResponse | None
) -> NDArray[np.float64]:
    """Return the scores of the agents served, looked up only where they do not have their best model."""
    if response is None:
        return instance.scores_of(served, choice if len(served) == instance.n else choice[served])
    if len(served) == instance.n:  # no copies in the order they are in already
        model, own, best = choice, response.score, response.model
    else:
        model, own, best = choice[served], response.score[served], response.model[served]
    moved = np.flatnonzero(model != best)
    if len(moved):
        own = own.copy()
        own[moved] = instance.scores_of(served[moved], model[moved])
    return own

"""What serving agent i by model j is worth, term by term, for all pairs in blocks that stay in cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation
from solver.problem.capability import capability_means, eligible_pairs, required_capabilities
from solver.problem.instance import chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.problem.spec import Model, Problem

__all__ = [
    "AdaptiveWeights",
    "Feedback",
    "PairScorer",
    "ScoreTerms",
    "adaptive_score",
    "capability_score",
    "load_weighted_score",
]

_ROUNDING = 1e-9  # a quality that misses a minimum by the last bits of its sum meets it


def capability_score(
    required: ArrayLike,
    preferred: ArrayLike,
    context: ArrayLike,
    *,
    required_weight: float = 0.70,
    preferred_weight: float = 0.20,
    context_weight: float = 0.10,
) -> NDArray[np.float64]:
    """Return how able a model is for an agent, 0 to 100 with the default weights.

    ``100 × (0.70·required + 0.20·preferred + 0.10·context)``

    Parameters
    ----------
    required, preferred : array_like, 0 to 1
        Mean strengths in the required and the preferred capabilities, 1 where there are none.
    context : array_like, 0 to 1
        ``min(1, context of the model ÷ context wanted)``.
    required_weight, preferred_weight, context_weight : float
        Weights of the three parts.

    Examples
    --------
    Coding and math are needed, the model has coding 0.8 only:

    >>> round(float(capability_score(0.4, 1.0, 1.0)), 9)
    58.0
    """
    # Weights in percent first: 70 + 20 + 10 is 100 exactly, 0.7 + 0.2 + 0.1 is not 1.
    return np.asarray(
        (100.0 * required_weight) * np.asarray(required, np.float64)
        + (100.0 * preferred_weight) * np.asarray(preferred, np.float64)
        + (100.0 * context_weight) * np.asarray(context, np.float64)
    )


def load_weighted_score(
    score: ArrayLike, utilization: ArrayLike, *, load_weight: float = 0.3
) -> NDArray[Any]:
    """Return scores lowered by load: ``score × (1 − load_weight × utilization)``.

    Parameters
    ----------
    score : array_like
        Finite scores.
    utilization : array_like, 0 to 1
        Share of each model that is busy.
    load_weight : float, 0 to 1
        0 ignores load; at 1 a fully busy model is worth nothing.

    Raises
    ------
    SpecError
        When ``load_weight`` or a utilization is outside [0, 1].

    Examples
    --------
    >>> round(float(load_weighted_score(90, 0.6, load_weight=0.3)), 9)
    73.8
    """
    if not 0.0 <= load_weight <= 1.0:
        msg = Violation("load_weight", "expected between 0 and 1", load_weight)
        raise SpecError(msg)
    busy = np.asarray(utilization, np.float64)
    if not ((busy >= 0) & (busy <= 1)).all():
        worst = busy[~((busy >= 0) & (busy <= 1))].ravel()[0]
        msg = Violation("utilization", "expected between 0 and 1", worst)
        raise SpecError(msg)
    return np.asarray(score) * (1.0 - load_weight * busy)


@dataclass(frozen=True, kw_only=True)
class AdaptiveWeights:
    """How observed behaviour changes a capability score.

    Parameters
    ----------
    capability, success_rate, latency : float
        Weights of the three parts.
    min_requests : float
        Observed requests from which on a model's statistics count.
    acceptable_latency_ms : float
        Greater than 0. The latency score falls from 100 at 0 ms to 0 at twice this.
    min_success_rate : float
        Below it the score is multiplied by ``failing_factor``.
    failing_factor, slow_factor : float
        ``slow_factor`` multiplies above the acceptable latency.
    """

    capability: float = 0.60
    success_rate: float = 0.25
    latency: float = 0.15
    min_requests: float = 10
    acceptable_latency_ms: float = 500.0
    min_success_rate: float = 0.90
    failing_factor: float = 0.5
    slow_factor: float = 0.8

    def __post_init__(self) -> None:
        lines = [
            Violation(name, "expected a finite number >= 0", value)
            for name, value in vars(self).items()
            if not (np.isfinite(value) and value >= 0)
        ]
        if not lines and self.acceptable_latency_ms == 0:
            lines.append(Violation("acceptable_latency_ms", "expected > 0", shown="0"))
        if lines:
            raise SpecError(*lines)


@dataclass(frozen=True, kw_only=True, eq=False)
class Feedback:
    """What was observed of each model, aligned with the models.

    Parameters
    ----------
    requests : (m,) float64
        Requests observed, possibly decayed with time.
    success_rate : (m,) float64
        Share of them that succeeded, 0 to 1.
    latency_ms : (m,) float64
        Their mean latency, in milliseconds.
    weights : AdaptiveWeights
        How it counts.
    """

    requests: NDArray[np.float64]
    success_rate: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    weights: AdaptiveWeights = AdaptiveWeights()


def adaptive_score(capability: ArrayLike, feedback: Feedback) -> NDArray[np.float64]:
    """Return capability scores corrected by what was observed of each model.

    ``0.60·capability + 0.25·success_rate·100 + 0.15·latency_score``, halved below 90 % success, times 0.8
    above the acceptable latency; the capability score itself until 10 requests were observed.

    Parameters
    ----------
    capability : (..., m) array_like
        Capability scores, models along the last axis.
    feedback : Feedback
        Observations of the m models.
    """
    base = np.asarray(capability, np.float64)
    weights = feedback.weights
    slowness = feedback.latency_ms / (2.0 * weights.acceptable_latency_ms)
    latency_score = 100.0 * np.clip(1.0 - slowness, 0.0, 1.0)
    observed = weights.success_rate * 100.0 * feedback.success_rate + weights.latency * latency_score
    factor = np.where(feedback.success_rate < weights.min_success_rate, weights.failing_factor, 1.0)
    factor = factor * np.where(feedback.latency_ms > weights.acceptable_latency_ms, weights.slow_factor, 1.0)
    known = feedback.requests >= weights.min_requests
    share = np.where(known, factor * weights.capability, 1.0)
    return base * share + np.where(known, factor * observed, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTerms:
    """Every term of the scores of a block of agents.

    Parameters
    ----------
    required, preferred, context : (k, m) float64, 0 to 1
        Parts of the capability score.
    capability : (k, m) float64
        Capability score, or the adaptive one where there is feedback.
    given : (k, m) float64 or None
        Scores of the problem; ``-inf`` where the pair has none.
    quality : (k, m) float64
        What the objective takes of the two.
    load_factor : (m,) float64
        ``1 − load_weight × utilization``; ``1 + …`` where scores are costs.
    cost_usd, latency_s : (k, m) float64 or None
        Estimated cost and time of the pair; None where the objective does not weigh them.
    priority : (k,) float64
        What multiplies the whole.
    eligible : (k, m) bool
        False forbids the pair.
    score : (k, m) float64
        What engines maximise, costs negated; ``-inf`` where not eligible.
    """

    required: NDArray[np.float64]
    preferred: NDArray[np.float64]
    context: NDArray[np.float64]
    capability: NDArray[np.float64]
    given: NDArray[np.float64] | None
    quality: NDArray[np.float64]
    load_factor: NDArray[np.float64]
    cost_usd: NDArray[np.float64] | None
    latency_s: NDArray[np.float64] | None
    priority: NDArray[np.float64]
    eligible: NDArray[np.bool_]
    score: NDArray[np.float64]


class PairScorer:
    """Scores of a problem's pairs. What only depends on profiles is computed once per profile.

    Parameters
    ----------
    problem : Problem
        What is asked.
    utilization : (m,) float64, optional
        Share of each model busy before the batch, 0 to 1; 0 by default.
    feedback : Feedback, optional
        Turns capability scores into adaptive ones.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        utilization: NDArray[np.float64] | None = None,
        feedback: Feedback | None = None,
    ) -> None:
        agents, models, objective = problem.agents, problem.models, problem.objective
        busy = np.zeros(len(models)) if utilization is None else np.asarray(utilization, np.float64)
        self._problem = problem
        self._feedback = feedback
        # A busy model is worth less where scores are worth something, and costs more where they are costs.
        self._sign = -1.0 if objective.sense == "minimize" else 1.0
        busy = self._sign * busy
        self._load_factor = np.asarray(1.0 - objective.load_weight * busy)
        profiles = agents.profiles
        self._required = capability_means(
            [required_capabilities(profile, problem.task_types) for profile in profiles], models
        )
        self._preferred = capability_means([profile.preferred_capabilities for profile in profiles], models)
        self._eligible = eligible_pairs(profiles, models)
        self._context = np.array(
            [np.inf if model.context_tokens is None else model.context_tokens for model in models], np.float64
        )
        self._stated_context = np.array([model.context_tokens or 0 for model in models], np.float64)
        self._needs_context = np.array([profile.requires_context for profile in profiles])
        self._given = None
        if problem.scores is not None and problem.quality != "capability":
            missing = -np.inf if objective.missing_score is None else objective.missing_score
            self._given = problem.scores.dense(agents, problem.model_ids, missing=missing)
        default = -np.inf if objective.min_score is None else objective.min_score
        least = np.where(np.isnan(agents.min_score), default, agents.min_score)
        slack = _ROUNDING * np.maximum(1.0, np.abs(np.where(np.isfinite(least), least, 0.0)))
        self._min_score = least - slack
        if objective.cost_weight > 0:
            self._usd_per_token = (
                _facts(models, "usd_per_million_input_tokens") / 1e6,
                _facts(models, "usd_per_million_output_tokens") / 1e6,
            )
        if objective.latency_weight > 0:
            self._latency_s = _facts(models, "latency_s")
            self._s_per_token = 1.0 / _facts(models, "output_tokens_per_second")

    def matrix(self) -> NDArray[np.float64]:
        """Return the (n, m) scores, ``-inf`` where a pair is not eligible. O(n m) time, no other such array.

        In float64: a million by twenty takes 160 MB, and float32 would round scores of 100 by 4e-6, which
        turns ties into decisions.
        """
        n, m = len(self._problem.agents), len(self._problem.models)
        score = np.empty((n, m))
        if self._by_profile_only():
            rows = _first_rows(self._problem.agents.profile, len(self._problem.agents.profiles))
            np.take(self.terms(rows).score, self._problem.agents.profile, axis=0, out=score, mode="clip")
            return score
        for block in chunks(n, m):
            score[block] = self.terms(block).score
        return score

    def terms(self, rows: slice | Sequence[int] | NDArray[np.int64]) -> ScoreTerms:
        """Return every term of the scores of some agents, by row."""
        agents, objective = self._problem.agents, self._problem.objective
        profile = agents.profile[rows]
        required, preferred = self._required[profile], self._preferred[profile]
        wanted = agents.min_context_tokens[rows].astype(np.float64)[:, None]
        context = np.minimum(1.0, self._context / np.maximum(wanted, 1.0))
        capability = capability_score(
            required,
            preferred,
            context,
            required_weight=objective.required_weight,
            preferred_weight=objective.preferred_weight,
            context_weight=objective.context_weight,
        )
        if self._feedback is not None:
            capability = adaptive_score(capability, self._feedback)
        eligible = self._eligible[profile]
        if self._needs_context.any():
            eligible &= ~(self._needs_context[profile][:, None] & (self._stated_context < wanted))
        given = None if self._given is None else self._given[rows]
        quality = self._quality(capability, given)
        if given is not None:
            eligible &= given > -np.inf
        eligible &= quality >= self._min_score[rows][:, None]
        score = quality * (self._sign * self._load_factor)
        cost_usd = latency_s = None
        if objective.cost_weight > 0:
            usd_in, usd_out = self._usd_per_token
            cost_usd = (
                agents.input_tokens[rows][:, None] * usd_in + agents.output_tokens[rows][:, None] * usd_out
            )
            score -= objective.cost_weight * cost_usd
        if objective.latency_weight > 0:
            latency_s = self._latency_s + agents.output_tokens[rows][:, None] * self._s_per_token
            score -= objective.latency_weight * latency_s
        priority = agents.priority[rows]
        score *= priority[:, None]
        score[~eligible] = -np.inf
        return ScoreTerms(
            required=required,
            preferred=preferred,
            context=context,
            capability=capability,
            given=given,
            quality=quality,
            load_factor=self._load_factor,
            cost_usd=cost_usd,
            latency_s=latency_s,
            priority=priority,
            eligible=eligible,
            score=score,
        )

    def _quality(
        self, capability: NDArray[np.float64], given: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        if given is None:
            return capability
        finite = np.where(
            given > -np.inf, given, 0.0
        )  # 0 × -inf is NaN; such pairs are ruled out by eligibility
        if self._problem.quality == "given":
            return finite
        objective = self._problem.objective
        return objective.capability_weight * capability + objective.given_weight * finite

    def _by_profile_only(self) -> bool:
        """Whether agents of one profile have equal scores, so that a gather does."""
        agents, objective = self._problem.agents, self._problem.objective
        return (
            self._given is None
            and objective.latency_weight == objective.cost_weight == 0
            and all(
                bool((column == column[0]).all())
                for column in (agents.priority, agents.min_context_tokens, self._min_score)
            )
        )


def _facts(models: Sequence[Model], name: str) -> NDArray[np.float64]:
    return np.array([getattr(model, name) for model in models], np.float64)


def _first_rows(codes: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return the first row of each code. O(n)."""
    first = np.zeros(count, np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return first

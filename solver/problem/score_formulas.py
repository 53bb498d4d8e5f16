"""The formulas of the score of an agent on a model, and the record of their terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


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


def load_factor(utilization: ArrayLike, load_weight: float) -> NDArray[np.float64]:
    """Return what load multiplies a score by: ``1 − load_weight × utilization``.

    Parameters
    ----------
    utilization : array_like, 0 to 1
        Share of each model that is busy.
    load_weight : float, -1 to 1
        0 ignores load; at 1 a fully busy model is worth nothing. Negative where scores are costs: a busy model costs
        more.

    Raises
    ------
    SpecError
        When a utilization is outside [0, 1].

    Examples
    --------
    >>> round(float(90 * load_factor(0.6, load_weight=0.3)), 9)
    73.8
    """
    busy = np.asarray(utilization, np.float64)
    wrong = ~((busy >= 0) & (busy <= 1))
    if wrong.any():
        raise SpecError(Violation("utilization", "expected between 0 and 1", busy[wrong].ravel()[0]))
    return np.asarray(1.0 - load_weight * busy)


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
    requests : (m,) or (n, m) float64
        Requests observed, possibly decayed with time; a row per agent where kinds of work are told apart.
    success_rate : (m,) or (n, m) float64
        Share of them that succeeded, 0 to 1.
    latency_ms : (m,) or (n, m) float64
        Their mean latency, in milliseconds.
    weights : AdaptiveWeights
        How it counts.
    bonus : float or array like the others
        Score points added, such as for models that few have tried.
    """

    requests: NDArray[np.float64]
    success_rate: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    weights: AdaptiveWeights = AdaptiveWeights()
    bonus: NDArray[np.float64] | float = 0.0


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
    score = base * share
    score += np.where(known, factor * observed, 0.0)
    score += feedback.bonus
    return score


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

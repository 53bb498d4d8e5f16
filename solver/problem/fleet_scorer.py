"""Computes the score of serving an agent by a model, in the same way for whole batches and for single requests."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, missing_value
from solver.problem.agents import PROFILE_FIELDS, AgentTable, Profile
from solver.problem.capability import capability_means, eligible_pairs, required_capabilities
from solver.problem.objective import Objective
from solver.problem.request_cost import TokenPrices
from solver.problem.rules import NO_MINIMUM, KnownNames, objective_rules
from solver.problem.score_formulas import ScoreTerms, adaptive_score, capability_score, load_factor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.problem.agents import Agent
    from solver.problem.models import Model
    from solver.problem.score_formulas import Feedback

_MINIMUM_ROUNDING = 1e-9
"""A quality that misses a required minimum by less than this meets it: the sum behind it is rounded."""

_CACHED_CLASSES = 4096
"""Agent classes whose rows are kept; when there are more, the cache starts afresh."""

_class_of = attrgetter("min_context_tokens", *PROFILE_FIELDS)


@dataclass(frozen=True, slots=True, eq=False)
class ProfileMatch:
    """How models meet the requirements of some agents, whatever the load and the sizes.

    Parameters
    ----------
    required, preferred, context : (k, m) float64, 0 to 1
        Parts of the capability score.
    capability : (k, m) float64
        The capability score, without feedback.
    eligible : (k, m) bool
        Whether a model meets the hard requirements.
    """

    required: NDArray[np.float64]
    preferred: NDArray[np.float64]
    context: NDArray[np.float64]
    capability: NDArray[np.float64]
    eligible: NDArray[np.bool_]

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Return the arrays, in the order of the fields."""
        return self.required, self.preferred, self.context, self.capability, self.eligible


@dataclass(frozen=True, slots=True, eq=False)
class PairTerms:
    """What a score is made of: ``priority × (sign × quality × load factor − charge)`` where eligible.

    Parameters
    ----------
    capability, quality : (k, m) float64
        Capability score, adaptive where there is feedback, and what the objective takes of it and of given
        scores.
    eligible : (k, m) bool
        False forbids the pair.
    charge : (k, m) float64 or None
        Score points that cost and latency take away; None where the objective weighs neither.
    cost_usd, latency_s : (k, m) float64 or None
        Cost and latency, each None where the objective does not weigh it.
    """

    capability: NDArray[np.float64]
    quality: NDArray[np.float64]
    eligible: NDArray[np.bool_]
    charge: NDArray[np.float64] | None
    cost_usd: NDArray[np.float64] | None
    latency_s: NDArray[np.float64] | None


class FleetScorer:
    """Scores agents on the models of a fleet under one objective.

    Batch assignment, the load balancer and the router all score here, so that they agree on what is best.
    What depends on an agent's class alone (its profile and context window) is computed once per class.

    Parameters
    ----------
    models : sequence of Model
        The m columns.
    objective : Objective, optional
        What is maximised; by default ``Objective()``.
    task_types : mapping of str to sequence of str, optional
        Required capabilities of the user's own task types.
    measured_latency : bool
        Whether each call brings its own ``latency_s``, so that models need not state theirs.

    Raises
    ------
    SpecError
        If a model does not state a fact that the objective weighs, or a task type requires an unknown capability.

    Examples
    --------
    >>> import solver
    >>> one = solver.Capacity(max_concurrent=1)
    >>> fleet = [
    ...     solver.Model(id="dear", capabilities={"coding": 0.9}, usd_per_million_input_tokens=10,
    ...                  usd_per_million_output_tokens=30, capacity=one),
    ...     solver.Model(id="cheap", capabilities={"coding": 0.8}, usd_per_million_input_tokens=0.1,
    ...                  usd_per_million_output_tokens=0.2, capacity=one),
    ... ]
    >>> scorer = FleetScorer(fleet, solver.Objective(cost_weight=1000))
    >>> agent = solver.Agent(id="a", task_type="coding", input_tokens=1000, output_tokens=500)
    >>> scorer.rows([agent]).score.round(2).tolist()
    [[68.0, 85.8]]
    """

    def __init__(
        self,
        models: Sequence[Model],
        objective: Objective | None = None,
        *,
        task_types: Mapping[str, Sequence[str]] | None = None,
        measured_latency: bool = False,
    ) -> None:
        self.models = tuple(models)
        self.objective = Objective() if objective is None else objective
        weighed = self.objective
        if measured_latency:
            weighed = weighed.model_copy(update={"latency_weight": 0.0})
        self._task_types = {name: tuple(needed) for name, needed in (task_types or {}).items()}
        self.names = KnownNames(self.models, self._task_types)
        if lines := [*self.names.unknown_requirements(), *objective_rules(self.models, weighed)]:
            raise SpecError(*lines)
        self.sign = -1.0 if self.objective.sense == "minimize" else 1.0
        self._stated_context = np.array([model.context_tokens or 0 for model in self.models], np.float64)
        self._context = np.array(
            [np.inf if model.context_tokens is None else model.context_tokens for model in self.models],
            np.float64,
        )
        self.token_prices = TokenPrices(self.models)
        self._latency_s = _facts(self.models, "latency_s")
        self._s_per_token = 1.0 / _facts(self.models, "output_tokens_per_second")
        self._classes: dict[tuple[Any, ...], ProfileMatch] = {}

    def __len__(self) -> int:
        return len(self.models)

    def rows(
        self,
        agents: AgentTable | Sequence[Agent],
        *,
        utilization: ArrayLike | None = None,
        feedback: Feedback | None = None,
        given: NDArray[np.float64] | None = None,
        latency_s: NDArray[np.float64] | None = None,
    ) -> ScoreTerms:
        """Return the scores of some agents with all their terms. O(k m).

        Parameters
        ----------
        agents : AgentTable or sequence of Agent
            The k rows.
        utilization : (m,) array_like, optional
            Share of each model that is busy, 0 to 1; by default none is.
        feedback : Feedback, optional
            Turns capability scores into adaptive ones.
        given : (k, m) float64, optional
            Given scores; ``-inf`` forbids the pair.
        latency_s : (k, m) float64, optional
            Measured or predicted latencies, seconds, in place of those the models state.

        Raises
        ------
        SpecError
            If a utilization is outside [0, 1], the objective needs given scores and there are none, or an agent names
            a task type or a capability that is unknown. Models and regions may be: those of a live fleet come and go.
        """
        factor = self.load_factor(utilization)
        if isinstance(agents, AgentTable):
            match = self.match(
                self.match_profiles(agents.profiles),
                agents.profile,
                agents.min_context_tokens,
                agents.profiles,
            )
            least = self.least_quality(agents.min_score)
            taken, made, priority = agents.input_tokens, agents.output_tokens, agents.priority
        else:
            match, least = self._match_agents(agents), self._least_of(agents)
            taken = np.array([agent.input_tokens for agent in agents])
            made = np.array([agent.output_tokens for agent in agents])
            priority = np.array([agent.priority for agent in agents], np.float64)
        parts = self.terms_of(
            match,
            least=least,
            tokens=(taken, made),
            feedback=feedback,
            given=given,
            latency_s=latency_s,
        )
        return self.scored(match, parts, factor, priority, given)

    def terms(
        self,
        agents: Sequence[Agent],
        *,
        feedback: Feedback | None = None,
        given: NDArray[np.float64] | None = None,
    ) -> PairTerms:
        """Return what the scores of some agents are made of, for a caller that knows the load itself.

        The arrays may be shared between calls: not to be written to.
        """
        tokens = None
        if self.objective.cost_weight > 0 or self.objective.latency_weight > 0:
            tokens = (
                np.array([agent.input_tokens for agent in agents]),
                np.array([agent.output_tokens for agent in agents]),
            )
        return self.terms_of(
            self._match_agents(agents),
            least=self._least_of(agents),
            tokens=tokens,
            feedback=feedback,
            given=given,
        )

    # -- the steps, shared by all callers

    def load_factor(self, utilization: ArrayLike | None) -> NDArray[np.float64]:
        """Return what load multiplies quality by, (m,): a busy model is worth less, or costs more."""
        if utilization is None:
            return np.ones(len(self.models))
        return load_factor(utilization, self.sign * self.objective.load_weight)

    def match_profiles(
        self, profiles: Sequence[Profile]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return the required and the preferred part, and eligibility without context, (g, m) each."""
        required = [required_capabilities(profile, self._task_types) for profile in profiles]
        preferred = [profile.preferred_capabilities for profile in profiles]
        return (
            capability_means(required, self.models),
            capability_means(preferred, self.models),
            eligible_pairs(profiles, self.models),
        )

    def match(
        self,
        by_profile: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]],
        profile: NDArray[np.int32],
        min_context_tokens: NDArray[np.int64],
        profiles: Sequence[Profile],
    ) -> ProfileMatch:
        """Return how models meet the requirements of agents given by profile and context window."""
        objective = self.objective
        required, preferred, eligible = by_profile[0][profile], by_profile[1][profile], by_profile[2][profile]
        wanted = min_context_tokens.astype(np.float64)[:, None]
        context = np.minimum(1.0, self._context / np.maximum(wanted, 1.0))
        needs = np.array([entry.requires_context for entry in profiles])
        if needs.any():
            eligible &= ~(needs[profile][:, None] & (self._stated_context < wanted))
        capability = capability_score(
            required,
            preferred,
            context,
            required_weight=objective.required_weight,
            preferred_weight=objective.preferred_weight,
            context_weight=objective.context_weight,
        )
        return ProfileMatch(required, preferred, context, capability, eligible)

    def least_quality(self, own: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return the least quality of eligible pairs, (k,), given the agents' own, NaN for none. None: any."""
        default = -np.inf if self.objective.min_score is None else self.objective.min_score
        least = np.where(np.isnan(own), default, own)
        if not (least > -np.inf).any():
            return None
        return least - _MINIMUM_ROUNDING * np.maximum(1.0, np.abs(np.where(np.isfinite(least), least, 0.0)))

    def terms_of(
        self,
        match: ProfileMatch,
        *,
        least: NDArray[np.float64] | None,
        tokens: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
        feedback: Feedback | None = None,
        given: NDArray[np.float64] | None = None,
        latency_s: NDArray[np.float64] | None = None,
    ) -> PairTerms:
        """Return the terms of agents whose requirements are matched; ``tokens`` are those in and out, (k,)."""
        objective = self.objective
        capability, eligible = match.capability, match.eligible
        if feedback is not None:
            capability = adaptive_score(capability, feedback)
        quality = capability
        if objective.quality != "capability":
            if given is not None:
                quality, eligible = self._with_given(capability, given), eligible & (given > -np.inf)
            elif objective.quality is not None:
                rule = f"required where objective.quality is {objective.quality!r}, but missing"
                raise SpecError(missing_value("scores", rule))
        if least is not None:
            eligible = eligible & (quality >= least[:, None])
        charge = cost_usd = latency = None
        if objective.cost_weight > 0:
            assert tokens is not None
            cost_usd = self.token_prices.cost_usd(tokens[0][:, None], tokens[1][:, None])
            charge = objective.cost_weight * cost_usd
        if objective.latency_weight > 0:
            latency = latency_s
            if latency is None:
                assert tokens is not None
                latency = self._latency_s + tokens[1][:, None] * self._s_per_token
            late = objective.latency_weight * latency
            charge = late if charge is None else charge + late
        return PairTerms(capability, quality, eligible, charge, cost_usd, latency)

    def scored(
        self,
        match: ProfileMatch,
        parts: PairTerms,
        load_factor: NDArray[np.float64],
        priority: NDArray[np.float64],
        given: NDArray[np.float64] | None = None,
    ) -> ScoreTerms:
        """Return the scores that terms make at some load, ``-inf`` where a pair is not eligible."""
        score = parts.quality * (self.sign * load_factor)
        if parts.charge is not None:
            score -= parts.charge
        score *= priority[:, None]
        score[~parts.eligible] = -np.inf
        return ScoreTerms(
            required=match.required,
            preferred=match.preferred,
            context=match.context,
            capability=parts.capability,
            given=given,
            quality=parts.quality,
            load_factor=load_factor,
            cost_usd=parts.cost_usd,
            latency_s=parts.latency_s,
            priority=priority,
            eligible=parts.eligible,
            score=score,
        )

    def _with_given(self, capability: NDArray[np.float64], given: NDArray[np.float64]) -> NDArray[np.float64]:
        finite = np.where(given > -np.inf, given, 0.0)  # such pairs are not eligible, and 0 × -inf is NaN
        if self.objective.quality != "combined":
            return finite
        return self.objective.capability_weight * capability + self.objective.given_weight * finite

    def _match_agents(self, agents: Sequence[Agent]) -> ProfileMatch:
        if len(agents) == 1:
            kind = _class_of(agents[0])
            return self._classes.get(kind) or self._match_class(kind, agents)
        places: dict[tuple[Any, ...], int] = {}
        codes = [places.setdefault(_class_of(agent), len(places)) for agent in agents]
        matches = [self._classes.get(kind) or self._match_class(kind, agents) for kind in places]
        stacked = (np.concatenate(parts) for parts in zip(*(one.arrays() for one in matches), strict=True))
        return ProfileMatch(*(array[codes] for array in stacked))

    def _match_class(self, kind: tuple[Any, ...], agents: Sequence[Agent]) -> ProfileMatch:
        """Return how models meet the requirements of a class; an error names the first of the agents in it."""
        profiles = [Profile(*kind[1:])]
        if unknown := self.names.unknown_abilities(profiles[0]):
            row = [_class_of(agent) for agent in agents].index(kind)
            raise SpecError(*(found.within(f"agents[{row}]") for found in unknown))
        match = self.match(
            self.match_profiles(profiles), np.zeros(1, np.int32), np.array([kind[0]], np.int64), profiles
        )
        for array in match.arrays():
            array.flags.writeable = False
        if len(self._classes) >= _CACHED_CLASSES:
            self._classes = {}
        self._classes[kind] = match
        return match

    def _least_of(self, agents: Sequence[Agent]) -> NDArray[np.float64] | None:
        own = [agent.min_score for agent in agents]
        if own.count(None) == len(own):
            if self.objective.min_score is None:
                return None
        elif self.sign < 0:
            i = next(k for k, value in enumerate(own) if value is not None)
            raise SpecError(Violation(f"agents[{i}].min_score", NO_MINIMUM, own[i]))
        return self.least_quality(np.array([np.nan if value is None else value for value in own]))


def _facts(models: Sequence[Model], name: str) -> NDArray[np.float64]:
    return np.array([getattr(model, name) for model in models], np.float64)

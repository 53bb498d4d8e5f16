"""The quality of answers, and the predictions of it that a policy may use: two different tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.simulate.servers import Fleet

_AGENT_SPREAD = 0.10
"""Standard deviation of simulated outcomes between agents, on the scale of capabilities from 0 to 1."""

_PAIR_SPREAD = 0.05
"""Standard deviation of quality between pairs of agent and model."""

_PAST_AGENTS = 4000
"""Simulated past agents that predictions are learned from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """What policies know of the worth of answers when they decide.

    Parameters
    ----------
    kind : {"means", "noise", "oracle"}
        ``means``: the mean per model and task type of other agents. ``noise``: that, plus a noisy view of what the
        agent itself will get. ``oracle``: the outcome itself, which is not known in advance.
    explained : float
        With ``noise``: share of the variance around the means that predictions explain, 0 to 1. Predictions are
        calibrated: among pairs predicted at p the mean outcome is p.
    """

    kind: str = "means"
    explained: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("means", "noise", "oracle"):
            raise SpecError(Violation("predictor", "expected means, noise=SHARE or oracle", self.kind))
        if not 0 <= self.explained <= 1:
            raise SpecError(Violation("predictor", "expected a share between 0 and 1", self.explained))

    @classmethod
    def parse(cls, text: str) -> Predictor:
        """Return the predictor a text names: ``means``, ``noise=0.3`` or ``oracle``.

        Raises
        ------
        SpecError
            If it names none.
        """
        kind, _, share = text.partition("=")
        try:
            explained = float(share) if share else 0.0
        except ValueError:
            raise SpecError(Violation("predictor", "expected means, noise=SHARE or oracle", text)) from None
        if (kind == "noise") != bool(share):
            raise SpecError(Violation("predictor", "expected means, noise=SHARE or oracle", text))
        return cls(kind=kind, explained=explained)

    def predicted(
        self, means: NDArray[np.float64], outcome: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return predictions of outcomes whose means are known, (n, m)."""
        if self.kind == "oracle":
            return outcome
        if self.kind == "means" or self.explained == 0.0:
            return means
        rest = outcome - means
        rest = rest - rest.mean(axis=0)
        share = self.explained
        noise = rng.normal(0.0, 1.0, rest.shape) * rest.std(axis=0)
        seen: NDArray[np.float64] = means + share * rest + np.sqrt(share * (1.0 - share)) * noise
        return seen


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """Agents whose outcome on every model is known, to draw requests from.

    Parameters
    ----------
    outcome : (k, m) float64
        Quality of each model's answer; NaN where it is not known.
    group : (k,) int64
        Task type of each.
    group_names : tuple of str
        Names of the task types, where they have any.
    """

    outcome: NDArray[np.float64]
    group: NDArray[np.int64]
    group_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.outcome) < 2:
            raise SpecError(
                Violation(
                    "scores", "expected at least 2 agents: one to learn from, one to serve", len(self.outcome)
                )
            )

    def draw(
        self,
        n: int,
        rng: np.random.Generator,
        *,
        predictor: Predictor | None = None,
        task_type: NDArray[np.object_] | None = None,
    ) -> Quality:
        """Return outcomes and predictions of n requests.

        Half of the agents teach the predictor, the mean per model and task type; requests are drawn from the
        other half, so that no prediction has seen the outcome it predicts.

        Parameters
        ----------
        n : int
            Requests.
        rng : numpy.random.Generator
            Of the draws.
        predictor : Predictor, optional
            Default: means.
        task_type : (n,) object, optional
            Of the requests: each is drawn from the agents of the task type with that name; task types that the
            population does not name stand for its own in the order of their first appearance.
        """
        order = rng.permutation(np.arange(len(self.outcome)))
        half = len(order) // 2
        learned, asked = order[:half], order[half:]
        means = group_means(self.outcome[learned], self.group[learned], int(self.group.max()) + 1)
        chosen: NDArray[np.int64] = asked[rng.integers(len(asked), size=n)]
        if task_type is not None:
            chosen = self._of_types(task_type, asked, chosen, rng)
        expected = means[self.group[chosen]]
        outcome = self.outcome[chosen]
        outcome = np.where(np.isnan(outcome), expected, outcome)
        predicted = (predictor or Predictor()).predicted(expected, outcome, rng)
        return Quality(outcome=outcome, predicted=predicted)

    def _of_types(
        self,
        task_type: NDArray[np.object_],
        asked: NDArray[np.int64],
        chosen: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Return agents of the task types asked for, one a request."""
        names = list(dict.fromkeys(task_type.tolist()))
        known = {name: code for code, name in enumerate(self.group_names)}
        present = np.unique(self.group[asked])
        chosen = chosen.copy()
        for position, name in enumerate(names):
            code = known.get(name, int(present[position % len(present)]))
            members = asked[self.group[asked] == code]
            rows = np.flatnonzero(task_type == name)
            if len(members):
                chosen[rows] = members[rng.integers(len(members), size=len(rows))]
        return chosen


@dataclass(frozen=True, kw_only=True, eq=False)
class Quality:
    """Of n requests on m models: what users get, and what policies know when they decide.

    Parameters
    ----------
    outcome, predicted : (n, m) float64
        Higher is better.
    """

    outcome: NDArray[np.float64]
    predicted: NDArray[np.float64]


def group_means(outcome: NDArray[np.float64], group: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    """Return mean outcomes per task type, (g, m); of all agents where a task type has none."""
    known = ~np.isnan(outcome)
    filled = np.where(known, outcome, 0.0)
    overall = filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    total = np.zeros((groups, outcome.shape[1]))
    count = np.zeros((groups, outcome.shape[1]))
    np.add.at(total, group, filled)
    np.add.at(count, group, known)
    return np.where(count > 0, total / np.maximum(count, 1), overall)


def capability_population(fleet: Fleet, *, seed: int) -> Population:
    """Return simulated agents, for fleets without a score table: 0 to 100.

    Each agent has one of the capabilities that the fleet names as its task type. The outcome on a model is that
    capability, plus normal noise per agent (standard deviation 10 points) and per pair (5 points).
    """
    rng = np.random.default_rng([seed, 2])
    names = sorted({name for model in fleet.models for name in model.capabilities}) or [""]
    strength = np.array(
        [
            [model.capabilities.get(name, 0.5 if name == "" else 0.0) for model in fleet.models]
            for name in names
        ]
    )
    group = rng.integers(len(names), size=_PAST_AGENTS * 2)
    noise = rng.normal(0.0, _AGENT_SPREAD, (len(group), 1)) + rng.normal(
        0.0, _PAIR_SPREAD, (len(group), len(fleet))
    )
    return Population(
        outcome=100.0 * np.clip(strength[group] + noise, 0.0, 1.0), group=group, group_names=tuple(names)
    )

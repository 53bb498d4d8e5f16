"""What answers are worth, and what a policy may know of that before: two different tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.simulate.servers import Fleet

__all__ = ["Population", "Quality", "capability_population", "group_means"]

_AGENT_SPREAD = 0.10
"""Standard deviation of simulated outcomes between agents, on the scale of capabilities from 0 to 1."""

_PAIR_SPREAD = 0.05
"""The same between agents and models."""

_PAST_AGENTS = 4000
"""Simulated past agents that predictions are learned from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """Agents whose outcome on every model is known, to draw requests from.

    Parameters
    ----------
    outcome : (k, m) float64
        Quality of each model's answer; NaN where it is not known.
    group : (k,) int64
        Task type of each.
    """

    outcome: NDArray[np.float64]
    group: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.outcome) < 2:
            raise SpecError(
                Violation(
                    "scores", "expected at least 2 agents: one to learn from, one to serve", len(self.outcome)
                )
            )

    def draw(self, n: int, rng: np.random.Generator) -> Quality:
        """Return outcomes and predictions of n requests.

        Half of the agents teach the predictor, the mean per model and task type; requests are drawn from the
        other half, so that no prediction has seen the outcome it predicts.
        """
        order = rng.permutation(len(self.outcome))
        half = len(order) // 2
        learned, asked = order[:half], order[half:]
        means = group_means(self.outcome[learned], self.group[learned], int(self.group.max()) + 1)
        chosen = asked[rng.integers(len(asked), size=n)]
        predicted = means[self.group[chosen]]
        outcome = self.outcome[chosen]
        return Quality(outcome=np.where(np.isnan(outcome), predicted, outcome), predicted=predicted)


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
    return Population(outcome=100.0 * np.clip(strength[group] + noise, 0.0, 1.0), group=group)

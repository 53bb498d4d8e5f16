"""Which agents are samples: a rule that every worker follows, so that no list of them travels."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.params import DEFAULTS
from solver.engines.price.sample_sizes import planned_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """The samples of a job, as the price engine draws them with an equal generator.

    Parameters
    ----------
    agents, models : int
        Size of the batch.
    seed : int
        Of the generator.
    most : float
        Agents of the largest sample.
    all_agents : bool
        There are so few agents that the driver holds all of them.
    """

    agents: int
    models: int
    seed: int
    most: float
    all_agents: bool

    def __getstate__(self) -> dict[str, object]:
        """Return what travels: the rule, without the places that follow from it."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @property
    def levels(self) -> list[NDArray[np.int64]]:
        """The samples that prices come from, ascending in size; none where all agents are few."""
        return self._levels[1:]

    @cached_property
    def _levels(self) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng(self.seed)
        return planned_samples(self.agents, self.models, generator, most=self.most)

    @cached_property
    def gathered(self) -> NDArray[np.int64]:
        """(k,) int64, the agents that the driver holds, ascending: those of samples too small to reduce."""
        if self.all_agents:
            return np.arange(self.agents)
        return np.unique(np.concatenate([rows for rows in self._levels if not self._is_held(len(rows))]))

    @cached_property
    def held(self) -> dict[int, NDArray[np.int64]]:
        """The samples that stay with the workers, by their size: (size,) int64, ascending."""
        if self.all_agents:
            return {}
        return {len(rows): rows for rows in self._levels if self._is_held(len(rows))}

    def _is_held(self, size: int) -> bool:
        return size * self.models > DEFAULTS.sampling.dense_pairs


def strided(first: int, count: int, stride: int, plan: SamplePlan) -> NDArray[np.int64]:
    """Return which of some consecutive agents are in the sample of one of each whole stretch, by its mixed number.

    The answer for an agent depends on nothing but the plan: there are ``agents // stride`` of them, whoever draws.
    """
    stretch = np.arange(first // stride, min(-(-(first + count) // stride), plan.agents // stride))
    word = (stretch.astype(np.uint64) + np.uint64(plan.seed % 2**32 + 1)) * np.uint64(0x9E3779B97F4A7C15)
    word ^= word >> np.uint64(31)
    word *= np.uint64(0xD6E8FEB86659FD93)
    word ^= word >> np.uint64(32)
    drawn: NDArray[np.int64] = stretch * stride + (word % np.uint64(stride)).astype(np.int64)
    return drawn[(drawn >= first) & (drawn < first + count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBudget:
    """How much of the data workers and driver hold.

    Parameters
    ----------
    numbers : int
        Scores that the largest sample may hold, over all workers, each of 4 or 8 bytes.
        ``benchmarks/bench_scale.py`` measures memory and passes against it: larger samples leave fewer agents
        contested, as their square root.
    whole : int
        Scores up to which the driver holds all of them, and passes over samples are passes over everything.
    few_arcs : int
        Allowed arcs up to which one flow on all of them is faster than sampling.
    contested : float
        Agents over the square root of the largest sample, to which those are proportional that it leaves
        contested: above this, a pass over a part of the agents comes first.
    """

    numbers: int = 20_000_000
    whole: int = 1_000_000
    few_arcs: int = 15_000
    contested: float = 40_000.0

    def strides(self, agents: int, models: int, sample: int) -> list[int]:
        """Return which parts of the agents, one of so many, come first after a sample of that size."""
        found: list[int] = []
        growth = DEFAULTS.sampling.growth
        while agents > self.contested * math.sqrt(sample) and agents // growth > sample:
            if agents // growth * models <= DEFAULTS.sampling.dense_pairs:
                break  # so few that there is nothing to save
            stride = growth
            while agents // stride > max(self.contested * math.sqrt(sample), growth * sample):
                stride *= growth
            found.append(stride)
            sample = agents // stride
        return found

    def plan(self, agents: int, models: int, seed: int) -> SamplePlan:
        """Return the samples of a batch of that size."""
        return SamplePlan(
            agents=agents,
            models=models,
            seed=seed,
            most=self.numbers / models,
            all_agents=agents * models <= self.whole,
        )

"""The scores of a whole problem's pairs, in blocks that stay in cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.blocks import chunks
from solver.problem.fleet_scorer import FleetScorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.problem.score_formulas import Feedback, ScoreTerms
    from solver.problem.spec import Problem


class PairScorer:
    """The scores of one problem's pairs: a :class:`FleetScorer` over its agents, in blocks that stay in cache.

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
        agents, objective = problem.agents, problem.objective
        self._agents = agents
        self._fleet = FleetScorer(problem.models, objective, task_types=problem.task_types)
        self._feedback = feedback
        self._load_factor = self._fleet.load_factor(utilization)
        self._by_profile = self._fleet.match_profiles(agents.profiles)
        self._least = self._fleet.least_quality(agents.min_score)
        self._given = None
        if problem.scores is not None and problem.quality != "capability":
            self._given = problem.scores.dense(
                agents, problem.model_ids, missing_score=objective.missing_score
            )

    def matrix(self) -> NDArray[np.float64]:
        """Return the (n, m) scores, ``-inf`` where a pair is not eligible. O(n m) time, no other such array.

        In float64: a million by twenty takes 160 MB, and float32 would round scores of 100 by 4e-6, which
        turns ties into decisions.
        """
        agents = self._agents
        n, m = len(agents), len(self._fleet)
        score = np.empty((n, m))
        if self._by_profile_only():
            rows = _first_rows(agents.profile, len(agents.profiles))
            np.take(self.terms(rows).score, agents.profile, axis=0, out=score, mode="clip")
            return score
        for block in chunks(n, m):
            score[block] = self.terms(block).score
        return score

    def terms(self, rows: slice | Sequence[int] | NDArray[np.int64]) -> ScoreTerms:
        """Return every term of the scores of some agents, by row."""
        agents, fleet = self._agents, self._fleet
        match = fleet.match(
            self._by_profile, agents.profile[rows], agents.min_context_tokens[rows], agents.profiles
        )
        given = None if self._given is None else self._given[rows]
        parts = fleet.terms_of(
            match,
            least=None if self._least is None else self._least[rows],
            tokens=(agents.input_tokens[rows], agents.output_tokens[rows]),
            feedback=self._feedback,
            given=given,
        )
        return fleet.scored(match, parts, self._load_factor, agents.priority[rows], given)

    def _by_profile_only(self) -> bool:
        """Whether agents of one profile have equal scores, so that a gather does."""
        agents, objective = self._agents, self._fleet.objective
        columns = [agents.priority, agents.min_context_tokens]
        if self._least is not None:
            columns.append(self._least)
        return (
            self._given is None
            and objective.latency_weight == objective.cost_weight == 0
            and all(bool((column == column[0]).all()) for column in columns)
        )


def _first_rows(codes: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return the first row of each code. O(n)."""
    first = np.zeros(count, np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return first

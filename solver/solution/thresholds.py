"""What would have to change for another answer, found by solving again with one agent forced on a model.

Prices at an optimum prove how much more a model must score at least before an agent moves there; what is enough is the
difference of two optima. With demands or limits prices are estimates only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.clock import Deadline
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores
from solver.solution.solution import Status
from solver.solution.solving import solve_instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.solution.solution import Solution

_COUPLED_PAIRS = 400
"""Agents times models up to which instances with demands, limits or openings are solved again."""

_NETWORK_PAIRS = 200_000
"""The same for slots and floors, which are network flows."""

_SOLVE_MS = 500.0
"""Deadline of each solve, in milliseconds."""

_MAX_TRIED_MODELS = 8
"""Most models that are tried."""

_SAME = 1e-9
"""Relative difference below which two totals are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """How far one model is from being an agent's.

    Parameters
    ----------
    model : int
        The model.
    lost : float
        What the best plan with the agent there scores less; so much more has to be scored there.
    """

    model: int
    lost: float


class Counterfactuals:
    """Optimal plans of an instance with one agent where it is not.

    Parameters
    ----------
    instance : Instance
        The problem.
    solution : Solution
        Proven optimal.
    row : int
        The agent.
    """

    def __init__(self, instance: Instance, solution: Solution, row: int) -> None:
        self.instance, self.solution, self.row = instance, solution, row
        self._rank = np.zeros(instance.n, np.int64) if instance.rank is None else instance.rank

    @staticmethod
    def are_for(instance: Instance, solution: Solution) -> bool:
        """Return whether solving again is exact, and quick enough to be done in passing."""
        several = instance.network is not None and not instance.network.is_single
        if several or solution.status is not Status.OPTIMAL or isinstance(instance.score, CompressedScores):
            return False
        most = _NETWORK_PAIRS if instance.has_exact_prices else _COUPLED_PAIRS
        return instance.n * instance.m <= most

    def thresholds(self, models: list[int]) -> list[Threshold]:
        """Return the models on which a higher score would put the agent, nearest first.

        Those are left out on which the rest would not fit, or fewer would be served where service comes first.
        """
        found = []
        for model in models[:_MAX_TRIED_MODELS]:
            answer = self._on(model, self.instance)
            if answer is not None and self._serves_as_well(answer):
                lost = abs(self.solution.objective - answer.objective)
                close = _SAME * max(1.0, abs(self.solution.objective))
                found.append(Threshold(model=model, lost=0.0 if lost <= close else lost))
        return sorted(found, key=lambda one: one.lost)

    def fits_with_priority(self, models: list[int]) -> bool:
        """Return whether as many agents are served with this one among them, on one of some models."""
        served = int((self.solution.choice != UNASSIGNED).sum())
        answers = (self._on(model, self.instance) for model in models[:_MAX_TRIED_MODELS])
        return any(
            answer is not None and int((answer.choice != UNASSIGNED).sum()) >= served for answer in answers
        )

    def takes_next_unit(self, model: int) -> bool:
        """Return whether one more slot of a model would be this agent's."""
        instance = self.instance
        if instance.demand is not None or instance.load_cost is not None:
            return False
        capacity = instance.capacity.copy()
        capacity[model] += 1.0
        more = replace(instance, capacity=capacity)
        best = solve_instance(more, deadline=Deadline.after(_SOLVE_MS))
        forced = self._on(model, more)
        if (
            best.status is not Status.OPTIMAL
            or forced is None
            or self._service(forced) != self._service(best)
        ):
            return False
        return abs(best.objective - forced.objective) <= _SAME * max(1.0, abs(best.objective))

    def _on(self, model: int, instance: Instance) -> Solution | None:
        """Return the best plan with the agent on a model, None where none is proven best in time."""
        score = np.array(instance.score, dtype=np.float64)
        score[self.row, np.arange(instance.m) != model] = -np.inf
        forced = replace(instance, score=score)
        if instance.penalty is None:  # served before all others, where as many are served then
            rank = self._rank.copy()
            rank[self.row] = rank.max() + 1
            forced = replace(forced, rank=np.unique(rank, return_inverse=True)[1].astype(np.int64))
        else:
            penalty = instance.penalty.copy()
            penalty[self.row] = np.inf
            forced = replace(forced, penalty=penalty)
        answer = solve_instance(forced, deadline=Deadline.after(_SOLVE_MS))
        placed = answer.status is Status.OPTIMAL and bool(answer.choice[self.row] == model)
        return answer if placed else None

    def _serves_as_well(self, answer: Solution) -> bool:
        return not self.instance.serve_first or self._service(answer) >= self._service(self.solution)

    def _service(self, answer: Solution) -> tuple[int, ...]:
        """Return how many are served, and of which ranks from the highest."""
        served: NDArray[np.bool_] = answer.choice != UNASSIGNED
        if not self.instance.serve_first:
            return ()
        counts = np.bincount(self._rank[served], minlength=int(self._rank.max()) + 1)
        return int(served.sum()), *counts[::-1].tolist()

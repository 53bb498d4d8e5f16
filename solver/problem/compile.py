"""Compiles a :class:`Problem`, and the live load if any, into the arrays of an :class:`Instance`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from solver.errors import SpecError, Violation
from solver.problem.build import build_instance
from solver.problem.limit_arrays import LimitArrays
from solver.problem.pair_scorer import PairScorer
from solver.problem.resources import with_resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.score_formulas import Feedback
    from solver.problem.spec import Problem


class ObservedLoad(Protocol):
    """What compiling reads of a model's live load."""

    @property
    def active_requests(self) -> int:
        """Requests being served."""
        ...

    @property
    def queue_depth(self) -> int:
        """Requests waiting."""
        ...

    @property
    def utilization(self) -> float:
        """Share of the model that is busy, 0 to 1."""
        ...


def compile_problem(
    problem: Problem,
    *,
    load: Mapping[str, ObservedLoad | None] | None = None,
    feedback: Feedback | None = None,
    scorer: PairScorer | None = None,
) -> Instance:
    """Return the arrays of a problem: scores, capacity left, demand, penalty, rank.

    Row i is ``problem.agents.ids[i]`` and column j ``problem.model_ids[j]``.

    Parameters
    ----------
    problem : Problem
        What is asked.
    load : mapping of str to ObservedLoad, optional
        Live load by model id. Its requests take slots away, no other resource; its utilization lowers the
        scores. A model that is missing, or None, is taken as idle; ids of other models are of no concern here.
    feedback : Feedback, optional
        Observations that turn capability scores into adaptive ones.
    scorer : PairScorer, optional
        What ``pair_scorer`` returned for the same problem, load and feedback, where it is at hand.

    Returns
    -------
    Instance

    Raises
    ------
    SpecError
        When the load breaks a rule; the problem itself was checked when it was made.

    Notes
    -----
    O(n m) time; the scores are the only (n, m) array of float64, besides given ones.
    """
    if scorer is None:
        scorer = pair_scorer(problem, load=load, feedback=feedback)
    agents = problem.agents
    priority = None if (agents.priority == agents.priority[0]).all() else agents.priority
    penalty = unassigned_penalties(problem)
    if penalty is not None and priority is None:
        penalty = penalty * float(agents.priority[0])
    demand, capacity = with_resources(
        problem.agents, problem.models, problem.demand, remaining_slots(problem, load=load)
    )
    instance = build_instance(
        scorer.matrix(),
        capacity,
        demand=demand,
        priority=priority,
        unassigned_penalty=penalty,
        limits=LimitArrays(problem, scorer).limits(),
        min_load=_given(problem, "min_slots"),
        min_load_if_open=_given(problem, "min_slots_if_open"),
        opening_cost=_given(problem, "opening_cost"),
        load_cost=_load_costs(problem),
        copies=agents.copies,
        count=agents.multiplicity,
    )
    # The scorer has turned costs into scores to be maximised.
    return replace(instance, sense="minimize") if problem.objective.sense == "minimize" else instance


def unassigned_penalties(problem: Problem) -> NDArray[np.float64] | None:
    """Return what leaving each agent out costs before its priority, (n,) float64; None: serve as many as possible."""
    own, common = problem.agents.unassigned_penalty, problem.objective.unassigned_penalty
    if own is None:
        return None if common is None else np.full(len(problem.agents), common)
    return own if common is None else np.where(np.isnan(own), common, own)


def _given(problem: Problem, field: str) -> NDArray[np.float64] | None:
    """Return a number of every model's capacity, (m,) float64, or None where no model has any."""
    values = np.array([getattr(model.capacity, field) for model in problem.models], np.float64)
    return values if values.any() else None


def _load_costs(problem: Problem) -> NDArray[np.float64] | None:
    """Return what a slot costs in each tier of every model, (m, t) float64, or None where nothing does."""
    tiers = max(len(model.capacity.load_cost) for model in problem.models)
    if not tiers:
        return None
    return np.array([model.capacity.load_cost or (0.0,) * tiers for model in problem.models], np.float64)


def pair_scorer(
    problem: Problem,
    *,
    load: Mapping[str, ObservedLoad | None] | None = None,
    feedback: Feedback | None = None,
) -> PairScorer:
    """Return what scores the problem's pairs under a load, as :func:`compile_problem` does.

    Raises
    ------
    SpecError
        When a utilization is outside [0, 1].
    """
    utilization = np.zeros(len(problem.models))
    lines: list[Violation] = []
    for j, name in enumerate(problem.model_ids):
        seen = load.get(name) if load is not None else None
        if seen is not None:
            utilization[j] = seen.utilization
            if not 0.0 <= seen.utilization <= 1.0:
                lines.append(
                    Violation(f"load.{name}.utilization", "expected between 0 and 1", seen.utilization)
                )
    if lines:
        raise SpecError(*lines)
    return PairScorer(problem, utilization=utilization, feedback=feedback)


def remaining_slots(
    problem: Problem, *, load: Mapping[str, ObservedLoad | None] | None = None
) -> NDArray[np.float64]:
    """Return the (m,) float64 slots each model has left for the batch, never below 0.

    Those of its capacity (``slots`` where given, else ``max_concurrent``) minus the requests it serves and
    those that already wait for it.
    """
    slots = np.array([model.capacity.batch_slots for model in problem.models], np.float64)
    if load is not None:
        for j, name in enumerate(problem.model_ids):
            seen = load.get(name)
            if seen is not None:
                slots[j] = max(0.0, slots[j] - seen.active_requests - seen.queue_depth)
    return slots

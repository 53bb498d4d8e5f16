"""LoadBalancer: filter the full, score with load, place the batch, and reserve what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from solver.clock import Deadline
from solver.errors import SpecError, Violation
from solver.load.balance.batches import BatchBuilder, checked_scores
from solver.load.balance.decision import Decision, Reservation, explained
from solver.load.balance.placement import ROUTINGS, Placer
from solver.load.balance.prediction import Calibration, CompletionPredictor
from solver.load.balance.redistribution import WaitingWork
from solver.load.balance.reserving import Reserver
from solver.load.balance.strategies import STRATEGIES, LeastLoaded, LoadStrategy, Predictive, Weighted
from solver.load.checks import positive_problems, whole_problems
from solver.problem.instance import UNASSIGNED
from solver.problem.spec import Objective
from solver.solution.assignment import Assignment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    from solver.load.balance.model_pool import ModelPool
    from solver.load.observe.feedback import AdaptiveScorer
    from solver.load.snapshot import LoadSnapshot
    from solver.load.tracker import LoadTracker
    from solver.problem.spec import Agent, Model

_NO_DEADLINE = Deadline(0.0)


class LoadBalancer:
    """Chooses models for agents by quality and live load.

    Nine combinations: a load strategy says what load does to a model's value, a routing strategy how a batch
    is placed. Thread-safe.

    Parameters
    ----------
    tracker : LoadTracker
        The live load. Models it does not know yet are given the capacity they state.
    strategy : {"weighted", "least_loaded", "predictive"} or LoadStrategy
        See :mod:`solver.load.balance.strategies`; an object such as ``Priced(prices)`` is used as it is.
    routing : {"optimal", "balanced", "greedy"}
        See :mod:`solver.load.balance.placement`.
    load_weight : float, optional
        How much load lowers a score, 0 to 1. By default the objective's, 0.3 without one.
    scorer : AdaptiveScorer, optional
        Corrects capability scores by what was observed.
    predictor : CompletionPredictor, optional
        For the predictive strategy; default: one of its own that listens to the tracker.
    fill_to : {"limit", "target"}
        Whether a model counts as full at its limit, or at its target utilization already.
    queue : bool
        Whether queue places count as room. In the queue, ``Agent.tenant`` shares fairly with the others and
        ``Agent.priority`` decides among its own.
    ttl_s : float
        Time to live of reservations, seconds. The predictive strategy reserves for as long as it expects
        the request to take, with a margin, up to ten times this.
    max_rounds : int
        How often losers of a conflict are decided on again.
    task_types : mapping of str to tuple of str, optional
        Required capabilities of the user's own task types.
    seed : int
        Of the choice between equals.
    objective : Objective, optional
        What is maximised, as :func:`solver.solve` does it: cost, latency, priorities, minimum scores and the
        penalty of leaving an agent out count. Live load cannot be required to serve all: an infinite penalty counts as
        none. Without an objective quality and load alone count, and priorities only say who goes first. The
        strategy ``least_loaded`` takes requirements and minimum scores of it, and ties.
    shares : mapping of str to float, optional
        Share of the requests it could serve that a model gets, in [0, 1], such as 0.01 for a canary: so many
        go to it whatever its score, and the others to the other models, as long as one of them has room.

    Raises
    ------
    SpecError
        If a parameter is out of range.
    """

    def __init__(
        self,
        tracker: LoadTracker,
        strategy: str | LoadStrategy = "weighted",
        routing: str = "optimal",
        *,
        load_weight: float | None = None,
        scorer: AdaptiveScorer | None = None,
        predictor: CompletionPredictor | None = None,
        fill_to: Literal["limit", "target"] = "limit",
        queue: bool = False,
        ttl_s: float = 30.0,
        max_rounds: int = 8,
        task_types: Mapping[str, tuple[str, ...]] | None = None,
        seed: int = 0,
        objective: Objective | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        if load_weight is None:
            load_weight = Objective().load_weight if objective is None else objective.load_weight
        problems = positive_problems("ttl_s", ttl_s) + whole_problems("max_rounds", max_rounds, low=1)
        if isinstance(strategy, str) and strategy not in STRATEGIES:
            problems.append(Violation("strategy", f"expected {', '.join(STRATEGIES)}", strategy))
        if routing not in ROUTINGS:
            problems.append(Violation("routing", f"expected {', '.join(ROUTINGS)}", routing))
        if not 0.0 <= load_weight <= 1.0:
            problems.append(Violation("load_weight", "expected between 0 and 1", load_weight))
        if fill_to not in ("limit", "target"):
            problems.append(Violation("fill_to", "expected 'limit' or 'target'", fill_to))
        problems += _share_problems(shares or {})
        if problems:
            raise SpecError(*problems)
        chosen = _strategy(strategy, load_weight) if isinstance(strategy, str) else strategy
        if chosen.needs_prediction and predictor is None:
            predictor = CompletionPredictor(clock=tracker.clock)
            tracker.listen(predictor.observe, forget=predictor.forget)
        self._tracker = tracker
        self._predictor = predictor
        self._placer = Placer(chosen, routing, seed)
        fill_to_target = fill_to == "target"
        self._batches = BatchBuilder(
            tracker,
            chosen,
            scorer=scorer,
            predictor=predictor,
            fill_to_target=fill_to_target,
            queue=queue,
            task_types=task_types,
            objective=objective,
            shares=shares or {},
        )
        self._waiting = WaitingWork(tracker, self._batches, self._placer)
        self._reserver = Reserver(
            tracker,
            self._batches,
            self._placer,
            self._waiting,
            predictor=predictor,
            fill_to_target=fill_to_target,
            queue=queue,
            ttl_s=ttl_s,
            max_rounds=max_rounds,
        )

    # -- deciding

    def select(
        self,
        agents: Sequence[Agent],
        models: Sequence[Model],
        *,
        scores: ArrayLike | None = None,
        deadline_ms: float | None = None,
    ) -> list[Assignment]:
        """Choose a model for each agent, without reserving anything. See :meth:`decide`."""
        return list(self.decide(agents, models, scores=scores, deadline_ms=deadline_ms).assignments)

    def decide(
        self,
        agents: Sequence[Agent],
        models: Sequence[Model],
        *,
        scores: ArrayLike | None = None,
        deadline_ms: float | None = None,
    ) -> Decision:
        """Choose a model for each agent and say on what figures.

        Parameters
        ----------
        agents : sequence of Agent
            Those who need a model now.
        models : sequence of Model
            The fleet to choose from.
        scores : (n, m) array_like, optional
            Quality of each pair, instead of the capability score; ``-inf`` forbids the pair.
        deadline_ms : float, optional
            Budget of the engines, milliseconds.

        Returns
        -------
        Decision
            No model gets more than it has room for.

        Raises
        ------
        SpecError
            If an agent names a task type or a capability that is unknown.
        """
        pool = self._batches.pool_of(models)
        snapshot = self._batches.current(pool)
        if not len(agents):
            return Decision(assignments=[], models_filtered=(), avg_utilization=_mean(snapshot, pool))
        quality = checked_scores(scores, len(agents), len(pool))
        work = self._batches.work(agents, pool, snapshot, quality, preview=True)
        placement = self._placer.place(work, deadline_ms)
        assignments = [
            Assignment(agent.id, None if j == UNASSIGNED else pool.ids[j], score, reason)
            for agent, (j, score, reason) in zip(
                agents, explained(work, placement.choice, self._placer.strategy), strict=True
            )
        ]
        full = np.flatnonzero(work.room == 0)
        prices = (
            {} if placement.prices is None else dict(zip(pool.ids, placement.prices.tolist(), strict=True))
        )
        return Decision(
            assignments=assignments,
            models_filtered=tuple(pool.ids[j] for j in full),
            avg_utilization=_mean(snapshot, pool),
            prices=prices,
            solution=placement.solution,
            models=pool.ids,
            work=work,
        )

    # -- deciding and reserving as one

    def assign_and_reserve(
        self,
        agents: Sequence[Agent],
        models: Sequence[Model],
        *,
        scores: ArrayLike | None = None,
        deadline_ms: float | None = None,
    ) -> list[Reservation]:
        """Choose a model for each agent and reserve it.

        Decides on a snapshot, then acquires in one atomic step. Where a concurrent client was faster, only
        the losers are decided on again, on a new snapshot, at most ``max_rounds`` times and within the
        deadline.

        Parameters
        ----------
        agents, models, scores
            As in :meth:`decide`.
        deadline_ms : float, optional
            Wall-clock budget of all rounds together, milliseconds.

        Returns
        -------
        list of Reservation
            One per agent, in the agents' order; those that are served hold a lease.
        """
        deadline = _NO_DEADLINE if deadline_ms is None else Deadline.after(deadline_ms)
        pool = self._batches.pool_of(models)
        quality = checked_scores(scores, len(agents), len(pool))
        return self._reserver.reserve(agents, pool, quality, deadline)

    async def assign_and_reserve_async(
        self,
        agents: Sequence[Agent],
        models: Sequence[Model],
        *,
        scores: ArrayLike | None = None,
        deadline_ms: float | None = None,
    ) -> list[Reservation]:
        """Do :meth:`assign_and_reserve` without blocking the event loop on a remote store.

        When the awaiting task is cancelled meanwhile, whatever is granted is released again.
        """
        return await self._tracker.carried_out(
            lambda: self.assign_and_reserve(agents, models, scores=scores, deadline_ms=deadline_ms)
        )

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Set the shares of the traffic anew, in place of those before; they hold from the next request on.

        Raises
        ------
        SpecError
            If a share is out of range; nothing is changed then.
        """
        if problems := _share_problems(shares):
            raise SpecError(*problems)
        self._batches.set_shares(shares)

    def redistribute(self, model: str) -> list[str]:
        """Decide again on the work reserved here that waits for a model, and move what fits elsewhere.

        Running work stays where it is. The holder of a moved lease need not do anything: its lease object
        now stands for the other model.

        Returns
        -------
        list of str
            Ids of the agents that were moved.
        """
        return self._waiting.redistribute(model)

    def calibration(self) -> dict[str, Calibration]:
        """Return how far predicted completion times have been off, per model; empty without predictions."""
        return {} if self._predictor is None else self._predictor.calibration()


def _share_problems(shares: Mapping[str, float]) -> list[Violation]:
    return [
        Violation(f"shares[{name!r}]", "expected between 0 and 1", share)
        for name, share in shares.items()
        if not 0.0 <= share <= 1.0
    ]


def _strategy(name: str, load_weight: float) -> LoadStrategy:
    if name == "least_loaded":
        return LeastLoaded()
    return Weighted(load_weight) if name == "weighted" else Predictive(load_weight)


def _mean(snapshot: LoadSnapshot, pool: ModelPool) -> float:
    return float(snapshot.utilization[pool.positions(snapshot)].mean())

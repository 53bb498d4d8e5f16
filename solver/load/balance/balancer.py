"""LoadBalancer: filter the full, score with load, place the batch, and reserve what was decided."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from solver.clock import Deadline
from solver.errors import SpecError, Violation, ViolationKind
from solver.load.balance.decision import (
    ALL_FULL,
    LOST,
    NOT_PLACED,
    TOO_DEAR,
    Decision,
    Reservation,
    explained,
    reported_scores,
    served_reason,
)
from solver.load.balance.fleet import ModelPool
from solver.load.balance.placement import ROUTINGS, place_one
from solver.load.balance.prediction import Calibration, CompletionPredictor
from solver.load.balance.sizing import reserved_demand, usual_demand
from solver.load.balance.strategies import STRATEGIES, LeastLoaded, LoadStrategy, Predictive, Weighted, Work
from solver.load.checks import positive_problems, whole_problems
from solver.load.lease import Ask, Lease, LeaseState, Refusal, RefusalReason
from solver.problem.instance import UNASSIGNED
from solver.problem.spec import Objective
from solver.solution.assignment import Assignment

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.load.observe.feedback import AdaptiveScorer
    from solver.load.snapshot import LoadSnapshot
    from solver.load.tracker import LoadTracker
    from solver.problem.spec import Agent, Model

__all__ = ["LoadBalancer"]

_FEEDBACK_AGE_S = 0.25
"""Age up to which statistics are used for routing; reading those of 500 models anew costs as much as a decision."""

_SHORTEST_LEASE_S = 5.0
"""Shortest lease where its length follows a predicted duration: a lease that ends too early admits one request too
many."""

_NO_DEADLINE = Deadline(0.0)
_CACHED_FLEETS = 64
"""Fleets that can alternate without being compiled anew."""


class _Waiting(NamedTuple):
    """An agent that waits in a queue, and what it was placed on."""

    agent: Agent
    pool: ModelPool
    given: NDArray[np.float64] | None


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
        penalty of leaving an agent out count. Nobody can be made to serve all: an infinite penalty counts as
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
        for name, share in (shares or {}).items():
            if not 0.0 <= share <= 1.0:
                problems.append(Violation(f"shares[{name!r}]", "expected between 0 and 1", share))
        if problems:
            raise SpecError(*problems)
        self._shares = dict(shares or {})
        self._due = dict.fromkeys(self._shares, 0.0)  # requests that a model with a share has yet to get
        self._tracker = tracker
        self._strategy = _strategy(strategy, load_weight) if isinstance(strategy, str) else strategy
        self._routing = routing
        self._scorer = scorer
        self._predictor = predictor
        if self._strategy.needs_prediction and predictor is None:
            self._predictor = CompletionPredictor(clock=tracker.clock)
            tracker.listen(self._predictor.observe)
        self._fill_to_target = fill_to == "target"
        self._queue = queue
        self._ttl_s = ttl_s
        self._max_rounds = max_rounds
        self._task_types = task_types
        self._objective = objective
        self._lock = threading.Lock()
        self._rng = np.random.default_rng(seed)
        self._pools: dict[tuple[int, ...], tuple[tuple[Model, ...], ModelPool]] = {}
        self._waiting: WeakKeyDictionary[Lease, _Waiting] = WeakKeyDictionary()  # gone with their holders

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
        """
        pool = self._pool_of(models)
        snapshot = self._tracker.snapshot()
        if not len(agents):
            return Decision(assignments=[], models_filtered=(), avg_utilization=_mean(snapshot, pool))
        quality = _checked_scores(scores, len(agents), len(pool))
        work = self._work(agents, pool, snapshot, quality, preview=True)
        placement = ROUTINGS[self._routing](work, self._strategy, self._chance(), deadline_ms)
        assignments = [
            Assignment(agent.id, None if j == UNASSIGNED else pool.ids[j], score, reason)
            for agent, (j, score, reason) in zip(
                agents, explained(work, placement.choice, self._strategy), strict=True
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
        pool = self._pool_of(models)
        quality = _checked_scores(scores, len(agents), len(pool))
        if len(agents) == 1:  # the way of every interactive request
            return [self._reserve_one(agents[0], pool, quality, deadline)]
        done: list[Reservation | None] = [None] * len(agents)
        pending = list(range(len(agents)))
        for round_number in range(self._max_rounds):
            if not pending or (round_number and deadline.expired()):
                break
            pending = self._reserve_round(agents, pending, pool, quality, deadline, done)
        for i in pending:
            done[i] = Reservation(agents[i].id, None, 0.0, LOST)
        return [reservation for reservation in done if reservation is not None]

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
        if not self._tracker.store.remote:
            return self.assign_and_reserve(agents, models, scores=scores, deadline_ms=deadline_ms)
        import asyncio  # most processes that import this package never need it

        work = self._tracker.submit(
            lambda: self.assign_and_reserve(agents, models, scores=scores, deadline_ms=deadline_ms)
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_release_all)
            raise

    def _reserve_round(
        self,
        agents: Sequence[Agent],
        pending: list[int],
        pool: ModelPool,
        quality: NDArray[np.float64] | None,
        deadline: Deadline,
        done: list[Reservation | None],
    ) -> list[int]:
        """Decide on the pending agents and acquire; fill ``done`` and return who has to go again."""
        batch = [agents[i] for i in pending]
        snapshot = self._snapshot(pool)
        work = self._work(batch, pool, snapshot, None if quality is None else quality[pending])
        left_ms = deadline.remaining_s() * 1000.0 if deadline.limited else None
        placement = ROUTINGS[self._routing](
            work, self._strategy, self._chance(), None if left_ms is None else max(left_ms, 0.1)
        )
        answers = list(explained(work, placement.choice, self._strategy))
        placed = [k for k, (j, _, _) in enumerate(answers) if j != UNASSIGNED]
        leases = self._tracker.acquire_many(
            [self._ask(batch[k], pool, snapshot, answers[k][0], work, k) for k in placed]
        )
        granted = dict(zip(placed, leases, strict=True))
        again, progress = [], False
        for k, (j, score, reason) in enumerate(answers):
            answer = granted.get(k)
            if isinstance(answer, Lease):
                self._note(batch[k], answer, pool, None if quality is None else quality[pending[k]])
                done[pending[k]] = Reservation(batch[k].id, pool.ids[j], score, reason, answer)
                progress = True
            elif isinstance(answer, Refusal) and answer.reason in _LASTING:
                done[pending[k]] = Reservation(batch[k].id, None, 0.0, f"refused: {answer.reason.value}")
            elif answer is not None:
                again.append(pending[k])
            elif reason == NOT_PLACED and snapshot.metered:
                again.append(pending[k])  # room was counted with the largest demand: smaller ones may fit
            else:
                done[pending[k]] = Reservation(batch[k].id, None, 0.0, reason)
        if not progress and not any(isinstance(answer, Refusal) for answer in leases):
            for i in again:  # nothing was placed, so nothing will be
                done[i] = Reservation(agents[i].id, None, 0.0, ALL_FULL)
            return []
        return again

    def _reserve_one(
        self, agent: Agent, pool: ModelPool, quality: NDArray[np.float64] | None, deadline: Deadline
    ) -> Reservation:
        """Place and reserve a batch of one: the best model, or the next best where it was taken meanwhile."""
        strategy = self._strategy
        for round_number in range(self._max_rounds):
            if round_number and deadline.expired():
                break
            snapshot = self._snapshot(pool)
            work = self._work([agent], pool, snapshot, quality)
            refused = False
            while True:
                with self._lock:
                    j, score = place_one(work, strategy, self._routing, self._rng)
                if j == UNASSIGNED:
                    break
                answer = self._tracker.try_acquire(
                    pool.ids[j],
                    reserved_demand(self._tracker, pool, snapshot, agent, j),
                    self._duration_s(pool, j, work, 0),
                    queue=self._queue,
                    fill_to=self._share(pool.ids[j]),
                    **self._place(agent),
                )
                if isinstance(answer, Lease):
                    self._note(agent, answer, pool, None if quality is None else quality[0])
                    if not strategy.values_scores:
                        score = float(work.quality[0, j])
                    elif work.sign < 0:
                        score = 0.0 - score
                    busy = min(1.0, work.active.item(j) / work.divisor.item(j))
                    reason = served_reason(strategy, score, 100.0 * busy)
                    return Reservation(agent.id, pool.ids[j], score, reason, answer)
                if answer.reason in _LASTING:
                    return Reservation(agent.id, None, 0.0, f"refused: {answer.reason.value}", refusal=answer)
                refused = True
                work.usable[0, j] = False  # lost to another client: the next best is tried
            if not refused:
                _, _, reason = next(explained(work, np.array([UNASSIGNED]), strategy))
                if reason == TOO_DEAR:
                    return Reservation(agent.id, None, 0.0, reason)
                return self._refused(agent, pool, work, reason, None if quality is None else quality[0])
        return Reservation(agent.id, None, 0.0, LOST)

    def _refused(
        self, agent: Agent, pool: ModelPool, work: Work, reason: str, given: NDArray[np.float64] | None
    ) -> Reservation:
        """Say why nobody serves an agent: ask its best models, and keep the answer with room soonest."""
        best: Refusal | None = None
        snapshot = self._tracker.snapshot()
        told = reported_scores(work, self._strategy, 0)
        order = np.argsort(-work.sign * told, kind="stable")
        worthwhile = work.eligible[0] & (work.sign * told >= work.left_out(0))
        for j in order[worthwhile[order]][:_ASKED_FOR_REASON].tolist():
            answer = self._tracker.try_acquire(
                pool.ids[j],
                reserved_demand(self._tracker, pool, snapshot, agent, j),
                self._duration_s(pool, j, work, 0),
                queue=self._queue,
                fill_to=self._share(pool.ids[j]),
                **self._place(agent),
            )
            if isinstance(answer, Lease):  # room has come back meanwhile
                self._note(agent, answer, pool, given)
                score = float(told[j])
                return Reservation(
                    agent.id, pool.ids[j], score, served_reason(self._strategy, score, 100.0), answer
                )
            if best is None or _retry(answer) < _retry(best):
                best = answer
        return Reservation(agent.id, None, 0.0, reason, refusal=best)

    def _ask(self, agent: Agent, pool: ModelPool, snapshot: LoadSnapshot, j: int, work: Work, k: int) -> Ask:
        return Ask(
            model=pool.ids[j],
            demand=reserved_demand(self._tracker, pool, snapshot, agent, j),
            ttl_s=self._duration_s(pool, j, work, k),
            queue=self._queue,
            fill_to=self._share(pool.ids[j]),
            **self._place(agent),
        )

    def _place(self, agent: Agent) -> dict[str, Any]:
        """Return what decides on an agent's place in a queue."""
        return {"priority": float(agent.priority), "tenant": agent.tenant}

    def _share(self, model: str) -> float:
        """Return the share of a model's slots that a reservation may fill; the store holds to it."""
        return self._tracker.target_of(model) if self._fill_to_target else 1.0

    def _duration_s(self, pool: ModelPool, j: int, work: Work, k: int) -> float:
        """Return how long to reserve model j for agent k of a batch, seconds."""
        if work.service_ms is None or self._predictor is None:
            return self._ttl_s
        _, deviation = self._predictor.coefficients(pool.models)
        expected_s = (2.0 * work.service_ms.item(k, j) + 3.0 * deviation.item(j)) / 1000.0
        return min(max(expected_s, _SHORTEST_LEASE_S), 10.0 * self._ttl_s)

    # -- moving what waits

    def redistribute(self, model: str) -> list[str]:
        """Decide again on the work reserved here that waits for a model, and move what fits elsewhere.

        Running work stays where it is. The holder of a moved lease need not do anything: its lease object
        now stands for the other model.

        Returns
        -------
        list of str
            Ids of the agents that were moved.
        """
        with self._lock:
            waiting = [(entry, lease) for lease, entry in self._waiting.items() if lease.model == model]
        live = [(entry, lease) for entry, lease in waiting if lease.state() is LeaseState.QUEUED]
        self._forget([lease for _, lease in waiting], keep=[lease for _, lease in live])
        together: dict[tuple[int, bool], list[tuple[_Waiting, Lease]]] = {}
        for entry, lease in live:  # those who chose among the same models, on scores of the same kind
            together.setdefault((id(entry.pool), entry.given is None), []).append((entry, lease))
        return [name for group in together.values() for name in self._moved(model, group)]

    def _moved(self, model: str, group: list[tuple[_Waiting, Lease]]) -> list[str]:
        """Move what fits elsewhere of some who wait for a model; return the ids of the agents moved."""
        pool = group[0][0].pool
        live = [(entry.agent, lease) for entry, lease in group]
        rows = [entry.given for entry, _ in group if entry.given is not None]
        given = np.stack(rows) if rows else None
        work = self._work([agent for agent, _ in live], pool, self._tracker.snapshot(), given, preview=True)
        work.room[pool.ids.index(model)] = 0
        work = replace(work, usable=work.eligible & (work.room > 0))
        placement = ROUTINGS[self._routing](work, self._strategy, self._chance(), None)
        moved = []
        for (agent, lease), j in zip(live, placement.choice.tolist(), strict=True):
            if j != UNASSIGNED and isinstance(self._tracker.move(lease, pool.ids[j]), Lease):
                if lease.model != model:  # otherwise it had ended meanwhile
                    moved.append(agent.id)
                self._forget([lease], keep=[])
        return moved

    def _forget(self, leases: list[Lease], *, keep: list[Lease]) -> None:
        with self._lock:
            for lease in leases:
                if all(lease is not kept for kept in keep):
                    self._waiting.pop(lease, None)

    def _note(self, agent: Agent, lease: Lease, pool: ModelPool, given: NDArray[np.float64] | None) -> None:
        """Remember who waits, so that it can be moved."""
        if lease.granted is LeaseState.QUEUED:
            with self._lock:
                self._waiting[lease] = _Waiting(agent, pool, given)

    # -- figures

    def calibration(self) -> dict[str, Calibration]:
        """Return how far predicted completion times have been off, per model; empty without predictions."""
        return {} if self._predictor is None else self._predictor.calibration()

    def _chance(self) -> np.random.Generator:
        """Return a generator of its own for one decision, so that decisions do not wait for each other."""
        with self._lock:
            return np.random.default_rng(self._rng.integers(2**63))

    def _pool_of(self, models: Sequence[Model]) -> ModelPool:
        """Return the pool of a fleet, the same one for equal models."""
        key = tuple(map(id, models))  # an entry keeps its models alive, so their identities stay theirs
        entry = self._pools.get(key)
        if entry is not None:
            return entry[1]
        fleet = tuple(models)
        pool = next((pool for seen, pool in tuple(self._pools.values()) if seen == fleet), None)
        if pool is None:
            pool = ModelPool(fleet, objective=self._objective, task_types=self._task_types)
            known = set(self._tracker.snapshot().models)
            for model in fleet:
                if model.id not in known:
                    self._tracker.set_capacity(
                        model.id,
                        model.capacity,
                        requests_per_minute=model.requests_per_minute,
                        tokens_per_minute=model.tokens_per_minute,
                    )
        if len(self._pools) >= _CACHED_FLEETS:
            self._pools = {}
        self._pools[key] = (fleet, pool)
        return pool

    def _snapshot(self, pool: ModelPool) -> LoadSnapshot:
        """Return the load to reserve on; where every model is stopped, after opening one as a last resort."""
        snapshot = self._tracker.snapshot()
        stopped = snapshot.view.stops
        if stopped and all(model in stopped for model in pool.ids) and self._tracker.last_resort(pool.ids):
            return self._tracker.snapshot()
        return snapshot

    def _work(
        self,
        agents: Sequence[Agent],
        pool: ModelPool,
        snapshot: LoadSnapshot,
        given: NDArray[np.float64] | None,
        *,
        preview: bool = False,
    ) -> Work:
        feedback = None
        if self._scorer is not None and (given is None or pool.scorer.objective.quality == "combined"):
            kinds = [agent.task_type for agent in agents]
            feedback = self._scorer.feedback_of(kinds, pool.ids, max_age_s=_FEEDBACK_AGE_S)
        terms = pool.scorer.terms(agents, feedback=feedback, given=given)
        eligible = terms.eligible
        where = pool.positions(snapshot)
        slots, divisor = pool.slots(snapshot)
        room = self._room(agents, pool, snapshot, where)
        if self._shares:
            eligible = self._shared(eligible, room, pool, preview)
        rank = None
        if len(agents) > 1:
            priority = [agent.priority for agent in agents]
            rank = None if min(priority) == max(priority) else np.array(priority)
        weight = penalty = None
        if self._objective is not None:
            weight = np.array([[agent.priority] for agent in agents])
            if self._strategy.values_scores:
                penalty = _penalties(agents, self._objective)
        service = None
        if self._strategy.needs_prediction and self._predictor is not None:
            service = self._predictor.predict_ms(
                pool.models,
                [agent.input_tokens for agent in agents],
                [agent.output_tokens for agent in agents],
            )
        return Work(
            quality=terms.quality,
            eligible=eligible,
            active=snapshot.active[where].astype(np.float64),
            slots=slots,
            divisor=divisor,
            room=room,
            usable=eligible & (room > 0)[None, :],
            queue=self._queue,
            rank=rank,
            service_ms=service,
            charge=terms.charge,
            weight=weight,
            penalty=penalty,
            sign=pool.scorer.sign,
        )

    def _shared(
        self, eligible: NDArray[np.bool_], room: NDArray[np.int64], pool: ModelPool, preview: bool
    ) -> NDArray[np.bool_]:
        """Return eligibility with models that have a share offered exactly to their share of the agents.

        A preview sees who would come next, and leaves the account of requests as it is.
        """
        eligible = eligible.copy()
        columns = [(pool.ids.index(name), name) for name in self._shares if name in pool.ids]
        with self._lock:
            due = self._due.copy() if preview else self._due
            for row in eligible:
                could = [(j, name) for j, name in columns if row[j] and room[j] > 0]
                for _, name in could:
                    due[name] += self._shares[name]
                chosen = next((pair for pair in could if due[pair[1]] >= 1.0 - 1e-9), None)
                if chosen is not None:
                    due[chosen[1]] -= 1.0
                    row[:] = False
                    row[chosen[0]] = True
                    continue
                others = row.copy()
                others[[j for j, _ in columns]] = False
                if (others & (room > 0)).any():
                    row[:] = others
        return eligible

    def _room(
        self,
        agents: Sequence[Agent],
        pool: ModelPool,
        snapshot: LoadSnapshot,
        where: NDArray[np.intp] | slice,
    ) -> NDArray[np.int64]:
        demand = usual_demand(self._tracker, pool, snapshot, agents)  # the largest: then every subset fits
        room = snapshot.room(demand, queue=self._queue)[where]
        if self._fill_to_target:
            limit = np.floor(snapshot.target[where] * snapshot.max_concurrent[where] + 1e-9)
            room = np.clip(limit - snapshot.active[where], 0, room).astype(np.int64)
        return room


_ASKED_FOR_REASON = 3
"""Models asked why they have no room for an agent that nobody serves."""


def _retry(refusal: Refusal) -> float:
    return np.inf if refusal.retry_after_s is None else refusal.retry_after_s


_LASTING = frozenset({RefusalReason.STORE_UNAVAILABLE, RefusalReason.RECOVERING})
"""Refusals that a new decision cannot change."""


def _strategy(name: str, load_weight: float) -> LoadStrategy:
    if name == "least_loaded":
        return LeastLoaded()
    return Weighted(load_weight) if name == "weighted" else Predictive(load_weight)


def _penalties(agents: Sequence[Agent], objective: Objective) -> NDArray[np.float64] | None:
    """Return what leaving each agent out costs before its priority, (n,); None: serve as many as possible."""
    own = [
        objective.unassigned_penalty if agent.unassigned_penalty is None else agent.unassigned_penalty
        for agent in agents
    ]
    if any(value is None or not np.isfinite(value) for value in own):
        return None
    return np.array(own, np.float64)


def _checked_scores(scores: ArrayLike | None, n: int, m: int) -> NDArray[np.float64] | None:
    if scores is None:
        return None
    given = np.asarray(scores, np.float64)
    if given.shape != (n, m):
        raise SpecError(
            Violation(
                "scores", f"expected shape {(n, m)}", shown=f"shape {given.shape}", kind=ViolationKind.TYPE
            )
        )
    if not (given < np.inf).all():
        i, j = np.argwhere(~(given < np.inf))[0]
        raise SpecError(Violation(f"scores[{i}, {j}]", "expected a finite number or -inf", given[i, j]))
    return given


def _mean(snapshot: LoadSnapshot, pool: ModelPool) -> float:
    return float(snapshot.utilization[pool.positions(snapshot)].mean())


def _release_all(work: asyncio.Future[list[Reservation]]) -> None:
    """Give back, off the event loop, what a cancelled caller was granted."""
    if not work.cancelled() and work.exception() is None:
        for reservation in work.result():
            if reservation.lease is not None:
                work.get_loop().run_in_executor(None, reservation.lease.release)

"""Reserving what was placed: leases for a batch, and again for those whose place was taken meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.load.balance.decision import (
    ALL_FULL,
    LOST,
    NOT_PLACED,
    TOO_DEAR,
    Reservation,
    explained,
    reported_scores,
    served_reason,
)
from solver.load.balance.request_demand import reserved_demand
from solver.load.lease import Ask, Lease, Refusal, RefusalReason
from solver.problem.instance import UNASSIGNED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.load.balance.batches import BatchBuilder
    from solver.load.balance.model_pool import ModelPool
    from solver.load.balance.placement import Placer
    from solver.load.balance.prediction import CompletionPredictor
    from solver.load.balance.redistribution import WaitingWork
    from solver.load.balance.strategies import Work
    from solver.load.snapshot import LoadSnapshot
    from solver.load.tracker import LoadTracker
    from solver.problem.spec import Agent

_SHORTEST_LEASE_S = 5.0
"""Shortest lease where its length follows a predicted duration: a lease that ends too early admits one request too
many."""

_ASKED_FOR_REASON = 3
"""Models asked why they have no room for an agent that stays unassigned."""

_LASTING = frozenset({RefusalReason.STORE_UNAVAILABLE, RefusalReason.RECOVERING})
"""Refusals that a new decision cannot change."""


class Reserver:
    """Reserves what a placer chooses, in rounds: losers of a conflict are placed again.

    The parameters are those of :class:`~solver.LoadBalancer`.
    """

    def __init__(
        self,
        tracker: LoadTracker,
        batches: BatchBuilder,
        placer: Placer,
        waiting: WaitingWork,
        *,
        predictor: CompletionPredictor | None,
        fill_to_target: bool,
        queue: bool,
        ttl_s: float,
        max_rounds: int,
    ) -> None:
        self._tracker = tracker
        self._batches = batches
        self._placer = placer
        self._waiting = waiting
        self._predictor = predictor
        self._fill_to_target = fill_to_target
        self._queue = queue
        self._ttl_s = ttl_s
        self._max_rounds = max_rounds

    def reserve(
        self,
        agents: Sequence[Agent],
        pool: ModelPool,
        quality: NDArray[np.float64] | None,
        deadline: Deadline,
    ) -> list[Reservation]:
        """Place and reserve a batch; return one reservation per agent, in the agents' order."""
        if len(agents) == 1:  # the way of every interactive request
            return [self._reserve_one(agents[0], pool, quality, deadline)]
        done: list[Reservation | None] = [None] * len(agents)
        pending = list(range(len(agents)))
        left_out: dict[int, str] = {}
        lost: dict[int, Refusal] = {}
        for round_number in range(self._max_rounds):
            if not pending or (round_number and deadline.expired()):
                break
            pending = self._reserve_round(agents, pending, pool, quality, deadline, done, left_out, lost)
        for i in pending:
            done[i] = _refused(agents[i], LOST, lost.get(i))
        if left_out:
            self._ask_why(agents, left_out, pool, quality, done)
        return [reservation for reservation in done if reservation is not None]

    def _reserve_round(
        self,
        agents: Sequence[Agent],
        pending: list[int],
        pool: ModelPool,
        quality: NDArray[np.float64] | None,
        deadline: Deadline,
        done: list[Reservation | None],
        left_out: dict[int, str],
        lost: dict[int, Refusal],
    ) -> list[int]:
        """Decide on the pending agents and acquire; return who has to go again, with why in ``lost``.

        Fills ``done``, or ``left_out`` where no model has room.
        """
        batch = [agents[i] for i in pending]
        given = None if quality is None else quality[pending]
        snapshot = self._batches.snapshot(pool)
        work = self._batches.work(batch, pool, snapshot, given)
        left_ms = max(deadline.remaining_s() * 1000.0, 0.1) if deadline.limited else None
        placement = self._placer.place(work, left_ms)
        answers = list(explained(work, placement.choice, self._placer.strategy))
        placed = [k for k, (j, _, _) in enumerate(answers) if j != UNASSIGNED]
        leases = self._tracker.acquire_many(
            [
                Ask(queue=self._queue, **self._terms(batch[k], pool, snapshot, answers[k][0], work, k))
                for k in placed
            ]
        )
        granted = dict(zip(placed, leases, strict=True))
        again, progress = [], False
        for k, (j, score, reason) in enumerate(answers):
            answer = granted.get(k)
            if isinstance(answer, Lease):
                self._waiting.note(batch[k], answer, pool, None if given is None else given[k])
                done[pending[k]] = Reservation(batch[k].id, pool.ids[j], score, reason, answer)
                progress = True
            elif isinstance(answer, Refusal) and answer.reason in _LASTING:
                done[pending[k]] = _refused(batch[k], f"refused: {answer.reason.value}", answer)
            elif answer is not None:
                again.append(pending[k])
                lost[pending[k]] = answer
            elif reason == NOT_PLACED and snapshot.metered:
                again.append(pending[k])  # room was counted with the largest demand: smaller ones may fit
            elif reason in (ALL_FULL, NOT_PLACED):
                left_out[pending[k]] = reason
            else:
                done[pending[k]] = _refused(batch[k], reason)
        if not progress and not any(isinstance(answer, Refusal) for answer in leases):
            left_out |= dict.fromkeys(again, ALL_FULL)  # nothing was placed, so nothing will be
            return []
        return again

    def _reserve_one(
        self, agent: Agent, pool: ModelPool, quality: NDArray[np.float64] | None, deadline: Deadline
    ) -> Reservation:
        """Place and reserve a batch of one: the best model, or the next best where it was taken meanwhile."""
        strategy = self._placer.strategy
        last: Refusal | None = None
        for round_number in range(self._max_rounds):
            if round_number and deadline.expired():
                break
            snapshot = self._batches.snapshot(pool)
            work = self._batches.work([agent], pool, snapshot, quality)
            refused = False
            while True:
                j, score = self._placer.place_one(work)
                if j == UNASSIGNED:
                    break
                answer = self._acquire(agent, pool, snapshot, j, work, quality)
                if isinstance(answer, Lease):
                    if not strategy.values_scores:
                        score = float(work.quality[0, j])
                    elif work.sign < 0:
                        score = 0.0 - score
                    busy = min(1.0, work.active.item(j) / work.divisor.item(j))
                    reason = served_reason(strategy, score, 100.0 * busy)
                    return Reservation(agent.id, pool.ids[j], score, reason, answer)
                if answer.reason in _LASTING:
                    return _refused(agent, f"refused: {answer.reason.value}", answer)
                refused, last = True, answer
                work.usable[0, j] = False  # lost to another client: the next best is tried
            if not refused:
                _, _, reason = next(explained(work, np.array([UNASSIGNED]), strategy))
                if reason == TOO_DEAR:
                    return _refused(agent, reason)
                done: list[Reservation | None] = [None]
                self._ask_why([agent], {0: reason}, pool, quality, done)
                assert done[0] is not None
                return done[0]
        return _refused(agent, LOST, last)

    def _ask_why(
        self,
        agents: Sequence[Agent],
        left_out: Mapping[int, str],
        pool: ModelPool,
        quality: NDArray[np.float64] | None,
        done: list[Reservation | None],
    ) -> None:
        """Say why no model serves some agents: ask the best models of each, and keep the answer with room soonest."""
        rows = sorted(left_out)
        batch = [agents[i] for i in rows]
        given = None if quality is None else quality[rows]
        snapshot = self._batches.current(pool)
        work = self._batches.work(batch, pool, snapshot, given, preview=True)
        reported = reported_scores(work, self._placer.strategy, slice(None))
        value = work.sign * reported
        worthwhile = work.eligible & (value >= np.array([[work.left_out(k)] for k in range(len(rows))]))
        order = np.argsort(np.where(worthwhile, -value, np.inf), axis=1, kind="stable")
        refusals: dict[int, Refusal] = {}
        for rank in range(min(_ASKED_FOR_REASON, len(pool))):
            asked = [
                (k, j)
                for k, j in enumerate(order[:, rank].tolist())
                if worthwhile[k, j] and done[rows[k]] is None
            ]
            answers = self._tracker.acquire_many(
                [
                    Ask(queue=self._queue, **self._terms(batch[k], pool, snapshot, j, work, k))
                    for k, j in asked
                ]
            )
            for (k, j), answer in zip(asked, answers, strict=True):
                if isinstance(answer, Lease):  # room has come back meanwhile
                    self._waiting.note(batch[k], answer, pool, None if given is None else given[k])
                    score = float(reported[k, j])
                    reason = served_reason(self._placer.strategy, score, 100.0)
                    done[rows[k]] = Reservation(batch[k].id, pool.ids[j], score, reason, answer)
                elif k not in refusals or _retry_s(answer) < _retry_s(refusals[k]):
                    refusals[k] = answer
        for k, i in enumerate(rows):
            if done[i] is None:
                done[i] = _refused(batch[k], left_out[i], refusals.get(k))

    def _acquire(
        self,
        agent: Agent,
        pool: ModelPool,
        snapshot: LoadSnapshot,
        j: int,
        work: Work,
        quality: NDArray[np.float64] | None,
    ) -> Lease | Refusal:
        """Reserve model j for an agent that is a batch by itself."""
        terms = self._terms(agent, pool, snapshot, j, work, 0)
        answer = self._tracker.try_acquire(queue=self._queue, **terms)
        if isinstance(answer, Lease):
            self._waiting.note(agent, answer, pool, None if quality is None else quality[0])
        return answer

    def _terms(
        self, agent: Agent, pool: ModelPool, snapshot: LoadSnapshot, j: int, work: Work, k: int
    ) -> dict[str, Any]:
        """Return what to ask of the tracker to reserve model j for agent k of a batch."""
        model = pool.ids[j]
        return {
            "model": model,
            "demand": reserved_demand(self._tracker, pool, snapshot, agent, j),
            "ttl_s": self._duration_s(pool, j, work, k),
            "fill_to": self._tracker.target_of(model) if self._fill_to_target else 1.0,
            "priority": float(agent.priority),
            "tenant": agent.tenant,
        }

    def _duration_s(self, pool: ModelPool, j: int, work: Work, k: int) -> float:
        """Return how long to reserve model j for agent k of a batch, seconds."""
        if work.service_ms is None or self._predictor is None:
            return self._ttl_s
        expected_s = (2.0 * work.service_ms.item(k, j) + 3.0 * self._predictor.error_ms(pool.ids[j])) / 1000.0
        return min(max(expected_s, _SHORTEST_LEASE_S), 10.0 * self._ttl_s)


def _refused(agent: Agent, reason: str, refusal: Refusal | None = None) -> Reservation:
    return Reservation(agent.id, None, 0.0, reason, refusal=refusal)


def _retry_s(refusal: Refusal) -> float:
    return np.inf if refusal.retry_after_s is None else refusal.retry_after_s

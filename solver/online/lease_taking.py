"""Takes the lease of a decision and follows it to its end. The tracker decides; money never overruns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation
from solver.load.lease import ONE_SLOT, Demand, Lease, RefusalReason, ReleaseOutcome
from solver.online.decision import Decision
from solver.online.models_to_try import ModelsToTry
from solver.online.refusal import RouteRefusal, RouteRefusalReason

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from solver.load.refusal import Refusal
    from solver.load.tracker import LoadTracker
    from solver.online.decision_log import DecisionLog
    from solver.online.live_load import LiveLoad
    from solver.online.pricing_protocol import Pricing
    from solver.online.spending import Spending
    from solver.online.window import AgentRow
    from solver.problem.spec import Agent

_LASTING = frozenset({RefusalReason.STORE_UNAVAILABLE, RefusalReason.RECOVERING})
"""Refusals that no other model would answer differently."""

_NO_QUEUE: dict[str, Any] = {}

_ASKED_FOR_REASON = 3
"""Full models that are asked why, for an agent that none has room for; of a remote store one, in one round trip."""

_LONGEST_LINE_S = 600.0
"""A line of refused requests that is longer, in seconds, begins again at its front."""


class Reservations:
    """Reserves what is decided, tries the runner-up where another client was faster, and settles in the end.

    Thread-safe, but for :meth:`look`, which its owner calls under the lock.

    Parameters
    ----------
    tracker : LoadTracker
        Grants or refuses.
    ids : tuple of str
        Models, in column order.
    pricing : Pricing
        Present prices, and what is left of a horizon.
    load : LiveLoad
        Occupancy.
    spending : Spending or None
        A budget.
    log : DecisionLog or None
        Where decisions are noted.
    queue : bool
        Whether queue places count as room.
    lock : Lock
        Guards pricing, load and spending.
    """

    def __init__(
        self,
        tracker: LoadTracker,
        ids: tuple[str, ...],
        *,
        pricing: Pricing[Any],
        load: LiveLoad,
        spending: Spending | None,
        log: DecisionLog | None,
        queue: bool,
        lock: threading.Lock,
    ) -> None:
        self._tracker, self._clock, self.ids = tracker, tracker.clock, ids
        self._pricing, self._load, self._spending, self._log = pricing, load, spending, log
        self.lock = lock
        self._claims = pricing.uses_up or spending is not None or tracker.store.remote
        self._plain = not self._claims and log is None
        """Whether a lease without an outcome leaves nothing to settle here."""
        self._queue = queue
        self._last_turn_s = -np.inf

    def look(self, row: AgentRow) -> ModelsToTry:
        """Return the models worth trying at the present load. Under the lock."""
        load = self._load
        load.look()
        left_usd = None if self._spending is None else self._spending.left_usd(self._clock.now())
        return ModelsToTry(row, self._pricing, load, left_usd, keep=self._log is not None)

    def look_again(self, row: AgentRow) -> ModelsToTry:
        """Do :meth:`look`, taking the lock."""
        with self.lock:
            return self.look(row)

    def look_for_all(self, rows: Sequence[AgentRow]) -> list[ModelsToTry]:
        """Return the models worth trying for each of several agents, all at the load before any of them."""
        with self.lock:
            load = self._load
            load.look()
            left_usd = None if self._spending is None else self._spending.left_usd(self._clock.now())
            level, keep = self._pricing.level(load), self._log is not None
            return [ModelsToTry(row, self._pricing, load, left_usd, keep=keep, level=level) for row in rows]

    # -- reserving

    def reserve(self, agent: Agent | None, row: AgentRow, candidates: ModelsToTry, ttl_s: float) -> Decision:
        """Reserve the best model that is not lost to another client meanwhile."""
        last: Refusal | None = None
        place = self._place(row) if self._queue else _NO_QUEUE
        while (choice := self._next(row, candidates, last)) is not None:
            column, net = choice
            try:
                answer = self._tracker.try_acquire(
                    self.ids[column], self._demand(row, column), ttl_s, **place
                )
            except SpecError:
                self._unclaim(column, row)
                if self._knows(column):
                    raise
                continue
            except BaseException:
                self._unclaim(column, row)
                raise
            if isinstance(answer, Lease):
                return self._granted(agent, candidates, column, net, answer)
            self._unclaim(column, row)
            last = _sooner(last, answer)
        return self._refused(agent, row, candidates, last)

    async def reserve_async(
        self, agent: Agent | None, row: AgentRow, candidates: ModelsToTry, ttl_s: float
    ) -> Decision:
        """Do :meth:`reserve` without blocking the event loop on a remote store."""
        last: Refusal | None = None
        place = self._place(row) if self._queue else _NO_QUEUE
        while (choice := self._next(row, candidates, last)) is not None:
            column, net = choice
            try:
                answer = await self._tracker.try_acquire_async(
                    self.ids[column], self._demand(row, column), ttl_s, **place
                )
            except SpecError:
                self._unclaim(column, row)
                if self._knows(column):
                    raise
                continue
            except BaseException:  # cancelled, too: the tracker releases what it still grants
                self._unclaim(column, row)
                raise
            if isinstance(answer, Lease):
                return self._granted(agent, candidates, column, net, answer)
            self._unclaim(column, row)
            last = _sooner(last, answer)
        return self._refused(agent, row, candidates, last)

    def _next(self, row: AgentRow, candidates: ModelsToTry, last: Refusal | None) -> tuple[int, float] | None:
        """Return the next model to try, its slot of the horizon and its money claimed; None when none is left."""
        if last is not None and last.reason in _LASTING:
            return None
        while (choice := candidates.following() or self._to_ask(row, candidates, last)) is not None:
            if not self._claims or self._claim(choice[0], row):
                return choice
        return None

    def _to_ask(
        self, row: AgentRow, candidates: ModelsToTry, last: Refusal | None
    ) -> tuple[int, float] | None:
        """Return the next model to ask why it has no room, and for how long; None when enough were asked."""
        if candidates.tentative or candidates.refusal is not RouteRefusalReason.FULL:
            return None
        if candidates.to_ask is None:
            candidates.to_ask = self._best_full(row, asked=last)
        return candidates.to_ask.pop() if candidates.to_ask else None

    def _best_full(self, row: AgentRow, *, asked: Refusal | None) -> list[tuple[int, float]]:
        """Return some full models with their scores, the best last; one that was opened as a last resort after it."""
        eligible = np.setdiff1d(np.flatnonzero(np.isfinite(row.scores)), self._load.gone)
        best = eligible[np.argsort(row.scores[eligible], kind="stable")]
        columns = best[-1 if self._load.remote else -_ASKED_FOR_REASON :].tolist() if asked is None else []
        if (asked is not None and asked.stops) or not self._load.limit[eligible].any():
            names = [self.ids[j] for j in eligible.tolist()]
            snapshot = self._tracker.snapshot()
            nothing_open = not snapshot.open_slots[[snapshot.index[name] for name in names]].any()
            opened = self._tracker.last_resort(tuple(names)) if nothing_open else None
            if opened is not None:
                columns.append(self.ids.index(opened))
        return [(column, row.scores.item(column)) for column in columns]

    def _knows(self, column: int) -> bool:
        """Return whether the tracker still has a model; it may be forgotten while a decision is made."""
        try:
            self._tracker.store.row(self.ids[column])
        except SpecError:
            return False
        return True

    def _claim(self, column: int, row: AgentRow) -> bool:
        """Take a slot of the horizon and the money before anything is reserved; False when it is gone."""
        with self.lock:
            if not self._pricing.claim(column):
                return False
            if self._spending is not None and not self._spending.spend(_cost(row, column), self._clock.now()):
                self._pricing.unclaim(column)
                return False
            self._load.note(column, 1)
            return True

    def _unclaim(self, column: int, row: AgentRow) -> None:
        if not self._claims:
            return
        with self.lock:
            self._pricing.unclaim(column)
            if self._spending is not None:
                self._spending.give_back(_cost(row, column))
            self._load.note(column, -1)

    def _demand(self, row: AgentRow, column: int) -> Demand:
        if not row.tokens and row.cost_usd is None:
            return ONE_SLOT
        return Demand(tokens=int(row.tokens), cost_usd=_cost(row, column))

    def _place(self, row: AgentRow) -> dict[str, Any]:
        """Return the terms on which a request may wait."""
        return {"queue": True, "priority": row.priority, "tenant": row.account}

    # -- answering

    def _granted(
        self, agent: Agent | None, candidates: ModelsToTry, column: int, net: float, lease: Lease
    ) -> Decision:
        decision = Decision(
            None if agent is None else agent.id,
            self,
            candidates,
            lease=lease,
            column=column,
            net=net,
        )
        if candidates.kept is not None:
            self._note(agent, candidates, decision)
        return decision

    def _refused(
        self, agent: Agent | None, row: AgentRow, candidates: ModelsToTry, cause: Refusal | None
    ) -> Decision:
        reason = candidates.refusal
        if cause is not None and cause.reason in _LASTING:
            reason = RouteRefusalReason.STORE_UNAVAILABLE
        retry = None if cause is None else cause.retry_after_s
        if retry is None and reason is RouteRefusalReason.FULL:
            retry = self._next_turn_s(float(self._pricing.next_release_s(row, self._load.limit)))
        if retry is None and reason is RouteRefusalReason.BUDGET and self._spending is not None:
            left = self._spending.left_s(self._clock.now())
            retry = left if left < np.inf else None
        refusal = RouteRefusal(reason=reason, retry_after_s=retry, cause=cause)
        name = None if agent is None else agent.id
        decision = Decision(name, self, candidates, reason=reason.value, refusal=refusal)
        if not candidates.tentative:
            self._note(agent, candidates, decision)
        return decision

    def _next_turn_s(self, gap_s: float) -> float:
        """Return a wait of its own for each of those refused at once, where the tracker does not know one."""
        now = self._clock.now()
        with self.lock:
            due_s = max(now, self._last_turn_s) + gap_s
            if due_s - now > _LONGEST_LINE_S:  # most who were told so have given up
                due_s = now + gap_s
            self._last_turn_s = due_s
        return due_s - now

    def _note(self, agent: Agent | None, candidates: ModelsToTry, decision: Decision) -> None:
        if self._log is not None and candidates.kept is not None:
            self._log.decided(self._clock.now(), agent, candidates.row, candidates.kept, decision, self.ids)

    # -- settling

    def settle(
        self,
        decision: Decision,
        *,
        latency_ms: float | None,
        tokens: int | None,
        cost_usd: float | None,
        success: bool,
    ) -> ReleaseOutcome | None:
        """Release a decision's lease, settle its cost and record its outcome, once. See ``Decision.release``."""
        lease = decision.lease
        if lease is None:
            return None
        if latency_ms is not None and not 0 <= latency_ms < np.inf:
            raise SpecError(Violation("latency_ms", "expected a finite number >= 0", latency_ms))
        outcome = self._tracker.release(lease, tokens=tokens, cost_usd=cost_usd)
        if latency_ms is None and self._plain:
            decision._released = True  # noqa: SLF001 - a decision is this object's own record
            return outcome
        with self.lock:
            if decision._released:  # noqa: SLF001 - a decision is this object's own record
                return outcome
            decision._released = True  # noqa: SLF001
            if self._claims:
                self._load.note(decision._column, -1)  # noqa: SLF001
            if self._spending is not None and cost_usd is not None:
                self._spending.correct(cost_usd - decision.expected_usd)
        if self._log is not None:
            facts = {"latency_ms": latency_ms, "tokens": tokens, "cost_usd": cost_usd, "success": success}
            self._log.released(self._clock.now(), lease.lease_id, {**facts, "outcome": outcome.value})
        if latency_ms is not None:
            self._record(decision, lease.model, latency_ms, tokens, cost_usd, success=success)
        return outcome

    def _record(
        self,
        decision: Decision,
        model: str,
        latency_ms: float,
        tokens: int | None,
        cost_usd: float | None,
        *,
        success: bool,
    ) -> None:
        """Record an outcome with the sizes that predictions are made from: the answer is what exceeds the prompt."""
        forecast = decision._candidates.row.forecast  # noqa: SLF001 - a decision is this object's own record
        prompt = None if forecast is None or tokens is None else int(forecast.input_tokens)
        self._tracker.record(
            model,
            latency_ms=latency_ms,
            success=success,
            input_tokens=prompt,
            output_tokens=tokens if tokens is None or prompt is None else max(tokens - prompt, 0),
            cost_usd=cost_usd,
        )


def _sooner(one: Refusal | None, other: Refusal) -> Refusal:
    """Return the refusal that ends sooner, or that no other model would answer differently."""
    if one is None or other.reason in _LASTING:
        return other
    return min(
        (one, other), key=lambda refusal: np.inf if refusal.retry_after_s is None else refusal.retry_after_s
    )


def _cost(row: AgentRow, column: int) -> float:
    return 0.0 if row.cost_usd is None else row.cost_usd.item(column)

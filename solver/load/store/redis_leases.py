"""Leases on a shared store: taken, renewed, moved and given back, each by one script."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation
from solver.load.lease import Ask, LeaseState, ReleaseOutcome
from solver.load.refusal import Refusal, RefusalReason
from solver.load.stops import reopens_in_s
from solver.load.store.redis_codec import ask_fields, read_stops
from solver.load.store.redis_operations import RedisOperations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from solver.load.store.memory import MemoryStore
    from solver.load.store.replica_memory import KnownLease

_GRANTED = (LeaseState.RUNNING, LeaseState.QUEUED)


class RedisLeases(RedisOperations):
    """Operations on leases; see :class:`~solver.load.store.base.Store`."""

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        """Take everything the ask names, or nothing."""
        self._check(ask)
        return self._run(
            lambda: self._answer(ask, self._link.call("acquire", *ask_fields(ask))),
            lambda local: self._acquire_locally(local, ask),
            lambda: _unavailable(ask),
        )

    def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool) -> list[LeaseState | Refusal]:
        """Take each ask whole or not at all; with ``whole_plan`` all of them or none."""
        for ask in asks:
            self._check(ask)
        if not asks:
            return []
        fields = list(itertools.chain.from_iterable(ask_fields(ask) for ask in asks))

        def remotely() -> list[LeaseState | Refusal]:
            replies = self._link.call("acquire_many", int(whole_plan), *fields)
            return [self._answer(ask, reply) for ask, reply in zip(asks, replies, strict=True)]

        def locally(local: MemoryStore) -> list[LeaseState | Refusal]:
            if not self._share_open():
                return [self._acquire_locally(local, ask) for ask in asks]
            answers = local.acquire_many(asks, whole_plan=whole_plan)
            for ask, answer in zip(asks, answers, strict=True):
                if isinstance(answer, Refusal):  # the server may have granted it before it went away
                    self._memory.drop_later(ask.lease_id)
                else:
                    self._memory.hold(ask, answer, here=True)
            return answers

        return self._run(remotely, locally, lambda: [_unavailable(ask) for ask in asks])

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        """Let a live lease expire ``ttl_s`` from now.

        While the server does not answer, a lease it granted cannot be extended: it stays live until the
        time it has, unless the local share covers it.
        """
        if ttl_s > self._max_ttl_s:
            raise SpecError(Violation("ttl_s", f"expected <= {self._max_ttl_s:g} (max_ttl_s)", ttl_s))
        asked_s = self._link.clock.now()

        def remotely() -> LeaseState:
            held = self._memory.held.get(lease_id)
            known = [] if held is None else [json.dumps(held.fields(asked_s))]
            state = LeaseState(self._link.call("renew", lease_id, repr(float(ttl_s)), *known)[0])
            if held is not None and state is not LeaseState.GONE:
                held.state, held.until_s = state, self._link.clock.now() + ttl_s
            elif held is not None:
                self._memory.held.pop(lease_id, None)
            return state

        def locally(local: MemoryStore) -> LeaseState:
            if self._memory.waits(lease_id):
                return LeaseState.QUEUED
            if not self._share_open():
                return local.lease_state(lease_id)
            state = local.renew(lease_id, ttl_s)
            held = self._memory.held.get(lease_id)
            if held is not None and state is not LeaseState.GONE:
                held.state, held.until_s, held.here = state, self._link.clock.now() + ttl_s, True
            return state

        return self._run(remotely, locally)

    def keep(self, lease_id: str, ttl_s: float, alive: Callable[[], bool]) -> LeaseState:
        """Renew a lease by a heartbeat for as long as its holder is ``alive``; nothing is sent at once."""
        held = self._memory.held.get(lease_id)
        if held is None:
            state = self.renew(lease_id, ttl_s)
            if state is LeaseState.GONE:
                return state
        else:
            state = held.state
        self._heartbeat.keep(lease_id, ttl_s, alive)
        return state

    def release(self, lease_id: str, *, tokens: int | None, cost_nano_usd: int | None) -> ReleaseOutcome:
        """Give everything back once, and settle the estimates; sent later when the server does not answer."""
        if self._interrupted:
            self._late.append(lambda: self.release(lease_id, tokens=tokens, cost_nano_usd=cost_nano_usd))
            return ReleaseOutcome.DEFERRED
        actual = ("" if tokens is None else str(tokens), "" if cost_nano_usd is None else str(cost_nano_usd))
        self._heartbeat.drop(lease_id)

        def remotely() -> ReleaseOutcome:
            held = self._memory.held.get(lease_id)
            reply, sent = self._link.call_counted("release", lease_id, *actual)
            if reply[0] == "unknown" and sent == 1 and held is not None and self._told_again(held):
                reply = self._link.call("release", lease_id, *actual)
            self._memory.held.pop(lease_id, None)
            self._memory.unsent_releases.pop(lease_id, None)
            if len(reply) > 2:
                self._memory.note_usage(reply[2:], self._link.epoch)
            if reply[0] == "unknown" and sent > 1 and held is not None:  # it was done, and the answer lost
                was_live = self._link.clock.now() < held.until_s
                return ReleaseOutcome.RELEASED if was_live else ReleaseOutcome.EXPIRED
            return ReleaseOutcome(reply[0])

        def locally(local: MemoryStore) -> ReleaseOutcome:
            held = self._memory.held.pop(lease_id, None)
            local.release(lease_id, tokens=tokens, cost_nano_usd=cost_nano_usd)
            if held is None and (
                lease_id in self._memory.unsent_releases or lease_id in self._memory.unsent_drops
            ):
                return ReleaseOutcome.UNKNOWN
            self._memory.unsent_releases[lease_id] = actual
            return ReleaseOutcome.DEFERRED

        return self._run(remotely, locally)

    def _told_again(self, held: KnownLease) -> bool:
        """Report a lease whose key was deleted to the server; return whether it still counts there."""
        now = self._link.clock.now()
        if held.until_s <= now:
            return False
        fields = json.dumps(held.fields(now))
        answer = self._link.call("renew", held.ask.lease_id, repr(held.until_s - now), fields)
        return bool(answer[0] != LeaseState.GONE.value)

    def move(self, lease_id: str, ask: Ask) -> LeaseState | Refusal:
        """Swap a live lease for one on another model: both steps, or neither. Refused during an outage.

        Two round trips: the old lease is dropped once the answer about the new one has come, so that a lost
        answer leaves the caller with what it believes to have. In between both count.
        """
        self._check(ask)

        def remotely() -> LeaseState | Refusal:
            reply = self._link.call("move", lease_id, *ask_fields(ask))
            held = self._memory.held.get(lease_id)
            if reply[0] == LeaseState.GONE and held is not None and self._told_again(held):
                reply = self._link.call("move", lease_id, *ask_fields(ask))
            return LeaseState.GONE if reply[0] == LeaseState.GONE else self._answer(ask, reply)

        def locally(_: MemoryStore) -> Refusal:
            self._memory.drop_later(ask.lease_id)  # the answer may have been lost
            return _unavailable(ask)

        answer = self._run(remotely, locally, lambda: _unavailable(ask))
        if answer in _GRANTED:
            self._memory.held.pop(lease_id, None)
            self._heartbeat.drop(lease_id)
            self._run(lambda: self._drop(lease_id), lambda _: self._memory.drop_later(lease_id))
        return answer

    def lease_state(self, lease_id: str) -> LeaseState:
        """Return whether a lease runs, waits, or is gone."""

        def remotely() -> LeaseState:
            state = LeaseState(self._link.call("state", lease_id)[0])
            held = self._memory.held.get(lease_id)
            if held is None:
                return state
            if state is LeaseState.GONE and held.state is not LeaseState.GONE and self._told_again(held):
                return held.state
            held.state = state
            return state

        def locally(local: MemoryStore) -> LeaseState:
            return LeaseState.QUEUED if self._memory.waits(lease_id) else local.lease_state(lease_id)

        return self._run(remotely, locally)

    def queued_leases(self, model: str) -> list[str]:
        """Return the ids of the waiting leases of a model, in the order in which they start."""
        return self._run(
            lambda: list(self._link.call("queued", model)[1]), lambda local: local.queued_leases(model)
        )

    def slots_before(self, model: str, lease_id: str) -> tuple[int, int] | None:
        """Return how many leases, and slots, start before a waiting one; None when it does not wait."""

        def remotely() -> tuple[int, int] | None:
            _, waiting, slots = self._link.call("queued", model)
            if lease_id not in waiting:
                return None
            place = waiting.index(lease_id)
            return place, sum(int(count) for count in slots[:place])

        return self._run(remotely, lambda local: local.slots_before(model, lease_id))

    def _answer(self, ask: Ask, reply: list[Any]) -> LeaseState | Refusal:
        if reply[0] in _GRANTED:
            state = LeaseState(reply[0])
            self._memory.hold(ask, state, charged=self._memory.note_usage(reply[2:], self._link.epoch))
            return state
        if len(reply) > 2 and reply[2] == "stops":
            stops = read_stops(reply[3])
            wait_s = reopens_in_s(stops, self._link.server_now_s)
            return Refusal(model=ask.model, reason=RefusalReason(reply[0]), retry_after_s=wait_s, stops=stops)
        wait_s = float(reply[1]) if reply[1] else None
        limited = reply[3] if len(reply) > 3 else ""
        pool = limited[2:] if limited.startswith("p:") else None
        return Refusal(model=ask.model, reason=RefusalReason(reply[0]), retry_after_s=wait_s, pool=pool)

    def _check(self, ask: Ask) -> None:
        if ask.ttl_s > self._max_ttl_s:
            raise SpecError(Violation("ttl_s", f"expected <= {self._max_ttl_s:g} (max_ttl_s)", ask.ttl_s))

    def _acquire_locally(self, local: MemoryStore, ask: Ask) -> LeaseState | Refusal:
        # The server may have granted it before the answer was lost: have it taken back on recovery.
        self._memory.drop_later(ask.lease_id)
        if ask.model not in self._memory.limits or not self._share_open():
            return _unavailable(ask)
        answer = local.acquire(ask)
        if not isinstance(answer, Refusal):
            self._memory.unsent_drops.pop(ask.lease_id, None)
            self._memory.hold(ask, answer, here=True)
        return answer


def _unavailable(ask: Ask) -> Refusal:
    return Refusal(model=ask.model, reason=RefusalReason.STORE_UNAVAILABLE)

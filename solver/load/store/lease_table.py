"""The leases of one process's store: their holders, ends and order."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import numpy as np

from solver.load.lease import Ask, LeaseState, ReleaseOutcome, slots_up_to
from solver.load.refusal import Refusal, RefusalReason, stopped
from solver.load.store.expiry_heap import ExpiryQueue
from solver.load.store.held_lease import HeldLease, charge_pools, refund, take_back
from solver.load.store.model_table import ModelTable
from solver.load.store.pools import PoolTable, full_pool, too_large
from solver.load.store.usage_limits import wall_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from solver.clock import Clock
    from solver.load.store.base import Limits
    from solver.load.store.pools import Pool

# Looking a member up in its enumeration takes longer than all that is done with it.
_RUNNING, _QUEUED, _RELEASED = LeaseState.RUNNING, LeaseState.QUEUED, ReleaseOutcome.RELEASED

_REMEMBERED_EXPIRED = 10_000
"""Expired leases remembered, so that a late release can still settle what was really used."""

_NO_MODEL = -1
"""Row of a model that was forgotten while its leases were held."""

_EXPIRED_AT_ONCE = 2048
"""Leases that one operation ends at most, which takes a few milliseconds."""


class LeaseTable:
    """Leases over the rows of models and pools. Not thread-safe: its store's lock guards it.

    Parameters
    ----------
    clock : Clock
        A reading below an earlier one counts as the earlier one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        wall_s = wall_time(clock)
        self.models = ModelTable(wall_s)
        self.pools = PoolTable(wall_s)
        self.now_s = -np.inf
        self.held: dict[str, HeldLease] = {}
        self._expiry = ExpiryQueue(self.held)
        self._expired: OrderedDict[str, HeldLease] = OrderedDict()
        self.promoted: deque[str] = deque()
        """Ids of leases that have left the queue, for listeners."""
        self.late: deque[Callable[[float], object]] = deque()
        """Operations that came while their own thread was inside another one, from a finalizer."""
        self.has_listeners = False
        """Whether there is a listener."""

    # -- limits

    def configure(self, model: str, limits: Limits) -> None:
        """Set the limits of a model, new or known."""
        now = self.advance()
        self.pools.check(limits)
        i = self.models.configure(model, limits, now)
        self.models.chains[i] = self.pools.chain(limits.pools)
        self.promote(i)

    def configure_pool(self, pool: str, limits: Limits) -> None:
        """Set the limits of a pool, new or known."""
        changed = self.pools.configure(pool, limits, self.advance())
        table = self.models
        table.chains = [self.pools.chain(each.pools) for each in table.limits]
        table.settings_changed()
        self._promote_in((changed,))

    def forget_pool(self, pool: str) -> None:
        """Remove a pool that nothing draws on."""
        table = self.models
        self.pools.remove(
            pool,
            [model for model, limits in zip(table.models, table.limits, strict=True) if pool in limits.pools],
        )

    def end_all(self, model: str) -> int:
        """End every lease of a model and return how many there were."""
        now, table = self.advance(), self.models
        i = table.at(model)
        ended = [held for held in self.held.values() if held.model == i]
        for held in ended:
            del self.held[held.lease_id]
            self._remember(held)
            self._uncount(held)
        table.note_update(i, now)
        self._promote_in({pool for held in ended for pool in held.pools})
        return len(ended)

    def reset_usage(self, model: str) -> None:
        """Count what a model has used of its limits from nothing again; leases in flight are not refunded."""
        now, i = self.advance(), self.models.at(model)
        self.models.meters.reset(i)
        for held in itertools.chain(self.held.values(), self._expired.values()):
            if held.model == i:
                held.charged = []  # otherwise it would settle with what others use from now on
        self.models.note_update(i, now)

    def reset_pool(self, name: str) -> None:
        """Do :meth:`reset_usage` for a pool."""
        self.advance()
        pool = self.pools[name]
        pool.meters.reset(0)
        for held in itertools.chain(self.held.values(), self._expired.values()):
            held.pool_charged = [entry for entry in held.pool_charged if entry[0] is not pool]
        self.models.version += 1

    def forget(self, model: str) -> None:
        """Remove a model with its leases, usage and stops; pools are settled when those end. O(models + leases)."""
        i = self.models.index.get(model)
        if i is None:
            return
        self.end_all(model)
        for held in self._expired.values():
            if held.model == i:
                held.model, held.charged = _NO_MODEL, []
        for held in itertools.chain(self.held.values(), self._expired.values()):
            held.model -= held.model > i
        self.models.remove(i)

    # -- leases

    def acquire(self, ask: Ask, now: float) -> LeaseState | Refusal:
        """Take everything the ask names, or nothing."""
        table = self.models
        i = table.index.get(ask.model)
        if i is None:
            i = table.at(ask.model)
        known = self.held.get(ask.lease_id)
        if known is not None:
            if self.live(ask.lease_id, now) is not None:
                return _RUNNING if known.running else _QUEUED
            self._end(known, now)  # the same id, used again before its lease was ended
        if not table.accepting[i]:
            return stopped(ask.model, table.stops(i), now)
        slots, chain, line = ask.demand.slots, table.chains[i], table.waiting[i]
        room = table.max_concurrent[i]
        most = room if ask.fill_to >= 1.0 else slots_up_to(ask.fill_to, room)
        passed: list[HeldLease] = []
        running = table.active[i] + slots <= most and (not chain or full_pool(chain, slots) is None)
        waited_for = bool(line)
        if running and waited_for:
            first = line.next_with(HeldLease(ask, i, now, False, chain), table.active[i], room)
            running, passed = first is not None, first or []
        if not running and (refusal := self._no_place(ask, i, most)) is not None:
            return refusal
        held = HeldLease(ask, i, now, running, chain)
        if (table.meters.limited[i] or chain) and (refusal := self._charge(held, ask, now)) is not None:
            return refusal
        self.held[ask.lease_id] = held
        self._expiry.add(held)
        if running:
            table.take(held, now)
            if waited_for:
                line.add(held)
                line.start(held, passed)
            elif held.tenant is not None and table.max_queue[i]:
                line.start_at_once(held)
        else:
            table.enqueue(held)
            line.add(held)
        table.last_update_s[i] = now
        table.version += 1
        return _RUNNING if running else _QUEUED

    def _no_place(self, ask: Ask, i: int, most: int) -> Refusal | None:
        """Return why an ask that cannot run may not wait either, None where it may."""
        table, slots = self.models, ask.demand.slots
        chain = table.chains[i]
        if (refusal := too_large(chain, slots, ask.model)) is not None:
            return refusal
        if slots > most and table.max_concurrent[i] > 0:
            return Refusal(model=ask.model, reason=RefusalReason.TOO_LARGE)
        full = full_pool(chain, slots)
        pool = None if full is None else full.name
        if not ask.queue:
            return Refusal(model=ask.model, reason=RefusalReason.CONCURRENCY, pool=pool)
        if not table.waiting[i].has_place(ask.tenant, table.queued[i], table.max_queue[i]):
            return Refusal(model=ask.model, reason=RefusalReason.QUEUE, pool=pool)
        return None

    def _charge(self, held: HeldLease, ask: Ask, now: float) -> Refusal | None:
        """Charge a lease to every meter of its model and pools, or to none and say why not."""
        meters = self.models.meters
        if meters.limited[held.model]:
            charged = meters.charge(held.model, ask.model, ask.demand, now)
            if isinstance(charged, Refusal):
                return charged
            held.charged = charged
        refusal = charge_pools(held, ask, now) if held.pools else None
        if refusal is not None:
            meters.refund(held.model, held.charged)
        return refusal

    def acquire_all(self, asks: Sequence[Ask], now: float, *, whole_plan: bool) -> list[LeaseState | Refusal]:
        """Take each ask whole or not at all; with ``whole_plan`` all of them or none."""
        if not whole_plan:
            return [self.acquire(ask, now) for ask in asks]
        lines = [self.models.waiting[i] for i in {self.models.at(ask.model) for ask in asks}]
        marks = [line.mark() for line in lines]
        new = dict.fromkeys(ask.lease_id for ask in asks if self.live(ask.lease_id, now) is None)
        answers = [self.acquire(ask, now) for ask in asks]
        if not any(isinstance(answer, Refusal) for answer in answers):
            return answers
        for held in [self.held.pop(lease_id) for lease_id in new if lease_id in self.held]:
            refund(held, self.models.meters, now)
            self._uncount(held)
        for line, mark in zip(lines, marks, strict=True):
            line.restore(mark)
        return [
            answer if isinstance(answer, Refusal) else Refusal(model=ask.model, reason=RefusalReason.PLAN)
            for ask, answer in zip(asks, answers, strict=True)
        ]

    def extend(self, lease_id: str, ttl_s: float, alive: Callable[[], bool] | None, now: float) -> LeaseState:
        """Let a live lease expire ``ttl_s`` from now, or later for as long as its holder is ``alive``."""
        held = self.live(lease_id, now)
        if held is not None:
            held.expires_s, held.ttl_s = now + ttl_s, ttl_s
            held.alive = alive or held.alive
            self._expiry.add(held)
            self.models.note_update(held.model, now)
        return held.state if held is not None else LeaseState.GONE

    def release(
        self, lease_id: str, tokens: int | None, cost_nano_usd: int | None, now: float
    ) -> ReleaseOutcome:
        """Give everything back once, and settle the estimates."""
        held = self.held.pop(lease_id, None)
        outcome = _RELEASED
        if held is None:
            held = self._expired.pop(lease_id, None)
            if held is None:
                return ReleaseOutcome.UNKNOWN
            outcome = ReleaseOutcome.EXPIRED
        else:
            if held.expires_s <= now and held.alive is None:  # due, and not ended yet
                outcome = ReleaseOutcome.EXPIRED
            elif held.running:
                self.models.note_hold(held.model, now - held.since_s)
            self.give_back(held)
        if held.charged and (tokens is not None or cost_nano_usd is not None):
            self.models.meters.settle(held.model, held.charged, tokens, cost_nano_usd, now)
        for pool, charges in held.pool_charged:
            pool.settle(charges, tokens, cost_nano_usd, now)
        if held.model != _NO_MODEL:
            self.models.note_update(held.model, now)
        return outcome

    def move(self, lease_id: str, ask: Ask, now: float) -> LeaseState | Refusal:
        """Swap a live lease for one on another model, or do nothing; in pools of both the new one takes its place."""
        self.models.at(ask.model)
        old = self.live(lease_id, now)
        if old is None:
            return LeaseState.GONE
        pools = old.pools
        restore = take_back(old, now) if pools else None
        answer = self.acquire(ask, now)
        if isinstance(answer, Refusal):
            if restore is not None:
                restore()
            return answer
        del self.held[lease_id]
        self.models.meters.refund(old.model, old.charged)
        self.give_back(old)
        self._promote_in(pools)
        return answer

    # -- time

    def advance(self) -> float:
        """Read the clock, never backwards; end what is due, in portions. Amortised O(1)."""
        now = self._clock.now()
        if now > self.now_s:
            self.now_s = now
            for window in self.models.meters.moving:
                if window.leaves_s <= now:
                    window.advance(now)
        else:
            now = self.now_s
        entries = self._expiry.entries  # is_due, written out: every operation asks
        if entries and entries[0][0] <= now:
            self._expire(now)
        if self.models.timers and self.models.timers[0][0] <= now:
            for i in self.models.run_timers(now):
                self.promote(i)
        while self.late:
            self.late.popleft()(now)
        return now

    def _expire(self, now: float) -> None:
        """End leases that are due, a bounded number of them."""
        for _ in range(_EXPIRED_AT_ONCE):
            if not self._expiry.is_due(now):
                return
            held = self._expiry.pop_due(now)
            if held is None:
                continue
            if held.alive is not None and held.alive():
                held.expires_s = now + held.ttl_s
                self._expiry.add(held)
            else:
                self._end(held, now)

    def _end(self, held: HeldLease, now: float) -> None:
        """End a lease whose time is over."""
        del self.held[held.lease_id]
        self._remember(held)
        self.give_back(held)
        self.models.note_update(held.model, now)

    def live(self, lease_id: str, now: float) -> HeldLease | None:
        """Return a lease unless its time is over, ended already or not."""
        held = self.held.get(lease_id)
        if held is not None and held.expires_s <= now and (held.alive is None or not held.alive()):
            return None
        return held

    def give_back(self, held: HeldLease) -> None:
        """Free the slots or the queue place of a lease that has left ``held``, and let others run."""
        table, i = self.models, held.model
        self._uncount(held)
        if table.waiting[i]:
            self.promote(i)
        if held.pools:
            self._promote_in(held.pools)

    def _uncount(self, held: HeldLease) -> None:
        """Take a lease out of the line, and out of the counts of its model and pools."""
        if held.running:
            self.models.give(held, self.now_s)
        else:
            self.models.waiting[held.model].remove(held)
            self.models.dequeue(held)

    def promote(self, i: int) -> None:
        """Turn waiting leases into running ones while they fit, in the order of the line."""
        while self._promote_one(i):
            pass

    def _promote_one(self, i: int) -> bool:
        table = self.models
        line = table.waiting[i]
        if not line or table.held_back[i]:
            return False
        first = line.next(table.active[i], table.max_concurrent[i])
        if first is None:
            return False
        held, passed = first
        line.start(held, passed)
        held.running, held.since_s = True, self.now_s
        table.dequeue(held)
        table.take(held, self.now_s)
        if self.has_listeners:
            self.promoted.append(held.lease_id)
        return True

    def _promote_in(self, pools: Iterable[Pool]) -> None:
        """Let those run who wait, on any model, for a pool in which something has come free: first come first."""
        freed = {pool for pool in pools if pool.waiting}
        if not freed:
            return
        table = self.models
        waiting = [
            i for i, chain in enumerate(table.chains) if table.waiting[i] and not freed.isdisjoint(chain)
        ]
        progress = True
        while progress:
            waiting = sorted((i for i in waiting if table.waiting[i]), key=lambda i: table.waiting[i].head())
            progress = any(self._promote_one(i) for i in waiting)

    def _remember(self, held: HeldLease) -> None:
        """Keep an expired lease for a while, so that what it really used can be settled."""
        self._expired[held.lease_id] = held
        if len(self._expired) > _REMEMBERED_EXPIRED:
            self._expired.popitem(last=False)

    def next_event_s(self) -> float:
        """Return the reading of the clock at which a lease, a stop or reported load ends next."""
        self.advance()
        if self.late:
            return float(self.now_s)
        expires_s, timers = self._expiry.next_s(), self.models.timers
        ends = [] if expires_s is None else [expires_s]
        return min([*ends, timers[0][0]] if timers else ends, default=float(np.inf))

"""The store of one process: counts in flat arrays under one lock."""

from __future__ import annotations

import heapq
import threading
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.clock import Clock, MonotonicClock
from solver.errors import SpecError
from solver.load.lease import Ask, LeaseState, Refusal, RefusalReason, ReleaseOutcome
from solver.load.store.base import UNLIMITED, WINDOW_PARTS, Limits, StoreRow, StoreView, nano_usd
from solver.load.store.sliding_window import SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["MemoryStore"]

_REASONS = (RefusalReason.REQUESTS, RefusalReason.TOKENS, RefusalReason.BUDGET)
_KEPT_EXPIRED = 10_000  # expired leases remembered, so that late releases can settle what was really used
_SPARE_DEADLINES = 1024  # outdated entries of the expiry heap tolerated before it is rebuilt


class _Held:
    """A live lease."""

    __slots__ = ("charged", "expires_s", "lease_id", "model", "running", "slots")

    def __init__(self, lease_id: str, model: int, slots: int, expires_s: float, running: bool) -> None:
        self.lease_id = lease_id
        self.model = model
        self.slots = slots
        self.expires_s = expires_s
        self.running = running
        self.charged: list[tuple[int, SlidingWindow, int, int]] = []
        """(kind, window, amount, step) of each resource that had a limit; kinds as in METER_NAMES."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Settings:
    """What rarely changes, as arrays that views share."""

    accepting: NDArray[np.bool_]
    max_concurrent: NDArray[np.int64]
    max_queue: NDArray[np.int64]
    meter_limit: NDArray[np.float64]
    no_usage: NDArray[np.float64]
    metered: tuple[int, ...]
    meters: tuple[tuple[int, SlidingWindow, NDArray[np.bool_]], ...]
    """(kind, window, (m,) models with a limit on it)."""


class MemoryStore:
    """Counts and leases of every model in this process.

    Acquire, release and renew are O(log leases); a view is a copy of flat arrays. Every operation holds
    one lock for a few microseconds and never blocks on anything else, so it may be called from an event
    loop.

    Parameters
    ----------
    clock : Clock, optional
        Defaults to the machine's monotonic clock. A reading below an earlier one counts as the earlier one.
    """

    remote = False

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._lock = threading.Lock()
        self._now_s = -np.inf
        self._version = 0
        self._index: dict[str, int] = {}
        self._models: tuple[str, ...] = ()
        self._limits: list[Limits] = []
        self._max_concurrent = array("q")
        self._max_queue = array("q")
        self._active = array("q")  # leases and outside work together
        self._queued = array("q")
        self._outside_active = array("q")
        self._outside_queued = array("q")
        self._accepting = array("b")
        self._heard_s = array("d")
        self._settings: _Settings | None = None
        self._waiting: list[OrderedDict[str, _Held]] = []
        self._held: dict[str, _Held] = {}
        self._deadlines: list[tuple[float, str]] = []  # ids alone: what has ended is freed at once
        self._expired: OrderedDict[str, _Held] = OrderedDict()
        self._windows: dict[float, dict[int, SlidingWindow]] = {}
        self._moving: tuple[SlidingWindow, ...] = ()  # those that usage leaves again
        self._meters: list[list[tuple[SlidingWindow, int]]] = []
        self._limited: list[list[tuple[int, SlidingWindow, int]]] = []
        """(kind, window, limit) of each resource of a model that has a limit: only these are charged."""

    # -- limits

    def configure(self, model: str, limits: Limits) -> None:
        """Set the limits of a model, new or known. See :class:`~solver.load.store.base.Store`."""
        with self._lock:
            now = self._advance()
            i = self._index.get(model)
            if i is None:
                i = self._add(model, limits)
            old_meters = self._meters[i]
            self._limits[i] = limits
            self._max_concurrent[i] = limits.max_concurrent
            self._max_queue[i] = limits.max_queue
            self._meters[i] = [
                (
                    self._window(kind, np.inf if period is None else period),
                    UNLIMITED if limit is None else limit,
                )
                for kind, (limit, period) in enumerate(limits.meters())
            ]
            for (old, _), (new, _) in zip(old_meters, self._meters[i], strict=True):
                if old is not new:  # another budget period: what was spent counts from now on
                    new.charge(i, old.take(i), now)
            self._limited[i] = [
                (kind, window, limit)
                for kind, (window, limit) in enumerate(self._meters[i])
                if limit != UNLIMITED
            ]
            self._settings = None
            self._touch(i, now)
            self._promote(i)

    def limits(self, model: str) -> Limits:
        """Return the limits of a model."""
        with self._lock:
            return self._limits[self._at(model)]

    def _add(self, model: str, limits: Limits) -> int:
        i = len(self._models)
        self._index[model] = i
        self._models = (*self._models, model)
        self._limits.append(limits)
        for column in (self._max_concurrent, self._max_queue, self._active, self._queued):
            column.append(0)
        self._outside_active.append(0)
        self._outside_queued.append(0)
        self._accepting.append(1)
        self._heard_s.append(0.0)
        self._limited.append([])
        self._waiting.append(OrderedDict())
        for kinds in self._windows.values():
            for window in kinds.values():
                window.grow()
        self._meters.append(
            [
                (self._window(kind, np.inf if period is None else period), UNLIMITED)
                for kind, (_, period) in enumerate(limits.meters())
            ]
        )
        return i

    def _window(self, kind: int, window_s: float) -> SlidingWindow:
        """Return the window shared by all models that meter this resource over this period."""
        kinds = self._windows.setdefault(window_s, {})
        if kind not in kinds:
            kinds[kind] = SlidingWindow(window_s, WINDOW_PARTS)
            for _ in self._models:
                kinds[kind].grow()
            if window_s < np.inf:
                self._moving = (*self._moving, kinds[kind])
        return kinds[kind]

    def _at(self, model: str) -> int:
        i = self._index.get(model)
        if i is None:
            raise SpecError(f"model: expected one whose capacity is set, got {model!r}")
        return i

    # -- leases

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        """Take everything the ask names, or nothing."""
        with self._lock:
            return self._acquire(ask, self._advance())

    def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool) -> list[LeaseState | Refusal]:
        """Take each ask whole or not at all; with ``whole_plan`` all of them or none."""
        with self._lock:
            now = self._advance()
            for ask in asks:
                self._at(ask.model)
            new = {ask.lease_id for ask in asks if ask.lease_id not in self._held}  # an id may repeat
            answers = [self._acquire(ask, now) for ask in asks]
            if whole_plan and any(isinstance(answer, Refusal) for answer in answers):
                for lease_id in new & self._held.keys():
                    self._undo(self._held[lease_id])
                answers = [
                    answer
                    if isinstance(answer, Refusal)
                    else Refusal(model=ask.model, reason=RefusalReason.PLAN)
                    for ask, answer in zip(asks, answers, strict=True)
                ]
            return answers

    def _acquire(self, ask: Ask, now: float) -> LeaseState | Refusal:
        i = self._index.get(ask.model)
        if i is None:
            i = self._at(ask.model)
        known = self._held.get(ask.lease_id)
        if known is not None:
            return LeaseState.RUNNING if known.running else LeaseState.QUEUED
        demand = ask.demand
        slots = demand.slots
        room = self._max_concurrent[i]
        running = self._active[i] + slots <= room and not self._waiting[i]
        if not self._accepting[i]:
            return Refusal(model=ask.model, reason=RefusalReason.NOT_ACCEPTING)
        if not running:
            if slots > room and room > 0:
                return Refusal(model=ask.model, reason=RefusalReason.TOO_LARGE)
            if not ask.queue:
                return Refusal(model=ask.model, reason=RefusalReason.CONCURRENCY)
            if self._queued[i] >= self._max_queue[i]:
                return Refusal(model=ask.model, reason=RefusalReason.QUEUE)
        held = _Held(ask.lease_id, i, slots, now + ask.ttl_s, running)
        limited = self._limited[i]
        if limited:
            amounts = (demand.requests, demand.tokens, nano_usd(demand.cost_usd))
            for kind, window, limit in limited:
                if window.used[i] + amounts[kind] > limit:
                    return _over(window, i, ask.model, _REASONS[kind], amounts[kind], limit, now)
            held.charged = [
                (kind, window, amounts[kind], window.charge(i, amounts[kind], now))
                for kind, window, _ in limited
            ]
        self._held[ask.lease_id] = held
        self._expect(held)
        if running:
            self._active[i] += slots
        else:
            self._queued[i] += 1
            self._waiting[i][held.lease_id] = held
        self._heard_s[i] = now
        self._version += 1
        return LeaseState.RUNNING if running else LeaseState.QUEUED

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        """Let a live lease expire ``ttl_s`` from now."""
        with self._lock:
            now = self._advance()
            held = self._held.get(lease_id)
            if held is None:
                return LeaseState.GONE
            held.expires_s = now + ttl_s
            self._expect(held)
            self._touch(held.model, now)
            return LeaseState.RUNNING if held.running else LeaseState.QUEUED

    def release(self, lease_id: str, *, tokens: int | None, cost_nano_usd: int | None) -> ReleaseOutcome:
        """Give everything back once, and settle the estimates."""
        with self._lock:
            now = self._advance()
            held = self._held.pop(lease_id, None)
            outcome = ReleaseOutcome.RELEASED
            if held is None:
                held = self._expired.pop(lease_id, None)
                if held is None:
                    return ReleaseOutcome.UNKNOWN
                outcome = ReleaseOutcome.EXPIRED
            else:
                self._give_back(held)
            if held.charged and (tokens is not None or cost_nano_usd is not None):
                actuals = (None, tokens, cost_nano_usd)
                for kind, window, estimate, step in held.charged:
                    actual = actuals[kind]
                    if actual is not None and actual > estimate:
                        window.charge(held.model, actual - estimate, now)
                    elif actual is not None:
                        window.refund(held.model, estimate - actual, step)
            self._touch(held.model, now)
            return outcome

    def move(self, lease_id: str, ask: Ask) -> LeaseState | Refusal:
        """Swap a live lease for one on another model: both steps, or neither."""
        with self._lock:
            now = self._advance()
            self._at(ask.model)
            old = self._held.get(lease_id)
            if old is None:
                return LeaseState.GONE
            answer = self._acquire(ask, now)
            if not isinstance(answer, Refusal):
                del self._held[lease_id]
                self._refund(old)
                self._give_back(old)
            return answer

    def lease_state(self, lease_id: str) -> LeaseState:
        """Tell where a lease stands."""
        with self._lock:
            self._advance()
            held = self._held.get(lease_id)
            if held is None:
                return LeaseState.GONE
            return LeaseState.RUNNING if held.running else LeaseState.QUEUED

    def queued_leases(self, model: str) -> list[str]:
        """Return the ids of the waiting leases of a model, first come first."""
        with self._lock:
            self._advance()
            return list(self._waiting[self._at(model)])

    # -- work from outside

    def adjust(self, model: str, *, active: int, queue: int) -> None:
        """Add to the work reported from outside, with a floor at zero."""
        with self._lock:
            i = self._at(model)
            self._set_outside(i, self._outside_active[i] + active, self._outside_queued[i] + queue)

    def observe(self, model: str, *, active: int, queue: int) -> None:
        """Set totals measured from outside; what exceeds the leases counts as work from outside."""
        with self._lock:
            i = self._at(model)
            self._advance()
            leased = self._active[i] - self._outside_active[i]
            waiting = self._queued[i] - self._outside_queued[i]
            self._set_outside(i, active - leased, queue - waiting)

    def _set_outside(self, i: int, active: int, queued: int) -> None:
        now = self._advance()
        active, queued = max(0, active), max(0, queued)
        self._active[i] += active - self._outside_active[i]
        self._queued[i] += queued - self._outside_queued[i]
        self._outside_active[i] = active
        self._outside_queued[i] = queued
        self._touch(i, now)
        self._promote(i)

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Start or stop rejecting new work on purpose."""
        with self._lock:
            i = self._at(model)
            self._accepting[i] = accepting
            self._settings = None
            self._version += 1

    # -- reading

    def row(self, model: str) -> StoreRow:
        """Return the state of one model."""
        with self._lock:
            now = self._advance()
            i = self._at(model)
            return StoreRow(
                active=self._active[i],
                queued=self._queued[i],
                accepting=bool(self._accepting[i]),
                age_s=now - self._heard_s[i],
                limits=self._limits[i],
            )

    def view(self) -> StoreView:
        """Return the state of every model at one instant. O(m) copies, no loop."""
        with self._lock:
            now = self._advance()
            settings = self._settings
            if settings is None:
                settings = self._settings = self._read_settings()
            used = settings.no_usage
            if settings.meters:
                used = used.copy()
                for kind, window, limited in settings.meters:
                    np.copyto(used[kind], np.frombuffer(window.used.tobytes(), np.int64), where=limited)
            return StoreView(
                models=self._models,
                version=self._version,
                now_s=now,
                active=np.frombuffer(self._active.tobytes(), np.int64),
                queued=np.frombuffer(self._queued.tobytes(), np.int64),
                accepting=settings.accepting,
                heard_s=np.frombuffer(self._heard_s.tobytes(), np.float64),
                max_concurrent=settings.max_concurrent,
                max_queue=settings.max_queue,
                meter_limit=settings.meter_limit,
                meter_used=used,
                metered=settings.metered,
            )

    def _read_settings(self) -> _Settings:
        m = len(self._models)
        limit = np.full((3, m), np.inf)
        meters: dict[SlidingWindow, tuple[int, SlidingWindow, NDArray[np.bool_]]] = {}
        for i, limited in enumerate(self._limited):
            for kind, window, most in limited:
                limit[kind, i] = most
                meters.setdefault(window, (kind, window, np.zeros(m, np.bool_)))[2][i] = True
        return _Settings(
            accepting=_frozen(np.array(self._accepting, np.bool_)),
            max_concurrent=_frozen(np.array(self._max_concurrent, np.int64)),
            max_queue=_frozen(np.array(self._max_queue, np.int64)),
            meter_limit=_frozen(limit),
            no_usage=_frozen(np.zeros((3, m))),
            metered=tuple(sorted({kind for kind, _, _ in meters.values()})),
            meters=tuple(meters.values()),
        )

    # -- time; every method below expects the lock to be held

    def _advance(self) -> float:
        """Read the clock, never backwards; expire leases and usage. Amortised O(1)."""
        now = self._clock.now()
        if not now > self._now_s:
            return self._now_s
        self._now_s = now
        for window in self._moving:
            if window.leaves_s <= now:
                window.advance(now)
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            expires_s, lease_id = heapq.heappop(deadlines)
            held = self._held.get(lease_id)
            if held is not None and held.expires_s == expires_s:
                del self._held[lease_id]
                self._remember(held)
                self._give_back(held)
                self._touch(held.model, now)
        return now

    def _expect(self, held: _Held) -> None:
        """Note when a lease expires; drop outdated notes once they outweigh the live ones."""
        heapq.heappush(self._deadlines, (held.expires_s, held.lease_id))
        if len(self._deadlines) > 2 * len(self._held) + _SPARE_DEADLINES:
            self._deadlines = [(held.expires_s, lease_id) for lease_id, held in self._held.items()]
            heapq.heapify(self._deadlines)

    def _give_back(self, held: _Held) -> None:
        """Free the slots or the queue place of a lease that has left ``_held``."""
        i = held.model
        if held.running:
            self._active[i] -= held.slots
        else:
            self._queued[i] -= 1
            del self._waiting[i][held.lease_id]
        if self._waiting[i]:
            self._promote(i)

    def _promote(self, i: int) -> None:
        """Turn waiting leases into running ones, first come first served, while they fit."""
        waiting = self._waiting[i]
        while waiting:
            held = next(iter(waiting.values()))
            if self._active[i] + held.slots > self._max_concurrent[i]:
                return
            waiting.popitem(last=False)
            held.running = True
            self._active[i] += held.slots
            self._queued[i] -= 1

    def _undo(self, held: _Held) -> None:
        """Take back a lease as if it had never been granted."""
        del self._held[held.lease_id]
        self._refund(held)
        self._give_back(held)

    def _refund(self, held: _Held) -> None:
        for _, window, amount, step in held.charged:
            window.refund(held.model, amount, step)

    def _remember(self, held: _Held) -> None:
        self._expired[held.lease_id] = held
        if len(self._expired) > _KEPT_EXPIRED:
            self._expired.popitem(last=False)

    def _touch(self, i: int, now: float) -> None:
        self._heard_s[i] = now
        self._version += 1


def _over(
    window: SlidingWindow, i: int, model: str, reason: RefusalReason, amount: int, limit: int, now: float
) -> Refusal:
    """Return the refusal of an amount that a meter has no room for."""
    if amount > limit:
        return Refusal(model=model, reason=RefusalReason.TOO_LARGE)
    return Refusal(model=model, reason=reason, retry_after_s=window.wait_s(i, amount, limit, now))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that snapshots may share."""
    array.flags.writeable = False
    return array


if TYPE_CHECKING:
    from solver.load.store.base import Store

    _conforms: type[Store] = MemoryStore

"""The models of one process's store as flat arrays: limits, counts, stops and reported load."""

from __future__ import annotations

import heapq
import itertools
import math
from array import array
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.load.store.base import Limits, StoreRow, StoreView
from solver.load.store.lease_history import LeaseHistory
from solver.load.store.meters import Meters
from solver.load.store.model_settings import ModelSettings, read_settings
from solver.load.store.queue_rules import QueueRules
from solver.load.store.waiting_line import WaitingLine

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.load.stops import Stop, StopKey
    from solver.load.store.held_lease import HeldLease
    from solver.load.store.pools import Pool


_HISTORY_S = 600.0
"""Seconds since the last measurement with an age for which such changes go on to be noted."""

_HOLD_WEIGHT = 0.1
"""Weight of the newest lease in the moving average of how long leases run."""


class ModelTable:
    """Rows of all models. Not thread-safe: its store's lock guards it.

    ``active`` and ``queued`` count leases and work from outside together.
    """

    def __init__(self, wall_s: Callable[[], float]) -> None:
        self.index: dict[str, int] = {}
        self.models: tuple[str, ...] = ()
        self.limits: list[Limits] = []
        self.max_concurrent = array("q")
        self.max_queue = array("q")
        self.active = array("q")
        self.queued = array("q")
        self.accepting = array("b")
        self.held_back = array("b")  # stops that hold the queue
        self.last_update_s = array("d")
        self.waiting: list[WaitingLine] = []
        self._arrivals = itertools.count(1)
        self.chains: list[tuple[Pool, ...]] = []
        """Per model, the pools that it draws on."""
        self._histories: dict[str, LeaseHistory] = {}
        self.hold_s = array("d")  # mean time for which leases run, NaN before the first has ended
        self.meters = Meters(wall_s)
        self.version = 0
        self.timers: list[tuple[float, str, StopKey | None]] = []
        """(second, model, stop or None for reported load) of what ends by itself, as a heap."""
        self._adjusted: list[list[int]] = []  # [active, queued] added from outside
        self._observed: list[list[int]] = []  # [active, queued] measured from outside beyond the leases
        self._observed_until: list[float] = []
        self._stops: list[dict[StopKey, Stop]] = []
        self._settings: ModelSettings | None = None

    def at(self, model: str) -> int:
        """Return the row of a model, or raise SpecError."""
        i = self.index.get(model)
        if i is None:
            raise SpecError(Violation("model", "expected one whose capacity is set", model))
        return i

    def note_update(self, i: int, now_s: float) -> None:
        """Record that the model's settings, leases or reported load have changed."""
        self.last_update_s[i] = now_s
        self.version += 1

    # -- models

    def configure(self, model: str, limits: Limits, now_s: float) -> int:
        """Set the limits of a model, new or known; return its row."""
        i = self.index.get(model)
        if i is None:
            i = self._add(model, limits)
        self.limits[i] = limits
        self.max_concurrent[i] = limits.max_concurrent
        self.max_queue[i] = limits.max_queue
        self.waiting[i].room = limits.max_concurrent
        self.waiting[i].set_rules(limits.rules or QueueRules())
        self.meters.configure(i, limits, now_s)
        self._settings = None
        self.note_update(i, now_s)
        return i

    def _add(self, model: str, limits: Limits) -> int:
        i = self.index[model] = len(self.models)
        self.models = (*self.models, model)
        self.limits.append(limits)
        for column in (self.max_concurrent, self.max_queue, self.active, self.queued, self.held_back):
            column.append(0)
        self.accepting.append(1)
        self.last_update_s.append(0.0)
        self.waiting.append(WaitingLine(self._arrivals))
        self.chains.append(())
        self.hold_s.append(math.nan)
        self._adjusted.append([0, 0])
        self._observed.append([0, 0])
        self._observed_until.append(math.inf)
        self._stops.append({})
        self.meters.add(limits)
        return i

    def remove(self, i: int) -> None:
        """Remove a row; the rows after it move up by one. O(m)."""
        model = self.models[i]
        self.models = (*self.models[:i], *self.models[i + 1 :])
        self.index = {name: j for j, name in enumerate(self.models)}
        for column in (self.max_concurrent, self.max_queue, self.active, self.queued, self.held_back):
            del column[i]
        del self.accepting[i], self.last_update_s[i], self.limits[i], self.waiting[i], self.hold_s[i]
        del self.chains[i]
        self._histories.pop(model, None)
        del self._adjusted[i], self._observed[i], self._observed_until[i], self._stops[i]
        self.meters.remove(i)
        self.timers = [timer for timer in self.timers if timer[1] != model]
        heapq.heapify(self.timers)
        self._settings = None
        self.version += 1

    def settings_changed(self) -> None:
        """Note that limits, or what they draw on, have changed."""
        self._settings = None
        self.version += 1

    def take(self, held: HeldLease, now_s: float) -> None:
        """Count the slots of a lease that runs now, here and in its pools."""
        self.active[held.model] += held.slots
        for pool in held.pools:
            pool.active += held.slots
        if self._histories:
            self._note_history(held.model, now_s)

    def give(self, held: HeldLease, now_s: float) -> None:
        """Count the slots of a lease that ran as free, here and in its pools."""
        self.active[held.model] -= held.slots
        for pool in held.pools:
            pool.active -= held.slots
        if self._histories:
            self._note_history(held.model, now_s)

    def enqueue(self, held: HeldLease) -> None:
        """Count the queue place of a lease that waits, here and in its pools."""
        self.queued[held.model] += 1
        for pool in held.pools:
            pool.waiting += 1

    def dequeue(self, held: HeldLease) -> None:
        """Count the queue place of a lease that waited as free, here and in its pools."""
        self.queued[held.model] -= 1
        for pool in held.pools:
            pool.waiting -= 1

    def _leased(self, i: int) -> int:
        return self.active[i] - self._adjusted[i][0] - self._observed[i][0]

    def _note_history(self, i: int, now_s: float) -> None:
        history = self._histories.get(self.models[i])
        if history is not None and history.until_s >= now_s:
            history.note(now_s, self._leased(i))

    def note_hold(self, i: int, hold_s: float) -> None:
        """Note for how long a lease ran."""
        mean = self.hold_s[i]
        self.hold_s[i] = hold_s if mean != mean else mean + _HOLD_WEIGHT * (hold_s - mean)

    # -- work from outside

    def adjust(self, i: int, active: int, queued: int, now_s: float) -> None:
        """Add to the work from outside, with a floor at zero."""
        added, observed = self._adjusted[i], self._observed[i]
        self._set_outside(
            i,
            [max(added[0] + active, -observed[0]), max(added[1] + queued, -observed[1])],
            observed,
            now_s,
        )

    def observe(
        self, i: int, active: int, queued: int, ttl_s: float | None, age_s: float, now_s: float
    ) -> None:
        """Set totals measured from outside; what exceeds the leases of that time counts as work from outside."""
        added, observed = self._adjusted[i], self._observed[i]
        leased = self._leased(i)
        if age_s > 0.0:
            history = self._histories.get(self.models[i])
            if history is None or history.until_s < now_s:
                history = self._histories[self.models[i]] = LeaseHistory()
            leased = history.at(now_s - age_s, leased)
            history.until_s = now_s + _HISTORY_S
            history.note(now_s, self._leased(i))
        waiting = self.queued[i] - added[1] - observed[1]
        self._set_outside(i, [0, 0], [max(0, active - leased), max(0, queued - waiting)], now_s)
        self._observed_until[i] = math.inf if ttl_s is None else now_s + ttl_s
        if ttl_s is not None:
            heapq.heappush(self.timers, (now_s + ttl_s, self.models[i], None))

    def _set_outside(self, i: int, added: list[int], observed: list[int], now_s: float) -> None:
        before = self._adjusted[i], self._observed[i]
        self.active[i] += added[0] + observed[0] - before[0][0] - before[1][0]
        self.queued[i] += added[1] + observed[1] - before[0][1] - before[1][1]
        self._adjusted[i], self._observed[i] = added, observed
        self.note_update(i, now_s)

    # -- stops

    def stop(self, i: int, stop: Stop, *, extend: bool) -> Stop:
        """Set a stop; with ``extend``, an earlier setting that lasts longer stays. Return what stands."""
        before = self._stops[i].get(stop.key)
        if extend and before is not None and before.until_s >= stop.until_s:
            return before
        self._stops[i][stop.key] = stop
        if stop.until_s < math.inf:
            heapq.heappush(self.timers, (stop.until_s, self.models[i], stop.key))
        self._stops_changed(i)
        return stop

    def resume(self, i: int, key: StopKey, *, every_name: bool) -> int:
        """Lift one stop, or every stop of its owner; return how many stood."""
        stops = self._stops[i]
        lifted = [each for each in stops if each == key or (every_name and each.owner == key.owner)]
        for each in lifted:
            del stops[each]
        if lifted:
            self._stops_changed(i)
        return len(lifted)

    def stops(self, i: int) -> tuple[Stop, ...]:
        """Return the stops of a model that stand, in the order in which they were set."""
        return tuple(self._stops[i].values())

    def _stops_changed(self, i: int) -> None:
        self.accepting[i] = not self._stops[i]
        self.held_back[i] = any(key.owner.holds_queue for key in self._stops[i])
        self._settings = None
        self.version += 1

    def run_timers(self, now_s: float) -> list[int]:
        """End the stops and the reported load whose time is over; return the rows that changed."""
        changed = []
        while self.timers and self.timers[0][0] <= now_s:
            _, model, key = heapq.heappop(self.timers)
            i = self.index[model]
            if key is None and self._observed_until[i] <= now_s:
                self._observed_until[i] = math.inf
                self._set_outside(
                    i, [max(0, amount) for amount in self._adjusted[i]], [0, 0], self.last_update_s[i]
                )
                changed.append(i)
            elif key in self._stops[i] and self._stops[i][key].until_s <= now_s:
                self.resume(i, key, every_name=False)
                changed.append(i)
        return changed

    # -- reading

    def row(self, i: int, now_s: float) -> StoreRow:
        """Return the state of one model."""
        return StoreRow(
            active=self.active[i],
            queued=self.queued[i],
            accepting=bool(self.accepting[i]),
            age_s=now_s - self.last_update_s[i],
            limits=self.limits[i],
            stops=self.stops(i),
            hold_s=None if math.isnan(self.hold_s[i]) else self.hold_s[i],
            pool_free=min((pool.free for pool in self.chains[i]), default=None),
            meters=self.meters.rows(i),
        )

    def view(self, now_s: float) -> StoreView:
        """Return the state of every model. O(m) copies, no loop."""
        settings = self.settings()
        used, most, free = settings.no_usage, settings.meter_limit, None
        if settings.meters:
            used = used.copy()
            most = most.copy() if settings.several else most
            for kind, window, limited, limit in settings.meters:
                now_used = np.frombuffer(window.used.tobytes(), np.int64)
                if settings.several:  # the limit with the least left is the one that is shown
                    limited = limited & (limit - now_used <= most[kind] - used[kind])
                    np.copyto(most[kind], limit, where=limited)
                np.copyto(used[kind], now_used, where=limited)
        active, queued = self.counts()
        if settings.pools:
            used, most, free = self._with_pools(settings, used, most, now_s)
        return StoreView(
            models=self.models,
            version=self.version,
            now_s=now_s,
            active=active,
            queued=queued,
            accepting=settings.accepting,
            last_update_s=np.frombuffer(self.last_update_s.tobytes(), np.float64),
            max_concurrent=settings.max_concurrent,
            max_queue=settings.max_queue,
            meter_limit=most,
            meter_used=used,
            metered=settings.metered,
            stops=settings.stops,
            pool_free=free,
        )

    def _with_pools(
        self, settings: ModelSettings, used: NDArray[np.float64], most: NDArray[np.float64], now_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return usage and limits with those of pools that have less left, and the slots left in pools."""
        used, most = used.copy(), most.copy()
        free = np.full(len(self.models), np.iinfo(np.int64).max, np.int64)
        for pool, rows in settings.pools:
            free[rows] = np.minimum(free[rows], pool.free)
            for kind, limit, spent in pool.left(now_s):
                tighter = rows[limit - spent < most[kind, rows] - used[kind, rows]]
                most[kind, tighter], used[kind, tighter] = limit, spent
        return used, most, free

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return copies of the slots and queue places taken, (m,) each."""
        return np.frombuffer(self.active.tobytes(), np.int64), np.frombuffer(self.queued.tobytes(), np.int64)

    def settings(self) -> ModelSettings:
        """Return what rarely changes; a new object once it has."""
        if self._settings is None:
            self._settings = read_settings(
                self.models,
                max_concurrent=self.max_concurrent,
                max_queue=self.max_queue,
                accepting=self.accepting,
                limited=self.meters.limited,
                chains=self.chains,
                stops=[tuple(stops.values()) for stops in self._stops],
            )
        return self._settings

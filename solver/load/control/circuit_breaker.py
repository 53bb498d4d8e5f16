"""Signals of a model's own server: pauses that it asks for, and a circuit breaker on its failures."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from solver.errors import SpecError
from solver.load.checks import positive_problems, whole_problems
from solver.load.fork import renewed_after_fork
from solver.load.stops import StopOwner

if TYPE_CHECKING:
    from solver.clock import Clock
    from solver.load.request_outcome import Outcome
    from solver.load.store.base import Store

BUSY_STATUSES = frozenset({429, 503, 529})
"""HTTP statuses by which a server says that it is too busy."""
_CLIENT_ERROR_STATUSES = frozenset({400, 404, 409, 413, 415, 422})
"""HTTP statuses of a wrong request: they say nothing about the health of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerParameters:
    """When work is kept away from a model that fails, and how it comes back.

    Raises
    ------
    SpecError
        Naming each value out of range.
    """

    failures: int = 5
    """Failures in a row that open the breaker."""
    failure_share: float = 0.5
    """Share of the last ``recent`` outcomes that opens it, too, from ten on; above 1 never."""
    recent: int = 20
    """Outcomes over which this share is taken."""
    open_s: float = 1.0
    longest_open_s: float = 60.0
    """Seconds until the first probe; they double while probes fail."""
    pause_s: float = 1.0
    longest_pause_s: float = 30.0
    """Pause after a status 429, 503 or 529 that names none; it doubles while such statuses repeat."""
    longest_told_s: float = 86400.0
    """A pause that the server asks for is kept up to this long: garbage must not stop a model for ever."""

    def __post_init__(self) -> None:
        problems = whole_problems("failures", self.failures, low=1) + whole_problems(
            "recent", self.recent, low=1
        )
        for name in (
            "failure_share",
            "open_s",
            "longest_open_s",
            "pause_s",
            "longest_pause_s",
            "longest_told_s",
        ):
            problems += positive_problems(name, getattr(self, name))
        if problems:
            raise SpecError(*problems)


class _Health:
    """What is known of one model."""

    __slots__ = ("failures", "open_until_s", "pauses", "probing", "recent", "trips")

    def __init__(self, recent: int) -> None:
        self.failures = self.pauses = self.trips = 0
        self.recent: deque[bool] = deque(maxlen=recent)
        self.open_until_s = 0.0
        self.probing = False
        """Whether the breaker is open, or lets probes or the slow start through."""


class UpstreamHealth:
    """Pauses models whose servers ask for it, and keeps work away from those that fail.

    Closed, the breaker counts failures. Open, a stop of the owner ``breaker`` keeps work away. When that
    has ended the model is half open: one slot, for a probe. A probe that succeeds doubles the slots until
    all are back (slow start); one that fails opens the breaker for twice as long. (Nygard, Release It!,
    the circuit breaker pattern.) The slots, and how many there are to come back to, are the store's, so that no two
    clients probe at once, and any of them can go on where another has ended.

    Parameters
    ----------
    store : Store
        Where stops and slots live.
    clock : Clock
        Time of the outcomes.
    parameters : BreakerParameters, optional
        When and for how long.
    """

    def __init__(self, store: Store, clock: Clock, parameters: BreakerParameters | None = None) -> None:
        self._store = store
        self._clock = clock
        self._p = parameters or BreakerParameters()
        self._lock = renewed_after_fork(self, "_lock", threading.RLock)
        self._models: dict[str, _Health] = {}
        self._unlearned: deque[tuple[Outcome, int | None, float | None]] = deque()

    def forget(self, model: str) -> None:
        """Forget what a model did."""
        with self._lock:
            self._models.pop(model, None)

    def adopt(self, model: str) -> None:
        """Go on with the slow start of a model that another tracker has begun, and may not live to end.

        From then on successes here count, but for those that come while a breaker keeps the model stopped again.
        """
        with self._lock:
            self._models.setdefault(model, _Health(self._p.recent)).probing = True
        self._learn_outcomes()

    def observe(self, outcome: Outcome, status: int | None, retry_after_s: float | None) -> None:
        """Learn from one outcome, with the HTTP status and the pause asked for where they are known."""
        if outcome.success and outcome.model not in self._models:
            return  # the usual case costs one look-up
        self._unlearned.append((outcome, status, retry_after_s))
        self._learn_outcomes()

    def _learn_outcomes(self) -> None:
        """Learn from what is noted, or leave that to the thread that does so already.

        Nothing waits here, since a finalizer may have interrupted an operation of the store, whose lock it holds, while
        the other thread waits for that.
        """
        while self._unlearned and self._lock.acquire(blocking=False):
            try:
                self._learn(*self._unlearned.popleft())
            except IndexError:  # another thread was faster
                return
            finally:
                self._lock.release()

    def _learn(self, outcome: Outcome, status: int | None, retry_after_s: float | None) -> None:
        model = outcome.model
        try:
            if model not in self._models:
                self._store.limits(model)
            health = self._models.setdefault(model, _Health(self._p.recent))
            if outcome.success:
                self._succeeded(model, health)
            elif status in BUSY_STATUSES or retry_after_s is not None:
                self._pause(model, health, status, retry_after_s)
            elif status not in _CLIENT_ERROR_STATUSES:
                self._failed(model, health)
        except SpecError:  # no capacity is set for it, or no longer
            self._models.pop(model, None)

    def _pause(self, model: str, health: _Health, status: int | None, retry_after_s: float | None) -> None:
        p = self._p
        if retry_after_s is not None:
            for_s = min(retry_after_s, p.longest_told_s)
        else:
            for_s = min(p.pause_s * 2.0**health.pauses, p.longest_pause_s)
            health.pauses = min(health.pauses + 1, 30)
        if for_s > 0.0:
            reason = "asked for a pause" if status is None else f"status {status}"
            self._store.stop(model, StopOwner.COOLDOWN, reason=reason, for_s=for_s, extend=True)

    def _succeeded(self, model: str, health: _Health) -> None:
        health.failures = health.pauses = 0
        health.recent.append(True)
        if not health.probing or self._clock.now() < health.open_until_s:
            return
        if not health.open_until_s and self._is_stopped(model):
            return  # adopted, and another tracker has opened its breaker again
        limits = self._store.limits(model)
        full = limits.max_concurrent if limits.full_slots is None else limits.full_slots
        slots = min(max(1, 2 * limits.max_concurrent), full)
        if slots < full:
            self._store.configure(model, replace(limits, max_concurrent=slots, full_slots=full))
        else:
            health.probing, health.trips = False, 0
            health.recent.clear()
            if limits.full_slots is not None:  # otherwise another tracker was faster
                self._store.configure(model, replace(limits, max_concurrent=full, full_slots=None))
        self._store.resume(model, StopOwner.BREAKER)

    def _is_stopped(self, model: str) -> bool:
        return any(stop.owner is StopOwner.BREAKER for stop in self._store.row(model).stops)

    def _failed(self, model: str, health: _Health) -> None:
        p, now = self._p, self._clock.now()
        if now < health.open_until_s:
            return  # sent before it opened
        health.failures += 1
        health.recent.append(False)
        count = len(health.recent)
        share = health.recent.count(False) / count
        if health.probing or health.failures >= p.failures or (count >= 10 and share >= p.failure_share):
            reason = "a probe failed" if health.probing else f"{health.failures} failures in a row"
            if not health.probing and health.failures < p.failures:
                reason = f"{share:.0%} of the last {count} requests failed"
            self._open(model, health, now, reason)

    def _open(self, model: str, health: _Health, now: float, reason: str) -> None:
        p = self._p
        for_s = min(p.open_s * 2.0**health.trips, p.longest_open_s)
        health.trips = min(health.trips + 1, 30)
        health.open_until_s = now + for_s
        health.probing = True
        limits = self._store.limits(model)
        full = limits.max_concurrent if limits.full_slots is None else limits.full_slots
        self._store.configure(model, replace(limits, max_concurrent=min(1, full), full_slots=full))
        self._store.stop(model, StopOwner.BREAKER, reason=reason, for_s=for_s)

    def last_resort(self, models: tuple[str, ...]) -> str | None:
        """Let a probe through although a breaker is open, where nothing else is left.

        Of the models kept away by their breaker alone, the one that would be probed first is opened, with
        its one slot. A pause that a server asked for is respected.

        Returns
        -------
        str or None
            The model opened, None where there was none.
        """
        with self._lock:
            opened = self._open_first_probe(models)
        self._learn_outcomes()
        return opened

    def _open_first_probe(self, models: tuple[str, ...]) -> str | None:
        stops = self._store.view().stops
        candidates = [
            (health.open_until_s, model)
            for model in models
            if (health := self._models.get(model)) is not None
            and stops.get(model)
            and all(stop.owner is StopOwner.BREAKER for stop in stops[model])
        ]
        if not candidates:
            return None
        _, model = min(candidates)
        self._models[model].open_until_s = self._clock.now()
        self._store.resume(model, StopOwner.BREAKER)
        return model

"""Renewal of leases on a server for as long as their holders live."""

from __future__ import annotations

import logging
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from solver.load.lease import LeaseState

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.clock import Clock

_RENEWALS_PER_TTL = 3.0
"""Renewals within one time to live: two may be lost."""

_LOG = logging.getLogger("solver.load")


@dataclass(slots=True)
class _Kept:
    ttl_s: float
    alive: Callable[[], bool]
    due_s: float


class Heartbeat:
    """Leases that a store renews by itself: from a thread, and from any operation that finds one due.

    The thread starts with the first lease, ends with the last one, and keeps neither the process nor the
    store alive.

    Parameters
    ----------
    renew : callable
        ``renew(lease_id, ttl_s)`` of the store; a method is held weakly.
    clock : Clock
        Says when a renewal is due.
    """

    def __init__(self, renew: Callable[[str, float], LeaseState], clock: Clock) -> None:
        self._renew = weakref.WeakMethod(renew)
        self._clock = clock
        self.begin_process()

    def begin_process(self) -> None:
        """Forget everything, also in the child of a fork: what the parent holds is the parent's."""
        self._lock = threading.RLock()  # a finalizer may release a lease while its own thread is in here
        self._kept: dict[str, _Kept] = {}
        self._next_s = float("inf")
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._busy = threading.local()

    def keep(self, lease_id: str, ttl_s: float, alive: Callable[[], bool]) -> None:
        """Renew a lease from now on, a third of its time to live at a time."""
        with self._lock:
            due_s = self._clock.now() + ttl_s / _RENEWALS_PER_TTL
            self._kept[lease_id] = _Kept(ttl_s, alive, due_s)
            self._next_s = min(self._next_s, due_s)
            if self._thread is None:
                self._wake.clear()
                self._thread = threading.Thread(
                    target=_run, args=(weakref.ref(self), self._wake), name="solver-heartbeat", daemon=True
                )
                self._thread.start()

    def drop(self, lease_id: str) -> None:
        """Renew a lease no longer."""
        self._kept.pop(lease_id, None)

    def beat(self) -> float:
        """Renew what is due, and return seconds until the next renewal; ``inf`` when nothing is kept."""
        now = self._clock.now()
        if now < self._next_s or getattr(self._busy, "inside", False):
            return self._next_s - now
        self._busy.inside = True  # a renewal is an operation, too
        try:
            self._renew_due(now)
        finally:
            self._busy.inside = False
        return self._next_s - self._clock.now()

    def _renew_due(self, now: float) -> None:
        renew = self._renew()
        with self._lock:
            # Copies, since leases are dropped without the lock, from finalizers, too.
            due = [(lease_id, kept) for lease_id, kept in self._kept.copy().items() if kept.due_s <= now]
            for lease_id, kept in due:
                if renew is None or not kept.alive():
                    self._kept.pop(lease_id, None)
                kept.due_s = now + kept.ttl_s / _RENEWALS_PER_TTL
            self._next_s = min((kept.due_s for kept in self._kept.copy().values()), default=float("inf"))
        for lease_id, kept in due:
            if renew is None or self._kept.get(lease_id) is not kept:
                continue
            if renew(lease_id, kept.ttl_s) is LeaseState.GONE and self._kept.pop(lease_id, None) is kept:
                _LOG.warning("lease %s ended before it could be renewed; its holder still works", lease_id)

    @property
    def idle(self) -> bool:
        """Whether no lease is kept."""
        return not self._kept

    def stop(self) -> None:
        """End the thread."""
        self._kept.clear()
        self._wake.set()


def _run(reference: weakref.ref[Heartbeat], wake: threading.Event) -> None:
    while True:
        heartbeat = reference()
        if heartbeat is None or wake.is_set():
            return
        wait_s = heartbeat.beat()
        with heartbeat._lock:  # noqa: SLF001 # of this module
            if heartbeat.idle or wake.is_set():
                heartbeat._thread = None  # noqa: SLF001 # as above
                return
        del heartbeat
        wake.wait(min(max(wait_s, 0.001), 1.0))  # a clock turned by hand is looked at again

"""The state that the parts of a tracker share: the store, the clock, locks, and learned values."""

from __future__ import annotations

import itertools
import math
import os
import secrets
import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from solver.clock import Clock, MonotonicClock
from solver.errors import SpecError
from solver.load.checks import positive_problems
from solver.load.control.circuit_breaker import BreakerParameters, UpstreamHealth
from solver.load.control.retry_after import RetryLine
from solver.load.learned_capacity import LearnedFleet
from solver.load.observe.output_lengths import LengthParameters, OutputLengths
from solver.load.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.load.request_outcome import Outcome
    from solver.load.store.base import Store, StoreRow
    from solver.problem.spec import Capacity


class TrackerState:
    """The fields of a tracker; the parameters are those of :class:`~solver.LoadTracker`."""

    def __init__(
        self,
        store: Store | None = None,
        clock: Clock | None = None,
        stale_after_s: float = 60.0,
        *,
        lease_ids: Callable[[], str] | None = None,
        breaker: BreakerParameters | None = None,
        lengths: LengthParameters | None = None,
    ) -> None:
        if stale_after_s != math.inf and (problems := positive_problems("stale_after_s", stale_after_s)):
            raise SpecError(*problems)
        self._clock = clock or MonotonicClock()
        self._store = MemoryStore(clock=self._clock) if store is None else store
        self._stale_after_s = stale_after_s
        self._lease_ids = lease_ids
        self._upstream = UpstreamHealth(self._store, self._clock, breaker)
        self._learned = LearnedFleet(self._store, self._clock)
        self._lengths = OutputLengths(lengths)
        self._line = RetryLine()
        self._draining: dict[str, tuple[Callable[[str], object], ...]] = {}
        self._begin_process()
        self._refusals: Counter[tuple[str, str]] = Counter()
        self._capacities: dict[str, Capacity] = {}
        self._latency_ms: dict[str, float] = {}
        self._last_outcome_s: dict[str, float] = {}
        self._hold_s: dict[str, float] = {}
        self._rows: dict[tuple[str, str | None], tuple[float, StoreRow | None]] = {}  # when it was asked for
        self._listeners: tuple[Callable[[Outcome], object], ...] = ()
        self._plain_listeners: tuple[
            Callable[[Outcome], object], ...
        ] = ()  # those that keep nothing by model
        self._forgetters: tuple[Callable[[str], object], ...] = ()
        self._forgotten: dict[str, None] = {}
        self._targets: tuple[tuple[str, ...], NDArray[np.float64]] = ((), np.empty(0))
        nothing = np.empty(0, np.int64)
        self._open: tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]
        self._open = (nothing.astype(np.bool_), nothing, nothing)
        _TRACKERS.add(self)

    def _begin_process(self) -> None:
        """Set what no two processes may share, also in the child of a fork."""
        prefix, count = secrets.token_hex(8), itertools.count()
        self._new_id = self._lease_ids or (lambda: f"{prefix}-{next(count)}")
        self._lock = threading.RLock()  # a finalizer may record while its own thread does
        self._move_lock = threading.RLock()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a tracker cannot be sent to another process: make one there, over a RedisStore of its own"
        )

    @property
    def store(self) -> Store:
        """Where counts and leases live."""
        return self._store

    @property
    def clock(self) -> Clock:
        """Where time comes from."""
        return self._clock


_TRACKERS: weakref.WeakSet[TrackerState] = weakref.WeakSet()


def _notify_trackers_of_fork() -> None:
    for tracker in list(_TRACKERS):
        tracker._begin_process()  # noqa: SLF001 # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notify_trackers_of_fork)

"""LoadTracker: how busy each model is, and one atomic way to reserve capacity."""

from __future__ import annotations

from solver.load.tracking.answer_lengths import AnswerLengths
from solver.load.tracking.current_load import CurrentLoad
from solver.load.tracking.fleet_settings import FleetSettings
from solver.load.tracking.leases import Leases
from solver.load.tracking.outcomes import Outcomes


class LoadTracker(FleetSettings, Leases, AnswerLengths, CurrentLoad, Outcomes):
    """The live load of every model, and leases on its capacity.

    Thread-safe. With the default store every operation takes microseconds and may be called from an event
    loop; with a remote store use the ``_async`` methods there.

    Parameters
    ----------
    store : Store, optional
        Where counts and leases live; default: this process
        (:class:`~solver.MemoryStore`). Several processes share a
        :class:`~solver.RedisStore`.
    clock : Clock, optional
        Time of the default store and of recorded outcomes; default: the machine's monotonic clock.
    stale_after_s : float
        Seconds without an update after which load counts as unknown.
    lease_ids : callable, optional
        Returns a new unique id at each call; default: a random prefix and a count.
    breaker : BreakerParameters, optional
        When work is kept away from models whose requests fail, see :meth:`record`.
    lengths : LengthParameters, optional
        How much is reserved for answers whose length is unknown, see :meth:`demand_for`.

    Examples
    --------
    >>> from solver.load.tracker import LoadTracker
    >>> from solver.problem.spec import Capacity
    >>> tracker = LoadTracker()
    >>> tracker.set_capacity("small", Capacity(max_concurrent=1))
    >>> lease = tracker.acquire("small", ttl_s=30)
    >>> tracker.acquire("small") is None
    True
    >>> lease.release()
    <ReleaseOutcome.RELEASED: 'released'>
    """

"""Calls that wait for a slot: woken when their lease leaves the queue, given up when it takes too long."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from solver.load.lease import LeaseState

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.lease import Lease
    from solver.load.tracker import LoadTracker
    from solver.online.decision import Decision


class SlotQueue:
    """Waits for queued leases to run. Thread-safe.

    Parameters
    ----------
    tracker : LoadTracker
        Who grants leases and tells which have left the queue.
    timeout_s : float
        Longest wait, seconds; then the lease is released.
    run_ttl_s : float
        Time to live of a lease from the moment it runs, seconds.
    """

    def __init__(self, tracker: LoadTracker, timeout_s: float, run_ttl_s: float) -> None:
        self._tracker, self._timeout_s, self._run_ttl_s = tracker, timeout_s, run_ttl_s
        self.begin_process()
        tracker.on_promotion(self._promoted)

    def begin_process(self) -> None:
        """Set what no two processes may share, also in the child of a fork, where nobody waits."""
        self._lock = threading.Lock()
        self._waiting: dict[str, Callable[[], object]] = {}

    def _promoted(self, lease_id: str) -> None:
        with self._lock:
            wake = self._waiting.pop(lease_id, None)
        if wake is not None:
            wake()

    def _expect(self, lease: Lease, wake: Callable[[], object]) -> None:
        with self._lock:
            self._waiting[lease.lease_id] = wake

    def _forget(self, lease: Lease) -> None:
        with self._lock:
            self._waiting.pop(lease.lease_id, None)

    def wait(self, decision: Decision) -> bool:
        """Return whether a decision's queued lease runs in time; one that does not is released."""
        lease = _queued(decision)
        if lease is None:
            return True
        running = threading.Event()
        self._expect(lease, running.set)
        try:
            started = lease.renew(ttl_s=self._timeout_s + self._run_ttl_s) is LeaseState.RUNNING
            started = started or running.wait(self._timeout_s)
            started = started and lease.renew(ttl_s=self._run_ttl_s) is LeaseState.RUNNING
        except BaseException:
            decision.release()
            raise
        finally:
            self._forget(lease)
        if not started:
            decision.release()
        return started

    async def wait_async(self, decision: Decision) -> bool:
        """Do :meth:`wait` without blocking the event loop; a cancelled caller leaves the queue."""
        lease = _queued(decision)
        if lease is None:
            return True
        loop, running = asyncio.get_running_loop(), asyncio.Event()
        tracker = self._tracker
        self._expect(lease, lambda: loop.call_soon_threadsafe(running.set))
        try:
            # a promotion may have come before this listener was added: ask after, not before
            state = await tracker.renew_async(lease, ttl_s=self._timeout_s + self._run_ttl_s)
            started = state is LeaseState.RUNNING
            if state is LeaseState.QUEUED:
                try:
                    await asyncio.wait_for(running.wait(), self._timeout_s)
                    started = True
                except TimeoutError:
                    started = False
            if started:
                started = await tracker.renew_async(lease, ttl_s=self._run_ttl_s) is LeaseState.RUNNING
        except BaseException:
            decision.release()
            raise
        finally:
            self._forget(lease)
        if not started:
            await decision.release_async()
        return started


def _queued(decision: Decision) -> Lease | None:
    lease = decision.lease
    return lease if lease is not None and lease.granted is LeaseState.QUEUED else None

"""Which request holds which lease: taken at selection, bound when the call starts, released once.

LiteLLM tells the end of a call in several ways, some of them twice, and that of a dropped stream in none. So a
lease is released by whichever comes first: a success or failure event, a log event, the end of a proxied stream,
the collection of the call's logging object, or its time to live. Finalizers only append to a deque: releasing
from one would deadlock when the collector runs while the same thread holds the tracker's lock.
"""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from solver.load.lease import LeaseState

if TYPE_CHECKING:
    from collections.abc import Hashable

    from solver.clock import Clock
    from solver.online.decision import Decision


class CallEnd(NamedTuple):
    """How a call ended.

    Parameters
    ----------
    success : bool
        Whether the answer was usable.
    timed : bool
        Whether its duration says something about the model; not for cache hits and cancelled calls.
    tokens : int or None
        Tokens really used.
    cost_usd : float or None
        US dollars really spent.
    """

    success: bool = True
    timed: bool = True
    tokens: int | None = None
    cost_usd: float | None = None


@dataclass(slots=True, eq=False)
class _Held:
    """A decision on its way from selection to release."""

    decision: Decision
    owner: Hashable
    started_s: float
    alive: weakref.ref[Any] | None = None


class LeaseLedger:
    """Leases of calls that were selected or run. Thread-safe; nothing here raises into a request.

    Parameters
    ----------
    clock : Clock
        Of latencies, seconds.
    ttl_s : float
        Time to live of a running call's lease; renewed while its logging object is alive.
    """

    def __init__(self, clock: Clock, ttl_s: float) -> None:
        self._clock, self._ttl_s = clock, ttl_s
        self._lock = threading.Lock()
        self._pending: defaultdict[tuple[Hashable, str], deque[_Held]] = defaultdict(deque)
        self._bound: defaultdict[str, deque[_Held]] = defaultdict(deque)
        self._dropped: deque[tuple[str, _Held]] = deque()

    def select(self, trace: Hashable, deployment: str, owner: Hashable, decision: Decision) -> None:
        """Remember a decision until its call starts."""
        with self._lock:
            self._pending[trace, deployment].append(_Held(decision, owner, self._clock.now()))

    def forget_selections(self, trace: Hashable, owner: Hashable) -> None:
        """Release what the same task selected before for the same trace: that call never started.

        Traces are not unique, callers may pass their own for a session; a task runs one call at a time.
        """
        left: list[_Held] = []
        with self._lock:
            for key in [key for key in self._pending if key[0] == trace]:
                mine = [held for held in self._pending[key] if held.owner == owner]
                left += mine
                others = [held for held in self._pending[key] if held.owner != owner]
                if others:
                    self._pending[key] = deque(others)
                else:
                    del self._pending[key]
        for held in left:
            held.decision.release()

    def bind(self, trace: Hashable, deployment: str, call_id: str, logging_object: Any) -> bool:
        """Tie the selected lease to a call that starts; False when nothing was selected (a nested call)."""
        with self._lock:
            queue = self._pending.get((trace, deployment))
            if not queue:
                return False
            held = queue.popleft()
            if not queue:
                del self._pending[trace, deployment]
            held.started_s = self._clock.now()
            if logging_object is not None:
                held.alive = weakref.ref(logging_object)
            self._bound[call_id].append(held)
        if logging_object is not None:
            weakref.finalize(logging_object, self._dropped.append, (call_id, held)).atexit = False
        lease = held.decision.lease
        if lease is not None:
            lease.renew(ttl_s=self._ttl_s)
        return True

    def finish(self, call_id: str | None, end: CallEnd) -> bool:
        """Release the lease of a call; False when it was released before, or never held."""
        if call_id is None:
            return False
        with self._lock:
            queue = self._bound.get(call_id)
            if not queue:
                return False
            held = queue.popleft()
            if not queue:
                del self._bound[call_id]
        latency_ms = 1000.0 * (self._clock.now() - held.started_s) if end.timed else None
        held.decision.release(
            latency_ms=latency_ms, tokens=end.tokens, cost_usd=end.cost_usd, success=end.success
        )
        return True

    def drain(self) -> int:
        """Release the leases of calls whose logging objects were collected; return how many there were."""
        count = 0
        while self._dropped:
            try:
                call_id, held = self._dropped.popleft()
            except IndexError:  # another thread drains as well
                break
            with self._lock:
                queue = self._bound.get(call_id)
                if queue is None or held not in queue:
                    continue  # released in the usual way
                queue.remove(held)
                if not queue:
                    del self._bound[call_id]
            held.decision.release()
            count += 1
        return count

    def renew(self) -> None:
        """Let the leases of calls that still run live on, and forget selections that have expired."""
        with self._lock:
            running = [held for queue in self._bound.values() for held in queue]
            for key in list(self._pending):
                live = [held for held in self._pending[key] if not _gone(held)]
                if live:
                    self._pending[key] = deque(live)
                else:
                    del self._pending[key]
        for held in running:
            lease = held.decision.lease
            if lease is not None and held.alive is not None and held.alive() is not None:
                lease.renew(ttl_s=self._ttl_s)
        with self._lock:
            for call_id in list(self._bound):
                live = [held for held in self._bound[call_id] if not _gone(held)]
                if live:
                    self._bound[call_id] = deque(live)
                else:
                    del self._bound[call_id]

    def held(self) -> int:
        """Return how many leases are selected or running."""
        with self._lock:
            queues = (*self._pending.values(), *self._bound.values())
            return sum(len(queue) for queue in queues)


def _gone(held: _Held) -> bool:
    return held.decision.lease is None or held.decision.lease.state() is LeaseState.GONE

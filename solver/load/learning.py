"""The learned capacities of a tracker: leases in, limits out."""

from __future__ import annotations

import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation
from solver.load.control.learned.learner import LearnedCapacity, LearnedState
from solver.load.control.learned.parameters import LearnParameters
from solver.load.lease import Demand, Lease, LeaseState
from solver.load.refusal import Refusal, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.clock import Clock
    from solver.load.control.learned.gauges import Flight
    from solver.load.store.base import Store
    from solver.problem.spec import Capacity

__all__ = ["LearnedFleet"]


class LearnedFleet:
    """Learns the capacity of those models whose capacity says so, and keeps the store's limit up to it.

    Thread-safe. What it sees are this process's leases: from the grant, or the promotion out of the queue,
    over the first token to the release. A lease that is dropped or expires counts as a failed request.

    Parameters
    ----------
    store : Store
        Where the limits are enforced.
    clock : Clock
        Time of the events.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.RLock()
        self._learned: dict[str, LearnedCapacity] = {}
        self._flights: dict[str, tuple[weakref.ref[Lease], str, Flight]] = {}
        self._queued: weakref.WeakValueDictionary[str, Lease] = weakref.WeakValueDictionary()
        self._listening = False

    def __bool__(self) -> bool:
        """Return whether any capacity is learned."""
        return bool(self._learned)

    def configure(self, model: str, capacity: Capacity) -> int:
        """Take note of a capacity and return the limit to enforce; what was learned before stays learned.

        Raises
        ------
        SpecError
            If it is to be learned and other processes share the store: each would learn from its own part of
            the traffic and enforce the result on all of them.
        """
        if capacity.learn and self._store.remote:
            raise SpecError(
                Violation(
                    "capacity.max_concurrent",
                    "expected a number of slots with a shared store: each process would learn from the "
                    "requests that it sees alone; 'learn' takes a store of one process",
                    "learn",
                )
            )
        with self._lock:
            if not capacity.learn:
                self._learned.pop(model, None)
                return capacity.max_concurrent
            parameters = LearnParameters(
                low=capacity.low,
                high=capacity.high,
                start=capacity.max_concurrent,
                slo_s_per_token=None
                if capacity.slo_ms_per_token is None
                else capacity.slo_ms_per_token / 1e3,
            )
            known = self._learned.get(model)
            if known is None or known.parameters != parameters:
                learned = LearnedCapacity(parameters)
                if known is not None:
                    learned.restore(known.export())
                self._learned[model] = learned
            if not self._listening:
                self._listening = True
                self._store.listen(self._promoted)
            return self._learned[model].limit

    def forget(self, model: str) -> None:
        """Stop learning about a model."""
        with self._lock:
            self._learned.pop(model, None)

    def refusal(self, model: str, demand: Demand) -> Refusal | None:
        """Return why the tokens in flight leave no room for a request, None where they do."""
        learned = self._learned.get(model)
        if learned is None:
            return None
        with self._lock:
            if learned.has_room_for(demand.prompt_tokens):
                return None
            learned.held_back(self._clock.now(), by_tokens=True)
        return Refusal(model=model, reason=RefusalReason.MEMORY)

    def refused(self, refusal: Refusal) -> None:
        """Note that the store kept a request back."""
        learned = self._learned.get(refusal.model)
        if learned is not None and refusal.reason in (RefusalReason.CONCURRENCY, RefusalReason.QUEUE):
            with self._lock:
                learned.held_back(self._clock.now())

    def granted(self, lease: Lease) -> None:
        """Note a lease: its request is sent now, or when it leaves the queue."""
        if lease.model in self._learned:
            with self._lock:
                if lease.granted is LeaseState.QUEUED:
                    self._queued[lease.lease_id] = lease
                    self._learned[lease.model].held_back(self._clock.now())
                else:
                    self._send(lease)

    def _promoted(self, lease_id: str) -> None:
        with self._lock:
            lease = self._queued.pop(lease_id, None)
            if lease is not None and lease.model in self._learned:
                self._send(lease)

    def _send(self, lease: Lease) -> None:
        flight = self._learned[lease.model].sent(self._clock.now(), lease.demand.prompt_tokens)
        self._flights[lease.lease_id] = (weakref.ref(lease), lease.model, flight)

    def first_token(self, lease: Lease) -> None:
        """Note the first token of an answer."""
        with self._lock:
            entry = self._flights.get(lease.lease_id)
            if entry is not None and entry[1] in self._learned:
                self._learned[entry[1]].first_token(self._clock.now(), entry[2])

    def ended(self, lease_id: str, output_tokens: int) -> None:
        """Note the end of a lease, with its output tokens, 0 where the request failed."""
        self._end(lease_id, lambda learned, now, flight: learned.ended(now, flight, output_tokens))

    def turned_away(self, lease_id: str, retry_after_s: float, rate: bool | None) -> None:
        """Note that the model turned the request of a lease away."""
        self._end(
            lease_id,
            lambda learned, now, flight: learned.refused(now, flight, retry_after_s=retry_after_s, rate=rate),
        )

    def _end(self, lease_id: str, note: Callable[[LearnedCapacity, float, Flight], object]) -> None:
        with self._lock:
            entry = self._flights.pop(lease_id, None)
            if entry is None or entry[1] not in self._learned:
                return
            model = entry[1]
            learned = self._learned[model]
            before = learned.windows
            note(learned, self._clock.now(), entry[2])
            if learned.windows != before:
                self._sweep()
            limit = learned.limit
        if limit != learned.enforced:
            learned.enforced = limit
            self._store.configure(model, replace(self._store.limits(model), max_concurrent=limit))

    def _sweep(self) -> None:
        """Count requests as failed whose leases nobody holds any more."""
        now = self._clock.now()
        for lease_id, (reference, model, flight) in list(self._flights.items()):
            if reference() is None:
                del self._flights[lease_id]
                if model in self._learned:
                    self._learned[model].ended(now, flight, 0)

    def state(self, model: str) -> LearnedState | None:
        """Return what is learned about a model, None where nothing is to be learned."""
        with self._lock:
            learned = self._learned.get(model)
            return None if learned is None else learned.state()

    def export(self) -> dict[str, Any]:
        """Return what has been learned about every model, to be kept over restarts."""
        with self._lock:
            return {model: learned.export() for model, learned in self._learned.items()}

    def restore(self, states: dict[str, Any]) -> None:
        """Begin from what was exported; models that are not learned here are left out."""
        with self._lock:
            for model, state in states.items():
                if model in self._learned:
                    self._learned[model].restore(state)

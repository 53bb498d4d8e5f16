"""The learned capacities of a tracker: leases in, limits out."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from solver.errors import SpecError, StoreDownError
from solver.load.control.learned.gauges import N_SUMS
from solver.load.control.learned.learner import LearnedCapacity, LearnedState
from solver.load.control.learned.parameters import LearnParameters
from solver.load.control.learned.shared import SharedTotals
from solver.load.fork import renewed_after_fork
from solver.load.lease import Demand, Lease, LeaseState
from solver.load.refusal import Refusal, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.clock import Clock
    from solver.load.control.learned.gauges import Flight
    from solver.load.store.base import Store
    from solver.problem.spec import Capacity

_SHARE_EVERY_S = 0.5
"""Seconds between two exchanges with the other processes of a shared store: half of the shortest window. With it six
processes reach the goodput of one in ``python -m benchmarks.bench_learned_capacity``."""

_PEER_TIMEOUT_S = 30.0
"""Seconds without a report after which a process counts as gone; its requests in flight count until then."""

_LEADER_LEASE_S = 5.0
"""Seconds without a report for which the leading process keeps the lead."""

_SWEEP_EVERY_S = 1.0
_SWEPT_AT_ONCE = 16
"""Seconds between two sweeps for abandoned requests, and leases that one sweep asks the store about."""

_CHECK_EVERY = 10
"""Exchanges after which the leading process checks that the store still has its limit."""


class _Sent(NamedTuple):
    """The request of a lease, and who learns from it: its model may be forgotten meanwhile, and set again."""

    lease: weakref.ref[Lease]
    model: str
    learned: LearnedCapacity
    flight: Flight


class LearnedFleet:
    """Learns the capacity of those models whose capacity says so, and keeps the store's limit up to it.

    Thread-safe. What it sees are this process's leases: from the grant, or the promotion out of the queue,
    over the first token to the release. A lease that is dropped or expires counts as a failed request.

    Processes that share a store exchange what they see, twice a second, with an event of their own.
    The one whose name comes first learns from the totals and sets the limit; the others follow it, so that
    any of them can go on where it ends.

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
        self._lock = renewed_after_fork(self, "_lock", threading.RLock)
        self.capacities: dict[str, LearnedCapacity] = {}
        self._flights: dict[str, _Sent] = {}
        self._queued: weakref.WeakValueDictionary[str, Lease] = weakref.WeakValueDictionary()
        self._listening = False
        self._totals: dict[str, SharedTotals] = {}
        self._heard_refusals: dict[tuple[str, str], int] = {}
        self._leads: dict[str, bool] = {}
        self._share_due_s = self._sweep_due_s = -math.inf
        self._exchanges = 0
        self._pid = os.getpid()

    def configure(self, model: str, capacity: Capacity) -> int:
        """Take note of a capacity and return the limit to enforce; what was learned before stays learned."""
        with self._lock:
            if not capacity.learn:
                self.forget(model)
                return capacity.max_concurrent
            parameters = LearnParameters(
                low=capacity.low,
                high=capacity.high,
                start=capacity.max_concurrent,
                slo_s_per_token=None
                if capacity.slo_ms_per_token is None
                else capacity.slo_ms_per_token / 1e3,
                streamed=capacity.streamed,
            )
            known = self.capacities.get(model)
            if known is None or known.parameters.streamed != parameters.streamed:
                self.capacities[model] = LearnedCapacity(parameters)
            else:
                known.set_parameters(parameters)
            begins, self._listening = not self._listening, True
            self._share_due_s = -math.inf
        if begins:  # without the lock, for which a finalizer may wait inside the store
            self._store.listen(self._promoted)
        self.share()  # others may have learned it already
        return self.capacities[model].limit

    def forget(self, model: str) -> None:
        """Stop learning about a model; requests that are still there say nothing about a successor of its name."""
        with self._lock:
            learned = self.capacities.pop(model, None)
            if learned is None:
                return
            for lease_id in [name for name, sent in self._flights.items() if sent.learned is learned]:
                del self._flights[lease_id]
            self._totals.pop(model, None)
            self._leads.pop(model, None)
            for key in [key for key in self._heard_refusals if key[0] == model]:
                del self._heard_refusals[key]

    def refusal(self, model: str, demand: Demand) -> Refusal | None:
        """Return why the tokens in flight leave no room for a request, None where they do."""
        learned = self.capacities.get(model)
        if learned is None:
            return None
        self.share()
        with self._lock:
            if learned.has_room_for(demand.prompt_tokens):
                return None
        self._sweep()  # nothing else may end: requests whose leases are gone must not keep others out for ever
        with self._lock:
            if learned.has_room_for(demand.prompt_tokens):
                return None
            learned.held_back(self._clock.now(), by_tokens=True)
        return Refusal(model=model, reason=RefusalReason.MEMORY)

    def refused(self, refusal: Refusal) -> None:
        """Note that the store kept a request back."""
        learned = self.capacities.get(refusal.model)
        if learned is not None and refusal.reason in (RefusalReason.CONCURRENCY, RefusalReason.QUEUE):
            with self._lock:
                learned.held_back(self._clock.now())
            self.share()

    def granted(self, lease: Lease) -> None:
        """Note a lease: its request is sent now, or when it leaves the queue."""
        if lease.model in self.capacities:
            with self._lock:
                if lease.granted is LeaseState.QUEUED:
                    self._queued[lease.lease_id] = lease
                    self.capacities[lease.model].held_back(self._clock.now())
                else:
                    self._send(lease)

    def _promoted(self, lease_id: str) -> None:
        with self._lock:
            lease = self._queued.pop(lease_id, None)
            if lease is not None and lease.model in self.capacities:
                self._send(lease)

    def _send(self, lease: Lease) -> None:
        learned = self.capacities[lease.model]
        flight = learned.sent(self._clock.now(), lease.demand.prompt_tokens)
        self._flights[lease.lease_id] = _Sent(weakref.ref(lease), lease.model, learned, flight)

    def moved(self, lease: Lease, former_id: str) -> None:
        """Note that a lease stands for another model now, under another id."""
        with self._lock:
            self._queued.pop(former_id, None)
            sent = self._flights.pop(former_id, None)
            if sent is not None:
                sent.learned.ended(self._clock.now(), sent.flight, 0)
        self.granted(lease)

    def first_token(self, lease: Lease) -> None:
        """Note the first token of an answer."""
        with self._lock:
            sent = self._flights.get(lease.lease_id)
            if sent is not None:
                sent.learned.first_token(self._clock.now(), sent.flight)

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
            sent = self._flights.pop(lease_id, None)
            if sent is None:
                return
            note(sent.learned, self._clock.now(), sent.flight)
        self._sweep()
        with contextlib.suppress(StoreDownError):  # enforced by one of the next requests
            self._enforce(sent.model, sent.learned)
        self.share()

    def _enforce(self, model: str, learned: LearnedCapacity, *, check: bool = False) -> None:
        """Keep the store's limit up to the one learned here, or take note of the one that another has set."""
        limit = learned.limit
        if (limit == learned.enforced and not check) or self.capacities.get(model) is not learned:
            return
        try:
            limits = self._store.limits(model)
        except SpecError:
            return  # another process has forgotten the model
        if not self._leads.get(model, True):
            self._store.adopt_limits(model, limits)
        elif limits.with_slots(limit) != limits:
            self._store.configure(model, limits.with_slots(limit))
        learned.enforced = limit

    # -- with the other processes of a shared store

    def share(self) -> None:
        """Publish what was seen here, and read what the other processes saw; at most twice a second."""
        now = self._clock.now()
        if now < self._share_due_s or not self._store.remote:
            return
        with self._lock:
            if now < self._share_due_s:
                return
            self._share_due_s = now + _SHARE_EVERY_S
            if self._pid != os.getpid():
                self._begin_process()
            text = json.dumps({model: _published(learned, now) for model, learned in self.capacities.items()})
        try:
            published = self._store.exchange("learned", text, _PEER_TIMEOUT_S)
            self._exchanges += 1
            own = published.pop(self._store.replica, None)
            if own is None:
                return  # an outage, or a copy of what was read before
            entries = {name: (json.loads(text), age_s) for name, (text, age_s) in published.items()}
            for model, learned in list(self.capacities.items()):
                with self._lock:
                    self._hear(
                        model,
                        {
                            name: (entry[model], age)
                            for name, (entry, age) in entries.items()
                            if model in entry and len(entry[model]["sums"]) == N_SUMS + 3  # of this version
                        },
                    )
                if learned.enforced != learned.limit or self._exchanges % _CHECK_EVERY == 0:
                    self._enforce(model, learned, check=self._exchanges % _CHECK_EVERY == 0)
        except StoreDownError:
            return

    def _hear(self, model: str, others: dict[str, tuple[dict[str, Any], float]]) -> None:
        """Learn from what all have seen, or follow the process that does."""
        learned, now = self.capacities[model], self._clock.now()
        totals = self._totals.setdefault(model, SharedTotals()).add(
            {name: (entry["sums"], age_s) for name, (entry, age_s) in others.items()}
        )
        awake = [name for name, (_, age_s) in others.items() if age_s <= _LEADER_LEASE_S]
        leads = self._leads[model] = all(self._store.replica < name for name in awake)
        if not leads:
            leader = others[min(awake)][0]
            learned.follow(leader["state"], [totals], now)
            learned.windows = leader["windows"]
            return
        furthest = max(
            (entry for entry, _ in others.values()), key=lambda entry: entry["windows"], default=None
        )
        if furthest is not None and furthest["windows"] > learned.windows:  # others went on meanwhile
            learned.follow(furthest["state"])
            learned.windows = furthest["windows"]
        for name, (entry, _) in others.items():
            count, in_flight = entry["refusals"]
            if count > self._heard_refusals.get((model, name), count):
                learned.refused_elsewhere(now, in_flight)
            self._heard_refusals[model, name] = count
        learned.merge_peer_sums([totals] if others else [], now)

    def _begin_process(self) -> None:
        """In the child of a fork: what the parent has in flight stays the parent's."""
        self._pid = os.getpid()
        self._flights.clear()
        self._queued.clear()
        self._totals.clear()
        for model, learned in self.capacities.items():
            fresh = LearnedCapacity(learned.parameters)
            fresh.restore(learned.export())
            fresh.enforced = learned.enforced
            self.capacities[model] = fresh

    def _sweep(self) -> None:
        """Count requests as failed whose lease objects are gone, or whose leases are over; at most once a second."""
        now = self._clock.now()
        if now < self._sweep_due_s:
            return
        self._sweep_due_s = now + _SWEEP_EVERY_S
        dropped: list[str] = []
        overdue: list[str] = []
        with self._lock:
            for lease_id, sent in list(self._flights.items()):
                lease = sent.lease()
                if lease is None:
                    dropped.append(lease_id)
                elif sent.flight.sent_s + lease.ttl_s < now and len(overdue) < _SWEPT_AT_ONCE:
                    overdue.append(lease_id)
        with contextlib.suppress(StoreDownError):  # asked again later
            dropped += [each for each in overdue if self._store.lease_state(each) is LeaseState.GONE]
        for lease_id in dropped:
            with self._lock:
                gone = self._flights.pop(lease_id, None)
                if gone is not None:
                    gone.learned.ended(now, gone.flight, 0)

    def state(self, model: str) -> LearnedState | None:
        """Return what is learned about a model, None where nothing is to be learned."""
        with self._lock:
            learned = self.capacities.get(model)
            return None if learned is None else learned.state()

    def export(self) -> dict[str, Any]:
        """Return what has been learned about every model, to be kept over restarts."""
        with self._lock:
            return {model: learned.export() for model, learned in self.capacities.items()}

    def restore(self, states: dict[str, Any]) -> None:
        """Begin from what was exported; models that are not learned here are left out."""
        with self._lock:
            for model, state in states.items():
                if model in self.capacities:
                    self.capacities[model].restore(state)


def _published(learned: LearnedCapacity, now: float) -> dict[str, Any]:
    """Return what a process publishes about one model."""
    return {
        "sums": [round(value, 6) for value in learned.sums(now)],
        "refusals": learned.refusals,
        "windows": learned.windows,
        "state": learned.export(),
    }

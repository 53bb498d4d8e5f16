"""Discrete-event replay: arrivals meet a policy, the policy names models, servers serve, and time jumps."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import ManualClock
    from solver.simulate.quality import Quality
    from solver.simulate.servers import Fleet
    from solver.simulate.traffic import Traffic

__all__ = ["FAILED", "IN_FLIGHT", "OVERLOADED", "REFUSED", "SERVED", "Policy", "Replay", "Scene", "replay"]

IN_FLIGHT, SERVED, FAILED, REFUSED, OVERLOADED = -1, 0, 1, 2, 3
"""Where a request stands: not ended yet; ended with an answer, or without a usable one; turned away by the
policy, or by a full server."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What happens in one replay whatever the policy: the same for all that are compared.

    Parameters
    ----------
    traffic, fleet, quality
        Requests, servers, and the worth of answers.
    expected_output_tokens : float
        What policies may expect of an answer, learned from other traffic.
    fails : (n,) bool
        Requests that end without a usable answer once started.
    seed : int
        Of whatever a policy draws.
    """

    traffic: Traffic
    fleet: Fleet
    quality: Quality
    expected_output_tokens: int
    fails: NDArray[np.bool_]
    seed: int


class Policy(Protocol):
    """Chooses models. Columns of models are positions in the fleet; -1 refuses."""

    def choose(self, requests: range) -> list[int]:
        """Return the model of each request that arrives now."""
        ...

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Learn that a request has left its model: seconds since its arrival, and since its start."""
        ...

    def turned_away(self, request: int, column: int) -> None:
        """Learn that a full server refused a request."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """What became of every request.

    Parameters
    ----------
    outcome : (n,) int8
        SERVED, FAILED, REFUSED or OVERLOADED; IN_FLIGHT of none once the replay has ended.
    column : (n,) int64
        Model that was chosen, -1 where refused.
    wait_s, latency_s : (n,) float64
        From arrival to the start of service, and to its end; NaN where not started.
    first_token_s : (n,) float64
        From arrival to the first token.
    busy_s : (m,) float64
        Slot-seconds of service between the first and the last arrival.
    decision_us : (d,) float64
        Measured microseconds of each decision; one of a batch that arrived at one moment counts once.
    elapsed_s : float
        Measured seconds of the whole replay.
    """

    outcome: NDArray[np.int8]
    column: NDArray[np.int64]
    wait_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    busy_s: NDArray[np.float64]
    decision_us: NDArray[np.float64]
    elapsed_s: float


class _Servers:
    """Running and waiting requests of every model, first come first served."""

    def __init__(self, scene: Scene) -> None:
        fleet, n = scene.fleet, len(scene.traffic)
        self.arrival: list[float] = scene.traffic.arrival_s.tolist()
        self.tokens: list[int] = scene.traffic.output_tokens.tolist()
        self.slots: list[int] = fleet.slots.tolist()
        self.places: list[int] = fleet.queue_places.tolist()
        self.first: list[float] = fleet.first_token_s.tolist()
        self.per_token: list[float] = fleet.s_per_token.tolist()
        slowdown = fleet.params.slowdown
        self.slower = [slowdown / (slots - 1) if slots > 1 else 0.0 for slots in self.slots]
        self.running = [0] * len(fleet)
        self.waiting: list[deque[int]] = [deque() for _ in self.slots]
        self.heap: list[tuple[float, int, int]] = []
        self.start = [np.nan] * n
        self.end = [np.nan] * n
        self.first_token = [np.nan] * n

    def offer(self, request: int, column: int, now: float) -> bool:
        """Start or queue a request; False when the server is full."""
        if self.running[column] < self.slots[column]:
            self._begin(request, column, now)
            return True
        if len(self.waiting[column]) < self.places[column] and self.slots[column]:
            self.waiting[column].append(request)
            return True
        return False

    def finish(self) -> tuple[float, int, int]:
        """End the request that is done first, and start the next of its model."""
        now, request, column = heapq.heappop(self.heap)
        self.running[column] -= 1
        if self.waiting[column]:
            self._begin(self.waiting[column].popleft(), column, now)
        return now, request, column

    def _begin(self, request: int, column: int, now: float) -> None:
        factor = 1.0 + self.slower[column] * self.running[column]
        self.running[column] += 1
        first = now + factor * self.first[column]
        end = first + factor * self.tokens[request] * self.per_token[column]
        self.start[request], self.first_token[request], self.end[request] = now, first, end
        heapq.heappush(self.heap, (end, request, column))


def replay(scene: Scene, policy: Policy, clock: ManualClock) -> Replay:
    """Run traffic against a policy until every request has ended.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet and outcomes.
    policy : Policy
        Whatever chooses. Requests that arrive at one moment are chosen for together.
    clock : ManualClock
        The clock the policy's tracker reads; moved from event to event.

    Returns
    -------
    Replay
        Served, failed, refused and overloaded requests add up to those that arrived.

    Notes
    -----
    O(n log n) besides the policy. At one moment departures come before arrivals.
    """
    servers = _Servers(scene)
    n = len(scene.traffic)
    column = [-1] * n
    outcome = np.full(n, IN_FLIGHT, np.int8)
    fails = scene.fails.tolist()
    arrival, heap = servers.arrival, servers.heap
    decision_s: list[float] = []
    began = perf_counter()

    def depart() -> None:
        now, request, at = servers.finish()
        clock.seconds = now
        outcome[request] = FAILED if fails[request] else SERVED
        policy.ended(
            request, at, now - arrival[request], now - servers.start[request], success=not fails[request]
        )

    at = 0
    while at < n:
        now, first = arrival[at], at
        while at < n and arrival[at] == now:
            at += 1
        while heap and heap[0][0] <= now:
            depart()
        clock.seconds = now
        asked = perf_counter()
        chosen = policy.choose(range(first, at))
        decision_s.append(perf_counter() - asked)
        for request, model in zip(range(first, at), chosen, strict=True):
            column[request] = model
            if model < 0:
                outcome[request] = REFUSED
            elif not servers.offer(request, model, now):
                outcome[request] = OVERLOADED
                policy.turned_away(request, model)
    while heap:
        depart()
    elapsed = perf_counter() - began
    start, end = np.array(servers.start), np.array(servers.end)
    columns = np.array(column, np.int64)
    last = scene.traffic.arrival_s[-1]
    started = ~np.isnan(start)
    busy = np.zeros(len(scene.fleet))
    spans = np.minimum(end[started], last) - np.minimum(start[started], last)
    np.add.at(busy, columns[started], spans)
    return Replay(
        outcome=outcome,
        column=columns,
        wait_s=start - scene.traffic.arrival_s,
        latency_s=end - scene.traffic.arrival_s,
        first_token_s=np.array(servers.first_token) - scene.traffic.arrival_s,
        busy_s=busy,
        decision_us=1e6 * np.array(decision_s),
        elapsed_s=elapsed,
    )

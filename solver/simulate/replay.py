"""Discrete-event replay: arrivals meet a policy, the policy names models, servers serve, and time jumps."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from solver.simulate.server_state import RunningServers

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.clock import ManualClock
    from solver.load.tracker import LoadTracker
    from solver.simulate.scenario import Scene

IN_FLIGHT, SERVED, FAILED, REFUSED, OVERLOADED, THROTTLED = -1, 0, 1, 2, 3, 4
"""Where a request stands: not ended yet; ended with an answer, or without a usable one; turned away by the
policy, by a full server, or by a server that answers 429 or is down."""


class Policy(Protocol):
    """Chooses models. Columns of models are positions in the fleet; -1 refuses."""

    @property
    def tracker(self) -> LoadTracker | None:
        """The live load that capacity rules act on, where the policy keeps one."""
        ...

    def choose(self, requests: range) -> list[int]:
        """Return the model of each request that arrives now."""
        ...

    def between_decisions(self) -> bool:
        """Do what is done in the background in service; return whether there was anything to do.

        Called after each arrival, not part of its decision.
        """
        ...

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Learn that a request has left its model: seconds since its arrival, and since its start."""
        ...

    def turned_away(self, request: int, column: int, status: int) -> None:
        """Learn that a server refused a request, and with which status."""
        ...

    def capacity_changed(self, column: int, slots: int) -> None:
        """Learn that a model serves another number of requests at once from now on."""
        ...

    def close(self) -> None:
        """Give back what the policy holds; called once, after the last event."""
        ...


class PolicyBase:
    """Base class of policies, with empty callbacks: a policy overrides those it learns from."""

    tracker: LoadTracker | None = None

    def between_decisions(self) -> bool:
        """Do nothing."""
        return False

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Do nothing."""

    def turned_away(self, request: int, column: int, status: int) -> None:
        """Do nothing."""

    def capacity_changed(self, column: int, slots: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """What became of every request.

    Parameters
    ----------
    outcome : (n,) int8
        SERVED, FAILED, REFUSED, OVERLOADED or THROTTLED; IN_FLIGHT of none once the replay has ended.
    column : (n,) int64
        Model that was chosen last, -1 where refused.
    start_s, end_s, first_token_s : (n,) float64
        Since the first arrival: start and end of service, and its first token; NaN where not started.
    arrival_s : (n,) float64
        Arrivals, for the differences below.
    slot_s : (m,) float64
        Slot-seconds there were between the first and the last arrival.
    decision_us : (d,) float64
        Measured microseconds of each decision; one of a batch that arrived at one moment counts once.
    decided : (d,) int64
        Requests of each decision.
    refresh_us : (r,) float64
        Measured microseconds of each time that the policy did background work, such as computing prices.
    policy_s, elapsed_s : float
        Measured seconds inside the policy, and of the whole replay.
    """

    outcome: NDArray[np.int8]
    column: NDArray[np.int64]
    arrival_s: NDArray[np.float64]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    slot_s: NDArray[np.float64]
    decision_us: NDArray[np.float64]
    decided: NDArray[np.int64]
    refresh_us: NDArray[np.float64]
    policy_s: float
    elapsed_s: float

    @property
    def wait_s(self) -> NDArray[np.float64]:
        """From arrival to the start of service, (n,) seconds."""
        return self.start_s - self.arrival_s

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """From arrival to the end of service, (n,) seconds."""
        return self.end_s - self.arrival_s

    @property
    def to_first_token_s(self) -> NDArray[np.float64]:
        """From arrival to the first token, (n,) seconds."""
        return self.first_token_s - self.arrival_s

    def busy_s(self, until_s: float) -> NDArray[np.float64]:
        """Return slot-seconds of service of each model until a time, (m,)."""
        started = ~np.isnan(self.start_s)
        spans = np.minimum(self.end_s[started], until_s) - np.minimum(self.start_s[started], until_s)
        return np.bincount(self.column[started], spans, len(self.slot_s)).astype(np.float64)


class _Run:
    """One replay while it happens."""

    def __init__(self, scene: Scene, policy: Policy, clock: ManualClock, timer: Callable[[], float]) -> None:
        self.scene, self.policy, self.clock, self.timer = scene, policy, clock, timer
        self.servers = RunningServers(scene)
        self.outcome = [IN_FLIGHT] * len(scene.traffic)
        self.column = [-1] * len(scene.traffic)
        self.decision_s: list[float] = []
        self.decided: list[int] = []
        self.refresh_s: list[float] = []
        self.observing_s = 0.0

    def depart_until(self, now: float) -> None:
        """End every request that is done by now, in order."""
        servers, heap = self.servers, self.servers.heap
        arrival, start, fails = servers.arrival, servers.start, servers.fails
        ended, outcome, clock, timer = self.policy.ended, self.outcome, self.clock, self.timer
        while heap and heap[0][0] <= now:
            at, request, column = servers.finish()
            clock.seconds = at
            failed = fails[request]
            outcome[request] = FAILED if failed else SERVED
            asked = timer()
            ended(request, column, at - arrival[request], at - start[request], success=not failed)
            self.observing_s += timer() - asked

    def disrupt(self, at: float) -> None:
        """Begin and end what the schedule says for this moment, and tell the policy what it is told."""
        self.clock.seconds = at
        lost, resized = self.servers.disrupt(at)
        for request, column in lost:
            self.outcome[request] = FAILED
            waited = self.servers.start[request]
            service = 0.0 if math.isnan(waited) else at - waited
            self.policy.ended(request, column, at - self.servers.arrival[request], service, success=False)
        for column, slots in resized:
            self.policy.capacity_changed(column, slots)

    def arrive(self, requests: range, now: float) -> None:
        """Have the policy choose for requests that arrive together, and offer them to servers."""
        self.clock.seconds = now
        asked = self.timer()
        chosen = self.policy.choose(requests)
        self.decision_s.append(self.timer() - asked)
        self.decided.append(len(requests))
        column, outcome, offer = self.column, self.outcome, self.servers.offer
        for request, model in zip(requests, chosen, strict=True):
            column[request] = model
            if model < 0:
                outcome[request] = REFUSED
            elif status := offer(request, model, now):
                self._turned_away(request, model, status, now)
        asked = self.timer()
        refreshed = self.policy.between_decisions()
        took = self.timer() - asked
        self.observing_s += took
        if refreshed:
            self.refresh_s.append(took)

    def _turned_away(self, request: int, model: int, status: int, now: float) -> None:
        """Tell the policy, and ask it again as often as requests are retried."""
        full = self.servers.is_full(model)
        self.policy.turned_away(request, model, status)
        for attempt in range(1, self.scene.retries + 1):
            again = self.policy.choose(range(request, request + 1))[0]
            if again < 0:
                break  # what the server said stands
            self.column[request] = model = again
            again_status = self.servers.offer(request, model, now, attempt)
            if not again_status:
                return
            full = self.servers.is_full(model)
            self.policy.turned_away(request, model, again_status)
        self.outcome[request] = OVERLOADED if full else THROTTLED


def replay(
    scene: Scene,
    policy: Policy,
    clock: ManualClock,
    *,
    on_second: Callable[[float, RunningServers], object] | None = None,
    every_s: float = 1.0,
    on_progress: Callable[[int], object] | None = None,
    timer: Callable[[], float] = perf_counter,
) -> Replay:
    """Run traffic against a policy until every request has ended.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, outcomes, disruptions.
    policy : Policy
        Whatever chooses. Requests that arrive at one moment are chosen for together.
    clock : ManualClock
        The clock the policy's tracker reads; moved from event to event.
    on_second : callable, optional
        Called with time and servers every ``every_s`` of simulated time between the first and the last arrival.
    every_s : float
        For it; seconds.
    on_progress : callable, optional
        Called now and then with the number of requests that have arrived.
    timer : callable
        Seconds that decisions are measured with; ``time.process_time`` on a machine that does other work.

    Returns
    -------
    Replay
        Served, failed, refused, overloaded and throttled requests add up to those that arrived.

    Notes
    -----
    O(n log n) besides the policy. At one moment departures come before disruptions, then arrivals. The garbage
    collector is off meanwhile, so that its pauses are not taken for decisions.
    """
    run = _Run(scene, policy, clock, timer)
    arrival, n = run.servers.arrival, len(scene.traffic)
    changes = [*run.servers.change_times, math.inf]
    next_change, next_tick = changes[0], math.inf if on_second is None else 0.0
    change_at = at = told = 0
    collecting = gc.isenabled()
    gc.collect(1)  # of the last replay: made with the collector off, it is still young
    gc.disable()
    began = timer()
    try:
        while at < n:
            now, first = arrival[at], at
            while at < n and arrival[at] == now:
                at += 1
            while next_change <= now or next_tick <= now:
                moment = min(next_change, next_tick)
                run.depart_until(moment)
                if next_change == moment:
                    run.disrupt(moment)
                    change_at += 1
                    next_change = changes[change_at]
                else:
                    clock.seconds = moment
                    assert on_second is not None
                    on_second(moment, run.servers)
                    next_tick += every_s
            run.depart_until(now)
            run.arrive(range(first, at), now)
            if on_progress is not None and at - told >= _PROGRESS_EVERY:
                told = at
                on_progress(at)
        while next_change < math.inf:
            run.depart_until(next_change)
            run.disrupt(next_change)
            change_at += 1
            next_change = changes[change_at]
        run.depart_until(math.inf)
        elapsed = timer() - began
    finally:
        policy.close()
        if collecting:
            gc.enable()
    return _result(run, elapsed)


_PROGRESS_EVERY = 2048  # requests


def _result(run: _Run, elapsed_s: float) -> Replay:
    servers, traffic = run.servers, run.scene.traffic
    for request, outcome in enumerate(run.outcome):
        if outcome == IN_FLIGHT:  # waits for a model that never serves again
            run.outcome[request] = FAILED
    decision_s = np.array(run.decision_s)
    return Replay(
        outcome=np.array(run.outcome, np.int8),
        column=np.array(run.column, np.int64),
        arrival_s=traffic.arrival_s,
        start_s=np.array(servers.start),
        end_s=np.array(servers.end),
        first_token_s=np.array(servers.first_token),
        slot_s=servers.slot_seconds(traffic.span_s),
        decision_us=1e6 * decision_s,
        decided=np.array(run.decided, np.int64),
        refresh_us=1e6 * np.array(run.refresh_s, np.float64),
        policy_s=float(decision_s.sum()) + run.observing_s,
        elapsed_s=elapsed_s,
    )

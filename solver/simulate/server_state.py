"""Simulated servers while they run: slots, queues, and whatever the schedule does to them."""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.simulate.scenario import Scene
    from solver.simulate.schedule import Disruption

TOO_MANY, DOWN = 429, 503
"""Statuses with which servers turn requests away."""

_RETRY_STRIDE = 7919
"""A retry takes the random draws of the request this many places later; a prime, so that few coincide."""


class RunningServers:
    """Running and waiting requests of every model, first come first served.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, uniform_draws and schedule.

    Attributes
    ----------
    slots, running : list of int
        Requests each model may serve at once, and serves.
    change_times : list of float
        Moments at which the schedule changes something, rising.
    """

    def __init__(self, scene: Scene) -> None:
        fleet, n = scene.fleet, len(scene.traffic)
        self.arrival: list[float] = scene.traffic.arrival_s.tolist()
        self.tokens: list[int] = scene.traffic.output_tokens.tolist()
        self.slots: list[int] = fleet.slots.tolist()
        self.places: list[int] = fleet.queue_places.tolist()
        self.running = [0] * len(fleet)
        self.waiting: list[deque[int]] = [deque() for _ in self.slots]
        self.heap: list[tuple[float, int, int]] = []
        self.start = [math.nan] * n
        self.end = [math.nan] * n
        self.first_token = [math.nan] * n
        self._first: list[float] = fleet.first_token_s.tolist()
        self._per_token: list[float] = fleet.s_per_token.tolist()
        self._slowdown = fleet.params.slowdown
        self._usual_failures = fleet.params.failure_rate
        self._failure_rate = [fleet.params.failure_rate] * len(fleet)
        self._reject_rate = [0.0] * len(fleet)
        self._slower = [1.0] * len(fleet)
        self._down = [False] * len(fleet)
        self._rejects = any(each.outage or each.reject_rate for each in scene.schedule)
        self._uniform_draws: list[float] = scene.uniform_draws[:, 0].tolist()
        self._reject_draws: list[float] = scene.uniform_draws[:, 1].tolist() if self._rejects else []
        self.fails = [False] * n
        self._usual_slots = tuple(self.slots)
        self._schedule: list[tuple[int, Disruption]] = [
            (fleet.ids.index(each.model), each) for each in scene.schedule
        ]
        times = {each.from_s for each in scene.schedule} | {each.until_s for each in scene.schedule}
        self.change_times = sorted(times - {math.inf})
        self._resized: list[tuple[float, int, int]] = []
        self._slow = [0.0] * len(fleet)
        self._set_slow()

    def _set_slow(self) -> None:
        self._slow = [self._slowdown / (slots - 1) if slots > 1 else 0.0 for slots in self.slots]

    def utilization(self, column: int) -> float:
        """Return running requests over slots; 1 for a model without slots."""
        slots = self.slots[column]
        return min(1.0, self.running[column] / slots) if slots else 1.0

    def is_full(self, column: int) -> bool:
        """Return whether slots and queue places are all taken, and the model is up."""
        if self._down[column]:
            return False
        free = self.running[column] < self.slots[column]
        return not free and len(self.waiting[column]) >= (self.places[column] if self.slots[column] else 0)

    def offer(self, request: int, column: int, now: float, attempt: int = 0) -> int:
        """Start or queue a request and return 0; or the status with which it is turned away."""
        if self._rejects:
            if self._down[column]:
                return DOWN
            uniform_draws = self._reject_draws[(request + _RETRY_STRIDE * attempt) % len(self._reject_draws)]
            if uniform_draws < self._reject_rate[column]:
                return TOO_MANY
        if self.running[column] < self.slots[column]:
            self._begin(request, column, now)
            return 0
        if len(self.waiting[column]) < self.places[column] and self.slots[column]:
            self.waiting[column].append(request)
            return 0
        return TOO_MANY

    def finish(self) -> tuple[float, int, int]:
        """End the request that is done first, and start the next of its model."""
        now, request, column = heapq.heappop(self.heap)
        self.running[column] -= 1
        if self.waiting[column] and self.running[column] < self.slots[column]:
            self._begin(self.waiting[column].popleft(), column, now)
        return now, request, column

    def _begin(self, request: int, column: int, now: float) -> None:
        factor = self._slower[column] * (1.0 + self._slow[column] * self.running[column])
        self.running[column] += 1
        first = now + factor * self._first[column]
        end = first + factor * self.tokens[request] * self._per_token[column]
        self.start[request], self.first_token[request], self.end[request] = now, first, end
        if self._failure_rate[column]:
            self.fails[request] = self._uniform_draws[request] < self._failure_rate[column]
        heapq.heappush(self.heap, (end, request, column))

    # -- schedule

    def disrupt(self, at: float) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Make every model what the schedule says from now on.

        Returns
        -------
        lost : list of (int, int)
            Requests that an outage ends now, with their models.
        announced : list of (int, int)
            Models with another number of slots that policies are told of, and that number.
        """
        before, was_down = list(self.slots), list(self._down)
        told = [True] * len(self.slots)
        self.slots = list(self._usual_slots)
        self._failure_rate = [self._usual_failures] * len(self.slots)
        self._reject_rate = [0.0] * len(self.slots)
        self._slower = [1.0] * len(self.slots)
        self._down = [False] * len(self.slots)
        for column, each in self._schedule:
            ends_now = each.until_s == at and each.slots is not None
            if ends_now and not each.announced:
                told[column] = False
            if not each.from_s <= at < each.until_s:
                continue
            self._down[column] |= each.outage
            if each.failure_rate is not None:
                self._failure_rate[column] = each.failure_rate
            if each.reject_rate is not None:
                self._reject_rate[column] = each.reject_rate
            if each.slower is not None:
                self._slower[column] *= each.slower
            if each.slots is not None:
                self.slots[column] = each.slots
                told[column] = each.announced
        self._set_slow()
        lost: list[tuple[int, int]] = []
        for column, down in enumerate(self._down):
            if down and not was_down[column]:
                lost.extend((request, column) for request in self._lose(column, at))
        announced = []
        for column, slots in enumerate(self.slots):
            if slots == before[column]:
                continue
            self._resized.append((at, column, slots))
            if told[column]:
                announced.append((column, slots))
            while self.waiting[column] and self.running[column] < slots and not self._down[column]:
                self._begin(self.waiting[column].popleft(), column, at)
        return lost, announced

    def _lose(self, column: int, at: float) -> list[int]:
        """End everything on a model, running and waiting, without answers."""
        running = [request for _, request, own in self.heap if own == column]
        self.heap = [entry for entry in self.heap if entry[2] != column]
        heapq.heapify(self.heap)
        for request in running:
            self.end[request] = at
        waiting = list(self.waiting[column])
        self.waiting[column].clear()
        self.running[column] = 0
        return sorted(running) + waiting

    def slot_seconds(self, span_s: float) -> NDArray[np.float64]:
        """Return the slot-seconds there were of each model in ``[0, span_s]``, (m,)."""
        total = np.array(self._usual_slots, np.float64) * span_s
        current = list(self._usual_slots)
        for at, column, slots in self._resized:
            total[column] += (slots - current[column]) * max(0.0, span_s - at)
            current[column] = slots
        return total

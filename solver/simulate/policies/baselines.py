"""The usual policies: one model, random, round robin, power of two choices, least tokens, latency-priced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.online.learned_answer_size import AnswerSize
from solver.simulate.replay import PolicyBase

if TYPE_CHECKING:
    from solver.simulate.scenario import Scene


class Constant(PolicyBase):
    """Every request goes to the same model."""

    def __init__(self, column: int) -> None:
        self._column = column

    def choose(self, requests: range) -> list[int]:
        """Return the one model."""
        return [self._column] * len(requests)


class RandomChoice(PolicyBase):
    """A random model, in proportion to its slots."""

    def __init__(self, scene: Scene) -> None:
        rng = np.random.default_rng([scene.seed, 3])
        share = scene.fleet.slots / scene.fleet.slots.sum()
        self._drawn: list[int] = rng.choice(len(share), size=len(scene.traffic), p=share).tolist()

    def choose(self, requests: range) -> list[int]:
        """Return what was drawn."""
        return self._drawn[requests.start : requests.stop]


class RoundRobin(PolicyBase):
    """Smooth weighted round robin by slots: in turn, larger models more often."""

    def __init__(self, scene: Scene) -> None:
        self._weight: list[int] = scene.fleet.slots.tolist()
        self._total = sum(self._weight)
        self._credit = [0] * len(self._weight)

    def choose(self, requests: range) -> list[int]:
        """Return the model with the most credit, once for each request."""
        chosen = []
        for _ in requests:
            self._credit = [
                credit + weight for credit, weight in zip(self._credit, self._weight, strict=True)
            ]
            j = self._credit.index(max(self._credit))
            self._credit[j] -= self._total
            chosen.append(j)
        return chosen


class _InFlight(PolicyBase):
    """Counts what is on each model, as a gateway does that sees every request."""

    def __init__(self, scene: Scene) -> None:
        fleet = scene.fleet
        self._slots: list[int] = fleet.slots.tolist()
        self._room: list[int] = np.where(fleet.slots > 0, fleet.slots + fleet.queue_places, 0).tolist()
        self._count = [0] * len(fleet)
        self._places: list[int] = fleet.queue_places.tolist()
        self._able = [j for j, slots in enumerate(self._slots) if slots]

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Count it out."""
        self._count[column] -= 1

    def turned_away(self, request: int, column: int, status: int) -> None:
        """Count it out."""
        self._count[column] -= 1

    def capacity_changed(self, column: int, slots: int) -> None:
        """Compare with the new number of slots from now on."""
        self._slots[column] = slots
        self._room[column] = slots + self._places[column] if slots else 0
        self._able = [j for j, own in enumerate(self._slots) if own]


class PowerOfTwo(_InFlight):
    """The less utilized of two models drawn in proportion to their slots (Mitzenmacher 2001)."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        rng = np.random.default_rng([scene.seed, 4])
        share = scene.fleet.slots / scene.fleet.slots.sum()
        self._pairs: list[list[int]] = rng.choice(len(share), size=(len(scene.traffic), 2), p=share).tolist()

    def choose(self, requests: range) -> list[int]:
        """Return the less utilized of each pair."""
        chosen = []
        for request in requests:
            a, b = self._pairs[request]
            j = a if self._count[a] * self._slots[b] <= self._count[b] * self._slots[a] else b
            if not self._slots[j]:
                j = b if j == a else a
            if not self._slots[j] and self._able:
                j = self._able[request % len(self._able)]
            self._count[j] += 1
            chosen.append(j)
        return chosen


class LeastTokens(_InFlight):
    """The model with the fewest tokens in flight per slot, among those with room; blind to quality.

    A request counts its prompt and the mean answer seen so far: with the mean answer to prompts of its size the rule is
    slower, since it evens out tokens more closely while models differ in speed.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._inputs: list[int] = scene.traffic.input_tokens.tolist()
        self._outputs: list[int] = scene.traffic.output_tokens.tolist()
        self._size: dict[int, float] = {}
        self._tokens = [0.0] * len(scene.fleet)
        self._answer = AnswerSize()

    def choose(self, requests: range) -> list[int]:
        """Return the model with the fewest tokens per slot; ties to the first."""
        chosen = []
        for request in requests:
            best, least = -1, float("inf")
            for j in self._able:
                load = self._tokens[j] / self._slots[j]
                if load < least and self._count[j] < self._room[j]:
                    best, least = j, load
            if best >= 0:
                size = self._inputs[request] + self._answer.tokens
                self._size[request] = size
                self._count[best] += 1
                self._tokens[best] += size
            chosen.append(best)
        return chosen

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Count it and its tokens out, and learn how long its answer was."""
        super().ended(request, column, latency_s, service_s, success=success)
        self._tokens[column] -= self._size.pop(request)
        if success:
            self._answer.learn(self._inputs[request], self._outputs[request])

    def turned_away(self, request: int, column: int, status: int) -> None:
        """Count it and its tokens out."""
        super().turned_away(request, column, status)
        self._tokens[column] -= self._size.pop(request)


class RouteBalance(_InFlight):
    """Longest processing time first at latency-priced scores, the rule of RouteBalance.

    The value of a model is its predicted score, scaled to the fleet's range, minus ``latency_weight`` times its
    predicted completion time over that of the slowest. Completion is the observed mean service time (the
    stated one until there is one), plus the wait for a turn where every slot is taken. Requests that arrive at
    one moment are placed in the order of their expected size, longest first.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, predictions.
    latency_weight : float
        Weight of latency, 0 to 1; the score weighs ``1 − latency_weight``.
    """

    def __init__(self, scene: Scene, latency_weight: float = 0.5) -> None:
        super().__init__(scene)
        predicted = scene.quality.predicted
        low, high = float(predicted.min()), float(predicted.max())
        self._score = (1.0 - latency_weight) * (predicted - low) / (high - low if high > low else 1.0)
        self._latency_weight = latency_weight
        self._size = scene.traffic.input_tokens
        self._mean_s = scene.fleet.first_token_s + AnswerSize().tokens * scene.fleet.s_per_token
        self._divisor = np.maximum(scene.fleet.slots, 1).astype(np.float64)
        self._in_flight = np.zeros(len(scene.fleet))
        self._limit = np.array(self._room, np.float64)

    def choose(self, requests: range) -> list[int]:
        """Place the longest first, each at the best value now."""
        chosen = dict.fromkeys(requests, -1)
        for request in sorted(requests, key=lambda i: -int(self._size[i])):
            ahead = np.maximum(0.0, self._in_flight + 1.0 - self._divisor) / self._divisor
            done_s = self._mean_s * (1.0 + ahead)
            value = self._score[request] - self._latency_weight * done_s / done_s.max()
            value[self._in_flight >= self._limit] = -np.inf
            j = int(value.argmax())
            if value[j] > -np.inf:
                self._in_flight[j] += 1
                chosen[request] = j
        return list(chosen.values())

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Learn how long its model takes."""
        self._in_flight[column] -= 1
        if success:
            self._mean_s[column] += 0.05 * (service_s - self._mean_s[column])

    def turned_away(self, request: int, column: int, status: int) -> None:
        """Count it out."""
        self._in_flight[column] -= 1

    def capacity_changed(self, column: int, slots: int) -> None:
        """Compare with the new number of slots from now on."""
        super().capacity_changed(column, slots)
        self._divisor[column] = max(slots, 1)
        self._limit[column] = self._room[column]

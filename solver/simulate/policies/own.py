"""The load balancer and the router, unmodified, on a clock that the replay turns; and load-blind ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.load.balance.balancer import LoadBalancer
from solver.load.balance.prediction import CompletionPredictor
from solver.load.tracker import LoadTracker
from solver.online.router import OptimalRouter
from solver.problem.spec import Agent

if TYPE_CHECKING:
    from solver.clock import ManualClock
    from solver.load.lease import Lease
    from solver.online.decision import Decision
    from solver.simulate.replay import Policy, Scene

__all__ = ["BlindBalancer", "RoutedOneByOne", "TrackedBalancer"]

_ENDLESS_TTL_S = 1e8
"""Time to live of leases in a replay, where renewals are not acted out."""


def _agents(scene: Scene) -> list[Agent]:
    """Return what a policy knows of each request: its prompt, and the mean answer."""
    expected = scene.expected_output_tokens
    return [
        Agent.model_construct(id=f"r{i}", input_tokens=tokens, output_tokens=expected)
        for i, tokens in enumerate(scene.traffic.input_tokens.tolist())
    ]


class TrackedBalancer:
    """LoadBalancer with a tracker: a slot where one is free, else a place in a queue, else refused.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, predictions.
    clock : ManualClock
        Of the tracker.
    strategy, routing : str
        Of the balancer.
    """

    def __init__(self, scene: Scene, clock: ManualClock, strategy: str, routing: str) -> None:
        self._scene, self._models = scene, scene.fleet.models
        self._agents = _agents(scene)
        self._column = {name: j for j, name in enumerate(scene.fleet.ids)}
        self._tracker = LoadTracker(clock=clock)
        predictor = None
        if strategy == "predictive":
            predictor = CompletionPredictor(clock=clock)
            self._tracker.listen(predictor.observe)
        self._balancers = [
            LoadBalancer(
                self._tracker,
                strategy,
                routing,
                predictor=predictor,
                queue=queue,
                ttl_s=_ENDLESS_TTL_S,
                seed=scene.seed,
            )
            for queue in ((False, True) if scene.fleet.queue_places.any() else (False,))
        ]
        self._renews = strategy == "predictive"  # whose leases are as long as it expects the request to take
        self._leases: dict[int, Lease] = {}

    def choose(self, requests: range) -> list[int]:
        """Reserve slots, then places in queues for who got none."""
        chosen = dict.fromkeys(requests, -1)
        pending = list(requests)
        for balancer in self._balancers:
            reserved = balancer.assign_and_reserve(
                [self._agents[i] for i in pending],
                self._models,
                scores=self._scene.quality.predicted[pending],
            )
            for i, reservation in zip(pending, reserved, strict=True):
                if reservation.lease is not None:
                    if self._renews:
                        reservation.lease.renew(ttl_s=_ENDLESS_TTL_S)
                    self._leases[i] = reservation.lease
                    chosen[i] = self._column[reservation.lease.model]
            pending = [i for i in pending if chosen[i] < 0]
            if not pending:
                break
        return list(chosen.values())

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Release the lease and record the outcome."""
        self._leases.pop(request).release()
        traffic = self._scene.traffic
        self._tracker.record(
            self._scene.fleet.ids[column],
            latency_ms=1000.0 * service_s,
            success=success,
            input_tokens=int(traffic.input_tokens[request]),
            output_tokens=int(traffic.output_tokens[request]),
        )

    def turned_away(self, request: int, column: int) -> None:
        """Release the lease."""
        self._leases.pop(request).release()


class RoutedOneByOne:
    """OptimalRouter, its prices computed inside the decisions; joint where requests arrive at one moment.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, predictions.
    clock : ManualClock
        Of the tracker.
    wait_cost : float
        What a second of waiting costs, as a share of the range of predicted scores.
    """

    def __init__(self, scene: Scene, clock: ManualClock, wait_cost: float = 0.1) -> None:
        self._scene = scene
        self._column = {name: j for j, name in enumerate(scene.fleet.ids)}
        tracker = LoadTracker(clock=clock)
        self._predictor = CompletionPredictor(clock=clock)
        tracker.listen(self._predictor.observe)
        predicted = scene.quality.predicted
        self._router = OptimalRouter(
            tracker,
            scene.fleet.models,
            background=False,
            queue=bool(scene.fleet.queue_places.any()),
            wait_cost_per_s=wait_cost * float(np.ptp(predicted)),
            predictor=self._predictor,
            ttl_s=_ENDLESS_TTL_S,
            seed=scene.seed,
        )
        self._decisions: dict[int, Decision] = {}

    def choose(self, requests: range) -> list[int]:
        """Route one, or several jointly."""
        rows = slice(requests.start, requests.stop)
        scores = self._scene.quality.predicted[rows]
        inputs = self._scene.traffic.input_tokens[rows].tolist()
        expected = [self._scene.expected_output_tokens] * len(requests)
        service_s = self._predictor.predict_ms(self._scene.fleet.models, inputs, expected) / 1000.0
        if len(requests) == 1:
            decisions = [self._router.route(scores=scores[0], service_s=service_s[0])]
        else:
            decisions = self._router.route_many(scores=scores, service_s=service_s)
        chosen = []
        for i, decision in zip(requests, decisions, strict=True):
            if decision.model is not None:
                self._decisions[i] = decision
            chosen.append(-1 if decision.model is None else self._column[decision.model])
        return chosen

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Release, and record the outcome."""
        self._decisions.pop(request).release(latency_ms=1000.0 * service_s, success=success)

    def turned_away(self, request: int, column: int) -> None:
        """Release."""
        self._decisions.pop(request).release(success=False)


class BlindBalancer:
    """The same placement without load: every decision sees an empty fleet.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, predictions.
    clock : ManualClock
        Of the tracker, which nobody tells about load.
    routing : str
        Of the balancer.
    """

    def __init__(self, scene: Scene, clock: ManualClock, routing: str) -> None:
        self._scene = scene
        self._agents = _agents(scene)
        self._column = {name: j for j, name in enumerate(scene.fleet.ids)}
        self._balancer = LoadBalancer(
            LoadTracker(clock=clock), "weighted", routing, load_weight=0.0, seed=scene.seed
        )

    def choose(self, requests: range) -> list[int]:
        """Place without regard to what is running."""
        assignments = self._balancer.select(
            self._agents[requests.start : requests.stop],
            self._scene.fleet.models,
            scores=self._scene.quality.predicted[requests.start : requests.stop],
        )
        return [-1 if each.model_id is None else self._column[each.model_id] for each in assignments]

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Do nothing: load is not looked at."""

    def turned_away(self, request: int, column: int) -> None:
        """Do nothing: load is not looked at."""


if TYPE_CHECKING:
    _conforms: tuple[type[Policy], ...] = (TrackedBalancer, RoutedOneByOne, BlindBalancer)

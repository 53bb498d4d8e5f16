"""The load balancer and the router, unmodified, on a clock that the replay turns; and load-blind ones."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from solver.load.balance.balancer import LoadBalancer
from solver.load.balance.prediction import CompletionPredictor
from solver.load.tracker import LoadTracker
from solver.online.learned_answer_size import AnswerSize
from solver.online.parameters import RefreshParams
from solver.online.router import OptimalRouter
from solver.online.tail_latency import LatencyParts, TailLatency
from solver.problem.spec import Agent, Objective
from solver.simulate.policies.learned_slowdown import LearnedSlowdown
from solver.simulate.policies.settings import PolicySettings
from solver.simulate.replay import PolicyBase
from solver.solution.solving import warm_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import ManualClock
    from solver.load.lease import Lease
    from solver.online.decision import Decision
    from solver.simulate.scenario import Scene

_ENDLESS_TTL_S = 1e8
"""Time to live of leases in a replay, where renewals are not simulated."""
_WAIT_COST = 0.1
"""Default cost of a second of waiting, as a share of the range of predicted scores."""
_TAIL_COST = 0.05
"""Default cost of a second of the mean latency of the slowest twentieth, as a share of the same range."""
_NEVER = 1e9
"""Arrivals or seconds after which the router itself would refresh its prices; the replay does so between decisions."""
_REFRESH_ARRIVALS, _REFRESH_S = 10, 0.5
"""Arrivals and seconds between two refreshes, as ``RefreshParams`` has them by default."""


_TEMPLATE_AGENT = Agent(id="anybody", input_tokens=0, output_tokens=0)
"""The agent that requests are copied from: validating a new agent would take longer than deciding on it."""


def _objective(settings: PolicySettings) -> Objective | None:
    """Return the objective that settings describe; None where they leave it to the balancer."""
    if not (settings.latency_weight or settings.cost_weight):
        return None
    return Objective(
        quality="given",
        load_weight=0.3 if settings.load_weight is None else settings.load_weight,
        latency_weight=settings.latency_weight or 0.0,
        cost_weight=settings.cost_weight or 0.0,
    )


class _Tracked(PolicyBase):
    """A policy with a tracker, which hears of capacities and of servers that turn requests away."""

    def __init__(self, scene: Scene, clock: ManualClock) -> None:
        self._scene, self._models = scene, scene.fleet.models
        self._column = {name: j for j, name in enumerate(scene.fleet.ids)}
        self._inputs: list[int] = scene.traffic.input_tokens.tolist()
        self._outputs: list[int] = scene.traffic.output_tokens.tolist()
        self._answer = AnswerSize()
        self.tracker: LoadTracker = LoadTracker(clock=clock)

    def _agents(self, requests: list[int]) -> list[Agent]:
        """Return what a policy knows of each request: its prompt, and answers to such prompts so far."""
        expected, inputs = self._answer.expected, self._inputs
        return [
            _TEMPLATE_AGENT.model_copy(
                update={
                    "id": f"r{i}",
                    "input_tokens": inputs[i],
                    "output_tokens": round(expected(inputs[i])),
                }
            )
            for i in requests
        ]

    def _record(self, column: int, *, status: int) -> None:
        self.tracker.record(self._scene.fleet.ids[column], latency_ms=0.0, success=False, status=status)

    def capacity_changed(self, column: int, slots: int) -> None:
        """Set the model's capacity again; without slots nothing waits there, because it would wait for ever."""
        model = self._models[column]
        places = model.capacity.max_queue if slots else 0
        changed = model.capacity.model_copy(update={"max_concurrent": slots, "max_queue": places})
        self.tracker.set_capacity(model.id, changed)


class TrackedBalancer(_Tracked):
    """LoadBalancer with a tracker: a slot where one is free, else a place in a queue, else refused.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, predictions.
    clock : ManualClock
        Of the tracker.
    strategy, routing : str
        Of the balancer.
    settings : PolicySettings, optional
        Of its objective.
    """

    def __init__(
        self,
        scene: Scene,
        clock: ManualClock,
        strategy: str,
        routing: str,
        settings: PolicySettings | None = None,
    ) -> None:
        super().__init__(scene, clock)
        settings = settings or PolicySettings()
        _load_engines(routing)
        predictor = None
        if strategy == "predictive":
            predictor = CompletionPredictor(clock=clock)
            self.tracker.listen(predictor.observe)
        self._balancers = [
            LoadBalancer(
                self.tracker,
                strategy,
                routing,
                load_weight=settings.load_weight,
                predictor=predictor,
                queue=queue,
                ttl_s=_ENDLESS_TTL_S,
                seed=scene.seed,
                objective=_objective(settings),
            )
            for queue in ((False, True) if scene.fleet.queue_places.any() else (False,))
        ]
        self._renews = strategy == "predictive"  # whose leases are as long as it expects the request to take
        self._leases: dict[int, Lease] = {}

    @property
    def balancer(self) -> LoadBalancer:
        """The balancer that knows who waits."""
        return self._balancers[-1]

    def choose(self, requests: range) -> list[int]:
        """Reserve slots, then places in queues for who got none."""
        chosen = dict.fromkeys(requests, -1)
        pending = list(requests)
        agents = self._agents(pending)
        predicted = self._scene.quality.predicted
        for balancer in self._balancers:
            reserved = balancer.assign_and_reserve(agents, self._models, scores=predicted[pending])
            for i, reservation in zip(pending, reserved, strict=True):
                if reservation.lease is not None:
                    if self._renews:
                        reservation.lease.renew(ttl_s=_ENDLESS_TTL_S)
                    self._leases[i] = reservation.lease
                    chosen[i] = self._column[reservation.lease.model]
            left = [k for k, i in enumerate(pending) if chosen[i] < 0]
            if not left:
                break
            pending, agents = [pending[k] for k in left], [agents[k] for k in left]
        return list(chosen.values())

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Release the lease and record the outcome."""
        self._leases.pop(request).release()
        if success:
            self._answer.learn(self._inputs[request], self._outputs[request])
        self.tracker.record(
            self._scene.fleet.ids[column],
            latency_ms=1000.0 * service_s,
            success=success,
            input_tokens=self._inputs[request],
            output_tokens=self._outputs[request] if success else None,
        )

    def turned_away(self, request: int, column: int, status: int) -> None:
        """Release the lease and record what the server said."""
        self._leases.pop(request).release()
        self._record(column, status=status)


class RoutedOneByOne(_Tracked):
    """OptimalRouter; joint where requests arrive at one moment. Prices are computed between decisions.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, predictions.
    clock : ManualClock
        Of the tracker.
    settings : PolicySettings, optional
        What seconds, slow answers and dollars cost in score.
    """

    def __init__(self, scene: Scene, clock: ManualClock, settings: PolicySettings | None = None) -> None:
        super().__init__(scene, clock)
        settings = settings or PolicySettings()
        self._clock = clock
        self._latency_weight = settings.latency_weight or 0.0
        self._cost_weight = settings.cost_weight or 0.0
        span = float(np.ptp(scene.quality.predicted))
        self._tail_weight = _TAIL_COST * span if settings.tail_weight is None else settings.tail_weight
        wait_cost = settings.wait_cost
        if wait_cost is None:
            wait_cost = self._latency_weight or _WAIT_COST * span
        self._predictor = CompletionPredictor(clock=clock)
        self.tracker.listen(self._predictor.observe)
        self._router = OptimalRouter(
            self.tracker,
            scene.fleet.models,
            background=False,
            queue=bool(scene.fleet.queue_places.any()),
            wait_cost_per_s=wait_cost,
            predictor=self._predictor,
            ttl_s=_ENDLESS_TTL_S,
            seed=scene.seed,
            refresh=RefreshParams(every_arrivals=int(_NEVER), every_s=_NEVER),
        )
        self._decisions: dict[int, Decision] = {}
        self._slots = np.maximum(scene.fleet.slots, 1).astype(np.float64)
        self._in_flight = np.zeros(len(scene.fleet))
        self._used_at_start: dict[int, float] = {}
        self._slowdown = LearnedSlowdown()
        self._tail = TailLatency()
        self._arrived, self._refreshed_s = 0, 0.0

    def choose(self, requests: range) -> list[int]:
        """Route one, or several jointly."""
        rows = slice(requests.start, requests.stop)
        inputs = self._inputs[rows]
        expected = [self._answer.expected(tokens) for tokens in inputs]
        used = np.minimum(self._in_flight / self._slots, 1.0)
        slowdown = self._slowdown.factors(used)
        service_s = slowdown * self._predictor.predict_ms(self._models, inputs, expected) / 1000.0
        scores = self._scene.quality.predicted[rows]
        if self._latency_weight:
            scores = scores - self._latency_weight * service_s
        if self._tail_weight:
            scores = scores - self._tail_weight * self._tail_excess_s(inputs, slowdown)
        if self._cost_weight:
            prices = self._scene.fleet.token_prices
            scores = scores - self._cost_weight * prices.cost_usd(
                np.array(inputs)[:, None], np.array(expected)[:, None]
            )
        if len(requests) == 1:
            decisions = [self._router.route(scores=scores[0], service_s=service_s[0])]
        else:
            decisions = self._router.route_many(scores=scores, service_s=service_s)
        chosen = []
        for i, decision in zip(requests, decisions, strict=True):
            column = -1 if decision.model is None else self._column[decision.model]
            if column >= 0:
                self._decisions[i] = decision
                self._used_at_start[i] = float(used[column])
                self._in_flight[column] += 1
            chosen.append(column)
        self._arrived += len(requests)
        return chosen

    def _tail_excess_s(self, inputs: list[int], slowdown: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what each request would add to the mean of the slowest latencies on each model."""
        parts = LatencyParts.of(self._predictor, self._models, inputs)
        s_per_token = slowdown * parts.s_per_token
        turns = np.maximum(self._in_flight + 1.0 - self._slots, 0.0) / self._slots
        wait_s = turns * (slowdown * parts.start_s + s_per_token * self._answer.tokens)
        return self._tail.excess_s(inputs, slowdown * parts.prompt_s + wait_s, s_per_token)

    def between_decisions(self) -> bool:
        """Compute prices again when it is time, as the router's own thread does it in service."""
        now = self._clock.seconds
        if self._arrived >= _REFRESH_ARRIVALS or now >= self._refreshed_s + _REFRESH_S:
            self._router.refresh()
            self._arrived, self._refreshed_s = 0, now
            return True
        return self._router.refresh_if_due()

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Release, and record the outcome."""
        self._in_flight[column] -= 1
        used = self._used_at_start.pop(request)
        if success:
            self._answer.learn(self._inputs[request], self._outputs[request])
            self._tail.learn(self._inputs[request], self._outputs[request], latency_s)
            predicted = self._predictor.predict_ms(
                self._models, [self._inputs[request]], [self._outputs[request]]
            )
            self._slowdown.learn(used, 1000.0 * service_s / float(predicted[0, column]))
        self._decisions.pop(request).release(
            latency_ms=1000.0 * service_s,
            success=success,
            tokens=self._outputs[request] if success else None,
        )

    def turned_away(self, request: int, column: int, status: int) -> None:
        """Release, and record what the server said."""
        self._in_flight[column] -= 1
        del self._used_at_start[request]
        self._decisions.pop(request).release(success=False)
        self._record(column, status=status)


class BlindBalancer(_Tracked):
    """The same placement without load: every decision sees an empty fleet.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, predictions.
    clock : ManualClock
        Clock of the tracker, which receives no load.
    routing : str
        Of the balancer.
    """

    def __init__(self, scene: Scene, clock: ManualClock, routing: str) -> None:
        super().__init__(scene, clock)
        _load_engines(routing)
        self._balancer = LoadBalancer(self.tracker, "weighted", routing, load_weight=0.0, seed=scene.seed)

    def choose(self, requests: range) -> list[int]:
        """Place without regard to what is running."""
        assignments = self._balancer.select(
            self._agents(list(requests)),
            self._models,
            scores=self._scene.quality.predicted[requests.start : requests.stop],
        )
        return [-1 if each.model_id is None else self._column[each.model_id] for each in assignments]


@cache
def _load_engines(routing: str) -> None:
    """Load what a batch that is solved may need, once a process: a decision's time is not that of an import."""
    if routing != "greedy":
        warm_up()

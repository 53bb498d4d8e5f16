"""The offline optimum: who should have gone where, had all requests and outcomes been known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.simulate.replay import PolicyBase
from solver.solution.solving import assign

if TYPE_CHECKING:
    from solver.simulate.scenario import Scene


class OfflineOptimum(PolicyBase):
    """An oracle as a baseline: true outcomes and service times, one assignment for the whole trace.

    Maximises total quality where each model may be used for its slots times the span of the trace, in seconds of
    service at full-load speed. The plan is then replayed: requests wait where their model is busy, and are lost
    where its queue is full. Its quality bounds what any policy reaches within that slot time; its latency
    bounds nothing.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, outcomes.

    Attributes
    ----------
    certificate : dict
        Status, objective, proven bound and gap of the plan: total quality over all requests.
    """

    def __init__(self, scene: Scene) -> None:
        fleet, traffic = scene.fleet, scene.traffic
        slowed = np.where(fleet.slots > 1, 1.0 + fleet.params.slowdown, 1.0)
        service_s = np.maximum(fleet.idle_service_s(traffic.output_tokens) * slowed, 1e-6)
        capacity = fleet.slots * max(traffic.span_s, float(service_s.max()))
        solution = assign(
            scene.quality.outcome, capacity, demand=service_s, deadline_ms=10_000, seed=scene.seed
        )
        self._plan: list[int] = np.asarray(solution.choice).tolist()
        self.certificate = {
            "status": solution.status.value,
            "objective": float(solution.objective),
            "bound": float(solution.bound),
            "gap": float(solution.gap),
        }

    def choose(self, requests: range) -> list[int]:
        """Return the planned models."""
        return self._plan[requests.start : requests.stop]

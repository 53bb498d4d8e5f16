"""The offline optimum: who should have gone where, had all requests and outcomes been known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.solution.solving import assign

if TYPE_CHECKING:
    from solver.simulate.replay import Policy, Scene

__all__ = ["OfflineOptimum"]


class OfflineOptimum:
    """An oracle as a yardstick: true outcomes and service times, one assignment for the whole trace.

    Maximises total quality where each model may be used for its slots times the span of the trace, in seconds of
    service at full-load speed. The plan is then replayed: requests wait where their model is busy, and are lost
    where its queue is full. Its quality bounds what any policy reaches within that slot time; its latency
    bounds nothing.

    Parameters
    ----------
    scene : Scene
        Traffic, fleet, outcomes.
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

    def choose(self, requests: range) -> list[int]:
        """Return the planned models."""
        return self._plan[requests.start : requests.stop]

    def ended(self, request: int, column: int, latency_s: float, service_s: float, *, success: bool) -> None:
        """Do nothing: everything was known."""

    def turned_away(self, request: int, column: int) -> None:
        """Do nothing: everything was known."""


if TYPE_CHECKING:
    _conforms: type[Policy] = OfflineOptimum

"""Capacity rules during a replay: what they would have done, or what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solver.load.control.capacity import CapacityManager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.clock import ManualClock
    from solver.load.control.scaling_rules import ScalingRule
    from solver.simulate.replay import Policy
    from solver.simulate.scenario import Scene
    from solver.simulate.server_state import RunningServers


class _Utilization:
    __slots__ = ("utilization",)

    def __init__(self, utilization: float) -> None:
        self.utilization = utilization


class RulesInReplay:
    """A capacity manager, asked once a simulated second.

    Parameters
    ----------
    rules : sequence of ScalingRule
        What it goes by.
    scene : Scene
        Models.
    policy : Policy
        Whose tracker is acted on.
    clock : ManualClock
        Simulated time.
    enforce : bool
        False: a dry run, on the servers' own utilization, which changes nothing. True: events are carried out on the
        tracker of policies that have one; for the others a dry run.

    Attributes
    ----------
    events : list of dict
        ``at_s``, ``model``, ``action``, whether it ``begins``, and the ``utilization`` then.
    """

    def __init__(
        self, rules: Sequence[ScalingRule], scene: Scene, policy: Policy, clock: ManualClock, *, enforce: bool
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self._manager = CapacityManager(list(rules), clock=clock)
        self._ids = scene.fleet.ids
        self._tracker = policy.tracker if enforce else None
        self._balancer = getattr(policy, "balancer", None)

    def __call__(self, at_s: float, servers: RunningServers) -> None:
        """Look at every model."""
        if self._tracker is not None:
            for event in self._manager.enforce(self._tracker, balancer=self._balancer):
                self._note(at_s, event.model, event.action.value, event.active, event.utilization)
            return
        for column, model in enumerate(self._ids):
            busy = servers.utilization(column)
            for rule, begins in self._manager.changes(model, _Utilization(busy)):
                self._note(at_s, model, rule.action.value, begins, busy)

    def _note(self, at_s: float, model: str, action: str, begins: bool, utilization: float) -> None:
        self.events.append(
            {
                "at_s": round(at_s, 3),
                "model": model,
                "action": action,
                "begins": begins,
                "utilization": round(utilization, 4),
            }
        )

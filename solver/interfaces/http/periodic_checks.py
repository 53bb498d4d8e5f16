"""Periodic work, once a second: rules are checked against the live load, and trends are sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.interfaces.http.audit_trail import scaling_alert
from solver.load.control.alerts import AlertMonitor, AlertRule
from solver.load.control.capacity import CapacityManager
from solver.load.observe.trends import Trends
from solver.load.stops import StopOwner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.interfaces.http.audit_trail import Journal
    from solver.load.control.capacity import Redistributor
    from solver.load.control.scaling_rules import ScalingRule
    from solver.load.tracker import LoadTracker

ALERT_RULES = (
    AlertRule(name="high utilization", metric="utilization", threshold=0.95, clear=0.85, hold_s=10.0),
    AlertRule(name="slow", metric="p99_ms", threshold=30_000.0, hold_s=30.0, min_requests=5),
    AlertRule(name="failing", metric="failure_rate", threshold=0.2, clear=0.1, hold_s=10.0, min_requests=10),
)
"""Alerts of a fleet that states none of its own."""


class Watch:
    """Rules over the live load, which a fleet file may replace while the service runs.

    Parameters
    ----------
    tracker : LoadTracker
        The live load.
    journal : Journal
        Where alerts go.
    """

    def __init__(self, tracker: LoadTracker, journal: Journal) -> None:
        self._tracker, self._journal = tracker, journal
        self.trends = Trends(clock=tracker.clock)
        tracker.listen(self.trends.observe, forget=self.trends.forget)
        self._alerts: tuple[AlertRule, ...] = ()
        self._scaling: tuple[ScalingRule, ...] = ()
        self._monitor = AlertMonitor((), clock=tracker.clock)
        self._manager = CapacityManager((), tracker.clock)
        self.use(ALERT_RULES, ())

    def use(self, alerts: Sequence[AlertRule], scaling: Sequence[ScalingRule]) -> None:
        """Go by these rules from now on. Alerts and stops of rules that are gone end."""
        alerts, scaling = tuple(alerts), tuple(scaling)
        if alerts != self._alerts:
            monitor = AlertMonitor(alerts, [self._journal.crossed], clock=self._tracker.clock)
            for rule, model in self._monitor.raised():
                self._journal.clear(rule, model, "the rules were changed")
            self._alerts, self._monitor = alerts, monitor
        if scaling != self._scaling:
            for rule, model in tuple(self._journal.standing):
                if rule in {scaling_alert(one.action.value) for one in self._scaling}:
                    self._journal.clear(rule, model, "the rules were changed")
            self._scaling = scaling
            self._manager = CapacityManager(scaling, self._tracker.clock, sink=self._journal.scaled)
        self._lift_forgotten({rule.name for rule in scaling})

    def _lift_forgotten(self, names: set[str]) -> None:
        """Lift stops of rules that are no longer checked, also those that an earlier process has left."""
        for model, stops in self._tracker.snapshot().stops.items():
            for stop in stops:
                if stop.owner is StopOwner.RULE and stop.name not in names:
                    self._tracker.resume(model, StopOwner.RULE, name=stop.name)

    def sample(self, balancer: Redistributor) -> None:
        """Look at every model. O(m) for each rule.

        Parameters
        ----------
        balancer : Redistributor
            Moves work that waits, where a rule says so.
        """
        self.trends.sample(self._tracker.snapshot())
        self._monitor.check(self._tracker, self.trends)
        self._manager.enforce(self._tracker, balancer=balancer)

"""The audit trail of the service, its present and past alerts, and events for clients that listen."""

from __future__ import annotations

import logging
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from solver.interfaces.http.events import EventHub

if TYPE_CHECKING:
    from solver.interfaces.http.limits import ServiceLimits
    from solver.load.control.alerts import Alert
    from solver.load.control.scaling_rules import CapacityEvent

FLEET_FILE = "fleet file"
"""The rule of the alert that a fleet file is not used."""

_LOG = logging.getLogger("solver.http")


def now_text() -> str:
    """Return the time as text: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Journal:
    """Keeps the latest entries and passes each on as it is made. Any thread may write.

    Parameters
    ----------
    limits : ServiceLimits
        How many entries are kept, and how many streams may be open.

    Attributes
    ----------
    events : EventHub
        Open event streams.
    standing : dict
        Alerts that stand, by rule and model.
    """

    def __init__(self, limits: ServiceLimits) -> None:
        self._audit: deque[dict[str, Any]] = deque(maxlen=limits.audit_kept)
        self._alerts: deque[dict[str, Any]] = deque(maxlen=limits.alerts_kept)
        self.standing: dict[tuple[str, str], dict[str, Any]] = {}
        self.events = EventHub(limits.subscribers)

    def audit(self, latest: int | None = None) -> list[dict[str, Any]]:
        """Return what operators did, oldest first."""
        entries = list(self._audit)
        return entries if latest is None else entries[-latest:]

    def alerts(self) -> list[dict[str, Any]]:
        """Return alerts raised and cleared, oldest first."""
        return list(self._alerts)

    def note(self, who: str, action: str, what: str, **details: Any) -> None:
        """Add a line to the audit trail."""
        entry = {"at": now_text(), "who": who, "action": action, "what": what} | details
        self._audit.append(entry)
        self.events.publish("audit", entry)
        _LOG.warning("%s %s %s", who, action, what, extra={"audit": entry})

    def alert(self, rule: str, model: str, *, raised: bool, detail: str, **figures: Any) -> None:
        """Raise or clear an alert."""
        entry = {"at": now_text(), "rule": rule, "model": model, "raised": raised, "detail": detail} | figures
        if raised:
            self.standing[rule, model] = entry
        else:
            self.standing.pop((rule, model), None)
        self._alerts.append(entry)
        self.events.publish("alert", entry)
        what = f"{rule} of {model}" if model else rule
        _LOG.warning(
            "alert %s %s: %s", what, "raised" if raised else "cleared", detail, extra={"alert": entry}
        )

    def clear(self, rule: str, model: str, detail: str) -> None:
        """Clear an alert if it stands."""
        if (rule, model) in self.standing:
            self.alert(rule, model, raised=False, detail=detail)

    def crossed(self, alert: Alert) -> None:
        """Take in what an alert rule has found."""
        detail = f"{alert.metric} {alert.value:.4g}, threshold {alert.threshold:.4g}"
        self.alert(
            alert.rule,
            alert.model,
            raised=alert.raised,
            detail=detail,
            metric=alert.metric,
            value=alert.value,
            threshold=alert.threshold,
        )

    def scaled(self, event: CapacityEvent) -> None:
        """Take in what a scaling rule does."""
        slots = f", {event.slots} slots" if event.slots else ""
        self.alert(
            scaling_alert(event.action.value),
            event.model,
            raised=event.active,
            detail=f"utilization {event.utilization:.2f}{slots}",
        )


def scaling_alert(action: str) -> str:
    """Return the rule of an alert about a scaling rule."""
    return f"scaling: {action}"

"""Alerts when a figure crosses a threshold and when it clears, sent to the sinks that the operator chose."""

from __future__ import annotations

import contextvars
import logging
import math
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from solver.clock import Clock, MonotonicClock
from solver.errors import SpecError, Violation, ViolationKind, repeated_value
from solver.load.checks import amount_problems, name_problems, positive_problems, whole_problems
from solver.load.control.hysteresis import Hysteresis
from solver.load.control.outbox import Outbox
from solver.load.fork import renewed_after_fork
from solver.load.observe.trends import WINDOWS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from solver.load.observe.trends import Trends
    from solver.load.tracker import LoadTracker

METRICS = ("utilization", "p50_ms", "p95_ms", "p99_ms", "mean_ms", "failure_rate")
"""Figures a rule can watch: mean utilization, latencies, and the share of failed requests of a window."""


_MAX_UNDELIVERED = 1000
"""Alerts that wait for a sink that does not return; then the oldest is lost for the newest."""

_LOG = logging.getLogger("solver.load")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """What to watch, and when to speak up.

    Parameters
    ----------
    name : str
        Names the rule in its alerts.
    metric : str
        One of ``METRICS`` of this module.
    threshold : float
        The alert is raised when the figure is at or above this.
    clear : float, optional
        It is cleared when the figure falls below this: hysteresis. Default: nine tenths of the threshold.
    window_s : float
        Window of the figure, one of ``solver.load.observe.trends.WINDOWS_S``.
    hold_s : float
        Seconds the figure has to stay at or above the threshold before the alert is raised.
    min_requests : int
        Requests in the window below which its latencies and failures say nothing: of two, one that fails is half.
    """

    name: str
    metric: str
    threshold: float
    clear: float | None = None
    window_s: float = 60.0
    hold_s: float = 0.0
    min_requests: int = 1

    def __post_init__(self) -> None:
        problems = name_problems("name", self.name) + amount_problems("threshold", self.threshold)
        problems += amount_problems("hold_s", self.hold_s)
        problems += whole_problems("min_requests", self.min_requests, low=1)
        if self.metric not in METRICS:
            problems.append(Violation("metric", f"expected {', '.join(METRICS)}", self.metric))
        if self.window_s not in WINDOWS_S:
            problems.append(
                Violation(
                    "window_s",
                    f"expected one of {', '.join(map(str, WINDOWS_S))}",
                    self.window_s,
                    kind=ViolationKind.UNKNOWN,
                )
            )
        if not problems and not 0 <= self.clears_below <= self.threshold:
            problems.append(Violation("clear", f"expected in [0, {self.threshold:g}]", self.clear))
        if problems:
            raise SpecError(*problems)

    @property
    def clears_below(self) -> float:
        """Value below which the alert is cleared."""
        return 0.9 * self.threshold if self.clear is None else self.clear


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A threshold was crossed, or is clear again.

    Parameters
    ----------
    rule, metric, model : str
        What was watched.
    raised : bool
        True on crossing, False on clearing.
    value : float
        The figure.
    threshold : float
        The limit it crossed, or fell below.
    at_s : float
        Reading of the monitor's clock, seconds.
    """

    rule: str
    metric: str
    model: str
    raised: bool
    value: float
    threshold: float
    at_s: float


class AlertMonitor:
    """Evaluates rules and hands alerts to sinks, one alert a crossing and one a clearing.

    Parameters
    ----------
    rules : sequence of AlertRule
        With unique names.
    sinks : sequence of callable
        Each is called with every alert: a function of yours, a :class:`~solver.LogSink`, a
        ``WebhookSink``. A sink that raises does not keep the others from being called, and one that hangs
        delays them, and the caller, once and by ``patience_s`` at most: its alerts wait until it returns. In an
        event loop sinks are called by the loop itself, where they may start tasks and must not block.
    clock : Clock, optional
        Default: the machine's monotonic clock.
    patience_s : float
        Seconds for which a sink is waited for.
    """

    def __init__(
        self,
        rules: Sequence[AlertRule],
        sinks: Sequence[Callable[[Alert], object]] = (),
        *,
        clock: Clock | None = None,
        patience_s: float = 1.0,
    ) -> None:
        if problems := positive_problems("patience_s", patience_s):
            raise SpecError(*problems)
        names = [rule.name for rule in rules]
        if len(set(names)) < len(names):
            doubled = next(name for name in names if names.count(name) > 1)
            raise SpecError(repeated_value("rules", "expected unique names", doubled))
        self._rules = tuple(rules)
        self._sinks = tuple(_PatientSink(sink, patience_s) for sink in sinks)
        self._clock = clock or MonotonicClock()
        self._lock = renewed_after_fork(self, "_lock", threading.Lock)
        self._states: dict[tuple[str, str], Hysteresis] = {}

    def check(self, tracker: LoadTracker, trends: Trends) -> list[Alert]:
        """Look at every model; return, and send, what has crossed or cleared."""
        alerts = []
        snapshot = tracker.snapshot()
        with self._lock:  # models that were forgotten
            self._states = {key: state for key, state in self._states.items() if key[1] in snapshot.index}
        for model in snapshot.models:
            for rule in self._rules:
                alert = self.update(rule, model, _figure(rule, model, trends))
                if alert is not None:
                    alerts.append(alert)
        return alerts

    def update(self, rule: AlertRule, model: str, value: float | None) -> Alert | None:
        """Take in one figure; return, and send, the alert it leads to. None, for unknown, changes nothing."""
        if value is None:
            return None
        if math.isnan(value):
            raise SpecError(Violation("value", "expected a number", value))
        with self._lock:
            now = self._clock.now()
            state = self._states.setdefault((rule.name, model), Hysteresis())
            changed = state.advance(
                value, now, threshold=rule.threshold, clears_below=rule.clears_below, hold_s=rule.hold_s
            )
            if not changed:
                return None
            alert = Alert(
                rule=rule.name,
                metric=rule.metric,
                model=model,
                raised=state.active,
                value=value,
                threshold=rule.threshold if state.active else rule.clears_below,
                at_s=now,
            )
        self._send(alert)
        return alert

    def raised(self) -> list[tuple[str, str]]:
        """Return the (rule, model) pairs whose alert stands, sorted."""
        with self._lock:
            return sorted(key for key, state in self._states.items() if state.active)

    def _send(self, alert: Alert) -> None:
        for sink in self._sinks:
            sink(alert)


class _Delivery(NamedTuple):
    alert: Alert
    context: contextvars.Context
    done: threading.Event


class _PatientSink:
    """Calls a sink, and does not wait for ever for its return."""

    def __init__(self, sink: Callable[[Alert], object], patience_s: float) -> None:
        self._sink, self._patience_s = sink, patience_s
        self._is_late = False
        self._outbox: Outbox[_Delivery] = Outbox(
            self._deliver, backlog=_MAX_UNDELIVERED, lose=self._lose, name="solver-alert-sink"
        )

    def __call__(self, alert: Alert) -> None:
        """Hand over one alert; return when the sink has, or when it is late."""
        if _in_event_loop():
            self._call(alert)
            return
        delivery = _Delivery(alert, contextvars.copy_context(), threading.Event())
        self._outbox.put(delivery)
        if self._is_late or self._outbox.is_inside or delivery.done.wait(self._patience_s):
            return
        self._is_late = True
        _LOG.error("an alert sink has not returned for %g s: further alerts wait for it", self._patience_s)

    def _deliver(self, delivery: _Delivery) -> None:
        delivery.context.run(self._call, delivery.alert)
        self._is_late = False
        delivery.done.set()

    def _call(self, alert: Alert) -> None:
        try:
            self._sink(alert)
        except Exception:  # noqa: BLE001 # whatever a sink does, the others must hear of the alert
            _LOG.exception("an alert sink failed")

    def _lose(self, delivery: _Delivery) -> None:
        _LOG.error("an alert was lost, since its sink does not return: %r", delivery.alert)


def _in_event_loop() -> bool:
    """Return whether an event loop runs in this thread; without asyncio imported, none does."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _figure(rule: AlertRule, model: str, trends: Trends) -> float | None:
    if rule.metric == "utilization":
        return trends.utilization(model, window_s=rule.window_s).mean
    summary = trends.latency(model, window_s=rule.window_s)
    if summary.requests < rule.min_requests:
        return None
    if rule.metric == "failure_rate":
        return None if summary.success_rate is None else 1.0 - summary.success_rate
    figure: float | None = getattr(summary, rule.metric)
    return figure

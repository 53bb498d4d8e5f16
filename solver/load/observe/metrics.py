"""Prometheus metrics of the live load, read when they are scraped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from solver.load.request_outcome import Outcome
    from solver.load.tracker import LoadTracker

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError("prometheus-client", "service") from error

_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class LoadMetrics(Collector):
    """Collects the load of a tracker at every scrape; nothing is counted on the way of a request.

    Parameters
    ----------
    tracker : LoadTracker
        Whose load.
    """

    def __init__(self, tracker: LoadTracker) -> None:
        self._tracker = tracker

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield one family a figure, labelled by model."""
        snapshot = self._tracker.snapshot()
        for name, text, values in (
            ("solver_model_active_requests", "Slots taken", snapshot.active),
            ("solver_model_queue_depth", "Queue places taken", snapshot.queued),
            ("solver_model_max_concurrent", "Slots", snapshot.max_concurrent),
            ("solver_model_max_queue", "Queue places", snapshot.max_queue),
            ("solver_model_utilization_ratio", "Slots taken over slots, 0 to 1", snapshot.utilization),
            ("solver_model_target_utilization_ratio", "Target utilization", snapshot.target),
            ("solver_model_accepting", "1 unless new work is being rejected", snapshot.accepting),
        ):
            family = GaugeMetricFamily(name, text, labels=["model"])
            for model, value in zip(snapshot.models, values.tolist(), strict=True):
                family.add_metric([model], float(value))
            yield family
        refused = CounterMetricFamily(
            "solver_refusals", "Acquisitions refused to this process", labels=["model", "reason"]
        )
        for (model, reason), count in sorted(self._tracker.refusals().items()):
            refused.add_metric([model, reason], float(count))
        yield refused


def publish_metrics(tracker: LoadTracker, registry: CollectorRegistry | None = None) -> CollectorRegistry:
    """Publish a tracker's load and outcomes; return the registry, a new one by default.

    Parameters
    ----------
    tracker : LoadTracker
        Whose load; outcomes are counted from now on.
    registry : prometheus_client.CollectorRegistry, optional
        Where to register.
    """
    registry = registry or CollectorRegistry()
    registry.register(LoadMetrics(tracker))
    requests = Counter("solver_requests", "Finished requests", ["model", "outcome"], registry=registry)
    latency = Histogram(
        "solver_request_latency_seconds",
        "From sending to the end of the answer",
        ["model"],
        buckets=_BUCKETS_S,
        registry=registry,
    )

    def count(outcome: Outcome) -> None:
        requests.labels(outcome.model, "success" if outcome.success else "failure").inc()
        latency.labels(outcome.model).observe(outcome.latency_ms / 1000.0)

    def forget(model: str) -> None:
        for outcome in ("success", "failure"):
            requests.remove(model, outcome)
        latency.remove(model)

    tracker.listen(count, forget=forget)
    return registry

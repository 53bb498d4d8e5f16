"""Prometheus metrics of the service: requests, decisions and prices beside the live load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solver.errors import MissingExtraError
from solver.load.observe.metrics import publish_metrics

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError("prometheus-client", "service") from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from solver.interfaces.http.service import Service

__all__ = ["ServiceMetrics"]

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_METHODS = frozenset({"GET", "POST", "PUT"})


class _State(Collector):
    """Figures that are read when they are scraped."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[GaugeMetricFamily]:
        service = self._service
        price = GaugeMetricFamily(
            "solver_model_slot_price", "What one more slot is worth now, in score", labels=["model"]
        )
        for model, value in ({} if service.router is None else service.router.prices()).items():
            price.add_metric([model], value)
        yield price
        for name, text, value in (
            ("solver_leases_held", "Leases given out by this process and not yet ended", len(service.held)),
            ("solver_alerts_standing", "Alerts that stand", len(service.journal.standing)),
            ("solver_event_streams", "Open event streams", len(service.journal.events)),
            ("solver_batches_pending", "Batches being solved or waiting", service.solvers.busy),
            ("solver_draining", "1 while the service shuts down", int(service.draining)),
        ):
            family = GaugeMetricFamily(name, text)
            family.add_metric([], float(value))
            yield family


class ServiceMetrics:
    """Counts requests, and writes everything as Prometheus reads it.

    Parameters
    ----------
    service : Service
        Whose figures.
    """

    media_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        publish_metrics(service.tracker, self._registry)
        self._registry.register(_State(service))
        self._requests = Counter(
            "solver_http_requests",
            "Requests answered",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "solver_http_request_duration_seconds",
            "From the first byte of a request to the end of its answer",
            ["route"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}  # by label: quick to find

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. Labels are bounded: routes as they are registered, and known methods."""
        key = (route, method if method in _METHODS else "other", status)
        found = self._series.get(key)
        if found is None:
            found = self._requests.labels(route, key[1], str(status)), self._seconds.labels(route)
            self._series[key] = found
        found[0].inc()
        if route != "/v1/events":  # as long as a page is open
            found[1].observe(seconds)

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self._registry)

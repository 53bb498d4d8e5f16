"""Prometheus metrics of the service: requests, decisions and prices beside the live load."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from solver.errors import MissingExtraError
from solver.load.observe.metrics import publish_metrics

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError("prometheus-client", "service") from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from solver.interfaces.http.service import Service

_REQUEST_BUCKETS_S = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
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
            (
                "solver_decision_log_dropped",
                "Records that the decision log could not hold",
                service.log_dropped,
            ),
            ("solver_draining", "1 while the service shuts down", int(service.draining)),
        ):
            family = GaugeMetricFamily(name, text)
            family.add_metric([], float(value))
            yield family


class _Durations:
    """How long the requests of one route took."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_REQUEST_BUCKETS_S) + 1)
        self.sum_s = 0.0


class _Requests(Collector):
    """Requests by route, method and status. The library's own counters take a lock for each bucket."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations: dict[str, _Durations] = {}

    def count(self, route: str, method: str, status: int) -> None:
        key = (route, method, status)
        self._counts[key] = self._counts.get(key, 0) + 1

    def took(self, route: str, seconds: float) -> None:
        found = self._durations.get(route)
        if found is None:
            found = self._durations[route] = _Durations()
        found.counts[bisect_left(_REQUEST_BUCKETS_S, seconds)] += 1
        found.sum_s += seconds

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        requests = CounterMetricFamily(
            "solver_http_requests", "Requests answered", labels=["route", "method", "status"]
        )
        for (route, method, status), count in list(self._counts.items()):
            requests.add_metric([route, method, str(status)], float(count))
        yield requests
        seconds = HistogramMetricFamily(
            "solver_http_request_duration_seconds",
            "From the first byte of a request to the end of its answer",
            labels=["route"],
        )
        bounds = [*map(str, _REQUEST_BUCKETS_S), "+Inf"]
        for route, durations in list(self._durations.items()):
            buckets = list(zip(bounds, map(float, accumulate(durations.counts)), strict=True))
            seconds.add_metric([route], buckets, durations.sum_s)
        yield seconds


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
        self._requests = _Requests()
        self._registry.register(self._requests)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. Labels are bounded: routes as they are registered, and known methods."""
        self._requests.count(route, method if method in _METHODS else "other", status)
        if route != "/v1/events":  # as long as a page is open
            self._requests.took(route, seconds)

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self._registry)

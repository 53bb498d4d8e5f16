from __future__ import annotations

from prometheus_client import generate_latest

from solver.load.observe.metrics import publish_metrics
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity


def test_what_a_scrape_shows() -> None:
    tracker = LoadTracker()
    tracker.set_capacity("a", Capacity(max_concurrent=2, max_queue=1, target_utilization=0.8))
    registry = publish_metrics(tracker)
    tracker.acquire("a")
    tracker.acquire("a")
    tracker.acquire("a")
    tracker.record("a", latency_ms=300.0)
    tracker.record("a", latency_ms=900.0, success=False)
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        'solver_model_active_requests{model="a"} 2.0',
        'solver_model_utilization_ratio{model="a"} 1.0',
        'solver_model_max_concurrent{model="a"} 2.0',
        'solver_model_target_utilization_ratio{model="a"} 0.8',
        'solver_model_accepting{model="a"} 1.0',
        'solver_refusals_total{model="a",reason="concurrency"} 1.0',
        'solver_requests_total{model="a",outcome="success"} 1.0',
        'solver_requests_total{model="a",outcome="failure"} 1.0',
        'solver_request_latency_seconds_bucket{le="0.5",model="a"} 1.0',
        'solver_request_latency_seconds_sum{model="a"} 1.2',
    ):
        assert line in lines

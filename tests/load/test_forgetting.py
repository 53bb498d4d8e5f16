"""Models that come and go under new names leave nothing behind, and nothing to their successors."""

from __future__ import annotations

import gc

import pytest
from prometheus_client import CollectorRegistry

import solver
from solver.clock import ManualClock
from solver.load.balance.prediction import CompletionPredictor
from solver.load.observe.metrics import publish_metrics

NAME = "name-that-goes"


def use_and_forget(tracker: solver.LoadTracker, clock: ManualClock, name: str) -> None:
    """Let a model live through all that can be noted of it, and hear of it once more when it is gone."""
    tracker.set_capacity(name, solver.Capacity(max_concurrent=1, max_queue=3), tokens_per_minute=10_000)
    demand = tracker.demand_for(name, input_tokens=5)
    leases = [tracker.acquire(name, demand, ttl_s=60.0), tracker.acquire(name, ttl_s=60.0, queue=True)]
    tracker.acquire(name)
    tracker.record(name, latency_ms=900.0, output_tokens=20)
    for _ in range(6):
        tracker.record(name, latency_ms=5.0, success=False)
    tracker.stop(name, "rule", name="r", for_s=60.0)
    tracker.observe_load(name, active_requests=3, ttl_s=60.0, age_s=0.1)
    tracker.drain(name, on_drained=lambda _: None)
    tracker.forget(name)
    for lease in leases:
        if lease is not None:
            lease.release(tokens=30)
    tracker.record(name, latency_ms=5.0)
    clock.advance(1.0)


def names_held() -> int:
    """Return how many containers still hold names of models that are gone, by one or as parts of keys."""
    gc.collect()
    found = 0
    for container in gc.get_objects():
        if type(container) in (dict, list, tuple, set):
            parts = [*container, *container.values()] if type(container) is dict else list(container)
            found += any(type(part) is str and part.startswith(NAME) and part != NAME for part in parts)
    return found


def test_nothing_is_left_of_models_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.load.tracking.fleet_settings._REMEMBERED_FORGOTTEN", 1)
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    scorer, trends = solver.AdaptiveScorer(clock=clock), solver.Trends(clock=clock)
    predictor = CompletionPredictor(clock=clock)
    tracker.listen(scorer.observe, forget=scorer.forget)
    tracker.listen(trends.observe, forget=trends.forget)
    tracker.listen(predictor.observe, forget=predictor.forget)
    registry = publish_metrics(tracker, CollectorRegistry())
    rule = solver.ScalingRule(
        threshold_utilization=0.5, threshold_duration_ms=0, action=solver.ScalingAction.REJECT_NEW
    )
    manager = solver.CapacityManager([rule], clock)
    before = names_held()
    for k in range(30):
        tracker.set_capacity(f"{NAME}-{k}", solver.Capacity(max_concurrent=1))
        trends.sample(tracker.snapshot())
        manager.enforce(tracker)
        use_and_forget(tracker, clock, f"{NAME}-{k}")
    tracker.set_capacity("stays", solver.Capacity(max_concurrent=1))
    tracker.forget("and nobody knows")  # the only one that is remembered
    trends.sample(tracker.snapshot())
    manager.enforce(tracker)
    assert names_held() <= before
    assert NAME not in "".join(str(family.samples) for family in registry.collect())
    assert len(trends._columns) + len(trends._free) <= 2  # columns are used again


def test_a_successor_of_the_same_name_begins_with_nothing() -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    use_and_forget(tracker, clock, NAME)
    tracker.set_capacity(NAME, solver.Capacity(max_concurrent=2))
    load = tracker.current_load(NAME)
    assert load is not None
    assert (load.active_requests, load.queue_depth, load.avg_latency_ms) == (0, 0, None)
    assert (tracker.stops(NAME), tracker.refusals(), tracker.output_reserve(NAME)) == ((), {}, None)
    clock.advance(120.0)  # timers of its predecessor would end here
    assert tracker.snapshot().active.tolist() == [0]
    for _ in range(4):
        tracker.record(NAME, latency_ms=5.0, success=False)
    assert tracker.stops(NAME) == ()  # failures of its predecessor do not count


def test_predictions_of_the_others_stay_what_they_were() -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    predictor = CompletionPredictor(clock=clock)
    tracker.listen(predictor.observe, forget=predictor.forget)
    models = tuple(solver.Model(id=name, capacity=solver.Capacity(max_concurrent=1)) for name in "abcd")
    for k, name in enumerate("abcd"):
        for _ in range(5):
            tracker.record(name, latency_ms=1000.0 * (k + 1))
    before = predictor.predict_ms(models, [0.0], [0.0])[0]
    tracker.forget("b")
    after = predictor.predict_ms(models, [0.0], [0.0])[0]
    assert after[[0, 2, 3]] == pytest.approx(before[[0, 2, 3]])
    assert after[1] == pytest.approx(after[[0, 2, 3]].mean(), rel=0.01)  # as of any model that is not known
    tracker.record("c", latency_ms=9000.0)
    assert predictor.predict_ms(models, [0.0], [0.0])[0, 2] > after[2]
    assert sorted(predictor.calibration()) == ["a", "c", "d"]


def test_a_balancer_gives_a_forgotten_model_its_capacity_again() -> None:
    tracker = solver.LoadTracker()
    balancer = solver.LoadBalancer(tracker)
    models = tuple(solver.Model(id=name, capacity=solver.Capacity(max_concurrent=1)) for name in "ab")
    agents = [solver.Agent(id=str(i)) for i in range(2)]
    balancer.select(agents, models)
    for decide in (balancer.select, balancer.assign_and_reserve):
        tracker.forget("a")
        assert sorted(str(one.model_id) for one in decide(agents, models)) == ["a", "b"]

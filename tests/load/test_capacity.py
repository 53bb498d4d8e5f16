from __future__ import annotations

from typing import Any

import pytest

from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.balance.balancer import LoadBalancer
from solver.load.control.capacity import CapacityManager, dry_run
from solver.load.control.scaling_rules import CapacityEvent, ScalingAction, ScalingRule
from solver.load.control.slots_worth_adding import slots_worth_adding
from solver.load.snapshot import ModelLoad
from solver.load.tracker import LoadTracker
from solver.problem.spec import Agent, Capacity, Model


def at(utilization: float) -> ModelLoad:
    return ModelLoad(
        active_requests=0, queue_depth=0, avg_latency_ms=None, utilization=utilization, last_updated=0.0
    )


def rule(action: ScalingAction = ScalingAction.REDISTRIBUTE, **other: Any) -> ScalingRule:
    return ScalingRule(
        **{"threshold_utilization": 0.9, "threshold_duration_ms": 5000, "action": action, **other}
    )


def test_an_action_is_due_after_the_duration_and_not_before() -> None:
    clock = ManualClock()
    manager = CapacityManager([rule()], clock=clock)
    assert manager.check_capacity("gpt-4o", at(0.95)) is None
    clock.advance(4.999)
    assert manager.check_capacity("gpt-4o", at(0.95)) is None
    clock.advance(0.001)
    assert manager.check_capacity("gpt-4o", at(0.95)) is ScalingAction.REDISTRIBUTE
    clock.advance(1)
    assert manager.check_capacity("gpt-4o", at(0.95)) is ScalingAction.REDISTRIBUTE


def test_falling_below_the_threshold_starts_the_clock_again() -> None:
    clock = ManualClock()
    manager = CapacityManager([rule()], clock=clock)
    manager.check_capacity("a", at(0.95))
    clock.advance(4)
    manager.check_capacity("a", at(0.89))
    clock.advance(2)
    assert manager.check_capacity("a", at(0.95)) is None
    clock.advance(5)
    assert manager.check_capacity("a", at(0.95)) is ScalingAction.REDISTRIBUTE


def test_hysteresis_keeps_an_active_rule_from_flapping() -> None:
    clock = ManualClock()
    manager = CapacityManager([rule(threshold_duration_ms=0, clear_utilization=0.7)], clock=clock)
    seen = [manager.check_capacity("a", at(u)) is not None for u in (0.95, 0.85, 0.92, 0.75, 0.91, 0.7, 0.69)]
    assert seen == [True, True, True, True, True, True, False]


def test_after_ending_a_rule_rests_for_its_cooldown() -> None:
    clock = ManualClock()
    manager = CapacityManager([rule(threshold_duration_ms=0, cooldown_ms=10_000)], clock=clock)
    assert manager.check_capacity("a", at(1.0)) is not None
    assert manager.check_capacity("a", at(0.1)) is None
    clock.advance(9.9)
    assert manager.check_capacity("a", at(1.0)) is None
    clock.advance(0.1)
    assert manager.check_capacity("a", at(1.0)) is not None


def test_unknown_load_justifies_nothing() -> None:
    clock = ManualClock()
    manager = CapacityManager([rule(threshold_duration_ms=1000)], clock=clock)
    manager.check_capacity("a", at(1.0))
    clock.advance(5)
    assert manager.check_capacity("a", None) is None
    assert manager.check_capacity("a", at(1.0)) is None  # the clock starts again


def test_the_most_severe_action_decides_and_models_are_apart() -> None:
    clock = ManualClock()
    manager = CapacityManager(
        [
            rule(ScalingAction.ALERT_ONLY, threshold_utilization=0.5, threshold_duration_ms=0),
            rule(ScalingAction.REJECT_NEW, threshold_utilization=0.95, threshold_duration_ms=0),
            rule(ScalingAction.SCALE_OUT, threshold_utilization=0.8, threshold_duration_ms=0, model="b"),
        ],
        clock=clock,
    )
    assert manager.check_capacity("a", at(0.4)) is None
    assert manager.check_capacity("a", at(0.85)) is ScalingAction.ALERT_ONLY
    assert manager.check_capacity("b", at(0.85)) is ScalingAction.SCALE_OUT
    assert manager.check_capacity("a", at(1.0)) is ScalingAction.REJECT_NEW


def test_reject_new_reaches_the_balancer_and_ends() -> None:
    clock = ManualClock()
    tracker = LoadTracker(clock=clock)
    fleet = [
        Model(id="a", capacity=Capacity(max_concurrent=4)),
        Model(id="b", capacity=Capacity(max_concurrent=4)),
    ]
    balancer = LoadBalancer(tracker)
    seen: list[CapacityEvent] = []
    manager = CapacityManager(
        [rule(ScalingAction.REJECT_NEW, threshold_utilization=0.75, threshold_duration_ms=1000)],
        clock=clock,
        sink=seen.append,
    )
    balancer.select([Agent(id="x")], fleet)
    leases = [tracker.acquire("a") for _ in range(3)]
    assert manager.enforce(tracker) == []
    clock.advance(1)
    [event] = manager.enforce(tracker)
    assert (event.model, event.action, event.active) == ("a", ScalingAction.REJECT_NEW, True)
    assert manager.enforce(tracker) == []  # it acts once
    chosen = balancer.select([Agent(id=str(i)) for i in range(8)], fleet)
    assert [answer.model_id for answer in chosen].count("a") == 0
    assert tracker.acquire("a") is None
    assert leases[0] is not None
    leases[0].release()
    [event] = manager.enforce(tracker)
    assert (event.model, event.active) == ("a", False)
    assert tracker.acquire("a") is not None
    assert [event.active for event in seen] == [True, False]


def test_redistribute_moves_waiting_work_only() -> None:
    clock = ManualClock()
    tracker = LoadTracker(clock=clock)
    fleet = [
        Model(id="a", capacity=Capacity(max_concurrent=1, max_queue=5), capabilities={"coding": 1}),
        Model(id="b", capacity=Capacity(max_concurrent=2), capabilities={"coding": 0.5}),
    ]
    balancer = LoadBalancer(tracker, "weighted", "greedy", load_weight=0, queue=True)
    reserved = balancer.assign_and_reserve([Agent(id=str(i), task_type="coding") for i in range(4)], fleet)
    manager = CapacityManager([rule(threshold_duration_ms=0)], clock=clock)
    [event] = manager.enforce(tracker, balancer=balancer)
    assert (event.action, event.slots) == (ScalingAction.REDISTRIBUTE, 2)
    assert [r.lease.model for r in reserved if r.lease is not None] == ["a", "b", "b", "a"]
    assert tracker.snapshot().queued.tolist() == [1, 0]


def test_scale_out_says_how_many_slots_and_what_they_are_worth() -> None:
    tracker = LoadTracker()
    fleet = [
        Model(id="good", capacity=Capacity(max_concurrent=2), capabilities={"coding": 0.9}),
        Model(id="poor", capacity=Capacity(max_concurrent=3), capabilities={"coding": 0.1}),
    ]
    agents = [Agent(id=str(i), task_type="coding") for i in range(5)]
    decision = LoadBalancer(tracker, load_weight=0).decide(agents, fleet)
    slots, worth = slots_worth_adding(decision, "good")
    assert slots == 3
    assert worth == pytest.approx(56.0)  # 93 instead of 37, for each of the other three
    assert slots_worth_adding(decision, "poor") == (0, 0.0)
    assert slots_worth_adding(decision, "good", min_worth=60.0) == (0, 0.0)
    tracker.update_load("good", 2)
    manager = CapacityManager([rule(ScalingAction.SCALE_OUT, threshold_duration_ms=0)])
    [event] = manager.enforce(tracker, decision=decision)
    assert event.slots == 3
    assert event.worth == pytest.approx(56.0)


def test_scale_out_without_a_decision_aims_at_the_target() -> None:
    tracker = LoadTracker()
    tracker.set_capacity("a", Capacity(max_concurrent=10, max_queue=5, target_utilization=0.8))
    tracker.update_load("a", 10, 2)
    [event] = CapacityManager([rule(ScalingAction.SCALE_OUT, threshold_duration_ms=0)]).enforce(tracker)
    assert event.slots == 5  # 12 wanted are 80 percent of 15


def test_a_standing_rule_acts_again_after_each_cooldown() -> None:
    clock = ManualClock()
    tracker = LoadTracker(clock=clock)
    tracker.set_capacity("a", Capacity(max_concurrent=1))
    tracker.update_load("a", 1)
    manager = CapacityManager([rule(ScalingAction.ALERT_ONLY, threshold_duration_ms=0)], clock=clock)
    counts = []
    for _ in range(7):
        counts.append(len(manager.enforce(tracker)))
        clock.advance(10)
    assert counts == [1, 0, 0, 1, 0, 0, 1]


def test_dry_run_against_recorded_load() -> None:
    recorded = [(float(t), "a", 10 if 3 <= t < 20 else 2, 10) for t in range(40)]
    events = dry_run([rule(ScalingAction.SCALE_OUT)], recorded)
    assert [(event.at_s, event.active, event.slots) for event in events] == [(8.0, True, 2), (20.0, False, 0)]
    with pytest.raises(SpecError, match="expected rising times"):
        dry_run([rule()], [(1.0, "a", 1, 1), (0.0, "a", 1, 1)])


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"threshold_utilization": 0.0}, "threshold_utilization"),
        ({"threshold_utilization": 1.1}, "threshold_utilization"),
        ({"threshold_utilization": float("nan")}, "threshold_utilization"),
        ({"threshold_duration_ms": -1}, "threshold_duration_ms"),
        ({"cooldown_ms": float("inf")}, "cooldown_ms"),
        ({"clear_utilization": 0.95}, "clear_utilization"),
        ({"action": "reject_new"}, "action"),
    ],
)
def test_rules_are_checked(values: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError, match=f"{path}: expected"):
        rule(**values)


def test_load_that_is_no_number_is_refused() -> None:
    with pytest.raises(SpecError, match=r"load\.utilization: expected a number, got nan"):
        CapacityManager([rule()]).check_capacity("a", at(float("nan")))

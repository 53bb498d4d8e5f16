"""Learned capacity: on a simulated server, and through the tracker."""

from __future__ import annotations

import heapq
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import solver
from benchmarks.bench_learned_capacity import (
    CHAT,
    SCENARIOS,
    Learned,
    goodput,
    idle_limit,
    replicas,
    settling_s,
    steady,
)
from benchmarks.limit_baselines import Gradient2
from benchmarks.llm_server import Server, lengths, simulate
from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.control.learned.learner import LearnedCapacity
from solver.load.control.learned.parameters import LearnParameters
from solver.load.control.learned.timing import FirstTokenLine, prefill_limit, waiting_at_prefill
from solver.load.lease import Demand, Lease
from solver.load.refusal import Refusal, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.redis_server import RedisServer


def best_of(name: str, limits: tuple[int, ...]) -> tuple[Any, list[Any]]:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    return scenario, [
        steady(scenario.settings(k), scenario.traffic[k], limit) for k, limit in enumerate(limits)
    ]


@pytest.mark.parametrize(
    ("name", "limits", "least"),
    [
        ("slots 8-16-4", (8, 16, 4), 0.88),
        ("refusals 16-8-24", (16, 8, 23), 0.92),
        ("prefill slots 8-16-4", (8, 16, 4), 0.85),
        ("prefill long", (8, 8, 8), 0.85),
    ],
)
def test_recovers_what_a_clairvoyant_gets(name: str, limits: tuple[int, ...], least: float) -> None:
    scenario, best = best_of(name, limits)
    run = scenario.run(Learned(slo_s_per_token=scenario.slo_s), 0)
    assert goodput(scenario, best, run) >= least
    assert 1000.0 * run.refused <= 20.0 * len(run.requests)
    if name == "slots 8-16-4":
        assert sorted(settling_s(run, best))[1] <= 20.0
        assert goodput(scenario, best, scenario.run(Gradient2(), 0)) < least  # the figure can be missed


@pytest.mark.parametrize("seed", range(6))
def test_no_start_runs_away(seed: int) -> None:
    mix = lengths(500, prompt=4000, output=30, spread=0.3, seed=seed)
    controller = Learned(slo_s_per_token=0.08)
    run = simulate(Server(), [controller], mix, 90.0, seed=seed)
    assert max(limits[0] for _, limits, _ in run.trace) <= 32


def test_light_load_never_raises_the_limit() -> None:
    assert idle_limit() == 4


def test_replicas_on_shared_totals_equal_one() -> None:
    assert replicas(3) >= 0.93


def test_a_rate_refusal_says_nothing_about_concurrency() -> None:
    def at(level: int, rate: bool | None = None) -> tuple[bool, int]:
        learned = LearnedCapacity(LearnParameters(start=16))
        flights = [learned.sent(1.0, 100) for _ in range(16)]
        for flight in flights[level + 1 :]:
            learned.first_token(1.5, flight)
            learned.ended(1.6, flight, 20)
        lowered = learned.refused(1.7, flights[0], retry_after_s=2.0, rate=rate)
        assert not learned.admits(3.0, 100)  # it asked for silence in any case
        return lowered, learned.limit

    assert at(14) == (True, 14)
    assert at(14, rate=True) == (False, 16)
    assert at(3) == (False, 16)  # three are in flight where sixteen were taken before


def test_refusals_at_ever_fewer_are_followed_down() -> None:
    learned = LearnedCapacity(LearnParameters(start=16))
    flights = [learned.sent(1.0, 100) for _ in range(16)]
    for k, flight in enumerate(flights[:12]):
        learned.refused(1.0 + 0.1 * k, flight)
    assert learned.limit == 4


def test_machine_repairman() -> None:
    assert waiting_at_prefill(1.0, 3.0) == pytest.approx(0.25)  # alone: its share of the cycle
    assert waiting_at_prefill(9.0, 1e5) < 0.01
    assert waiting_at_prefill(50.0, 3.0) == pytest.approx(47.0, abs=0.01)  # saturated: all but r
    assert prefill_limit(1e-9, 0.05, 100) == 1.0
    assert prefill_limit(10.0, 0.05, 100, 0.0) == 11.0
    assert 14 <= prefill_limit(10.0, 0.05, 100) <= 16  # Erlang B(15, 10) = 0.036, B(14, 10) = 0.057


def test_line_of_the_time_to_first_token() -> None:
    line = FirstTokenLine()
    sums = [0.0] * 5
    for size in (0.1, 0.4, 0.7, 1.5, 3.0) * 20:
        took = 0.05 + 0.08 * size
        for k, term in enumerate((1.0, size, size * size, took, took * size)):
            sums[k] += term
    line.learn(sums, 1.0)
    assert line.constant == pytest.approx(0.05, abs=0.005)
    assert line.slope == pytest.approx(8e-5, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"low": 0}, "low"),
        ({"low": 5, "high": 3}, "low"),
        ({"slo_s_per_token": float("nan")}, "slo_s_per_token"),
        ({"streamed": False}, "streamed"),
        ({"window_s": 0.0}, "window_s"),
    ],
)
def test_bad_parameters(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError, match=path):
        LearnParameters(**settings)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"max_concurrent": "lern"}, "max_concurrent"),
        ({"max_concurrent": "learn", "low": 9, "high": 3}, "low"),
        ({"max_concurrent": "learn", "low": "x"}, "low"),
        ({"max_concurrent": "learn", "slo_ms_per_token": -1}, "slo_ms_per_token"),
    ],
)
def test_bad_capacity(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError, match=path):
        solver.Capacity(**fields)


def test_capacity_says_learn_and_survives_a_dump() -> None:
    capacity = solver.Capacity(max_concurrent="learn", low=6, high=32)
    assert (capacity.learn, capacity.max_concurrent) == (True, 6)
    assert solver.Capacity(**capacity.model_dump()) == capacity


def drive(tracker: solver.LoadTracker, clock: ManualClock, slots: int, seconds: float) -> None:
    """Send to a model that serves ``slots`` at a time for two seconds each, first token after 0.1 s."""
    events: list[tuple[float, int, Callable[[], object]]] = []
    free_at = [0.0] * slots
    order = itertools.count()
    end = clock.now() + seconds
    while clock.now() < end:
        clock.advance(0.02)
        while events and events[0][0] <= clock.now():
            heapq.heappop(events)[2]()
        answer = tracker.try_acquire("m", Demand(tokens=600, input_tokens=500), ttl_s=120.0)
        if isinstance(answer, Lease):
            begin = max(clock.now(), heapq.heappop(free_at))
            heapq.heappush(free_at, begin + 2.0)
            heapq.heappush(events, (begin + 0.1, next(order), answer.first_token))
            release: Callable[[], object] = partial(answer.release, tokens=600)
            heapq.heappush(events, (begin + 2.0, next(order), release))


def test_the_tracker_learns_and_enforces() -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    tracker.set_capacity("m", solver.Capacity(max_concurrent="learn", high=64))
    drive(tracker, clock, 12, 240.0)
    state = tracker.learned("m")
    assert state is not None
    assert 9 <= state.limit <= 15
    assert tracker.snapshot().max_concurrent[0] == state.limit
    assert state.reason in ("queue for a slot", "held traffic back", "prefill is never idle")

    again = solver.LoadTracker(clock=clock)
    again.set_capacity("m", solver.Capacity(max_concurrent="learn", high=64))
    again.restore_learned(tracker.export_learned())
    drive(again, clock, 12, 40.0)
    learned = again.learned("m")
    assert learned is not None
    assert learned.limit >= 8


def test_dropped_leases_do_not_count_for_ever() -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    tracker.set_capacity("m", solver.Capacity(max_concurrent="learn"))
    for _ in range(3):
        tracker.acquire("m", ttl_s=5.0)  # nobody releases these
    clock.advance(10.0)
    drive(tracker, clock, 4, 30.0)
    state = tracker.learned("m")
    assert state is not None
    assert state.in_flight <= tracker.snapshot().active[0]


def test_tokens_in_flight_are_refused_with_their_reason() -> None:
    tracker = solver.LoadTracker(clock=ManualClock())
    tracker.set_capacity("m", solver.Capacity(max_concurrent="learn", low=1))
    state = LearnedCapacity().export() | {"tokens": 2000.0}
    tracker.restore_learned({"m": state})
    assert tracker.acquire("m", Demand(tokens=900, input_tokens=800))
    answer = tracker.try_acquire("m", Demand(tokens=5000, input_tokens=4800))
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.MEMORY


def test_the_mix_of_the_benchmark_is_what_it_says() -> None:
    mean = sum(prompt for prompt, _ in CHAT) / len(CHAT)
    assert 900 <= mean <= 1300


def test_a_shared_store_refuses_to_learn(redis_server: RedisServer) -> None:
    from solver.load.store.redis import RedisStore

    store = RedisStore(redis_server.url, replicas=1, namespace="learn")
    tracker = solver.LoadTracker(store)
    with pytest.raises(SpecError, match=r"capacity\.max_concurrent: expected a number .* shared store"):
        tracker.set_capacity("m", solver.Capacity(max_concurrent="learn", low=1, high=9))
    store.close()

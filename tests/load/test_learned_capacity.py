"""Learned capacity: on a simulated server, and through the tracker."""

from __future__ import annotations

import heapq
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from benchmarks.bench_learned_capacity import (
    CHAT,
    SCENARIOS,
    Figures,
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
from solver.load.control.learned.gauges import ENDED, IN_FLIGHT_S, N_SUMS
from solver.load.control.learned.learner import LearnedCapacity
from solver.load.control.learned.limit import LastingQueue, Window
from solver.load.control.learned.parameters import LearnParameters
from solver.load.control.learned.shared import SharedTotals
from solver.load.control.learned.timing import FirstTokenLine, prefill_limit, waiting_at_prefill
from solver.load.lease import Demand, Lease, LeaseState
from solver.load.refusal import Refusal, RefusalReason
from solver.load.store.redis import RedisStore

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


def test_a_slower_device_is_not_taken_for_a_queue() -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "prefill objective")
    best = [Figures(limit, 0.0, 0.0, 0.0, 0.0) for limit in (17, 17, 19)]
    run = scenario.run(Learned(slo_s_per_token=scenario.slo_s), 2)
    assert settling_s(run, best)[1] <= 20.0  # 86 where prompts are expected to take as long as before


def test_a_short_queue_shows_when_it_lasts() -> None:
    lasting = LastingQueue()
    for _ in range(4):
        lasting.add(Window(1.0, 10.0, 3.0, 0.0, 1.0, 1.0), 1.2, 1.8, 5.0)
    assert lasting.windows == 4
    assert lasting.queue == pytest.approx(1.2)
    lasting.add(Window(1.0, 14.0, 3.0, 0.0, 1.0, 1.0), 2.0, 1.0, 5.0)
    assert lasting.windows == 1  # another load: measured anew
    assert lasting.queue == pytest.approx(2.0)


@pytest.mark.parametrize("seed", range(6))
def test_no_start_runs_away(seed: int) -> None:
    mix = lengths(500, prompt=4000, output=30, spread=0.3, seed=seed)
    controller = Learned(slo_s_per_token=0.08)
    run = simulate(Server(), [controller], mix, 90.0, seed=seed)
    assert max(limits[0] for _, limits, _ in run.trace) <= 32


def test_light_load_never_raises_the_limit() -> None:
    assert idle_limit() == 4


def test_replicas_on_shared_totals_equal_one() -> None:
    assert (replicas(6, 1) + replicas(6, 2)) / 2 >= 0.93


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


def drive(
    trackers: solver.LoadTracker | list[solver.LoadTracker], clock: ManualClock, slots: int, seconds: float
) -> None:
    """Send to a model that serves ``slots`` at a time for two seconds each, first token after 0.1 s."""
    events: list[tuple[float, int, Callable[[], object]]] = []
    free_at = [0.0] * slots
    order = itertools.count()
    turns = itertools.cycle(trackers if isinstance(trackers, list) else [trackers])
    end = clock.now() + seconds
    while clock.now() < end:
        clock.advance(0.02)
        while events and events[0][0] <= clock.now():
            heapq.heappop(events)[2]()
        answer = next(turns).try_acquire("m", Demand(tokens=600, input_tokens=500), ttl_s=20.0)
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
    held = tracker.acquire("m", Demand(tokens=900, input_tokens=800))
    assert held
    answer = tracker.try_acquire("m", Demand(tokens=5000, input_tokens=4800))
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.MEMORY


def test_requests_whose_leases_are_over_do_not_keep_others_out() -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    tracker.set_capacity("m", solver.Capacity(max_concurrent="learn", low=1))
    tracker.restore_learned({"m": LearnedCapacity().export() | {"tokens": 2000.0}})
    hung = tracker.acquire("m", Demand(tokens=1900, input_tokens=1800), ttl_s=5.0)  # held, and never released
    renewed = tracker.acquire("m", Demand(tokens=2, input_tokens=1), ttl_s=5.0)
    assert hung is not None
    assert tracker.try_acquire("m", Demand(tokens=1900, input_tokens=1800)) is not None
    clock.advance(10.0)
    assert tracker.acquire("m", Demand(tokens=1900, input_tokens=1800)) is not None
    assert renewed is None or renewed.state() is LeaseState.GONE
    state = tracker.learned("m")
    assert state is not None
    assert state.in_flight == tracker.snapshot().active[0]


def test_the_mix_of_the_benchmark_is_what_it_says() -> None:
    mean = sum(prompt for prompt, _ in CHAT) / len(CHAT)
    assert 900 <= mean <= 1300


def shared_stores(server: RedisServer, namespace: str, clock: ManualClock, count: int) -> list[RedisStore]:
    return [
        RedisStore(server.url, replicas=1, namespace=namespace, name=f"r{k}", clock=clock, timeout_s=5.0)
        for k in range(count)
    ]


def exchange(trackers: list[solver.LoadTracker], clock: ManualClock) -> None:
    """Let everybody tell, and hear, what there is."""
    for tracker in trackers * 3:
        clock.advance(0.6)
        if lease := tracker.acquire("m"):
            lease.first_token()
            clock.advance(0.6)
            lease.release(tokens=300)


def limit_of(tracker: solver.LoadTracker) -> int:
    state = tracker.learned("m")
    assert state is not None
    return state.limit


def test_replicas_learn_together_over_a_shared_store(redis_server: RedisServer) -> None:
    clock = ManualClock()
    *stores, last = shared_stores(redis_server, "learn", clock, 4)
    trackers = [solver.LoadTracker(store, clock=clock) for store in stores]
    for tracker in trackers:
        tracker.set_capacity("m", solver.Capacity(max_concurrent="learn", high=64))
    drive(trackers, clock, 12, 40.0)
    assert all(9 <= limit_of(tracker) <= 15 for tracker in trackers)
    found = int(trackers[0].snapshot().max_concurrent[0])
    assert found in {limit_of(tracker) for tracker in trackers}

    late = solver.LoadTracker(last, clock=clock)  # begins with what is known, and does not set it back
    late.set_capacity("m", solver.Capacity(max_concurrent="learn", high=64))
    assert int(trackers[0].snapshot().max_concurrent[0]) == found

    stores[0].close()  # the process that leads ends; another leads, and follows the backend down
    drive([*trackers[1:], late], clock, 5, 50.0)
    assert all(4 <= limit_of(tracker) <= 7 for tracker in (*trackers[1:], late))
    for store in (*stores[1:], last):
        store.close()


def test_refusals_met_by_one_replica_lower_the_limit_of_all(redis_server: RedisServer) -> None:
    clock = ManualClock()
    stores = shared_stores(redis_server, "learn429", clock, 2)
    leader, follower = trackers = [solver.LoadTracker(store, clock=clock) for store in stores]
    for tracker in trackers:
        tracker.set_capacity("m", solver.Capacity(max_concurrent="learn", low=2, high=64))
    leader.restore_learned({"m": LearnedCapacity().export() | {"limit": 12.0}})
    exchange(trackers, clock)
    assert (limit_of(leader), limit_of(follower)) == (6, 6)
    leases = [lease for _ in range(5) if (lease := follower.acquire("m", ttl_s=100.0))]
    for lease in leases[1:]:
        lease.first_token()
    exchange(trackers, clock)
    follower.record("m", latency_ms=50.0, success=False, lease=leases[0], status=429)
    leases[0].release()
    exchange(trackers, clock)
    assert (limit_of(leader), limit_of(follower)) == (4, 4)
    assert int(leader.snapshot().max_concurrent[0]) == 4
    for store in stores:
        store.close()


def test_totals_ignore_what_came_before_a_router_was_heard() -> None:
    def sums(ended: float, in_flight: float) -> list[float]:
        own = [0.0] * N_SUMS
        own[ENDED] = ended
        return [*own, in_flight, 0.0, 0.0]

    totals = SharedTotals()
    assert totals.add({"a": (sums(100.0, 3.0), 0.0)})[ENDED] == 0.0
    later = totals.add({"a": (sums(107.0, 2.0), 2.0), "b": (sums(50.0, 1.0), 0.0)})
    assert later[ENDED] == 7.0
    assert later[IN_FLIGHT_S] == 4.0  # two were in flight in the two seconds since it told
    assert later[N_SUMS] == 3.0
    assert totals.add({"a": (sums(3.0, 0.0), 0.0)})[ENDED] == 7.0  # it was started anew, and b is gone
    assert totals.add({"a": (sums(5.0, 0.0), 0.0)})[ENDED] == 9.0


def learning(**range_: Any) -> tuple[solver.LoadTracker, ManualClock]:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    for name in ("m", "n"):
        tracker.set_capacity(name, solver.Capacity(max_concurrent="learn", low=2, **range_))
    return tracker, clock


def in_flight(tracker: solver.LoadTracker, model: str = "m") -> int:
    state = tracker.learned(model)
    assert state is not None
    return state.in_flight


def test_requests_of_a_forgotten_model_say_nothing_about_its_successor() -> None:
    tracker, _ = learning()
    leases = [tracker.acquire("m") for _ in range(2)]
    tracker.forget("m")
    tracker.set_capacity("m", solver.Capacity(max_concurrent="learn", low=2))
    for lease in leases:
        assert lease is not None
        lease.first_token()
        lease.release(output_tokens=10)
    assert in_flight(tracker) == 0


def test_another_range_keeps_what_is_known_and_in_flight() -> None:
    tracker, _ = learning(high=64)
    leases = [tracker.acquire("m") for _ in range(3)]
    tracker.set_capacity("m", solver.Capacity(max_concurrent="learn", low=2, high=3))
    assert (in_flight(tracker), tracker.snapshot().max_concurrent.tolist()) == (3, [3, 4])
    tracker.set_capacity("m", solver.Capacity(max_concurrent=8))
    tracker.set_capacity("m", solver.Capacity(max_concurrent="learn", low=2))
    for lease in leases:
        assert lease is not None
        lease.release(output_tokens=10)
    assert in_flight(tracker) == 0


def test_a_moved_request_counts_where_it_went() -> None:
    tracker, _ = learning()
    lease = tracker.acquire("m")
    assert lease is not None
    tracker.move(lease, "n")
    assert (in_flight(tracker), in_flight(tracker, "n")) == (0, 1)
    lease.release(output_tokens=10)
    assert in_flight(tracker, "n") == 0


def test_a_breaker_and_a_learned_limit_respect_each_other() -> None:
    tracker, clock = learning(high=64)
    leases = [tracker.acquire("m") for _ in range(4)]
    for _ in range(5):
        tracker.record("m", latency_ms=5.0, success=False)
    assert leases[0] is not None
    tracker.record("m", latency_ms=5.0, status=429, lease=leases[0])  # lowers the limit to what else runs
    state = tracker.learned("m")
    assert state is not None
    assert (state.limit, int(tracker.snapshot().max_concurrent[0])) == (3, 1)
    for lease in leases:
        assert lease is not None
        lease.release()
    for _ in range(3):
        clock.advance(3.0)
        probe = tracker.acquire("m")
        assert probe is not None
        tracker.record("m", latency_ms=100.0)
        probe.release(output_tokens=10)
    assert int(tracker.snapshot().max_concurrent[0]) == 3


def test_answers_that_are_not_streamed_need_an_objective() -> None:
    with pytest.raises(SpecError, match="slo_ms_per_token"):
        solver.Capacity(max_concurrent="learn", streamed=False)
    tracker, clock = learning(slo_ms_per_token=50, streamed=False)
    for _ in range(60):  # 20 ms a token: the limit may grow
        leases = [lease for _ in range(8) if (lease := tracker.acquire("m")) is not None]
        clock.advance(2.0)
        for lease in leases:
            lease.release(output_tokens=100)
    state = tracker.learned("m")
    assert state is not None
    assert state.limit > 4


@pytest.mark.parametrize(("streamed", "limits"), [(1.0, (14, 20)), (0.8, (12, 24)), (0.0, (4, 4))])
def test_answers_that_come_at_once_are_not_taken_for_a_queue(
    streamed: float, limits: tuple[int, int]
) -> None:
    tracker, clock = learning(high=64)
    rng = np.random.default_rng(1)
    events: list[tuple[float, int, bool, Lease]] = []
    waiting: list[Lease] = []
    number, running, seen = itertools.count(), 0, []
    reasons: set[str] = set()

    def begin(lease: Lease) -> None:
        if rng.random() < streamed:
            heapq.heappush(events, (clock.now() + 0.2, next(number), False, lease))
        heapq.heappush(events, (clock.now() + rng.uniform(1.0, 3.0), next(number), True, lease))

    while clock.now() < 200.0:
        while (lease := tracker.acquire("m", Demand(tokens=300, input_tokens=200), ttl_s=1e5)) is not None:
            if running < 16:
                running += 1
                begin(lease)
            else:  # the server's own queue
                waiting.append(lease)
        clock.seconds, _, ends, lease = heapq.heappop(events)
        if not ends:
            lease.first_token()
            continue
        lease.release(tokens=300, output_tokens=100)
        running -= 1
        if waiting:
            running += 1
            begin(waiting.pop(0))
        state = tracker.learned("m")
        assert state is not None
        if clock.now() > 100.0:
            seen.append(state.limit)
            reasons.add(state.reason)
    assert limits[0] <= np.median(seen) <= limits[1]
    assert streamed or reasons == {"too few answers are streamed"}

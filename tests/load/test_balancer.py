"""Nine combinations of load strategy and routing; deciding and reserving as one."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import solver
from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.balance.balancer import LoadBalancer
from solver.load.balance.placement import ROUTINGS
from solver.load.balance.priced_strategy import Priced
from solver.load.balance.strategies import STRATEGIES
from solver.load.lease import Demand, Lease, LeaseState, Refusal, RefusalReason
from solver.load.observe.feedback import AdaptiveScorer
from solver.load.store.memory import MemoryStore
from solver.load.tracker import LoadTracker
from solver.problem.spec import Agent, Capacity, Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.load.balance.decision import Reservation
    from solver.load.lease import Ask
    from solver.load.store.base import Store

NINE = list(itertools.product(STRATEGIES, ROUTINGS))
nine = pytest.mark.parametrize(("strategy", "routing"), NINE)


def model(name: str, slots: int, coding: float = 0.5, **facts: Any) -> Model:
    return Model(id=name, capacity=Capacity(max_concurrent=slots, **facts), capabilities={"coding": coding})


def coders(n: int, **facts: Any) -> list[Agent]:
    return [Agent(id=str(i), task_type="coding", **facts) for i in range(n)]


def served(assignments: Sequence[Any]) -> list[str | None]:
    return [assignment.model_id for assignment in assignments]


# -- worked examples and definitions


def test_the_worked_example_of_the_load_weighted_score() -> None:
    """Score 90, utilization 0.6, weight 0.3: factor 0.82, 73.8."""
    tracker = LoadTracker()
    balancer = LoadBalancer(tracker, strategy="weighted", routing="greedy", load_weight=0.3)
    fleet = [model("a", 10)]
    tracker.set_capacity("a", Capacity(max_concurrent=10))
    tracker.update_load("a", 6)
    decision = balancer.decide(coders(1), fleet, scores=[[90.0]])
    assert decision.assignments[0].score == pytest.approx(73.8)
    assert decision.avg_utilization == pytest.approx(0.6)
    assert balancer.assign_and_reserve(coders(1), fleet, scores=[[90.0]])[0].score == pytest.approx(73.8)


@nine
def test_nobody_gets_a_full_a_drained_or_a_rejecting_model(strategy: str, routing: str) -> None:
    tracker = LoadTracker()
    fleet = [model("full", 2, 1.0), model("drained", 0, 1.0), model("closed", 9, 1.0), model("open", 4, 0.1)]
    balancer = LoadBalancer(tracker, strategy, routing)
    balancer.select(coders(1), fleet)  # makes the tracker know the fleet
    tracker.update_load("full", 2)
    tracker.set_accepting("closed", False)
    decision = balancer.decide(coders(6), fleet)
    assert sorted(decision.models_filtered) == ["closed", "drained", "full"]
    assert served(decision.assignments).count("open") == 4
    assert served(decision.assignments).count(None) == 2
    for assignment in decision.assignments:
        assert (assignment.model_id is None) == (assignment.score == 0.0)
        assert assignment.reason


@nine
def test_every_combination_reserves_what_it_says(strategy: str, routing: str) -> None:
    tracker = LoadTracker()
    fleet = [model("a", 2), model("b", 3), model("c", 1)]
    balancer = LoadBalancer(tracker, strategy, routing)
    reserved = balancer.assign_and_reserve(coders(8), fleet)
    assert [r.agent_id for r in reserved] == [str(i) for i in range(8)]
    assert sum(r.lease is not None for r in reserved) == 6
    assert tracker.snapshot().active.tolist() == [2, 3, 1]
    for r in reserved:
        assert (r.lease is None) == (r.model_id is None)
        if r.lease is not None:
            assert r.lease.model == r.model_id
            r.lease.release()
    assert tracker.snapshot().active.tolist() == [0, 0, 0]


@nine
def test_one_agent_is_routed_as_a_batch_of_one(strategy: str, routing: str) -> None:
    tracker = LoadTracker()
    fleet = [model("a", 4, 0.9), model("b", 10, 0.6), model("c", 5, 0.3)]
    balancer = LoadBalancer(tracker, strategy, routing)
    for load in ([0, 0, 0], [3, 1, 0], [4, 9, 2], [3, 9, 4]):
        balancer.select(coders(1), fleet)
        for name, active in zip("abc", load, strict=True):
            tracker.observe_load(name, active_requests=active)
        [one] = balancer.select(coders(1), fleet)
        [reservation] = balancer.assign_and_reserve(coders(1), fleet)
        assert one.model_id == reservation.model_id
        assert one.score == pytest.approx(reservation.score)
        assert reservation.lease is not None
        reservation.lease.release()


@nine
def test_the_same_seed_decides_the_same(strategy: str, routing: str) -> None:
    fleet = [model(f"m{j}", 3) for j in range(4)]  # all alike: everything is a tie

    def run(seed: int) -> list[str | None]:
        return served(LoadBalancer(LoadTracker(), strategy, routing, seed=seed).select(coders(7), fleet))

    assert run(3) == run(3)
    assert any(run(3) != run(seed) for seed in range(4, 12))


@nine
def test_hard_requirements_and_minimum_scores_hold(strategy: str, routing: str) -> None:
    fleet = [
        Model(id="blind", capacity=Capacity(max_concurrent=9), capabilities={"coding": 0.9}),
        Model(
            id="seeing",
            capacity=Capacity(max_concurrent=2),
            capabilities={"coding": 0.2},
            supports_vision=True,
        ),
    ]
    agents = [
        Agent(id="sees", task_type="coding", requires_vision=True),
        Agent(id="picky", task_type="coding", min_score=80),
        Agent(id="impossible", task_type="coding", requires_vision=True, min_score=80),
        Agent(id="elsewhere", allowed_models=("nobody",)),
    ]
    answers = LoadBalancer(LoadTracker(), strategy, routing).select(agents, fleet)
    assert served(answers) == ["seeing", "blind", None, None]
    assert answers[2].reason == "no model meets the requirements"


@nine
def test_higher_priorities_are_served_first(strategy: str, routing: str) -> None:
    fleet = [model("a", 2)]
    agents = [Agent(id=str(i), task_type="coding", priority=1.0 + i) for i in range(4)]
    answers = LoadBalancer(LoadTracker(), strategy, routing).select(agents, fleet)
    assert served(answers) == [None, None, "a", "a"]


# -- what each strategy is for


@pytest.mark.parametrize("routing", ROUTINGS)
def test_least_loaded_compares_utilization_not_counts(routing: str) -> None:
    tracker = LoadTracker()
    fleet = [model("wide", 100), model("narrow", 4)]
    balancer = LoadBalancer(tracker, "least_loaded", routing)
    balancer.select(coders(1), fleet)
    tracker.update_load("wide", 10)  # 10 %, more requests
    tracker.update_load("narrow", 2)  # 50 %, fewer
    assert served(balancer.select(coders(1), fleet)) == ["wide"]


@pytest.mark.parametrize("routing", ROUTINGS)
def test_least_loaded_levels_utilization_over_a_batch(routing: str) -> None:
    tracker = LoadTracker()
    fleet = [model("a", 20), model("b", 10), model("c", 10)]
    balancer = LoadBalancer(tracker, "least_loaded", routing)
    balancer.assign_and_reserve(coders(20), fleet)
    assert tracker.snapshot().active.tolist() == [10, 5, 5]


def test_ties_are_broken_by_chance_not_by_position() -> None:
    fleet = [model(f"m{j}", 10) for j in range(4)]
    first = [
        served(LoadBalancer(LoadTracker(), "least_loaded", "greedy", seed=seed).select(coders(1), fleet))[0]
        for seed in range(200)
    ]
    counts = [first.count(f"m{j}") for j in range(4)]
    assert min(counts) > 25  # 50 expected each; below 26 has probability 1e-5


def test_weighted_trades_quality_for_load() -> None:
    tracker = LoadTracker()
    fleet = [model("good", 10, 0.9), model("fair", 10, 0.75)]
    light = LoadBalancer(tracker, "weighted", "greedy", load_weight=0.1)
    heavy = LoadBalancer(tracker, "weighted", "greedy", load_weight=0.6)
    light.select(coders(1), fleet)
    tracker.update_load("good", 6)
    assert served(light.select(coders(1), fleet)) == ["good"]
    assert served(heavy.select(coders(1), fleet)) == ["fair"]


def test_balanced_keeps_the_highest_utilization_as_low_as_it_can_be() -> None:
    tracker = LoadTracker()
    fleet = [model("best", 10, 0.9), model("other", 10, 0.2), model("third", 5, 0.1)]
    balancer = LoadBalancer(tracker, "weighted", "balanced")
    balancer.assign_and_reserve(coders(10), fleet)
    assert tracker.snapshot().active.tolist() == [4, 4, 2]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_balanced_against_brute_force(data: st.DataObject) -> None:
    """As many as possible, then the lowest highest utilization, then the highest total score."""
    m, n = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    slots = data.draw(st.lists(st.integers(1, 4), min_size=m, max_size=m))
    active = [data.draw(st.integers(0, cap)) for cap in slots]
    score = np.array(
        [
            [data.draw(st.sampled_from([-math.inf, 10.0, 37.0, 64.0, 90.0])) for _ in range(m)]
            for _ in range(n)
        ]
    )
    tracker = LoadTracker()
    fleet = [model(f"m{j}", slots[j]) for j in range(m)]
    balancer = LoadBalancer(tracker, "weighted", "balanced", load_weight=0.5)
    balancer.select(coders(1), fleet)
    for j in range(m):
        tracker.update_load(f"m{j}", active[j])
    weighted = score * (1 - 0.5 * np.array(active) / slots)

    def key(choice: Sequence[int]) -> tuple[float, float, float] | None:
        load = [active[j] + list(choice).count(j) for j in range(m)]
        if any(load[j] > slots[j] and load[j] > active[j] for j in range(m)):
            return None
        if any(j >= 0 and score[i, j] == -math.inf for i, j in enumerate(choice)):
            return None
        taken = [load[j] / slots[j] for j in range(m) if load[j] > active[j]]
        total = sum(weighted[i, j] for i, j in enumerate(choice) if j >= 0)
        return sum(j >= 0 for j in choice), -max(taken, default=0.0), total

    every = [key(choice) for choice in itertools.product(range(-1, m), repeat=n)]
    answers = balancer.select(coders(n), fleet, scores=score)
    mine = key([-1 if a.model_id is None else int(a.model_id[1:]) for a in answers])
    assert mine is not None
    assert mine == pytest.approx(max(entry for entry in every if entry is not None))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_optimal_is_never_worse_than_the_others(data: st.DataObject) -> None:
    m, n = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    fleet = [model(f"m{j}", data.draw(st.integers(0, 4))) for j in range(m)]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    score = rng.uniform(0, 100, (n, m))
    score[rng.random((n, m)) < 0.3] = -math.inf
    totals = {}
    for routing in ROUTINGS:
        answers = LoadBalancer(LoadTracker(), "weighted", routing).select(coders(n), fleet, scores=score)
        totals[routing] = (
            sum(a.model_id is not None for a in answers),
            sum(a.score for a in answers if a.model_id is not None),
        )
    assert totals["optimal"][0] == totals["balanced"][0] >= totals["greedy"][0]
    if totals["optimal"][0] == totals["greedy"][0]:
        assert totals["optimal"][1] >= totals["greedy"][1] - 1e-6
    assert totals["optimal"][1] >= totals["balanced"][1] - 1e-6


def test_optimal_returns_the_prices_of_capacity() -> None:
    fleet = [model("a", 1), model("b", 5)]
    decision = LoadBalancer(LoadTracker(), "weighted", "optimal").decide(
        coders(2), fleet, scores=[[90.0, 50.0], [80.0, 60.0]]
    )
    assert decision.prices == pytest.approx({"a": 20.0, "b": 0.0}, abs=1e-5)
    assert decision.solution is not None
    assert decision.solution.gap == 0


def test_headroom_is_kept_when_asked_for() -> None:
    fleet = [model("a", 10, target_utilization=0.8)]
    to_target = LoadBalancer(LoadTracker(), fill_to="target").select(coders(10), fleet)
    to_limit = LoadBalancer(LoadTracker(), fill_to="limit").select(coders(10), fleet)
    assert served(to_target).count("a") == 8
    assert served(to_limit).count("a") == 10


# -- prediction


def slow_and_fast(tracker: LoadTracker, clock: ManualClock) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        for name, base, per_token in (("slow", 400.0, 40.0), ("fast", 200.0, 10.0)):
            tokens = int(rng.integers(50, 500))
            latency = base + per_token * tokens + rng.normal(0, 20)
            tracker.record(name, latency_ms=latency, input_tokens=100, output_tokens=tokens)
        clock.advance(0.1)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_predictive_prefers_what_will_be_done_sooner(routing: str) -> None:
    clock = ManualClock()
    tracker = LoadTracker(clock=clock)
    fleet = [model("slow", 4, 0.6), model("fast", 4, 0.5)]
    predictive = LoadBalancer(tracker, "predictive", routing, load_weight=0.5)
    weighted = LoadBalancer(tracker, "weighted", "greedy", load_weight=0.5)
    slow_and_fast(tracker, clock)
    agent = [Agent(id="x", task_type="coding", input_tokens=100, output_tokens=300)]
    assert served(predictive.select(agent, fleet)) == ["fast"]
    assert served(weighted.select(agent, fleet)) == ["slow"]


def test_predictions_are_calibrated_and_reservations_last_as_long_as_expected() -> None:
    clock = ManualClock()
    tracker = LoadTracker(clock=clock)
    balancer = LoadBalancer(tracker, "predictive", "optimal", ttl_s=30)
    slow_and_fast(tracker, clock)
    report = balancer.calibration()
    assert set(report) == {"slow", "fast"}
    for entry in report.values():
        assert entry.relative_error < 0.05
        assert abs(entry.bias_ms) < 0.01 * entry.mean_ms
    agent = [Agent(id="x", input_tokens=100, output_tokens=1000, allowed_models=("slow",))]
    [reservation] = balancer.assign_and_reserve(agent, [model("slow", 4), model("fast", 4)])
    assert reservation.lease is not None
    assert (
        2 * 40 < reservation.lease.ttl_s < 2 * 41 + 1
    )  # twice the 40.4 s that 1,000 tokens take, and errors


def test_predictive_counts_the_wait_in_the_queue() -> None:
    clock = ManualClock()
    tracker = LoadTracker(clock=clock)
    fleet = [model("slow", 1, 0.5, max_queue=20), model("fast", 1, 0.5, max_queue=20)]
    balancer = LoadBalancer(tracker, "predictive", "greedy", load_weight=1.0, queue=True)
    slow_and_fast(tracker, clock)
    agents = coders(10, input_tokens=100, output_tokens=300)
    names = served(balancer.select(agents, fleet))
    assert names[0] == "fast"
    assert 1 <= names.count("slow") <= 4  # about four times slower: it is used, but for its share only


def test_stated_facts_stand_in_for_observations() -> None:
    fleet = [
        Model(id="a", capacity=Capacity(max_concurrent=1), latency_s=0.2, output_tokens_per_second=100),
        Model(id="b", capacity=Capacity(max_concurrent=1), latency_s=0.2, output_tokens_per_second=10),
    ]
    balancer = LoadBalancer(LoadTracker(), "predictive", "greedy")
    assert served(balancer.select([Agent(id="x", output_tokens=100)], fleet)) == ["a"]


# -- reserving among others


@nine
def test_twenty_at_once_on_twenty_slots_are_all_served(strategy: str, routing: str) -> None:
    """Existing routers refuse 9 to 75 percent of these."""
    rounds = 100 if (strategy, routing) == ("weighted", "optimal") else 5
    for round_number in range(rounds):
        tracker = LoadTracker()
        fleet = [model(f"m{j}", 5, 0.2 * (j + 1)) for j in range(4)]
        balancer = LoadBalancer(tracker, strategy, routing, seed=round_number)
        balancer.select(coders(1), fleet)
        barrier = threading.Barrier(20)
        answers: list[Reservation] = []

        def client(
            i: int,
            barrier: threading.Barrier = barrier,
            balancer: LoadBalancer = balancer,
            answers: list[Reservation] = answers,
            fleet: list[Model] = fleet,
        ) -> None:
            barrier.wait()
            answers.extend(balancer.assign_and_reserve([Agent(id=str(i), task_type="coding")], fleet))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(answer.lease is not None for answer in answers)
        assert tracker.snapshot().active.tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("routing", ["balanced", "optimal"])
def test_flexible_work_does_not_starve_inflexible_work(strategy: str, routing: str) -> None:
    fleet = [model("A", 10, 0.9), model("B", 10, 0.1)]
    flexible = [Agent(id=f"f{i}", task_type="coding") for i in range(10)]
    inflexible = [Agent(id=f"i{i}", task_type="coding", allowed_models=("A",)) for i in range(10)]
    reserved = LoadBalancer(LoadTracker(), strategy, routing).assign_and_reserve(flexible + inflexible, fleet)
    assert all(r.lease is not None for r in reserved)
    assert {r.model_id for r in reserved[10:]} == {"A"}


class Thief(MemoryStore):
    """A store on which somebody else takes the slots of a model just before the first plan is acquired."""

    stolen = 0

    def steal(self) -> None:
        if not self.stolen:
            self.stolen = 1
            self.adjust("best", active=3, queue=0)

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        self.steal()
        return super().acquire(ask)

    def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool) -> list[LeaseState | Refusal]:
        self.steal()
        return super().acquire_many(asks, whole_plan=whole_plan)


@nine
@pytest.mark.parametrize("n", [1, 6])
def test_only_losers_are_decided_again(strategy: str, routing: str, n: int) -> None:
    store = Thief()
    tracker = LoadTracker(store=store)
    fleet = [model("best", 3, 1.0), model("next", 6, 0.3)]
    reserved = LoadBalancer(tracker, strategy, routing).assign_and_reserve(coders(n), fleet)
    assert [r.model_id for r in reserved].count("next") == n
    assert tracker.snapshot().active.tolist() == [3, n]


def test_rounds_are_bounded() -> None:
    class Liar(MemoryStore):
        """Says there is room and grants nothing."""

        asked = 0

        def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool) -> list[LeaseState | Refusal]:
            self.asked += 1
            answers = super().acquire_many(asks, whole_plan=whole_plan)
            for ask, answer in zip(asks, answers, strict=True):
                assert not isinstance(answer, Refusal)
                self.release(ask.lease_id, tokens=None, cost_nano_usd=None)
            return [Refusal(model=ask.model, reason=RefusalReason.CONCURRENCY) for ask in asks]

    store = Liar()
    balancer = LoadBalancer(LoadTracker(store=store), max_rounds=5)
    reserved = balancer.assign_and_reserve(coders(3), [model("a", 9)])
    assert store.asked == 5
    assert {r.reason for r in reserved} == {"every eligible model was taken by concurrent requests"}


def test_metered_models_never_get_more_than_their_rates() -> None:
    tracker = LoadTracker()
    fleet = [
        Model(id="a", capacity=Capacity(max_concurrent=50), tokens_per_minute=1000, requests_per_minute=50),
        Model(id="b", capacity=Capacity(max_concurrent=50), tokens_per_minute=500),
    ]
    agents = [Agent(id=str(i), output_tokens=100 if i % 2 else 300) for i in range(12)]
    reserved = LoadBalancer(tracker, "weighted", "optimal").assign_and_reserve(agents, fleet)
    used = {"a": 0, "b": 0}
    for agent, r in zip(agents, reserved, strict=True):
        if r.model_id is not None:
            used[r.model_id] += agent.output_tokens
    assert used["a"] <= 1000
    assert used["b"] <= 500
    assert sum(used.values()) >= 1300  # small ones fill up what the large ones left


def test_moving_what_waits(store: Store, clock: ManualClock) -> None:
    tracker = LoadTracker(store=store, clock=clock)
    fleet = [model("a", 1, 0.9, max_queue=5), model("b", 3, 0.5)]
    balancer = LoadBalancer(tracker, "weighted", "greedy", queue=True, load_weight=0.0)
    reserved = balancer.assign_and_reserve(coders(4), fleet)
    assert [r.model_id for r in reserved] == ["a"] * 4
    states = [r.lease.state() for r in reserved if r.lease is not None]
    assert states == [LeaseState.RUNNING] + [LeaseState.QUEUED] * 3
    assert sorted(balancer.redistribute("a")) == ["1", "2", "3"]
    assert [r.lease.model for r in reserved if r.lease is not None] == ["a", "b", "b", "b"]
    assert all(r.lease.state() is LeaseState.RUNNING for r in reserved if r.lease is not None)
    assert tracker.snapshot().active.tolist() == [1, 3]
    assert tracker.snapshot().queued.tolist() == [0, 0]
    assert balancer.redistribute("a") == []
    for r in reserved:
        assert isinstance(r.lease, Lease)
        r.lease.release()
    assert tracker.snapshot().active.tolist() == [0, 0]


def test_reserving_from_asyncio(store: Store, clock: ManualClock) -> None:
    tracker = LoadTracker(store=store, clock=clock)
    fleet = [model("a", 2)]
    balancer = LoadBalancer(tracker)

    async def main() -> None:
        reserved = await balancer.assign_and_reserve_async(coders(3), fleet)
        assert sum(r.lease is not None for r in reserved) == 2
        for r in reserved:
            if r.lease is not None:
                async with r.lease:
                    pass

    asyncio.run(main())
    assert tracker.snapshot().active.tolist() == [0]


def test_cancelling_while_reserving_gives_everything_back() -> None:
    answering, may_answer = threading.Event(), threading.Event()

    class SlowStore(MemoryStore):
        remote = True

        def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool) -> list[LeaseState | Refusal]:
            answering.set()
            assert may_answer.wait(10)
            return super().acquire_many(asks, whole_plan=whole_plan)

    tracker = LoadTracker(store=SlowStore())
    balancer = LoadBalancer(tracker)
    fleet = [model("a", 5)]
    balancer.select(coders(1), fleet)
    before = tracker.snapshot().version

    async def main() -> None:
        task = asyncio.create_task(balancer.assign_and_reserve_async(coders(3), fleet))
        await asyncio.to_thread(answering.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_answer.set()
        while tracker.store.view().version < before + 6:  # three grants, three releases
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert tracker.snapshot().active.tolist() == [0]


def test_feedback_changes_the_choice() -> None:
    tracker = LoadTracker()
    scorer = AdaptiveScorer()
    tracker.listen(scorer.observe)
    balancer = LoadBalancer(tracker, "weighted", "greedy", scorer=scorer)
    fleet = [model("good", 10, 0.9), model("fair", 10, 0.7)]
    for _ in range(10):
        tracker.record("good", latency_ms=100, success=False)
        tracker.record("fair", latency_ms=100)
    assert served(balancer.select(coders(1), fleet)) == ["fair"]


# -- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "random"}, "strategy: expected"),
        ({"routing": "fast"}, "routing: expected"),
        ({"load_weight": 1.5}, "load_weight: expected between 0 and 1"),
        ({"load_weight": math.nan}, "load_weight: expected between 0 and 1"),
        ({"ttl_s": 0}, "ttl_s: expected"),
        ({"max_rounds": 0}, "max_rounds: expected"),
        ({"fill_to": "brim"}, "fill_to: expected"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        LoadBalancer(LoadTracker(), **options)


def test_bad_batches() -> None:
    balancer = LoadBalancer(LoadTracker())
    fleet = [model("a", 1)]
    with pytest.raises(SpecError, match=r"scores: expected shape \(2, 1\)"):
        balancer.select(coders(2), fleet, scores=[[1.0]])
    with pytest.raises(SpecError, match=r"scores\[1, 0\]: expected a finite number or -inf, got nan"):
        balancer.select(coders(2), fleet, scores=[[1.0], [math.nan]])
    with pytest.raises(SpecError, match="models: expected at least one"):
        balancer.select(coders(1), [])
    with pytest.raises(SpecError, match=r"models\[1\].id: expected unique ids, got 'a' again"):
        balancer.select(coders(1), [fleet[0], fleet[0]])
    assert balancer.select([], fleet) == []
    assert balancer.assign_and_reserve([], fleet) == []


def test_models_parsed_anew_keep_their_scores_and_another_fleet_gets_its_own() -> None:
    balancer = LoadBalancer(LoadTracker(), routing="greedy")
    first, again = [model("a", 5, coding=0.2)], [model("a", 5, coding=0.2)]
    other = [model("a", 5, coding=0.9), model("b", 5)]
    for fleet, score in ((first, 28.0), (again, 28.0), (again, 28.0), (other, 91.0), (first, 28.0)):
        [assignment] = balancer.select(coders(1, preferred_capabilities=["coding"]), fleet)
        assert assignment.score == pytest.approx(score)


def test_threads_with_fleets_of_their_own_are_never_answered_for_another_fleet() -> None:
    balancer = LoadBalancer(LoadTracker(), routing="greedy")
    fleets = [[model(f"{name}{j}", 100) for j in range(4)] for name in "abcd"]
    wrong: list[str | None] = []

    def ask(fleet: list[Model]) -> None:
        ids = {entry.id for entry in fleet}
        for _ in range(300):
            [name] = served(balancer.select(coders(1), fleet))
            if name not in ids:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(fleet,)) for fleet in fleets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@nine
def test_one_request_is_placed_like_a_batch_of_one(strategy: str, routing: str) -> None:
    """The short way of single requests and the long way of batches agree, whatever the load."""
    rng = np.random.default_rng(11)
    for _ in range(25):
        fleet = [model(f"m{j}", int(rng.integers(0, 4)), float(rng.random())) for j in range(5)]
        tracker = LoadTracker()
        for entry in fleet:
            tracker.set_capacity(entry.id, entry.capacity)
            tracker.update_load(entry.id, int(rng.integers(0, 5)))
        balancer = LoadBalancer(tracker, strategy, routing)
        [chosen] = balancer.select(coders(1, input_tokens=300), fleet)
        [reserved] = balancer.assign_and_reserve(coders(1, input_tokens=300), fleet)
        assert (reserved.model_id, reserved.reason) == (chosen.model_id, chosen.reason)
        assert reserved.score == pytest.approx(chosen.score)


def test_a_metered_fleet_has_room_for_exactly_what_its_meters_leave() -> None:
    tracker = LoadTracker()
    tracker.set_capacity("a", Capacity(max_concurrent=50), tokens_per_minute=1000)
    tracker.set_capacity("b", Capacity(max_concurrent=50), budget_usd=0.03)
    tracker.set_capacity("c", Capacity(max_concurrent=50))
    snapshot = tracker.snapshot()
    assert snapshot.room(Demand(tokens=100, cost_usd=0.01)).tolist() == [10, 3, 50]
    assert snapshot.room(Demand(tokens=1001, cost_usd=0.031)).tolist() == [0, 0, 50]
    assert tracker.acquire("a", Demand(tokens=950)) is not None
    tracker.set_capacity("a", Capacity(max_concurrent=50), tokens_per_minute=900)
    assert tracker.snapshot().room(Demand(tokens=1)).tolist() == [0, 50, 50]


# -- a price per slot as a strategy


def test_agents_that_come_one_by_one_at_the_prices_of_a_batch_choose_as_the_batch() -> None:
    """Or a model as good: at optimal prices some agents are indifferent."""
    rng = np.random.default_rng(5)
    scores = 100.0 * rng.random((60, 4))
    best = solver.assign(scores, [10, 20, 15, 15])
    fleet = [model(f"m{j}", slots) for j, slots in enumerate((10, 20, 15, 15))]
    balancer = LoadBalancer(LoadTracker(), strategy=Priced(best.prices), routing="greedy")
    chosen = [balancer.select(coders(1), fleet, scores=row[None, :])[0].model_id for row in scores]
    picked = np.array([int(str(name)[1:]) for name in chosen])
    net = scores - best.prices
    rows = np.arange(60)
    np.testing.assert_allclose(net[rows, picked], net[rows, best.choice], atol=1e-9)
    assert (picked == best.choice).mean() > 0.9


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ([1.0, -2.0], r"prices\[1\]: expected a finite number >= 0, got -2"),
        ([1.0, np.nan], r"prices\[1\]: expected a finite number >= 0, got nan"),
        ([[1.0]], r"prices: expected shape \(models,\), got shape \(1, 1\)"),
    ],
)
def test_prices_out_of_range_are_named(prices: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Priced(prices)


def test_prices_for_another_fleet_are_refused() -> None:
    balancer = LoadBalancer(LoadTracker(), strategy=Priced([0.0]), routing="greedy")
    with pytest.raises(SpecError, match=r"prices: expected shape \(2,\)"):
        balancer.select(coders(1), [model("a", 1), model("b", 1)])


# -- equal models


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_of_equal_models_an_idle_one_comes_before_a_busy_one(strategy: str) -> None:
    balancer = LoadBalancer(LoadTracker(), strategy=strategy, routing="greedy", seed=5)
    fleet = [model(name, 3) for name in "abcde"]
    chosen = [served(balancer.assign_and_reserve(coders(1), fleet))[0] for _ in range(15)]
    assert [len(set(chosen[k : k + 5])) for k in (0, 5, 10)] == [5, 5, 5]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("slots", [0, 1])
def test_of_equal_models_the_shorter_queue_comes_first(strategy: str, slots: int) -> None:
    tracker = LoadTracker()
    balancer = LoadBalancer(tracker, strategy=strategy, routing="greedy", queue=True)
    fleet = [model(name, slots, max_queue=9) for name in "ab"]
    for agent in coders(2 * slots + 6):
        assert balancer.assign_and_reserve([agent], fleet)[0].lease is not None
    assert tracker.snapshot().queued.tolist() == [3, 3]


def test_a_batch_waits_where_no_model_has_slots() -> None:
    balancer = LoadBalancer(LoadTracker(), strategy="least_loaded", routing="balanced", queue=True)
    reserved = balancer.assign_and_reserve(coders(4), [model(name, 0, max_queue=4) for name in "ab"])
    assert sorted(str(each.model_id) for each in reserved) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("count", [1, 3])
def test_who_is_not_served_is_told_why_and_when(count: int) -> None:
    tracker = LoadTracker()
    balancer = LoadBalancer(tracker)
    fleet = [model("a", 1), model("b", 1)]
    assert all(one.lease is not None for one in balancer.assign_and_reserve(coders(2), fleet))
    tracker.record("a", latency_ms=1000.0)
    tracker.record("b", latency_ms=3000.0)
    reserved = balancer.assign_and_reserve(coders(count), fleet)
    refusals = [one.refusal for one in reserved if one.refusal is not None]
    assert [(one.model, one.reason) for one in refusals] == [("a", RefusalReason.CONCURRENCY)] * count
    times = [one.retry_after_s for one in refusals if one.retry_after_s is not None]
    assert len(set(times)) == count
    for name in "ab":
        tracker.stop(name, reason="upgrade", for_s=60.0)
    for one in balancer.assign_and_reserve(coders(count), fleet):
        assert one.refusal is not None
        assert one.refusal.stops[0].reason == "upgrade"

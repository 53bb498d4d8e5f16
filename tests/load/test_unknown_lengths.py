"""Answers of unknown length: little of a limit is held back, and no more than one request spends too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import solver
from benchmarks.unknown_tokens import TRAFFIC, run
from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.observe.output_lengths import LengthParameters, OutputLengths

if TYPE_CHECKING:
    from solver.load.lease import Lease

WIDE = solver.Capacity(max_concurrent=1000)
CHAT = solver.Model(id="m", capacity=WIDE, capabilities={"coding": 0.9})


def ready(limit: int = 1000) -> tuple[solver.LoadTracker, solver.LoadBalancer]:
    tracker = solver.LoadTracker(clock=ManualClock(0.0))
    tracker.set_capacity("m", WIDE, tokens_per_minute=limit)
    return tracker, solver.LoadBalancer(tracker)


def ask(balancer: solver.LoadBalancer, **size: int) -> Lease | None:
    agent = solver.Agent(id="a", task_type="coding", **size)
    return balancer.assign_and_reserve([agent], [CHAT])[0].lease


@pytest.mark.parametrize("traffic", ["always 100 tokens", "short, log-normal"])
def test_short_answers_use_the_limit_and_do_not_overspend_it(traffic: str) -> None:
    limit, sample = TRAFFIC[traffic]
    mean, most, largest = run(limit, sample, "learned", seed=3)
    assert mean >= 0.9
    assert most <= 1.0 + largest / limit


@pytest.mark.parametrize("size", [{}, {"input_tokens": 10}, {"input_tokens": 10, "output_tokens": 32_000}])
def test_before_anything_is_known_one_request_runs_at_a_time(size: dict[str, int]) -> None:
    _, balancer = ready()
    leases = [ask(balancer, **size) for _ in range(50)]
    assert sum(lease is not None for lease in leases) == 1
    assert leases[0] is not None
    leases[0].release(tokens=100 + size.get("input_tokens", 0))
    again = [ask(balancer, **size) for _ in range(50)]
    spent = sum(100 + size.get("input_tokens", 0) for lease in [leases[0], *again] if lease is not None)
    assert 300 <= spent <= 1000  # after a single answer, twice its length is reserved


def test_what_was_learned_fills_the_limit() -> None:
    tracker, balancer = ready(100_000)
    for _ in range(40):
        lease = ask(balancer, input_tokens=10)
        assert lease is not None
        lease.release(tokens=110)
    tracker.reset_usage("m")
    leases = [ask(balancer, input_tokens=10) for _ in range(2000)]
    assert 0.9 <= sum(110 for lease in leases if lease is not None) / 100_000 <= 1.0
    assert sum(lease is not None for lease in balancer_batch(balancer, 5)) == 0


def balancer_batch(balancer: solver.LoadBalancer, n: int) -> list[Lease | None]:
    agents = [solver.Agent(id=str(k), task_type="coding", input_tokens=10) for k in range(n)]
    return [reservation.lease for reservation in balancer.assign_and_reserve(agents, [CHAT])]


def test_who_never_settles_reserves_what_is_stated() -> None:
    _, balancer = ready()
    for _ in range(100):
        lease = ask(balancer, input_tokens=10)
        assert lease is not None
        lease.release()
    assert ask(balancer, input_tokens=10) is None


def test_a_stated_length_is_an_upper_bound() -> None:
    tracker, balancer = ready(10_000)
    lease = ask(balancer, input_tokens=10, output_tokens=400)
    assert lease is not None
    assert lease.demand.tokens == 410
    lease.release(tokens=1000)
    small = ask(balancer, input_tokens=10, output_tokens=50)
    assert small is not None
    assert small.demand.tokens == 60
    assert tracker.demand_for("m", input_tokens=5, max_tokens=32_000, task_type="coding").tokens == 5 + 1980


def test_lengths_are_learned_for_each_model_and_kind_of_task() -> None:
    lengths = OutputLengths(LengthParameters(quantile=0.5, enough=2))
    assert lengths.reserve("m", "chat") is None
    for _ in range(50):
        lengths.observe("m", "chat", 100)
        lengths.observe("m", "code", 1000)
    assert (lengths.reserve("m", "chat"), lengths.reserve("m", "code")) == (100, 1000)
    assert lengths.reserve("new", "code") == 1000
    assert lengths.reserve("new", "other") == 1000  # of all answers, one deviation above the middle
    lengths.forget("m")
    assert lengths.reserve("m", "code") == 1000


def test_the_latest_answers_count() -> None:
    lengths = OutputLengths(LengthParameters(remembered=20))
    for length in [10] * 100 + [500] * 20:
        lengths.observe("m", None, length)
    assert lengths.reserve("m", None) == 500


def test_bad_values_are_named() -> None:
    with pytest.raises(SpecError, match="quantile: expected between 0 and 1"):
        LengthParameters(quantile=1.0)
    tracker, _ = ready()
    with pytest.raises(SpecError, match="max_tokens: expected a whole number >= 1"):
        tracker.demand_for("m", max_tokens=0)
    with pytest.raises(SpecError, match="model: expected one whose capacity is set"):
        tracker.demand_for("nobody")

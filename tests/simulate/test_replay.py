"""Replays keep every request, and servers behave as queueing theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver import Capacity, Model, SpecError
from solver.clock import ManualClock
from solver.simulate.experiment import Setup, make_scene, run_experiment
from solver.simulate.metrics import MEASURED, interval_of
from solver.simulate.policies.registry import POLICIES, check_policies, make_policy
from solver.simulate.quality import Quality
from solver.simulate.replay import FAILED, IN_FLIGHT, OVERLOADED, REFUSED, SERVED, replay
from solver.simulate.scenario import Scene
from solver.simulate.servers import Fleet, ServerParams
from solver.simulate.traffic import Traffic
from solver.simulate.traffic_generators import GENERATORS, generate_traffic

CHEAP = ("weighted-balanced", "blind-greedy", "random", "round-robin", "power-of-two", "least-tokens")


def fleet_of(slots: list[tuple[int, int]], *, failure_rate: float = 0.0) -> Fleet:
    models = [
        Model(
            id=f"m{j}",
            capacity=Capacity(max_concurrent=c, max_queue=q),
            capabilities={"a": 0.9 - 0.1 * j, "b": 0.4 + 0.1 * j},
            latency_s=0.2 + 0.1 * j,
            output_tokens_per_second=80.0 - 10 * j,
        )
        for j, (c, q) in enumerate(slots)
    ]
    return Fleet(models, ServerParams(failure_rate=failure_rate))


@settings(max_examples=40, deadline=None)
@given(
    slots=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=4).filter(
        lambda fleet: any(c for c, _ in fleet)
    ),
    kind=st.sampled_from(sorted(GENERATORS)),
    n=st.integers(1, 60),
    load=st.floats(0.1, 4.0),
    failure_rate=st.sampled_from([0.0, 0.3]),
    policy=st.sampled_from([*POLICIES, "constant:m0"]),
    seed=st.integers(0, 9),
)
def test_every_request_is_accounted_for_and_no_server_is_over_its_slots(
    slots: list[tuple[int, int]], kind: str, n: int, load: float, failure_rate: float, policy: str, seed: int
) -> None:
    fleet = fleet_of(slots, failure_rate=failure_rate)
    scene = make_scene(generate_traffic(kind, n, seed=seed), fleet, seed=seed, setup=Setup(load=load))
    clock = ManualClock()
    result = replay(scene, make_policy(policy, scene, clock), clock)
    counts = {end: int((result.outcome == end).sum()) for end in (SERVED, FAILED, REFUSED, OVERLOADED)}
    assert sum(counts.values()) == n
    assert not (result.outcome == IN_FLIGHT).any()
    started = np.isin(result.outcome, (SERVED, FAILED))
    assert (~np.isnan(result.latency_s) == started).all()
    assert ((result.column >= 0) == (result.outcome != REFUSED)).all()
    begin = scene.traffic.arrival_s + result.wait_s
    end = scene.traffic.arrival_s + result.latency_s
    for j, limit in enumerate(fleet.slots):
        mine = started & (result.column == j)
        for moment in begin[mine]:
            assert ((begin[mine] <= moment) & (end[mine] > moment + 1e-9)).sum() <= limit


@pytest.mark.parametrize(
    "policy",
    sorted(
        set(POLICIES)
        - {
            "random",
            "round-robin",
            "power-of-two",
            "offline-optimum",
            "blind-greedy",
            "blind-balanced",
            "blind-optimal",
        }
    ),
)
@pytest.mark.parametrize("kind", ["poisson", "bursts"])
def test_policies_that_see_load_refuse_rather_than_overload(policy: str, kind: str) -> None:
    fleet = fleet_of([(2, 1), (3, 0), (1, 2)])
    clock = ManualClock()
    scene = make_scene(generate_traffic(kind, 150, seed=3), fleet, seed=3, setup=Setup(load=1.5))
    result = replay(scene, make_policy(policy, scene, clock), clock)
    assert not (result.outcome == OVERLOADED).any()
    assert (result.outcome == REFUSED).any()


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability of waiting in M/M/c (Erlang 1917)."""
    blocking = 1.0
    for k in range(1, servers + 1):
        blocking = offered * blocking / (k + offered * blocking)
    return blocking / (1.0 - offered / servers * (1.0 - blocking))


@pytest.mark.parametrize(("servers", "utilization"), [(1, 0.5), (4, 0.6)])
def test_mean_wait_is_that_of_erlang(servers: int, utilization: float) -> None:
    """Exponential service: tokens are drawn from a geometric law so fine that it is exponential."""
    n, mean_s = 400_000, 1.0
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(mean_s / (utilization * servers), n))
    tokens = rng.exponential(1e6, n).astype(np.int64)
    traffic = Traffic(
        name="M/M/c", arrival_s=arrival, input_tokens=np.ones(n, np.int64), output_tokens=tokens
    )
    model = Model(
        id="m",
        capacity=Capacity(max_concurrent=servers, max_queue=n),
        latency_s=0.0,
        output_tokens_per_second=1e6,
    )
    flat = np.zeros((n, 1))
    scene = Scene(
        traffic=traffic,
        fleet=Fleet([model], ServerParams(slowdown=0.0)),
        quality=Quality(outcome=flat, predicted=flat),
        uniform_draws=np.ones((n, 2)),
        seed=0,
    )
    result = replay(scene, make_policy("constant:m", scene, ManualClock()), ManualClock())
    offered = servers * utilization
    expected = erlang_c(servers, offered) * mean_s / (servers - offered)
    assert float(result.wait_s.mean()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("kind", ["gamma", "weibull", "bursts"])
def test_generators_have_the_rate_and_variation_asked_for(kind: str) -> None:
    gaps = np.diff(generate_traffic(kind, 200_000, rate_per_s=5.0, cv=2.0, seed=1).arrival_s)
    assert gaps.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.05)


def test_same_seed_same_results() -> None:
    fleet = fleet_of([(2, 2), (2, 2)])
    runs = []
    for _ in range(2):
        results = run_experiment(
            lambda seed: generate_traffic("gamma", 200, seed=seed),
            fleet,
            ["weighted-optimal", *CHEAP],
            seeds=2,
            setup=Setup(load=0.9),
        )
        runs.append([{k: v for k, v in one.items() if k not in MEASURED} for one in results])
    assert runs[0] == runs[1]


def test_intervals_are_students() -> None:
    found = interval_of([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0 - half, 2.0 + half))
    assert interval_of([math.nan]).mean is None


def test_unknown_policies_are_listed_with_the_known() -> None:
    with pytest.raises(SpecError, match="weighted-optimal"):
        check_policies(["fastest"], ["m"])
    with pytest.raises(SpecError, match="a model of the fleet"):
        check_policies(["constant:x"], ["m"])

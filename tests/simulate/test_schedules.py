"""Disruptions happen when they are planned, policies learn of them, and no request is lost count of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver import Capacity, Model, ScalingAction, ScalingRule, SpecError
from solver.clock import ManualClock
from solver.simulate.experiment import Setup, make_scene, run_experiment
from solver.simulate.policies.registry import make_policy
from solver.simulate.quality import Population, Predictor
from solver.simulate.replay import FAILED, IN_FLIGHT, OVERLOADED, REFUSED, SERVED, THROTTLED, Replay, replay
from solver.simulate.schedule import Disruption
from solver.simulate.servers import Fleet
from solver.simulate.traffic_generators import generate_traffic

POLICIES = (
    "weighted-optimal",
    "optimal-router",
    "blind-greedy",
    "least-tokens",
    "route-balance",
    "power-of-two",
)


def fleet_of(slots: int = 4, models: int = 2) -> Fleet:
    return Fleet(
        [
            Model(
                id=f"m{j}",
                capacity=Capacity(max_concurrent=slots, max_queue=3),
                capabilities={"a": 0.9 - 0.2 * j},
                latency_s=0.2,
                output_tokens_per_second=80.0,
            )
            for j in range(models)
        ]
    )


def replayed(
    policy: str, *disruptions: Disruption, n: int = 200, load: float = 0.7, retries: int = 0
) -> Replay:
    setup = Setup(load=load, schedule=disruptions, retries=retries)
    scene = make_scene(generate_traffic("poisson", n, seed=2), fleet_of(), seed=2, setup=setup)
    clock = ManualClock()
    return replay(scene, make_policy(policy, scene, clock), clock)


def counts(result: Replay) -> dict[int, int]:
    return {end: int((result.outcome == end).sum()) for end in range(-1, 5)}


disruptions = st.builds(
    lambda model, start, length, kind, value, announced: Disruption(
        model=f"m{model}",
        from_s=start,
        until_s=start + length,
        announced=announced,
        **{
            "outage": {"outage": True},
            "failure_rate": {"failure_rate": value},
            "reject_rate": {"reject_rate": value},
            "slower": {"slower": 0.5 + 3 * value},
            "slots": {"slots": int(8 * value)},
        }[kind],
    ),
    st.integers(0, 1),
    st.floats(0, 60),
    st.one_of(st.floats(0.1, 60), st.just(math.inf)),
    st.sampled_from(["outage", "failure_rate", "reject_rate", "slower", "slots"]),
    st.floats(0, 1),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(
    schedule=st.lists(disruptions, max_size=5),
    policy=st.sampled_from(POLICIES),
    load=st.floats(0.2, 2.0),
    retries=st.integers(0, 2),
)
def test_every_request_is_accounted_for_whatever_goes_wrong(
    schedule: list[Disruption], policy: str, load: float, retries: int
) -> None:
    result = replayed(policy, *schedule, n=80, load=load, retries=retries)
    count = counts(result)
    assert count[IN_FLIGHT] == 0
    assert sum(count.values()) == 80
    assert (~np.isnan(result.end_s[result.outcome == SERVED])).all()
    assert ((result.column >= 0) | (result.outcome == REFUSED)).all()


def test_an_outage_ends_what_runs_and_lets_nothing_in() -> None:
    down = Disruption(model="m0", from_s=20.0, until_s=40.0, outage=True)
    result = replayed("constant:m0", down, n=120, load=0.3)
    during = (result.arrival_s >= 20.0) & (result.arrival_s < 40.0)
    assert during.any()
    assert (result.outcome[during] == THROTTLED).all()
    running = (result.start_s < 20.0) & (result.end_s == 20.0)
    assert (result.outcome[running] == FAILED).all()
    assert not ((result.start_s >= 20.0) & (result.start_s < 40.0)).any()
    assert (result.outcome[result.arrival_s > 60] == SERVED).any()


def test_policies_that_hear_of_an_outage_avoid_the_model_and_the_blind_do_not() -> None:
    down = Disruption(model="m0", from_s=10.0, until_s=60.0, outage=True)
    aware, blind = replayed("weighted-optimal", down, load=0.4), replayed("blind-greedy", down, load=0.4)
    assert counts(aware)[SERVED] >= 190
    assert counts(blind)[SERVED] <= 170


def test_429s_are_throttled_and_retries_go_elsewhere() -> None:
    busy = Disruption(model="m0", from_s=0.0, reject_rate=1.0)
    assert counts(replayed("round-robin", busy, load=0.3))[THROTTLED] == 100
    assert counts(replayed("round-robin", busy, load=0.3, retries=1))[THROTTLED] == 0


def test_failures_have_their_rate_and_slowness_its_factor() -> None:
    result = replayed("round-robin", Disruption(model="m0", from_s=0.0, failure_rate=0.5), load=0.3)
    mine = result.column == 0
    assert 0.3 < (result.outcome[mine] == FAILED).mean() < 0.7
    assert not (result.outcome[~mine] == FAILED).any()
    usual, slow = (
        replayed("constant:m0", load=0.005),
        replayed("constant:m0", Disruption(model="m0", from_s=0.0, slower=3.0), load=0.005),
    )  # so little that each request mostly runs alone: a fuller server is slower still
    assert np.nanmedian(slow.latency_s / usual.latency_s) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("policy", ["weighted-greedy", "optimal-router", "least-tokens", "power-of-two"])
def test_announced_capacities_are_kept_and_more_slots_are_used(policy: str) -> None:
    fewer = replayed(policy, Disruption(model="m0", from_s=0.0, slots=0), load=0.3)
    assert counts(fewer)[SERVED] == 200
    assert (fewer.column == 1).sum() == 200
    more = replayed(policy, Disruption(model="m0", from_s=0.0, slots=40), load=1.5)
    # Power of two may draw the small model twice, however full it is.
    assert counts(more)[OVERLOADED] <= (3 if policy == "power-of-two" else 0)
    assert counts(more)[SERVED] > counts(replayed(policy, load=1.5))[SERVED]


def test_schedules_name_what_is_wrong() -> None:
    with pytest.raises(SpecError, match="from_s"):
        Disruption(model="m", from_s=-1.0, outage=True)
    with pytest.raises(SpecError, match="expected one of outage"):
        Disruption(model="m", from_s=0.0)
    with pytest.raises(SpecError, match="a model of the fleet"):
        replayed("random", Disruption(model="n0", from_s=0.0, outage=True))


def test_rules_in_dry_run_change_nothing_and_enforced_ones_act() -> None:
    rule = ScalingRule(
        threshold_utilization=0.9,
        threshold_duration_ms=2000,
        action=ScalingAction.REJECT_NEW,
        cooldown_ms=0.0,
    )

    def run(policy: str, **more: object) -> dict[str, object]:
        setup = Setup(load=1.2, **more)  # type: ignore[arg-type]
        [one] = run_experiment(
            lambda seed: generate_traffic("poisson", 300, seed=seed),
            fleet_of(),
            [policy],
            seeds=1,
            setup=setup,
        )
        return one

    plain, dry = run("weighted-optimal"), run("weighted-optimal", rules=(rule,))
    assert dry["rule_events"]
    assert plain["served"] == dry["served"]
    assert plain["p99_latency_ms"] == dry["p99_latency_ms"]
    acted = run("weighted-optimal", rules=(rule,), enforce_rules=True)
    assert acted["served"] != plain["served"]
    assert run("least-tokens", rules=(rule,))["rule_events"]


def test_noise_is_calibrated_and_as_good_as_it_says() -> None:
    rng = np.random.default_rng(0)
    outcome = rng.normal(0.0, 1.0, (4000, 3)) + np.arange(3.0)
    population = Population(outcome=outcome, group=np.zeros(4000, np.int64))
    for explained in (0.0, 0.3, 1.0):
        drawn = population.draw(
            20_000, np.random.default_rng(1), predictor=Predictor(kind="noise", explained=explained)
        )
        rest = drawn.predicted - drawn.predicted.mean(axis=0)
        if explained:
            slope = (rest * drawn.outcome).sum() / (rest**2).sum()
            assert slope == pytest.approx(1.0, abs=0.05)
        share = rest.var() / drawn.outcome.var(axis=0).mean()
        assert share == pytest.approx(explained, abs=0.05)
    with pytest.raises(SpecError, match="noise=SHARE"):
        Predictor.parse("noise=2x")


def test_no_policy_knows_how_long_the_answers_of_the_trace_are() -> None:
    """Until the first answer has ended, other answers lead to the same decisions."""
    for policy in (
        "weighted-optimal",
        "predictive-greedy",
        "optimal-router",
        "least-tokens",
        "route-balance",
    ):
        columns = []
        for factor in (1, 50):
            traffic = generate_traffic("poisson", 6, rate_per_s=1e4, seed=1)
            longer = type(traffic)(
                name="t",
                arrival_s=traffic.arrival_s,
                input_tokens=traffic.input_tokens,
                output_tokens=(100 + traffic.output_tokens) * factor,
            )
            scene = make_scene(longer, fleet_of(), seed=0)
            clock = ManualClock()
            columns.append(replay(scene, make_policy(policy, scene, clock), clock).column.tolist())
        assert columns[0] == columns[1], policy

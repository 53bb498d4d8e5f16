"""Prices and cores of very many agents: against brute force, the linear relaxation, and awkward instances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from solver.clock import Deadline, ManualClock
from solver.engines.base import Claim
from solver.engines.certificate import certify, reduced_scores
from solver.engines.greedy import GreedyEngine
from solver.engines.lagrangian import LagrangianEngine
from solver.engines.lagrangian.candidate_models import NearArcs, Survey, survey, typical_prices
from solver.engines.lagrangian.core_problem import restrict, solve_core
from solver.engines.lagrangian.interior_point import relax
from solver.engines.lagrangian.large import Large
from solver.engines.lagrangian.params import LagrangianParams, LargeParams
from solver.engines.lagrangian.smoothed_dual import SmoothedOptimum, minimise_smoothed_dual
from solver.engines.standard_form import build_form
from solver.problem.build import build_instance
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.limit_kinds import Budget, Quota


def tokens(n: int, m: int, seed: int = 0, *, money: float | None = None, **changes: Any) -> Instance:
    """Return lognormal token demands and, given a part of the mean price, memory, a budget and quotas."""
    rng = np.random.default_rng(seed)
    demand = np.rint(rng.lognormal(6, 1, (n, 1)) * rng.uniform(0.7, 1.4, m)) + 1
    price = rng.uniform(0.2, 3.0, m)
    score = 400 * rng.uniform(0, 1, m) - price * demand / 10 - rng.exponential(100, (n, m))
    capacity = rng.dirichlet(np.full(m, 20.0)) * demand.mean() * n * 1.2
    arguments: dict[str, Any] = {"demand": demand, "unassigned_penalty": np.inf}
    if money is not None:
        usd = demand * price / 1e6
        capacity = np.stack([1.5 * capacity, np.full(m, 4.0 * n / m)], axis=1)
        arguments["demand"] = np.stack([demand, np.broadcast_to(rng.uniform(1, 4, (n, 1)), (n, m))], axis=2)
        arguments["limits"] = [
            Budget(name="usd", amount=float(money * usd.mean() * n), cost=usd),
            Quota(name="tenant", agents=np.arange(n) % 3 == 0, models=[0], at_most=0.3 * n / m),
        ]
    arguments |= {"scores": score, "capacity": capacity} | changes
    return build_instance(arguments.pop("scores"), arguments.pop("capacity"), **arguments)


def type_d(n: int, m: int, seed: int = 0) -> Instance:
    """Return demands that nearly decide the score: every price is about 1, and most agents are tied."""
    rng = np.random.default_rng(seed)
    demand = rng.integers(1, 101, (n, m)).astype(float)
    score = demand - 111 - rng.integers(-10, 11, (n, m))
    return build_instance(
        score, np.floor(0.8 * demand.sum(axis=0) / m), demand=demand, unassigned_penalty=np.inf
    )


def settled(
    instance: Instance, seen: Survey, *, reach: float = np.inf, trust_radius: float = 10.0, **changes: Any
) -> tuple[NearArcs, SmoothedOptimum]:
    scale = typical_prices(instance, seen)
    arcs = NearArcs(instance, seen, scale=scale, reach=reach)
    arguments: dict[str, Any] = {
        "temperature": 0.03,
        "coldest": 1e-4,
        "scale": scale,
        "trust_radius": trust_radius,
        "deadline": Deadline.after(60_000),
        "stop_s": np.inf,
        "rng": np.random.default_rng(0),
    }
    return arcs, minimise_smoothed_dual(arcs, **(arguments | changes))


@pytest.mark.parametrize("leave", [False, True])
def test_a_survey_finds_the_best_models_and_the_bound(leave: bool) -> None:
    instance = tokens(60, 6, money=0.7, unassigned_penalty=300.0)
    rng = np.random.default_rng(1)
    prices, limit_prices = rng.uniform(0, 0.1, (6, 2)), rng.uniform(0, 9.0, 2)
    seen = survey(instance, prices, limit_prices, nearest=4, leave=leave)
    value = reduced_scores(instance, slice(None), prices, limit_prices=limit_prices)
    value[instance.oversized(slice(None))] = -np.inf
    if leave:
        value = np.column_stack([value, instance.unserved])
    best = -np.sort(-value, axis=1).T[:4]
    if leave:
        best[3] = np.where((best == -300.0).any(axis=0), best[3], -300.0)
    np.testing.assert_allclose(seen.reduced, best)
    np.testing.assert_allclose(np.take_along_axis(value, seen.model.T, 1).T, seen.reduced)
    assert instance.limits is not None
    fixed = (prices * instance.capacity).sum() + limit_prices @ instance.limits.bound
    assert seen.bound == pytest.approx(value.max(axis=1).sum() + fixed)


def test_margins_of_agents_without_a_choice_are_infinite() -> None:
    score = np.array([[3.0, -np.inf], [1.0, 2.0], [-np.inf, -np.inf]])
    instance = build_instance(score, [9.0, 9.0], demand=np.full((3, 2), 2.0), unassigned_penalty=np.inf)
    seen = survey(instance, np.zeros((2, 1)), np.zeros(0), nearest=2, leave=False)
    assert seen.unservable.tolist() == [False, False, True]
    assert seen.margin[:2].tolist() == [np.inf, 1.0]


@pytest.mark.parametrize("money", [None, 0.7])
def test_decided_agents_stay_decided_within_the_leash(money: float | None) -> None:
    instance = tokens(2000, 8, money=money)
    rng = np.random.default_rng(0)
    seen = survey(
        instance,
        rng.uniform(0, 0.2, instance.capacity.shape),
        np.full(0 if money is None else 2, 5.0),
        nearest=8,
        leave=False,
    )
    scale = typical_prices(instance, seen)
    arcs = NearArcs(instance, seen, scale=scale, reach=0.4)
    assert 0 < len(arcs.agents) < instance.n
    for _ in range(5):
        price = arcs.price + rng.uniform(-0.2, 0.2, len(scale)) * np.maximum(arcs.price, scale)
        price = np.maximum(price, 0.0)
        moved = survey(
            instance, price[: instance.capacity.size].reshape(-1, instance.r), price[instance.capacity.size :],
            nearest=1, leave=False,
        )  # fmt: skip
        assert arcs.dual(price) == pytest.approx(moved.bound)


@pytest.mark.parametrize("instance", [tokens(3000, 8), tokens(3000, 8, money=0.7), type_d(3000, 8)])
def test_settled_prices_are_those_of_the_linear_relaxation(instance: Instance) -> None:
    form = build_form(instance, leave=False)
    exact = relax(form, deadline=Deadline.after(60_000), rng=np.random.default_rng(0), jitter=0.0)
    zero = np.zeros(0 if instance.limits is None else instance.limits.count)
    seen = survey(instance, np.full(instance.capacity.shape, 0.2), zero, nearest=8, leave=False)
    arcs, found = settled(instance, seen)
    assert not found.held
    assert arcs.dual(found.price) == pytest.approx(form.offset - exact.bound, rel=2e-5)
    excess = arcs.load(found.weight) - arcs.right
    assert (excess <= 1e-3 * np.abs(arcs.right)).all()


def test_prices_stop_at_the_end_of_their_leash() -> None:
    instance = tokens(1000, 6)
    seen = survey(instance, np.zeros((6, 1)), np.zeros(0), nearest=6, leave=False)
    arcs, found = settled(instance, seen, trust_radius=0.05)
    assert found.held
    assert (found.price <= 0.05 * typical_prices(instance, seen) * (1 + 1e-12)).all()
    assert found.temperature > 1e-4
    assert arcs.dual(found.price) < seen.bound


def test_no_step_is_begun_after_the_time_is_up() -> None:
    instance = tokens(200, 4)
    seen = survey(instance, np.zeros((4, 1)), np.zeros(0), nearest=4, leave=False)
    clock = ManualClock(5.0)
    _, found = settled(instance, seen, deadline=Deadline.after(1_000, clock=clock), stop_s=5.0)
    assert found.steps == 0
    np.testing.assert_array_equal(found.price, np.zeros(4))


def test_a_sample_of_the_divided_gives_the_same_prices() -> None:
    instance = tokens(3000, 6)
    seen = survey(instance, np.zeros((6, 1)), np.zeros(0), nearest=6, leave=False)
    _, every = settled(instance, seen, coldest=1e-3)
    _, some = settled(instance, seen, coldest=1e-3, most_curved=300)
    np.testing.assert_allclose(some.price, every.price, rtol=1e-2, atol=1e-3)


def test_drawing_by_lot_keeps_the_loads() -> None:
    instance = type_d(5000, 8)
    seen = survey(instance, np.ones((8, 1)), np.zeros(0), nearest=8, leave=False)
    arcs, found = settled(instance, seen, coldest=5e-3)
    assert (found.weight.max(axis=0) < 0.9).sum() > 500
    load = instance.usage(arcs.drawn(found.weight, 0.3))[:, 0]
    np.testing.assert_allclose(load, arcs.load(found.weight), rtol=0.03)


def test_slack_leaves_room_but_never_more_than_half() -> None:
    instance = tokens(500, 4)
    seen = survey(instance, np.zeros((4, 1)), np.zeros(0), nearest=4, leave=False)
    arcs = NearArcs(instance, seen, scale=typical_prices(instance, seen), reach=np.inf)
    before = arcs.right
    arcs.tighten(2.0)
    assert instance.demand is not None
    np.testing.assert_allclose(before - arcs.right, 2 * instance.demand[:, :, 0].mean(axis=0))
    arcs.tighten(1e6)
    assert (arcs.right > 0).all()


def test_a_core_without_room_for_somebody_has_no_answer() -> None:
    instance = tokens(50, 3)
    rest = restrict(instance, np.arange(10), np.ones((3, 1)), np.zeros(0))
    answer = solve_core(
        rest,
        np.zeros(10, np.int64),
        np.zeros(3),
        leave=False,
        slack=0.0,
        patience=2,
        deadline=Deadline.after(1_000),
        stop_s=np.inf,
        rng=np.random.default_rng(0),
    )
    assert answer is None


SMALL = LagrangianParams(
    large=LargeParams(least_agents=500, sample_agents=500, large_sample_agents=1000, core_agents=400)
)
"""Everything is large that has a few thousand agents."""


def solve(instance: Instance, tolerance: float = 1e-4) -> tuple[Large, float]:
    solver = Large(instance, deadline=Deadline.after(20_000), rng=np.random.default_rng(0), params=SMALL)
    solver.run(tolerance)
    assert solver.best is not None
    limit_prices = solver.limit_prices if len(solver.limit_prices) else None
    certificate = certify(
        instance, Claim(choice=solver.best, prices=solver.prices, limit_prices=limit_prices)
    )
    assert certificate.violations == ()
    return solver, certificate.gap


@pytest.mark.parametrize(
    "instance",
    [
        tokens(4000, 8),
        tokens(4000, 8, money=0.7),
        type_d(4000, 8),
        tokens(4000, 8, unassigned_penalty=300.0),
        tokens(4000, 8, unassigned_penalty=None),
    ],
    ids=["tokens", "two resources, a budget and a quota", "type d", "penalty", "serve first"],
)
def test_many_agents_are_solved_within_a_tenth_of_a_percent(instance: Instance) -> None:
    _, gap = solve(instance, 1e-3)
    assert gap < 1e-3


def test_closed_models_forbidden_pairs_and_single_precision() -> None:
    base = tokens(4000, 8)
    score = np.asarray(base.score).astype(np.float32)
    score[np.random.default_rng(3).random(score.shape) < 0.1] = -np.inf
    capacity = 1.4 * base.capacity[:, 0]
    capacity[2] = 0.0
    assert base.demand is not None
    instance = build_instance(score, capacity, demand=base.demand[:, :, 0], unassigned_penalty=np.inf)
    found, gap = solve(instance, 1e-3)
    assert gap < 1e-3
    assert found.prices.max() < 1e6


def test_short_capacity_serves_whom_it_can() -> None:
    base = tokens(2000, 8)
    assert base.demand is not None
    demand = base.demand[:, :, 0]
    instance = build_instance(base.score, 0.4 * base.capacity[:, 0], demand=demand)
    found, _ = solve(instance)
    assert found.best is not None
    assert 0.4 < (found.best != UNASSIGNED).mean() < 1


def test_a_sample_that_asks_for_too_much_gets_more_room() -> None:
    instance = tokens(4000, 8, capacity=np.full(8, 10_000.0))
    found = Large(instance, deadline=Deadline.after(2_000), rng=np.random.default_rng(0), params=SMALL)
    found.run(1e-3)
    assert found.best is None
    assert np.isfinite(found.prices).all()


def test_an_agent_that_must_be_served_and_fits_nowhere_is_a_proof() -> None:
    base = tokens(2000, 6)
    score = np.array(base.score)
    score[7] = -np.inf
    assert base.demand is not None
    instance = build_instance(
        score, base.capacity[:, 0], demand=base.demand[:, :, 0], unassigned_penalty=np.inf
    )
    claim = LagrangianEngine(SMALL).solve(instance, deadline=Deadline.after(50))
    assert claim is not None
    assert claim.infeasible


def test_without_time_the_hint_comes_back() -> None:
    instance = tokens(4000, 8, capacity=np.full(8, 1e9))
    clock = ManualClock()
    deadline = Deadline.after(10, clock=clock)
    clock.advance(0.0099)
    hint = Claim(choice=np.arange(4000) % 8)
    claim = LagrangianEngine(SMALL).solve(instance, deadline=deadline, hint=hint)
    assert claim is not None
    np.testing.assert_array_equal(claim.choice, hint.choice)
    full = tokens(4000, 8, capacity=np.full(8, 1e4))
    assert LagrangianEngine(SMALL).solve(full, deadline=deadline, hint=hint) is None


def test_where_agents_may_stay_out_a_better_hint_is_improved_on() -> None:
    base = tokens(2000, 8)
    assert base.demand is not None
    demand = base.demand[:, :, 0]
    instance = build_instance(base.score, 0.4 * base.capacity[:, 0], demand=demand)
    greedy = GreedyEngine().solve(instance, deadline=Deadline.after(10_000))
    claim = LagrangianEngine(SMALL).solve(instance, deadline=Deadline.after(700), hint=greedy)
    assert claim is not None
    assert greedy is not None
    assert certify(instance, claim).violations == ()
    assert (claim.choice != UNASSIGNED).sum() >= (greedy.choice != UNASSIGNED).sum()


def test_prices_that_miss_models_go_back_with_a_smaller_trust_radius() -> None:
    params = LagrangianParams(large=replace(SMALL.large, near_models=2, wide_margin=8.0))
    instance = type_d(3000, 10)
    found = Large(instance, deadline=Deadline.after(3_000), rng=np.random.default_rng(0), params=params)
    found.run(1e-2)
    assert found.best is not None
    assert np.isfinite(found.bound)


def test_what_is_large() -> None:
    assert Large.is_for(tokens(20_000, 60), budget_s=1_000.0)
    assert Large.is_for(tokens(9_000, 12), budget_s=0.1)
    assert not Large.is_for(tokens(9_000, 12), budget_s=10.0)
    assert not Large.is_for(tokens(500, 12), budget_s=1e-3)

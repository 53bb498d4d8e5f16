"""Limits that may be exceeded at a price per unit: every engine, both objectives, the certificate, the report."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import solver
from solver import Status
from solver.engines.base import Claim
from solver.engines.certificate import certify
from solver.engines.lagrangian.violation_agents import with_violation_agents
from solver.problem.build import build_instance
from solver.solution.infeasibility import explain_infeasibility

SCORES = np.array([[9.0, 1.0], [8.0, 2.0], [7.0, 3.0], [6.0, 4.0]])
ENGINES = ("auto", "enumeration", "cpsat", "lagrangian")


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """Deadlines here are for searching: importing CP-SAT alone takes half a second."""
    solver.warm_up("cpsat")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("price", "served_by_first", "objective"), [(0.0, 4, 30.0), (1.0, 4, 27.0), (5.0, 2, 19.0), (100.0, 1, 18.0)]
)  # fmt: skip
def test_a_unit_beyond_the_limit_costs_its_price(
    engine: str, price: float, served_by_first: int, objective: float
) -> None:
    quota = solver.Quota(name="q", models=[0], at_most=1, violation_price=price)
    solution = solver.assign(SCORES, [4, 4], limits=[quota], engine=engine, deadline_ms=2_000)
    assert (solution.choice == 0).sum() == served_by_first
    assert solution.objective == pytest.approx(objective)
    assert solution.gap <= 1e-6
    assert (solution.limit_prices <= price + 1e-12).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_money_is_exceeded_by_fractions(engine: str) -> None:
    cost = np.array([0.37, 0.01])
    budget = solver.Budget(name="usd", amount=0.5, cost=cost, violation_price=17.3)
    solution = solver.assign(SCORES, [4, 4], limits=[budget], engine=engine, deadline_ms=2_000)
    best = max(
        SCORES[range(4), plan].sum() - 17.3 * max(0.0, cost[list(plan)].sum() - 0.5)
        for plan in itertools.product(range(2), repeat=4)
    )
    assert solution.objective == pytest.approx(best)
    assert solution.bound >= best - 1e-9


@pytest.mark.parametrize("engine", ENGINES)
def test_service_comes_before_the_price_of_a_limit(engine: str) -> None:
    quota = solver.Quota(name="q", at_most=1, violation_price=1000.0)
    hard = solver.Quota(name="h", models=[0], at_most=1)
    solution = solver.assign(SCORES, [4, 4], limits=[quota, hard], engine=engine, deadline_ms=2_000)
    assert (solution.choice >= 0).all()
    assert solution.objective == pytest.approx(18.0 - 3000.0)
    optional = solver.assign(
        SCORES, [4, 4], limits=[quota, hard], engine=engine, unassigned_penalty=0, deadline_ms=2_000
    )
    assert optional.objective == pytest.approx(9.0)


def test_lower_limits_and_costs() -> None:
    least = solver.Commitment(name="c", models=[1], at_least=3, violation_price=2.0)
    assert solver.assign(SCORES, [4, 4], limits=[least]).objective == pytest.approx(28 - 2 * 2)
    cheap = solver.assign(SCORES, [4, 4], limits=[replace(least, models=[0])], sense="minimize")
    assert cheap.objective == pytest.approx(1 + 2 + 3 + 4 + 3 * 2)
    assert cheap.status is Status.OPTIMAL


def test_prices_above_that_of_a_violation_prove_no_wrong_bound() -> None:
    quota = solver.Quota(name="q", models=[0], at_most=1, violation_price=1.0)
    instance = build_instance(SCORES, [4, 4], limits=[quota])
    claim = Claim(choice=np.array([0, 0, 0, 0]), prices=np.zeros((2, 1)), limit_prices=np.array([50.0]))
    certificate = certify(instance, claim)
    assert certificate.objective == pytest.approx(27.0)
    assert certificate.bound >= 27.0
    assert certificate.optimal
    worse = certify(instance, replace(claim, choice=np.array([0, 1, 1, 1])))
    assert worse.objective == pytest.approx(18.0)
    assert worse.bound >= 27.0


def test_only_what_must_hold_can_conflict() -> None:
    limits: list[solver.Limit] = [
        solver.Quota(name="soft", at_most=0, violation_price=1.0),
        solver.Commitment(name="promise", models=[0], at_least=3),
        solver.Budget(name="usd", amount=2.0, cost=[1.0, 0.0]),
    ]
    conflict = explain_infeasibility(build_instance(SCORES, [4, 4], limits=limits))
    assert sorted(conflict.rows) == ["limit promise", "limit usd"]
    assert solver.assign(SCORES, [4, 4], limits=limits).status is Status.INFEASIBLE
    softened = [replace(limit, violation_price=1.0) for limit in limits]  # type: ignore[call-arg]
    assert solver.assign(SCORES, [4, 4], limits=softened).status is Status.OPTIMAL


def test_many_agents_come_close_to_the_bound() -> None:
    rng = np.random.default_rng(4)
    n, m = 600, 6
    scores, tokens = rng.random((n, m)), rng.integers(1, 9, (n, 1)).astype(float)
    limits = [
        solver.Budget(name="usd", amount=300.0, cost=tokens * [4, 3, 2, 1, 1, 0.5], violation_price=0.02),
        solver.Share(name="s", models=[0, 1], at_most=0.2, violation_price=0.3),
        solver.Quota(name="t", agents=np.arange(200), models=[0], at_most=10, violation_price=0.1),
    ]
    solution = solver.assign(scores, [150] * m, limits=limits, deadline_ms=1_500)
    assert solution.gap < 2e-3
    usd = float((tokens[:, 0] * np.array([4, 3, 2, 1, 1, 0.5])[solution.choice]).sum())
    assert solution.limit_load[0] == pytest.approx(usd)
    assert usd > 300.0


def test_agents_that_take_the_excess_make_the_same_value() -> None:
    quota = solver.Quota(name="q", models=[0], at_most=1, violation_price=2.5)
    instance = build_instance(SCORES, [4, 4], limits=[quota])
    extension = with_violation_agents(instance)
    assert extension is not None
    assert with_violation_agents(extension.instance) is None
    for plan in itertools.product(range(2), repeat=4):
        choice = np.array(plan)
        extended = certify(extension.instance, Claim(choice=extension.extended(choice)))
        assert extended.objective == pytest.approx(certify(instance, Claim(choice=choice)).objective)
        assert not extended.violations


@pytest.mark.parametrize("price", [-1.0, np.nan, np.inf, "2", True])
def test_a_wrong_price_is_named(price: object) -> None:
    quota = solver.Quota(name="q", models=[0], at_most=1, violation_price=price)  # type: ignore[arg-type]
    with pytest.raises(
        solver.SpecError, match=r"limits\[0\] \(q\).violation_price: expected a finite number >= 0"
    ):
        solver.assign(SCORES, [4, 4], limits=[quota])

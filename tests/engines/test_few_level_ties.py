"""Handing out ties, prices set by few agents, and remembered best responses: each against what it replaces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from solver.clock import Deadline
from solver.engines.base import Claim, load_engine
from solver.engines.certificate import best_response, certify, verification_seconds
from solver.engines.price.agent_rows import DenseRows
from solver.engines.price.contested_flow import solve_boxed_flow
from solver.engines.price.few_level_ties import hand_out_ties
from solver.engines.price.scarce_prices import price_scarce, small_slot_shortage
from solver.engines.price.smoothed_dual import Estimate
from solver.engines.slot_supply import Supply
from solver.problem.build import build_instance
from solver.problem.instance import UNASSIGNED

NO_LIMIT = Deadline.after(None)


@pytest.mark.parametrize("seed", range(6))
def test_ties_handed_out_are_a_flow_of_the_same_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = 3_000, 12
    scores = rng.integers(0, 3, (n, m)).astype(float)
    slots = np.full(m, n // m + 20)
    instance = build_instance(scores, slots)
    supply = Supply.of(instance)
    rows = DenseRows(np.asarray(instance.score), None, supply.closed)
    contested = rows.reduce(np.zeros(m), np.full(m, 0.4)).contested
    handed = hand_out_ties(contested, supply, np.zeros(m), 1.0)
    solved = solve_boxed_flow(contested, supply, resolution=1.0, grid=1.0)
    assert handed is not None
    assert float(handed.flow @ contested.value) == float(solved.flow @ contested.value)
    load = np.bincount(contested.model, handed.flow, m + 1)[:m] + contested.settled[:m]
    assert (load <= slots).all()


def test_ties_at_wrong_prices_are_not_handed_out() -> None:
    """One model is everybody's best, and its price says so only if it rises."""
    scores = np.ones((400, 3))
    scores[:, 0] = 2.0
    supply = Supply.of(build_instance(scores, [100, 300, 300]))
    rows = DenseRows(scores, None, supply.closed)
    contested = rows.reduce(np.zeros(3), np.full(3, 5.0)).contested
    assert hand_out_ties(contested, supply, np.zeros(3), 1.0) is None
    assert hand_out_ties(contested, supply, np.array([1.0, 0.0, 0.0]), 1.0) is not None


def test_few_levels_at_large_are_certified() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, (20_000, 25)).astype(float)
    instance = build_instance(scores, np.full(25, 800))
    claim = load_engine("price").solve(instance, deadline=NO_LIMIT)
    assert claim is not None
    assert certify(instance, claim).optimal


def test_prices_of_handfuls_are_order_statistics() -> None:
    rng = np.random.default_rng(4)
    scores = rng.random((5_000, 4))
    slots = np.array([3, 4_000, 4_000, 4_000])
    instance = build_instance(scores, slots)
    supply = Supply.of(instance)
    guess = Estimate(
        prices=np.zeros(4), error=np.ones(4), temperature=0.01, curvature=np.eye(4), is_sample=True
    )
    found = price_scarce(DenseRows(scores, None, supply.closed), supply, guess, short=0)
    exact = load_engine("flow").solve(instance, deadline=NO_LIMIT)
    assert exact is not None
    assert exact.prices is not None
    assert abs(found.prices[0] - exact.prices[0, 0]) <= 3 * found.error[0]
    assert found.error[0] < 0.1


@pytest.mark.parametrize("missing", [1, 7, 40])
def test_a_few_slots_too_few_are_certified(missing: int) -> None:
    rng = np.random.default_rng(missing)
    n, m = 20_000, 20
    slots = np.full(m, n // m)
    slots[0] -= missing
    instance = build_instance(rng.random((n, m)), slots)
    assert small_slot_shortage(n, Supply.of(instance)) == missing
    claim = load_engine("price").solve(instance, deadline=NO_LIMIT)
    assert claim is not None
    assert (claim.choice == UNASSIGNED).sum() == missing
    assert certify(instance, claim).optimal


@pytest.mark.parametrize("penalty", [None, 0.3, np.inf])
def test_a_remembered_response_changes_no_certificate(penalty: float | None) -> None:
    rng = np.random.default_rng(5)
    scores = rng.random((500, 6))
    prices = 0.3 * rng.random(6)
    choice = rng.integers(0, 6, 500)
    if penalty != np.inf:
        choice[::7] = UNASSIGNED
    claim = Claim(choice=choice, prices=prices[:, None])

    def judged(*, remembered: bool) -> float:
        instance = build_instance(scores, np.full(6, 500), unassigned_penalty=penalty)
        if remembered:
            response = best_response(instance, prices)
            assert (response.value == (scores - prices).max(axis=1)).all()
            assert (response.model == (scores - prices).argmax(axis=1)).all()
            return certify(instance, replace(claim, response=response)).bound
        return certify(instance, claim).bound

    assert judged(remembered=True) == pytest.approx(judged(remembered=False), rel=1e-12)


def test_a_response_at_other_prices_is_not_used() -> None:
    scores = np.random.default_rng(6).random((200, 3))
    claim = Claim(choice=scores.argmax(axis=1), prices=np.zeros((3, 1)))
    instance = build_instance(scores, np.full(3, 200))
    response = best_response(instance, np.full(3, 0.5))
    assert certify(instance, replace(claim, response=response)).optimal


def test_a_response_of_another_instance_is_not_used() -> None:
    scores = np.random.default_rng(6).random((200, 3))
    other = build_instance(np.zeros((200, 3)), np.full(3, 200))
    response = best_response(other, np.zeros(3))
    claim = Claim(choice=scores.argmax(axis=1), prices=np.zeros((3, 1)), response=response)
    instance = build_instance(scores, np.full(3, 200))
    assert verification_seconds(instance, claim) > 0
    assert certify(instance, claim).objective == scores.max(axis=1).sum()


def test_agents_without_another_choice_say_nothing_of_a_price() -> None:
    rng = np.random.default_rng(7)
    scores = rng.random((4_000, 6))
    scores[:5, 1:] = -np.inf  # more of them than slots: nobody can say what the first model is worth
    supply = Supply.of(build_instance(scores, [3, 900, 900, 900, 900, 900]))
    guess = Estimate(
        prices=np.zeros(6), error=np.ones(6), temperature=0.01, curvature=np.eye(6), is_sample=True
    )
    found = price_scarce(DenseRows(scores, None, supply.closed), supply, guess, short=0)
    assert np.isfinite(found.prices).all()
    assert np.isfinite(found.error).all()

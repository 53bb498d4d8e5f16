"""Multipliers of soft limits that are network structure, where all agents together do not reach a bound."""

from __future__ import annotations

import numpy as np
import pytest

import solver
from solver import Status
from tests.fuzz_laminar import check, draw


def test_a_soft_floor_that_nobody_can_reach_is_priced() -> None:
    """The hard floor takes the only agent: the charge for the missing one is certain, and its multiplier proves it."""
    limits = [
        solver.Quota(name="hard", models=[0], at_least=1),
        solver.Quota(name="soft", models=[0], at_least=2, violation_price=2.0),
    ]
    solution = solver.assign([[3.0]], [2], limits=limits, engine="flow")
    assert solution.status is Status.OPTIMAL
    assert (solution.objective, solution.bound) == (1.0, 1.0)
    assert not solution.bound_is_claimed
    assert solution.limit_prices.tolist() == [0.0, 2.0]


def test_a_capacity_beyond_all_agents_has_no_price() -> None:
    limits = [solver.Quota(name="all", models=[0], at_least=2), solver.Quota(name="some", at_most=5)]
    solution = solver.assign([[3.0], [-4.0]], [7], limits=limits, engine="flow")
    assert solution.status is Status.OPTIMAL
    assert solution.prices.tolist() == [0.0]
    assert solution.limit_prices[1] == 0.0


def test_a_bound_of_zero_is_proven_to_the_rounding_of_charges() -> None:
    """Nobody is served and nothing is charged; multipliers are as exact as the charges they balance."""
    limits = [
        solver.Quota(name="q", models=[1], at_most=0, at_least=0, use=3.0, violation_price=5.834152573210272),
        solver.Quota(name="r", models=[1], at_most=2.5, violation_price=4.932292651463744),
    ]
    scores = np.array([[-5.06303723, -2.70629109]])
    solution = solver.assign(scores, [1, 1], limits=limits, engine="flow", unassigned_penalty=0.0)
    assert solution.status is Status.OPTIMAL
    assert solution.objective == 0.0


def test_a_charge_that_is_certain_is_part_of_the_bound() -> None:
    """The floor counts a forbidden pair only: nobody can help it, and its multiplier says so."""
    limits = [
        solver.Quota(name="soft", agents=[0], models=[0], at_least=2, violation_price=3.0),
        solver.Budget(name="nothing", amount=0.0, cost=[[1.0, 0.0], [0.0, 0.0]]),
        solver.Quota(name="few", models=[1], at_most=1),
    ]
    solution = solver.assign(
        [[9.0, 1.0], [4.0, 5.0]], [2, 2], limits=limits, engine="flow", unassigned_penalty=0.0
    )
    assert solution.status is Status.OPTIMAL
    assert (solution.objective, solution.bound) == (-1.0, -1.0)
    assert solution.limit_prices[0] == 3.0
    assert not solution.bound_is_claimed


@pytest.mark.parametrize(
    ("seed", "number"),
    [(92, 1178), (95, 733), (101, 877), (104, 1104), (202, 1869), (203, 2227), (204, 63), (204, 434)],
)
def test_random_instances_that_were_not_proven(seed: int, number: int) -> None:
    assert check(draw(np.random.default_rng([seed, number]))) is None

"""Slots that cost more the fuller their model is, against an assignment of agents to single slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import solver
from solver import SpecError, Status
from solver.engines.base import Claim
from solver.engines.certificate import certify
from solver.problem.build import build_instance
from solver.problem.generate import generate_scores

if TYPE_CHECKING:
    from solver.problem.instance import Instance


def best_by_single_slots(instance: Instance) -> float:
    """Return the optimum with every slot a column of its own, its cost taken off the score."""
    model, cost, slots = instance.tiers
    columns = instance.score[:, np.repeat(model, slots)] - np.repeat(cost, slots)
    rows, picked = linear_sum_assignment(columns, maximize=True)
    return float(columns[rows, picked].sum())


SIZES = [(40, 4, seed) for seed in range(25)] + [(900, 30, seed) for seed in range(5)]


@pytest.mark.parametrize("engine", ["auto", "price"])
@pytest.mark.parametrize(("n", "m", "seed"), SIZES)
def test_the_optimum_spreads_load_as_single_slots_would(n: int, m: int, seed: int, engine: str) -> None:
    rng = np.random.default_rng(seed)
    scores, slots = generate_scores(n, m, seed=seed, fill=[0.5, 0.9, 1.0][seed % 3])
    if seed % 4 == 0:
        scores = np.round(scores, 1)
    if seed % 3 == 2:
        slots[int(slots.argmax())] += n - int(slots.sum())
    cost = np.sort(rng.integers(0, 5, (m, 4)) / 10, axis=1) if seed % 2 else np.array([0.0, 0.05, 0.2])
    instance = build_instance(scores, slots, load_cost=cost)
    solution = solver.assign(scores, slots, load_cost=cost, engine=engine)
    assert solution.status is Status.OPTIMAL
    assert solution.objective == pytest.approx(best_by_single_slots(instance), rel=1e-9)


def test_a_load_cost_levels_utilization() -> None:
    scores, _ = generate_scores(4000, 12, seed=3)
    slots = np.full(12, 700)
    free = solver.assign(scores, slots)
    charged = solver.assign(scores, slots, load_cost=np.linspace(0, 0.5, 10))
    assert charged.status is Status.OPTIMAL
    assert np.ptp(charged.load) < 0.6 * np.ptp(free.load)


def test_leaving_can_be_cheaper_than_the_last_tier() -> None:
    scores = np.full((10, 1), 1.0)
    solution = solver.assign(scores, [10], unassigned_penalty=0.0, load_cost=[0.5, 2.0])
    assert solution.status is Status.OPTIMAL
    assert solution.load.tolist() == [5.0]
    assert solution.objective == pytest.approx(2.5)


def test_the_certificate_charges_any_choice_and_bounds_it() -> None:
    scores, slots = generate_scores(200, 5, seed=1)
    cost = np.array([0.0, 0.1, 0.3])
    instance = build_instance(scores, slots, load_cost=cost)
    best = solver.assign(scores, slots, load_cost=cost)
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice = np.repeat(np.arange(5), slots)[rng.permutation(int(slots.sum()))[:200]].astype(np.int64)
        certificate = certify(instance, Claim(choice=choice, prices=rng.random((5, 1))))
        loads = np.bincount(choice, minlength=5)
        ends = np.rint(slots[:, None] * np.array([1, 2, 3]) / 3)
        paid = sum(
            cost[int(np.searchsorted(ends[j], k, side="right"))] for j in range(5) for k in range(loads[j])
        )
        assert certificate.objective == pytest.approx(scores[np.arange(200), choice].sum() - paid)
        assert certificate.bound >= best.objective - 1e-9


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ([0.2, 0.1], r"load_cost\[0, 1\]: expected finite, >= 0 and not below the tier before, got 0.1"),
        ([-1.0], r"load_cost\[0, 0\]"),
        ([[0.0], [np.inf]], r"load_cost\[1, 0\]"),
        (np.zeros((3, 2)), r"load_cost: expected shape \(tiers,\) or \(2, tiers\), got shape \(3, 2\)"),
        ([], r"load_cost: expected shape"),
    ],
)
def test_bad_load_costs_are_named(cost: list[float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_instance(np.ones((3, 2)), [2, 2], load_cost=cost)


def test_load_costs_are_for_slots() -> None:
    with pytest.raises(SpecError, match="load_cost: expected agents that take one slot each"):
        build_instance(np.ones((3, 2)), [2, 2], demand=[1.0, 2.0, 1.0], load_cost=[0.1])


def test_engines_that_know_no_load_cost_refuse() -> None:
    for engine in ("lsap", "flow", "cpsat"):
        with pytest.raises(SpecError, match="slots must not cost by load"):
            solver.assign(np.ones((3, 2)), [2, 2], load_cost=[0.1], engine=engine)

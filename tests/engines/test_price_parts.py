"""The parts of the price engine against independent computations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from solver.engines.price.agent_rows import DenseRows
from solver.engines.price.contested_flow import solve_boxed_flow
from solver.engines.price.duplicate_columns import first_duplicates, share_out
from solver.engines.price.repair import drop_overload
from solver.engines.price.time_left import NO_DEADLINE
from solver.engines.slot_supply import Supply
from solver.engines.smoothed_demand import DenseDemand, newton_step
from solver.problem.build import build_instance


def free_supply(slots: list[float]) -> Supply:
    m = len(slots)
    return Supply(model=np.arange(m), cost=np.zeros(m), slots=np.array(slots, float), models=m)


@pytest.mark.parametrize("seed", range(60))
def test_newton_steps_minimise_the_model_between_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m = int(rng.integers(2, 20))
    weight = np.triu(rng.random((m, m)) ** 6, 1)
    weight += weight.T
    laplacian = np.diag(weight.sum(axis=1)) - weight
    pull = rng.normal(size=m)
    if seed % 3 == 0:
        pull -= pull.mean()
    low, high = -rng.random(m) * rng.choice([0.1, 1, 10]), rng.random(m) * rng.choice([0.1, 1, 10])
    step = newton_step(laplacian, pull, low, high)
    assert ((low <= step) & (step <= high)).all()

    def model(d: np.ndarray) -> float:
        return float(0.5 * d @ laplacian @ d - pull @ d)

    search: Any = minimize
    best = search(
        model,
        np.zeros(m),
        jac=lambda d: laplacian @ d - pull,
        bounds=list(zip(low, high, strict=True)),
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 5000},
    )
    assert model(step) <= best.fun + 1e-6 * (1 + abs(best.fun))


@pytest.mark.parametrize("leaving", [False, True])
def test_responses_of_rows_and_of_arcs_are_those_of_the_definition(leaving: bool) -> None:
    rng = np.random.default_rng(1)
    score = rng.random((300, 6))
    outside = rng.random(300) - 1.0 if leaving else None  # so low that the box settles nobody
    closed = np.zeros(6, bool)
    prices, temperature = rng.random(6) * 0.2, 0.05

    def weights(p: Any) -> Any:
        options = score - p if outside is None else np.column_stack([score - p, outside])
        return np.exp(options / temperature)

    def surplus(p: Any) -> float:
        return temperature * float(np.log(weights(p).sum(axis=1)).sum())

    share = weights(prices)
    share = (share / share.sum(axis=1, keepdims=True))[:, :6]
    dense = DenseDemand(score, outside).respond(prices, temperature)
    arcs = DenseRows(score, outside, closed).reduce(np.zeros(6), np.full(6, 5.0)).contested
    sparse = arcs.respond(prices, temperature)
    fall = surplus(np.zeros(6)) - surplus(prices)
    assert dense.value == pytest.approx(surplus(prices), rel=1e-12)
    assert arcs.respond(np.zeros(6), temperature).value - sparse.value == pytest.approx(fall, rel=1e-9)
    for response in (dense, sparse):
        assert response.load == pytest.approx(share.sum(axis=0), rel=1e-12)
        curvature = (np.diag(share.sum(axis=0)) - share.T @ share) / temperature
        assert response.curvature == pytest.approx(curvature, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_reduction_keeps_every_model_that_is_best_somewhere_in_the_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = 200, 7
    score = rng.random((n, m))
    score[rng.random((n, m)) < 0.2] = -np.inf
    outside = rng.random(n) - 0.3
    low = rng.random(m) * 0.2
    high = low + rng.random(m) * 0.2
    reduction = DenseRows(score, outside, np.zeros(m, bool)).reduce(low, high)
    allowed = np.zeros((n, m + 1), bool)
    allowed[np.arange(n), reduction.choice] = True
    arcs = reduction.contested
    allowed[reduction.agent] = False
    allowed[reduction.agent[arcs.owner], arcs.model] = True
    for _ in range(200):
        prices = low + (high - low) * rng.integers(0, 2, m)
        best = np.column_stack([score - prices, outside]).argmax(axis=1)
        assert allowed[np.arange(n), best].all()
    smaller = reduction.inside((low + high) / 2, high)
    assert smaller.contested.arcs <= arcs.arcs
    assert smaller.contested.agents == arcs.agents == n


def test_merging_keeps_the_flow() -> None:
    rng = np.random.default_rng(3)
    kinds = rng.random((20, 5))
    score = kinds[rng.integers(20, size=400)]
    contested = DenseRows(score, None, np.zeros(5, bool)).reduce(np.zeros(5), np.ones(5)).contested
    merged = contested.merged(1e-9)
    assert merged is not None
    smaller, home = merged
    assert smaller.groups == 20
    assert smaller.agents == contested.agents
    assert len(home) == 400
    supply = free_supply([90] * 5)
    cost = [solve_boxed_flow(c, supply, resolution=1e-12) for c in (contested, smaller)]
    worth = [float(c.value @ f.flow) for c, f in zip((contested, smaller), cost, strict=True)]
    assert worth[0] == pytest.approx(worth[1], rel=1e-9)


def test_a_box_that_is_too_small_says_so() -> None:
    score = np.tile([1.0, 0.0], (10, 1))
    rows = DenseRows(score, None, np.zeros(2, bool))
    supply = free_supply([4, 10])
    tight = rows.reduce(np.zeros(2), np.array([0.5, 0.5])).contested
    assert solve_boxed_flow(tight, supply, resolution=1e-9).rises.tolist() == [True, False]
    wide = rows.reduce(np.zeros(2), np.array([2.0, 2.0])).contested
    found = solve_boxed_flow(wide, supply, resolution=1e-9)
    assert not found.binds.any()
    assert found.prices == pytest.approx([1.0, 0.0])
    high = rows.reduce(np.array([1.2, 0.3]), np.array([2.0, 2.0])).contested
    assert solve_boxed_flow(high, supply, resolution=1e-9).falls[1]


def test_a_model_without_a_slot_in_the_sample_is_not_free() -> None:
    """Three agents, two of whom fit; the model nobody can have must not take the third for nothing."""
    rows = DenseRows(np.array([[3.0, 3.5], [2.0, 2.5], [1.0, 1.5]]), np.full(3, -20.0), np.zeros(2, bool))
    contested = rows.reduce(np.zeros(2), np.full(2, 30.0)).contested
    optimum = solve_boxed_flow(contested, free_supply([2, 0]), resolution=1e-9)
    assert contested.model[optimum.flow > 0].tolist() == [0, 0, 2]
    assert not optimum.binds.any()
    assert optimum.prices == pytest.approx([21.0, 21.5])


def test_tiers_open_when_the_price_exceeds_their_cost() -> None:
    supply = Supply(
        model=np.array([0, 0, 1]), cost=np.array([0.0, 0.5, 0.0]), slots=np.array([3.0, 2.0, 4.0]), models=2
    )
    assert supply.total.tolist() == [5.0, 4.0]
    assert supply.value(np.array([0.7, 0.1])) == pytest.approx(3 * 0.7 + 2 * 0.2 + 4 * 0.1)
    value, offered, slope = supply.smooth(np.array([0.7, 0.1]), 1e-3)
    assert value == pytest.approx(supply.value(np.array([0.7, 0.1])), abs=1e-9)
    assert offered == pytest.approx([5.0, 4.0])
    assert slope == pytest.approx([0.0, 0.0], abs=1e-9)
    assert supply.smooth(np.array([0.5, 0.1]), 1e-3)[1] == pytest.approx([4.0, 4.0])


@pytest.mark.parametrize(("agents", "slots"), [(5, 5), (4, 5), (6, 5)])
def test_rounded_slots_are_enough_if_there_were(agents: int, slots: int) -> None:
    supply = free_supply([0.4, 1.7, 2.9]).rounded(agents)
    assert supply.slots.sum() == slots
    assert (np.abs(supply.slots - [0.4, 1.7, 2.9]) < 1).all()


def test_rounded_slots_are_too_few_if_they_were() -> None:
    assert free_supply([0.4, 1.7, 2.8]).rounded(5).slots.tolist() == [0, 1, 3]


def test_duplicate_columns_are_found_and_share_their_agents() -> None:
    rng = np.random.default_rng(4)
    score = rng.random((100, 3))[:, [0, 1, 0, 2, 1]]
    first_duplicate = first_duplicates(score)
    assert first_duplicate is not None
    assert first_duplicate.tolist() == [0, 1, 0, 3, 1]
    assert first_duplicates(rng.random((100, 3))) is None
    choice = np.repeat([0, 1, 3], [40, 30, 30]).astype(np.int64)
    shared = share_out(choice, first_duplicate, free_supply([25, 20, 20, 30, 20]))
    assert np.array_equal(first_duplicate[shared], choice)
    assert (np.bincount(shared, minlength=5) <= [25, 20, 20, 30, 20]).all()


def test_overload_moves_to_where_there_is_room() -> None:
    rng = np.random.default_rng(5)
    instance = build_instance(rng.random((1000, 4)), [300, 300, 300, 100])
    moved = drop_overload(instance, np.zeros(1000, np.int64), np.zeros(4), NO_DEADLINE)
    assert np.bincount(moved, minlength=5).tolist() == [300, 300, 300, 100, 0]
    crowded = build_instance(rng.random((1000, 2)), [100, 50])
    left = drop_overload(crowded, np.zeros(1000, np.int64), np.zeros(2), NO_DEADLINE)
    assert np.bincount(left, minlength=3).tolist() == [100, 50, 850]

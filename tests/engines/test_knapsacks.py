"""Whole knapsacks of the Lagrangian engine: against enumeration, an exact solver, and the kernel's twin."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from solver.clock import Deadline
from solver.engines import kernels
from solver.engines.lagrangian import LagrangianEngine
from solver.engines.lagrangian.knapsack_dual import KnapsackDual
from solver.engines.lagrangian.knapsacks import Knapsacks, knapsacks_of
from solver.engines.standard_form import build_form
from solver.problem.build import build_instance
from tests.kernel_equality import numpy_only

if TYPE_CHECKING:
    from solver.problem.instance import Instance

compiled = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")


def random_knapsacks(seed: int) -> tuple[Knapsacks, Any]:
    rng = np.random.default_rng(seed)
    columns, n = (int(size) for size in rng.integers(1, (4, 9)))
    knapsacks = Knapsacks(
        rng.integers(0, 30, (columns, n)).astype(np.int32),
        rng.integers(0, 12, (columns, n)).astype(np.int32),
        rng.integers(-1, 30, columns),
        rng.random((columns, n)) < 0.8,
        1.0,
    )
    return knapsacks, rng.integers(-5, 40, n).astype(np.int32)


def small(seed: int, *, leave: bool = False, whole: bool = True) -> Instance:
    """Return a small instance of one resource, tight enough to be no trivial one."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 8)), int(rng.integers(1, 4))
    demand = rng.integers(1, 12, (n, m))
    scores = rng.integers(0, 30, (n, m)).astype(float) if whole else rng.uniform(0, 1, (n, m))
    scores[rng.random((n, m)) < 0.15] = -np.inf
    capacity = np.floor(demand.sum(axis=0) / m * rng.uniform(0.7, 1.4))
    return build_instance(
        scores, capacity, demand=demand, unassigned_penalty=rng.uniform(0, 20, n) if leave else np.inf
    )


def optimum(instance: Instance, *, leave: bool) -> float | None:
    """Return the least loss of the form by enumeration."""
    form = build_form(instance, leave=leave)
    choices = (
        np.array(columns, np.int64)
        for columns in itertools.product(range(form.columns), repeat=form.n)
        if np.isfinite(form.loss[list(columns), np.arange(form.n)]).all()
    )
    losses = [form.value(columns) for columns in choices if form.feasible(columns)]
    return min(losses) if losses else None


@pytest.mark.parametrize("seed", range(60))
def test_knapsacks_and_what_forcing_an_agent_costs_are_those_of_enumeration(seed: int) -> None:
    knapsacks, multiplier = random_knapsacks(seed)
    columns, n = knapsacks.loss.shape
    bound, chosen = knapsacks.solve(knapsacks.capacity, knapsacks.open, multiplier)
    forced = knapsacks.forced(knapsacks.capacity, knapsacks.open, multiplier)
    total = 0
    for j in range(columns):
        profit = multiplier - knapsacks.loss[j]
        sets = {
            one: int(profit[list(one)].sum())
            for size in range(n + 1)
            for one in itertools.combinations(range(n), size)
            if knapsacks.open[j, list(one)].all()
            and knapsacks.weight[j, list(one)].sum() <= knapsacks.capacity[j]
        }
        best = max(sets.values(), default=0)
        assert int(profit[chosen[j]].sum()) == best
        assert not chosen[j].any() or tuple(np.flatnonzero(chosen[j])) in sets
        total += best
        for i in range(n):
            with_it = [value for one, value in sets.items() if i in one]
            assert forced[j, i] == (best - max(with_it) if with_it else np.inf)
    assert bound == float(multiplier.sum()) - total


@compiled
@pytest.mark.parametrize("seed", range(60))
def test_the_compiled_knapsacks_equal_their_twin(seed: int) -> None:
    knapsacks, multiplier = random_knapsacks(seed)
    given = (knapsacks.capacity, knapsacks.open, multiplier)
    with numpy_only():
        twin = Knapsacks(knapsacks.loss, knapsacks.weight, knapsacks.capacity, knapsacks.open, knapsacks.step)
    bound, chosen = knapsacks.solve(*given)
    other_bound, other_chosen = twin.solve(*given)
    assert bound == other_bound
    assert (chosen == other_chosen).all()
    assert (knapsacks.forced(*given) == twin.forced(*given)).all()


@pytest.mark.parametrize("seed", range(80))
def test_the_bound_never_passes_the_optimum(seed: int) -> None:
    leave = seed % 2 == 1
    instance = small(seed, leave=leave, whole=seed % 4 < 2)
    least = optimum(instance, leave=leave)
    form = build_form(instance, leave=leave)
    knapsacks = knapsacks_of(form)
    if least is None or knapsacks is None or form.n < instance.n:
        return
    rng = np.random.default_rng(seed)
    dual = KnapsackDual(knapsacks, np.zeros(form.n), rng=rng)
    dual.tighten(1.1 * least + 1.0, deadline=Deadline.after(None), stop_s=np.inf)
    assert dual.bound <= least + 1e-9 * max(1.0, least)
    using = dual.increase()
    everything = np.array(list(itertools.product(range(form.columns), repeat=form.n)))
    for columns in everything[rng.permutation(len(everything))[:200]]:
        if np.isfinite(form.loss[columns, np.arange(form.n)]).all() and form.feasible(columns):
            assert (using[columns, np.arange(form.n)] <= form.value(columns) + 1e-6).all()
    dived = dual.dive(least + 1.0, deadline=Deadline.after(None), stop_s=np.inf)
    assert np.isfinite(form.loss[dived, np.arange(form.n)]).all()


def test_what_is_no_knapsack_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    scores, demand = rng.random((6, 2)), rng.integers(1, 5, (6, 2)).astype(float)
    for given in (
        {"capacity": [9, 9], "demand": demand + 0.5},
        {"capacity": np.full((2, 2), 9), "demand": np.stack([demand, demand], axis=2)},
        {"capacity": [1e12, 1e12], "demand": demand},
    ):
        instance = build_instance(scores, unassigned_penalty=np.inf, **given)
        assert knapsacks_of(build_form(instance, leave=False)) is None
    instance = build_instance(scores, [9, 9], demand=demand, unassigned_penalty=np.inf)
    assert knapsacks_of(build_form(instance, leave=False)) is not None


def test_the_bound_closes_most_of_the_gap_of_the_linear_relaxation() -> None:
    """Type E, 20 models for 100 agents: the relaxation alone leaves about one per cent."""
    rng = np.random.default_rng(3)
    demand = np.maximum(np.rint(1 - 10 * np.log(1 - rng.random((100, 20)))), 1)
    cost = np.rint(1000 / demand - 10 * rng.random((100, 20)))
    capacity = np.floor(0.8 * demand.sum(axis=0) / 20)
    instance = build_instance(-cost, capacity, demand=demand, unassigned_penalty=np.inf)
    claim = LagrangianEngine().solve(instance, deadline=Deadline.after(4_000), seed=0)
    assert claim is not None
    if claim.bound is None:  # numpy takes longer than there is time
        assert not kernels.available()
        return
    cost_of = cost[np.arange(100), claim.choice].sum()
    assert -claim.bound - 1e-6 <= cost_of <= -claim.bound * 1.006


@pytest.mark.parametrize("seed", range(25))
def test_answers_of_small_knapsacks_are_those_of_enumeration(seed: int) -> None:
    instance = small(seed)
    least = optimum(instance, leave=False)
    engine = LagrangianEngine()
    claim = engine.solve(instance, deadline=Deadline.after(2_000))
    form = build_form(instance, leave=False)
    if least is None or form.n < instance.n:
        assert claim is None or claim.infeasible
        return
    assert claim is not None
    columns = form.columns_of(claim.choice)
    assert columns is not None
    assert form.value(columns) == least
    solution = solver.assign(
        instance.score, instance.capacity, demand=instance.demand, unassigned_penalty=np.inf
    )
    assert solution.status is solver.Status.OPTIMAL

"""What theory says must hold, whatever the instance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import solver
from tests.oracles import Case, random_case

seeds = st.integers(0, 2**32 - 1)


def case_of(seed: int) -> Case:
    return random_case(np.random.default_rng(seed), most_agents=9, most_models=4)


def solve(case: Case, engine: str = "auto") -> solver.Solution:
    return solver.assign(
        case.scores,
        case.capacity,
        priority=case.priority,
        unassigned_penalty=case.penalty,
        engine=engine,
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seeds)
def test_permuting_agents_and_models_changes_nothing_that_matters(seed: int) -> None:
    case = case_of(seed)
    rng = np.random.default_rng(seed)
    n, m = case.scores.shape
    rows, columns = rng.permutation(n), rng.permutation(m)
    permuted = Case(
        scores=case.scores[rows][:, columns],
        capacity=case.capacity[columns],
        priority=None if case.priority is None else case.priority[rows],
        penalty=case.penalty,
    )
    first, second = solve(case), solve(permuted)
    assert first.status == second.status
    assert second.objective == pytest.approx(first.objective, abs=1e-9)
    assert second.prices == pytest.approx(first.prices[columns], abs=1e-7)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seeds)
def test_more_capacity_never_hurts(seed: int) -> None:
    case = case_of(seed)
    more = Case(case.scores, case.capacity + 1, case.priority, case.penalty)
    before, after = solve(case), solve(more)
    if case.penalty is not None:
        assert after.objective >= before.objective - 1e-9
    assert len(after.unassigned) <= len(before.unassigned) or case.penalty is not None


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seeds, st.sampled_from([0.125, 3.0, 1e6]))
def test_scaling_the_scores_scales_the_answer(seed: int, factor: float) -> None:
    case = case_of(seed)
    penalty = None if case.penalty is None else case.penalty * factor
    scaled = Case(case.scores * factor, case.capacity, case.priority, penalty)
    first, second = solve(case), solve(scaled)
    assert first.status == second.status
    if first.status != "infeasible":
        assert second.objective == pytest.approx(first.objective * factor, rel=1e-9, abs=1e-9 * factor)
        assert second.prices == pytest.approx(first.prices * factor, rel=1e-7, abs=1e-7 * factor)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seeds, st.floats(-50, 50))
def test_shifting_an_agents_scores_shifts_only_the_total(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 9)), int(rng.integers(1, 4))
    scores = rng.normal(size=(n, m))
    capacity = rng.multinomial(n, np.ones(m) / m) + 1  # everyone fits
    moved = scores.copy()
    moved[0] += shift
    first, second = solver.assign(scores, capacity), solver.assign(moved, capacity)
    assert second.objective == pytest.approx(first.objective + shift, abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seeds)
def test_greedy_never_beats_the_bound(seed: int) -> None:
    case = case_of(seed)
    best, greedy = solve(case), solve(case, "greedy")
    if greedy.status == "unknown" or best.status == "infeasible":
        return
    if len(greedy.unassigned) == len(best.unassigned) and case.priority is None:
        assert greedy.objective <= best.objective + 1e-9

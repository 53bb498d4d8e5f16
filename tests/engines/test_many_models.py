"""Many models, sparse one-to-one, deadlines that count passes, and thousands of limit rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linear_sum_assignment

import solver
from solver.clock import Deadline
from solver.engines.duals import minimal_prices
from solver.engines.greedy import GreedyEngine
from solver.engines.lagrangian.interior_point import relax
from solver.engines.lagrangian.row_selection import RowSelectionParameters
from solver.engines.limit_repair import repaired
from solver.engines.standard_form import build_form
from solver.problem.build import build_instance
from solver.problem.limit_row_assembly import compile_limits

SHAPES = ((160, 160), (155, 400), (20, 900), (200, 60), (400, 3))


def scores_of(kind: str, n: int, m: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "ties":
        return rng.integers(0, 4, (n, m)).astype(float)
    if kind == "product":
        return -np.outer(np.arange(1.0, n + 1), np.arange(1.0, m + 1))
    common = {"uniform": 0.0, "popular": 5.0}[kind]
    return rng.uniform(size=(n, m)) + common * rng.uniform(size=m)


@pytest.mark.parametrize("kind", ["uniform", "popular", "ties", "product"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_slot_each_is_optimal_and_proven(kind: str, shape: tuple[int, int]) -> None:
    scores = scores_of(kind, *shape, seed=3)
    rows, columns = linear_sum_assignment(scores, maximize=True)
    for engine in ("auto", "lsap"):
        solution = solver.assign(scores, np.ones(shape[1]), engine=engine)
        assert solution.status is solver.Status.OPTIMAL
        assert solution.objective == pytest.approx(scores[rows, columns].sum())


def test_prices_of_many_models_are_what_one_more_slot_is_worth() -> None:
    scores = scores_of("popular", 40, 60, seed=1)
    penalty = np.random.default_rng(2).uniform(0, 4, 40)
    slots = np.repeat([0, 1, 1], 20)
    solution = solver.assign(scores, slots, unassigned_penalty=penalty, engine="lsap")
    for model in range(0, 60, 7):
        more = slots.copy()
        more[model] += 1
        value = solver.assign(scores, more, unassigned_penalty=penalty).objective
        assert solution.prices[model] == pytest.approx(value - solution.objective, abs=1e-9)


def test_a_table_of_few_models_and_the_moves_of_many_give_the_same_prices() -> None:
    instance = build_instance(scores_of("popular", 90, 70, seed=5), np.repeat([1, 2], 35))
    choice = solver.assign(instance.score, np.repeat([1, 2], 35), engine="lsap").choice
    table = minimal_prices(instance, choice)
    np.testing.assert_allclose(minimal_prices(instance, choice, tabulated=0), table, atol=1e-9)


def test_sparse_one_to_one_needs_its_stored_pairs_alone() -> None:
    n = 3_000
    rng = np.random.default_rng(0)
    row = np.concatenate([np.repeat(np.arange(n), 5), np.arange(n)])
    column = np.concatenate([rng.integers(0, n, 5 * n), rng.permutation(n)])
    pair = np.unique(row * n + column)
    matrix = sparse.csr_matrix((rng.integers(1, 99, len(pair)).astype(float), (pair // n, pair % n)), (n, n))
    solution = solver.assign(matrix, np.ones(n), unassigned_penalty=np.inf)
    assert solution.status is solver.Status.OPTIMAL
    assert solution.engine == "lsap"
    matrix = sparse.csr_matrix(matrix[:, : n // 2])
    short = solver.assign(matrix, np.ones(n // 2), unassigned_penalty=np.inf)
    assert short.status is solver.Status.INFEASIBLE


def test_late_readers_are_told_and_get_whatever_takes_no_time() -> None:
    scores = np.random.default_rng(0).uniform(size=(3_000, 300))
    solution = solver.assign(scores, np.full(300, 11), deadline_ms=1e-3)
    assert len(solution.unassigned) == 0
    assert solution.status is solver.Status.FEASIBLE
    assert any("reading the input took" in note for note in solution.notes)


def test_thousands_of_rows_that_hardly_bind_are_looked_at_as_they_break() -> None:
    rng = np.random.default_rng(0)
    limits = [solver.Apart(name=f"a{k}", agents=[2 * k, 2 * k + 1]) for k in range(60)]
    instance = build_instance(rng.uniform(0, 1, (120, 6)), np.full(6, 22), limits=limits)
    form = build_form(instance, leave=False)
    every = relax(form, deadline=Deadline.after(None), rng=np.random.default_rng(0))
    few = relax(
        form,
        deadline=Deadline.after(None),
        rng=np.random.default_rng(0),
        rows=RowSelectionParameters(all_up_to=10, added=40),
    )
    assert few.bound <= every.bound + 1e-6
    assert few.bound == pytest.approx(every.bound, rel=2e-2)
    assert 0 < np.count_nonzero(few.row_price) < form.rows


def test_greedy_put_right_keeps_every_limit() -> None:
    rng = np.random.default_rng(4)
    limits = [
        solver.Budget(name="b", amount=60.0, cost=rng.uniform(0, 5, (50, 5))),
        solver.Apart(name="apart", agents=[0, 1, 2, 3]),
        solver.Together(name="together", agents=[7, 8]),
    ]
    instance = build_instance(rng.uniform(size=(50, 5)), np.full(5, 11), limits=limits)
    start = GreedyEngine().solve(replace(instance, limits=None), deadline=Deadline.after(None))
    assert start is not None
    assert instance.limits is not None
    choice = repaired(instance, start.choice, Deadline.after(None))
    assert choice is not None
    assert (choice >= 0).sum() > 10
    assert (instance.limits.usage(choice) <= instance.limits.bound + 1e-9).all()
    assert choice[7] == choice[8]


def test_pieces_that_share_agents_but_no_pair_share_a_layer() -> None:
    rng = np.random.default_rng(0)
    use = rng.uniform(0, 3, (12, 8))
    limits = [solver.Quota(name=f"q{j}", models=[j], at_least=1, use=use) for j in range(8)]
    limits.append(solver.Quota(name="some", agents=[2, 3], at_most=5))
    rows, _ = compile_limits(limits, 12, 8)
    assert rows is not None
    assert len(rows.layers) == 2
    choice = rng.integers(0, 8, 12)
    expected = [-sum(use[i, j] for i in range(12) if choice[i] == j) for j in range(8)]
    np.testing.assert_allclose(rows.usage(choice), [*expected, 2.0])


def test_a_warm_start_with_other_capacities_is_as_good() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(60_000, 20)) + rng.uniform(size=20)
    slots = np.full(20, 2_700)
    before = solver.assign(scores, slots, engine="price")
    other = (slots * rng.uniform(0.9, 1.1, 20)).astype(int)
    cold = solver.assign(scores, other, engine="price")
    warm = solver.assign(scores, other, engine="price", warm_start=before)
    assert warm.status is solver.Status.OPTIMAL
    assert warm.objective == pytest.approx(cold.objective)

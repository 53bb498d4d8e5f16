"""Slot instances with compressed scores: the same optimum, certificate and answers in haste as with a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

import solver
from solver.clock import Deadline
from solver.engines.base import Claim, load_engine
from solver.engines.certificate import certify
from solver.engines.price.agent_rows import DenseRows
from solver.engines.price.compressed import CompressedRows
from solver.problem import score_arrays
from solver.problem.build import build_instance
from solver.problem.instance import UNASSIGNED
from solver.problem.sparse import CompressedScores

NO_LIMIT = Deadline.after(None)


@pytest.fixture(autouse=True)
def keep_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_arrays, "_SPREAD_PAIRS", 0)
    monkeypatch.setattr("solver.problem.sparse._CHUNK_PAIRS", 1_000)


def both(seed: int, n: int, m: int, share: float, *, whole: bool = False) -> tuple[Any, Any]:
    """The same scores as a matrix and as compressed rows, a few agents without any pair."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, (n, m)).astype(np.float64) if whole else rng.random((n, m))
    values[rng.random((n, m)) >= share] = -np.inf
    row, model = np.nonzero(np.isfinite(values))
    return values, sparse.csr_array((values[row, model], (row, model)), shape=(n, m))


def slots_of(seed: int, n: int, m: int, fill: float, *, closed: bool = False) -> Any:
    weight = np.random.default_rng(seed).gamma(2.0, 1.0, m)
    if closed:
        weight[1::5] = 0
    return np.floor(weight / weight.sum() * n / fill)


@pytest.mark.parametrize("penalty", [None, 0.3])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("share", "fill"), [(0.02, 0.5), (0.1, 0.9), (0.3, 0.8), (0.3, 1.3)])
def test_the_same_optimum_as_with_a_matrix(
    share: float, fill: float, whole: bool, closed: bool, penalty: float | None
) -> None:
    n, m = 4000, 25
    dense, thin = both(1, n, m, share, whole=whole)
    slots = slots_of(2, n, m, fill, closed=closed)
    instance = build_instance(thin, slots, unassigned_penalty=penalty)
    assert isinstance(instance.score, CompressedScores)
    mine = solver.assign(thin, slots, unassigned_penalty=penalty, engine="price")
    other = solver.assign(dense, slots, unassigned_penalty=penalty, engine="price")
    assert mine.status is other.status is solver.Status.OPTIMAL
    assert mine.objective == pytest.approx(other.objective, rel=1e-12)
    assert len(mine.unassigned) == len(other.unassigned)
    assert mine.prices == pytest.approx(other.prices, abs=1e-9)


@pytest.mark.parametrize("leaving", [False, True])
def test_the_same_reduction_as_with_a_matrix(leaving: bool) -> None:
    n, m = 3000, 12
    dense, _ = both(3, n, m, 0.3)
    closed = np.arange(m) == 4
    dense[~np.isfinite(dense[:, ~closed]).any(axis=1), 0] = 0.5  # everyone has an option
    row, model = np.nonzero(np.isfinite(dense))
    thin = sparse.csr_array((dense[row, model], (row, model)), shape=(n, m))
    outside = np.where(np.arange(n) % 3, 0.2, -np.inf) if leaving else None
    score = build_instance(thin, np.ones(m)).score
    assert isinstance(score, CompressedScores)
    low, high = np.full(m, 0.1), np.full(m, 0.25)
    ours, theirs = CompressedRows(score, outside, closed), DenseRows(dense, outside, closed)
    mine, other = ours.reduce(low, high), theirs.reduce(low, high)
    assert (mine.agent == other.agent).all()
    for name in ("first", "model", "value", "settled"):
        assert (getattr(mine.contested, name) == getattr(other.contested, name)).all()
    lone = np.setdiff1d(np.arange(n), mine.agent)
    assert (mine.choice[lone] == other.choice[lone]).all()
    for a, b in zip(ours.standing(low, np.array([2])), theirs.standing(low, np.array([2])), strict=True):
        assert (a == b).all()
    assert ours.span() == theirs.span()


@pytest.mark.parametrize("penalty", [None, 0.4])
def test_the_same_certificate_of_any_claim(penalty: float | None) -> None:
    n, m = 500, 8
    dense, thin = both(4, n, m, 0.3)
    rng = np.random.default_rng(5)
    choice = np.where(rng.random(n) < 0.8, dense.argmax(axis=1), UNASSIGNED)
    choice[np.isneginf(dense).all(axis=1)] = UNASSIGNED
    claim = Claim(choice=choice, prices=rng.random((m, 1)))
    slots = np.full(m, n)
    slots[3] = 0
    choice[choice == 3] = UNASSIGNED
    mine = certify(build_instance(thin, slots, unassigned_penalty=penalty), claim)
    other = certify(build_instance(dense, slots, unassigned_penalty=penalty), claim)
    assert mine.violations == other.violations == ()
    assert mine.objective == pytest.approx(other.objective, rel=1e-12)
    assert mine.bound == pytest.approx(other.bound, rel=1e-12)
    wrong = Claim(choice=np.argmin(dense, axis=1))
    assert any(
        "not eligible" in line for line in certify(build_instance(thin, np.full(m, n)), wrong).violations
    )


def test_an_agent_without_a_pair_who_must_be_served_is_a_proof() -> None:
    _, thin = both(6, 2000, 10, 0.05)
    solution = solver.assign(thin, np.full(10, 2000), unassigned_penalty=np.inf)
    assert solution.status is solver.Status.INFEASIBLE


def test_out_of_time_the_answer_is_feasible_with_a_bound() -> None:
    dense, thin = both(7, 30_000, 40, 0.2)
    solution = solver.assign(thin, slots_of(8, 30_000, 40, 0.9), deadline_ms=1e-3, engine="price")
    assert solution.status in (solver.Status.FEASIBLE, solver.Status.OPTIMAL)
    served = solution.choice != UNASSIGNED
    assert np.isfinite(dense[np.flatnonzero(served), solution.choice[served]]).all()
    assert 0 <= solution.gap < 0.2


def test_load_costs_and_a_warm_start() -> None:
    dense, thin = both(9, 5000, 12, 0.3)
    slots = slots_of(10, 5000, 12, 0.8)
    cost = [0.0, 0.1, 0.3]
    first = solver.assign(thin, slots, load_cost=cost)
    again = solver.assign(thin, slots, load_cost=cost, warm_start=first)
    matrix = solver.assign(dense, slots, load_cost=cost)
    assert first.objective == pytest.approx(matrix.objective, rel=1e-12)
    assert again.objective == pytest.approx(matrix.objective, rel=1e-12)


@pytest.mark.parametrize("engine", ["greedy", "lsap", "flow", "cpsat", "lagrangian"])
def test_other_engines_take_compressed_scores(engine: str) -> None:
    dense, thin = both(11, 60, 5, 0.3)
    mine = solver.assign(thin, np.full(5, 15), engine=engine)
    other = solver.assign(dense, np.full(5, 15), engine=engine)
    assert mine.objective == pytest.approx(other.objective)
    assert len(mine.unassigned) == len(other.unassigned)


def test_samples_are_those_of_the_rows() -> None:
    dense, thin = both(12, 300, 6, 0.3)
    score = build_instance(thin, np.ones(6)).score
    assert isinstance(score, CompressedScores)
    rows = np.array([3, 50, 51, 299])
    sample, outside = CompressedRows(score, np.arange(300.0), np.zeros(6, bool)).sample(rows).dense()
    assert (sample == dense[rows]).all()
    assert outside is not None
    assert outside.tolist() == [3, 50, 51, 299]
    assert load_engine("price").unsupported_reason(build_instance(thin, np.ones(6)), remaining_s=1.0) is None

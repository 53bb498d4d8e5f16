"""Sparse scores: what is stored is allowed, and compressed rows are read as the matrix they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import solver
from solver import SpecError, Status
from solver.problem import score_arrays
from solver.problem.build import build_instance
from solver.problem.sparse import CompressedScores, compress

if TYPE_CHECKING:
    from solver.errors import Violation


def compressed(dense: np.ndarray[Any, Any]) -> CompressedScores:
    row, model = np.nonzero(np.isfinite(dense))
    first = np.searchsorted(row, np.arange(len(dense) + 1))
    problems: list[Violation] = []
    scores = compress(dense[row, model], model, first, dense.shape, problems)
    assert not problems
    return scores


def few_pairs(seed: int, n: int, m: int, share: float = 0.3) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n, m)) < share, rng.random((n, m)), -np.inf)


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 6), st.sampled_from([0.0, 0.3, 1.0]))
def test_every_way_of_reading_agrees_with_the_matrix(seed: int, n: int, m: int, share: float) -> None:
    dense = few_pairs(seed, n, m, share)
    scores = compressed(dense)
    rng = np.random.default_rng(seed)
    rows, models = rng.integers(0, n, 7), rng.integers(0, m, 7)
    assert scores.shape == dense.shape
    assert (np.asarray(scores) == dense).all()
    assert (scores[rows] == dense[rows]).all()
    assert (scores[1:n] == dense[1:n]).all()
    assert (scores[::2] == dense[::2]).all()
    assert (scores.take(rows, axis=0) == dense.take(rows, axis=0)).all()
    assert (np.asarray(scores.rows(rows)) == dense[rows]).all()
    assert (scores[:, models] == dense[:, models]).all()
    assert (scores[rows, models] == dense[rows, models]).all()
    prices = rng.random(m)
    model, value = scores.best(prices)
    assert (value == (dense - prices).max(axis=1)).all()
    assert (model == (dense - prices).argmax(axis=1)).all()


def test_blocks_cover_all_rows_even_the_empty_ones() -> None:
    dense = few_pairs(3, 60, 9, 0.2)
    dense[10:40] = -np.inf
    dense[50] = 1.0  # more pairs than a block should have
    seen = np.full(dense.shape, -np.inf)
    ends = [0]
    for rows, data, models, row in compressed(dense).blocks(7):
        assert rows.start == ends[-1]
        ends.append(rows.stop)
        seen[rows][row, models] = data
    assert ends[-1] == 60
    assert len(ends) > 5
    assert (seen == dense).all()


def test_models_out_of_order_are_sorted_and_forbidden_pairs_dropped() -> None:
    problems: list[Violation] = []
    scores = compress(
        np.array([3.0, 1.0, -np.inf, 2.0]), np.array([2, 0, 1, 1]), np.array([0, 3, 4]), (2, 3), problems
    )
    assert problems == []
    assert np.asarray(scores).tolist() == [[1, -np.inf, 3], [-np.inf, 2, -np.inf]]
    assert scores.first.tolist() == [0, 2, 3]


@pytest.mark.parametrize("pairs", [0, 10**9], ids=["compressed", "spread out"])
@pytest.mark.parametrize(
    ("data", "models", "message"),
    [
        ([1.0, np.nan], [0, 1], r"scores\[0, 1\]: expected a finite number or -inf, got nan"),
        ([1.0, np.inf], [0, 1], r"scores\[0, 1\]: expected a finite number or -inf, got inf"),
        ([1.0, 2.0], [1, 1], "scores: expected each pair at most once"),
    ],
)
def test_bad_entries_are_named(
    pairs: int, data: list[float], models: list[int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_arrays, "_SPREAD_PAIRS", pairs)
    matrix = sparse.csr_array((data, models, [0, 2, 2]), shape=(2, 9))
    with pytest.raises(SpecError, match=message):
        solver.assign(matrix, np.ones(9))


def test_large_and_thin_scores_stay_compressed_where_agents_take_slots() -> None:
    rng = np.random.default_rng(0)
    pair = rng.choice(90_000 * 60, 108_000, replace=False)
    matrix = sparse.coo_array((rng.random(len(pair)), (pair // 60, pair % 60)), shape=(90_000, 60))
    capacity = np.full(60, 2_000)
    assert isinstance(build_instance(matrix, capacity).score, CompressedScores)
    assert isinstance(build_instance(matrix.tocsr()[:1_000], capacity).score, np.ndarray)
    assert isinstance(build_instance(matrix, capacity, demand=np.full(90_000, 2.0)).score, np.ndarray)
    allowed = np.ones(matrix.shape, bool)
    assert isinstance(build_instance(matrix, capacity, eligible=allowed).score, np.ndarray)


@pytest.mark.parametrize("layout", [sparse.csr_array, sparse.csr_matrix, sparse.coo_array, sparse.csc_array])
def test_stored_pairs_are_allowed_zeros_included(layout: type) -> None:
    rows, columns, values = np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), np.array([0.5, 0.0, 2.0, 1.0])
    matrix = layout(sparse.coo_array((values, (rows, columns)), shape=(4, 3)))
    expected = np.full((4, 3), -np.inf)
    expected[rows, columns] = values
    assert np.array_equal(build_instance(matrix, [1, 1, 1]).score, expected)


def test_float32_stays_float32() -> None:
    matrix = sparse.csr_array(np.eye(3, dtype=np.float32))
    assert build_instance(matrix, [1, 1, 1]).score.dtype == np.float32


def test_sparse_and_masked_scores_have_the_same_optimum() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((3000, 15))
    allowed = rng.random((3000, 15)) < 0.1
    slots = np.full(15, 150)
    thin = solver.assign(sparse.csr_array(np.where(allowed, scores, 0.0)), slots)
    masked = solver.assign(scores, slots, eligible=allowed)
    assert thin.status is masked.status is Status.OPTIMAL
    assert thin.objective == pytest.approx(masked.objective, rel=1e-12)


class Speaks:
    """Something that speaks CSR, as far as it goes."""

    def __init__(
        self, data: list[float], indices: list[int], indptr: list[int], shape: tuple[int, ...]
    ) -> None:
        self.data, self.indices, self.indptr = np.array(data), np.array(indices), np.array(indptr)
        self.shape = shape

    def tocsr(self) -> Speaks:
        return self


def test_entries_beyond_the_last_row_are_ignored_as_scipy_does() -> None:
    scores = build_instance(Speaks([1.0, 2.0, 9.0], [0, 1, 0], [0, 1, 2], (2, 2)), [1, 1]).score
    assert np.asarray(scores).tolist() == [[1, -np.inf], [-np.inf, 2]]


@pytest.mark.parametrize("model", [-1, 2])
def test_models_that_do_not_exist_are_refused(model: int) -> None:
    with pytest.raises(SpecError, match=rf"scores: expected models 0 to 1 in a sparse matrix, got {model}"):
        build_instance(Speaks([1.0], [model], [0, 1], (1, 2)), [1, 1])


def test_a_sparse_vector_is_no_matrix() -> None:
    with pytest.raises(SpecError, match=r"scores: expected shape \(agents, models\), got shape \(3,\)"):
        build_instance(sparse.coo_array(np.ones(3)), [1, 1])

"""Sparse scores: what is stored is allowed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import solver
from solver import SpecError, Status
from solver.problem.instance import build_instance


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


def test_repeated_and_bad_entries_are_refused() -> None:
    twice = sparse.csr_array((np.ones(2), np.array([1, 1]), np.array([0, 2])), shape=(1, 2))
    with pytest.raises(SpecError, match="repeated entries"):
        build_instance(twice, [1, 1])
    with pytest.raises(SpecError, match=r"scores\[0, 1\]: expected a finite number or -inf, got nan"):
        build_instance(sparse.csr_array(np.array([[1.0, np.nan]])), [1, 1])

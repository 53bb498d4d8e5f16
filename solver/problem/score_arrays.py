"""Scores as callers pass them: arrays, nested lists and sparse matrices become one checked array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from solver.errors import Violation, ViolationKind
from solver.problem.blocks import extremes
from solver.problem.numbers import LARGEST, is_plain, readable, real_array, wrong_shape
from solver.problem.score_chunks import are_chunks, join_chunks, spread_lists
from solver.problem.sparse import CompressedScores, compress, name_unfit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

_SPREAD_PAIRS = 4_000_000
"""Agents times models up to which sparse scores become a dense array: passes over it are faster, and more engines
can read it (`pytest benchmarks/bench_price.py -k sparse`)."""

_MIN_SPARSITY = 3
"""Pairs per stored pair from which compressed rows take less memory and time than a dense array (same benchmark)."""


class SparseScores(Protocol):
    """A sparse matrix of any kind that can turn itself into compressed rows, as scipy's can."""

    def tocsr(self) -> Any:
        """Return an object with ``shape``, ``data``, ``indices`` and ``indptr``."""
        ...


def read_scores(
    scores: ArrayLike | SparseScores | Iterator[Any],
    problems: list[Violation],
    *,
    minimize: bool,
    keep_sparse: bool,
) -> tuple[NDArray[Any] | CompressedScores, tuple[float, float] | None]:
    """Return scores to be maximised, and the least and the largest of them where they are known.

    Parameters
    ----------
    scores : (n, m) array_like, sparse matrix, or iterator of chunks of rows
        float32 and float64 in C order are not copied.
    problems : list of Violation
        Gains an entry per rule broken; the scores returned are then a stand-in.
    minimize : bool
        Scores are costs: they are negated, and violations speak of costs.
    keep_sparse : bool
        Whether large, thin scores may stay compressed.
    """
    sparse = hasattr(scores, "tocsr")
    rows: Any = scores if sparse else spread_lists(scores)
    if are_chunks(rows):
        rows = join_chunks(rows, problems)
        if rows is None:
            return np.zeros((1, 1)), None
    if sparse:
        try:
            rows = cast("SparseScores", scores).tocsr()
        except ValueError:  # SciPy's vectors, which have no rows
            problems.append(wrong_shape("scores", "(agents, models)", rows.shape))
            return np.zeros((1, 1)), None
    values = real_array("scores", rows.data[: rows.indptr[-1]] if sparse else rows, problems)
    if values is None:
        return np.zeros((1, 1)), None
    shape = tuple(rows.shape) if sparse else values.shape
    wrong = _unfit_shape(shape)
    if wrong is not None:
        problems.append(wrong)
        return np.zeros([max(size, 1) for size in shape] if len(shape) == 2 else (1, 1)), None
    if minimize:
        values = np.negative(values)
    before = len(problems)
    if sparse:
        compressed = compress(values, rows.indices[: len(values)], rows.indptr, shape, problems)
        if keep_sparse and _is_worth_compressing(compressed) and len(problems) == before:
            return compressed, None
        array = np.asarray(compressed)
    else:
        array = np.ascontiguousarray(values)
    least, largest = extremes(array)
    if not largest < np.inf and not sparse:  # a maximum carries both NaN and +inf
        bad = np.flatnonzero(~(array < np.inf))
        name_unfit(bad, array.ravel()[bad], array.shape[1], problems)
    if minimize:
        problems[before:] = _as_costs(problems[before:])
    return array, (least, largest)


def eligible_scores(
    score: NDArray[Any] | CompressedScores, eligible: ArrayLike, problems: list[Violation]
) -> NDArray[Any] | CompressedScores:
    """Return a copy of the scores with ``-inf`` where a pair is not eligible, or note what is wrong with the mask."""
    if not is_plain(eligible):
        problems.append(Violation("eligible", "expected no masked entries"))
        return score
    allowed = readable(eligible)
    allowed = np.zeros(0) if allowed is None else allowed
    if allowed.shape != score.shape or allowed.dtype != np.bool_:
        found = f"{allowed.dtype} of shape {allowed.shape}"
        rule = f"expected bools of shape {score.shape}"
        problems.append(Violation("eligible", rule, allowed.dtype, shown=found, kind=ViolationKind.TYPE))
    if problems:
        return score
    return np.where(allowed, np.asarray(score), score.dtype.type(-np.inf))


def too_large_scores(score_range: tuple[float, float]) -> Violation | None:
    """Return the violation of scores whose sums may overflow, None where they are small enough."""
    largest = max(score_range, key=abs)
    if abs(largest) <= LARGEST:
        return None
    return Violation("scores", f"expected at most {LARGEST:g} in size", largest, shown=f"{largest:g}")


def _unfit_shape(shape: tuple[int, ...]) -> Violation | None:
    if len(shape) != 2:
        return wrong_shape("scores", "(agents, models)", shape)
    if 0 not in shape:
        return None
    what = "agent (row)" if shape[0] == 0 else "model (column)"
    rule = f"expected at least one {what}"
    return Violation("scores", rule, shown=f"shape {shape}", kind=ViolationKind.TYPE)


def _is_worth_compressing(score: CompressedScores) -> bool:
    n, m = score.shape
    return n * m > _SPREAD_PAIRS and _MIN_SPARSITY * len(score.data) < n * m


def _as_costs(lines: list[Violation]) -> list[Violation]:
    """Return what is wrong with negated costs in terms of the costs."""
    found = []
    for line in lines:
        rule = line.rule.replace("number or -inf", "number or +inf").replace("NaN or +inf", "NaN or -inf")
        if isinstance(line.value, float):
            found.append(Violation(line.path, rule, -line.value, kind=line.kind))
        else:
            found.append(Violation(line.path, rule, shown=line.shown, kind=line.kind))
    return found

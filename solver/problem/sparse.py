"""Scores of a few allowed pairs among many: compressed rows that are read like a matrix, and never spread out whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import Violation, ViolationKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike, NDArray

_MAX_NAMED = 5
"""Offending entries spelled out for each rule."""

_CHUNK_PAIRS = 1 << 16
"""Stored pairs of one block: a pass over them stays in the second-level cache."""


@dataclass(frozen=True, eq=False)
class CompressedScores:
    """Scores of the allowed pairs, row by row; every other pair is forbidden.

    Parameters
    ----------
    data : (z,) float32 or float64
        Finite scores.
    models : (z,) int64
        Model of each, ascending within a row.
    first : (n + 1,) int64
        Pairs of row i are ``first[i]:first[i + 1]``.
    m : int
        Number of models.
    """

    data: NDArray[Any]
    models: NDArray[np.int64]
    first: NDArray[np.int64]
    m: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and models."""
        return len(self.first) - 1, self.m

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the scores."""
        return self.data.dtype

    @cached_property
    def degree(self) -> NDArray[np.int64]:
        """(n,) int64, allowed pairs of each row."""
        return np.diff(self.first)

    @cached_property
    def _pair(self) -> NDArray[np.int64]:
        """(z,) int64, row·m + model of every allowed pair, ascending."""
        return np.repeat(np.arange(self.shape[0]) * self.m, self.degree) + self.models

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return some rows in full, ``-inf`` where forbidden, or with two arrays of rows and models their pairs."""
        if isinstance(index, tuple):
            return self._at(*index)
        if isinstance(index, slice):
            start, stop, step = index.indices(self.shape[0])
            if step == 1:
                return self._spread(self.first[start : max(start, stop) + 1])
            index = np.arange(start, stop, step)
        return np.asarray(self.rows(index))

    def take(self, rows: NDArray[np.int64], axis: int) -> NDArray[Any]:
        """Return some rows in full, as an array does along its first axis."""
        if axis != 0:
            raise ValueError(Violation("axis", "expected 0", axis))
        return self[rows]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all rows in full: for engines that have no use for sparsity."""
        return self._spread(self.first).astype(dtype or self.dtype, copy=False)

    def rows(self, chosen: NDArray[np.int64]) -> CompressedScores:
        """Return some rows, compressed."""
        degree = self.degree[chosen]
        first = np.concatenate(([0], np.cumsum(degree)))
        at = np.arange(first[-1]) + np.repeat(self.first[chosen] - first[:-1], degree)
        return CompressedScores(self.data[at], self.models[at], first, self.m)

    def blocks(
        self, pairs: int = _CHUNK_PAIRS
    ) -> Iterator[tuple[slice, NDArray[Any], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield blocks of about so many pairs: their rows, scores, models, and the row within the block of each."""
        n = self.shape[0]
        start = 0
        while start < n:
            reach = int(np.searchsorted(self.first, self.first[start] + pairs, side="right")) - 1
            stop = min(n, max(start + 1, reach), start + pairs)
            some = slice(int(self.first[start]), int(self.first[stop]))
            row = np.repeat(np.arange(stop - start), self.degree[start:stop])
            yield slice(start, stop), self.data[some], self.models[some], row
            start = stop

    def best(self, prices: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return every row's best model at some prices, any if it has none, and score less price there. O(z)."""
        n = self.shape[0]
        model, value = np.zeros(n, np.int64), np.full(n, -np.inf)
        for rows, data, models, row in self.blocks():
            net = data - prices[models]
            top = maxima(net, self.degree[rows])
            value[rows] = top
            at = np.flatnonzero(net == top[row])[::-1]  # of several, the first is written last
            model[rows][row[at]] = models[at]
        return model, value

    def _at(self, rows: Any, models: Any) -> NDArray[Any]:
        if isinstance(rows, slice):
            return self._columns(np.arange(self.m)[models])[rows]
        wanted = np.asarray(rows) * self.m + models
        if not len(self.data):
            return np.full(wanted.shape, -np.inf, self.dtype)
        place = np.minimum(np.searchsorted(self._pair, wanted), len(self._pair) - 1)
        found: NDArray[Any] = np.where(self._pair[place] == wanted, self.data[place], -np.inf)
        return found.astype(self.dtype, copy=False)

    def _columns(self, models: NDArray[np.int64]) -> NDArray[Any]:
        distinct, place = np.unique(models, return_inverse=True)
        column = np.full(self.m, -1)
        column[distinct] = np.arange(len(distinct))
        wanted = np.flatnonzero(column[self.models] >= 0)
        block = np.full((self.shape[0], len(distinct)), -np.inf, self.dtype)
        row = np.searchsorted(self.first, wanted, side="right") - 1
        block[row, column[self.models[wanted]]] = self.data[wanted]
        return block[:, place]

    def _spread(self, first: NDArray[np.int64]) -> NDArray[Any]:
        count = len(first) - 1
        block = np.full((count, self.m), -np.inf, self.dtype)
        pairs = slice(int(first[0]), int(first[-1]))
        row = np.repeat(np.arange(count) * self.m, np.diff(first))
        block.ravel()[row + self.models[pairs]] = self.data[pairs]
        return block


def maxima(values: NDArray[np.float64], degree: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the largest of every row's consecutive values, ``-inf`` for rows without any."""
    best = np.full(len(degree), -np.inf)
    some = np.flatnonzero(degree)
    if len(some):
        best[some] = np.maximum.reduceat(values, (np.cumsum(degree) - degree)[some])
    return best


def name_unfit(pair: NDArray[np.intp], values: NDArray[Any], m: int, problems: list[Violation]) -> None:
    """Note scores that are NaN or +inf, given as row·m + model."""
    problems.extend(
        Violation(f"scores[{k // m}, {k % m}]", "expected a finite number or -inf", value)
        for k, value in zip(pair[:_MAX_NAMED], values[:_MAX_NAMED], strict=True)
    )
    if len(pair) > _MAX_NAMED:
        problems.append(Violation("scores", f"{len(pair) - _MAX_NAMED} more entries are NaN or +inf"))


def compress(
    data: NDArray[Any],
    models: NDArray[Any],
    first: NDArray[Any],
    shape: tuple[int, int],
    problems: list[Violation],
) -> CompressedScores:
    """Return compressed rows with their models ascending and forbidden pairs dropped, or note what is wrong."""
    n, m = shape
    first, models = first.astype(np.int64), models.astype(np.int64)
    outside = np.flatnonzero((models < 0) | (models >= m))
    if len(outside):
        problems.append(
            Violation("scores", f"expected models 0 to {m - 1} in a sparse matrix", models[outside[0]])
        )
        return CompressedScores(data[:0], models[:0], np.zeros(n + 1, np.int64), m)
    pair = np.repeat(np.arange(n) * m, np.diff(first)) + models
    bad = np.flatnonzero(~(data < np.inf))  # neither of NaN and +inf is
    name_unfit(pair[bad], data[bad], m, problems)
    if not (pair[1:] > pair[:-1]).all():
        order = np.argsort(pair, kind="stable")
        pair, data, models = pair[order], data[order], models[order]
        if not (pair[1:] > pair[:-1]).all():
            problems.append(
                Violation(
                    "scores",
                    "expected each pair at most once",
                    shown="a sparse matrix with repeated entries",
                    kind=ViolationKind.DUPLICATE,
                )
            )
    allowed = data > -np.inf
    if not problems and not allowed.all():
        first = np.concatenate(([0], np.cumsum(allowed)))[first]
        data, models = data[allowed], models[allowed]
    return CompressedScores(data, models, first, m)

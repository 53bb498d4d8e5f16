"""Knapsacks of all columns at once, compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.kernels.library import loaded, pointer

if TYPE_CHECKING:
    from numpy.typing import NDArray


_LARGEST_TOTAL = 2**30
"""Largest loss, and largest sum of multipliers, in steps."""

_MULTIPLIERS_TOO_LARGE = f"knapsacks: expected multipliers that sum to at most {_LARGEST_TOTAL}"


class KnapsackKernel:
    """Scratch space and calls of the compiled knapsacks; see :class:`solver.engines.lagrangian.knapsacks.Knapsacks`.

    Parameters
    ----------
    loss : (c, n) int32
        Losses in fixed point, >= 0.
    weight : (c, n) int32
        Whole units taken, >= 0.
    largest : int
        Largest capacity that will be asked about.
    """

    def __init__(self, loss: NDArray[np.int32], weight: NDArray[np.int32], largest: int) -> None:
        if loss.shape != weight.shape or loss.dtype != np.int32 or weight.dtype != np.int32:
            raise ValueError("knapsacks: expected two int32 arrays of one shape")
        if weight.size and int(weight.min()) < 0:
            raise ValueError("knapsacks: expected weights >= 0")
        if loss.ndim != 2 or (loss.size and not 0 <= int(loss.min()) <= int(loss.max()) <= _LARGEST_TOTAL):
            raise ValueError(f"knapsacks: expected losses (c, n) from 0 to {_LARGEST_TOTAL}")
        self._loss, self._weight = np.ascontiguousarray(loss), np.ascontiguousarray(weight)
        self._largest = largest
        self._rows = np.empty((loss.shape[1] + 1) * (max(largest, 0) + 1), np.int32)
        self._back: NDArray[np.int32] | None = None
        self._list = np.empty(loss.shape[1], np.int32)

    def _given(
        self, capacity: NDArray[np.int64], open_: NDArray[np.bool_], multiplier: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int32]]:
        """Return the arrays as C takes them, after looking at everything that could lead it astray."""
        columns, n = self._loss.shape
        if capacity.shape != (columns,) or open_.shape != (columns, n) or multiplier.shape != (n,):
            raise ValueError("knapsacks: expected capacity (c,), open (c, n) and multiplier (n,)")
        if capacity.dtype != np.int64 or open_.dtype != np.bool_ or multiplier.dtype != np.int32:
            raise ValueError("knapsacks: expected int64 capacities, bool open pairs and int32 multipliers")
        if columns and int(capacity.max()) > self._largest:
            raise ValueError("knapsacks: expected no capacity above the largest announced")
        return np.ascontiguousarray(capacity), np.ascontiguousarray(open_), np.ascontiguousarray(multiplier)

    def solve(
        self, capacity: NDArray[np.int64], open_: NDArray[np.bool_], multiplier: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the largest profit of each column, (c,), and who is taken, (c, n)."""
        capacity, open_, multiplier = self._given(capacity, open_, multiplier)
        columns, n = self._loss.shape
        value, chosen = np.empty(columns, np.int64), np.empty((columns, n), np.bool_)
        arrays = (
            self._loss,
            self._weight,
            open_,
            capacity,
            multiplier,
            value,
            chosen,
            self._rows,
            self._list,
        )
        if loaded().solver_knapsacks(n, columns, *map(pointer, arrays)):
            raise ValueError(_MULTIPLIERS_TOO_LARGE)
        return value, chosen

    def forced(
        self, capacity: NDArray[np.int64], open_: NDArray[np.bool_], multiplier: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Return what each column's profit falls by when it must take an agent, (c, n); -1 where it cannot."""
        capacity, open_, multiplier = self._given(capacity, open_, multiplier)
        columns, n = self._loss.shape
        if self._back is None:
            self._back = np.empty_like(self._rows)
        lost = np.empty((columns, n), np.int32)
        arrays = (
            self._loss,
            self._weight,
            open_,
            capacity,
            multiplier,
            lost,
            self._rows,
            self._back,
            self._list,
        )
        if loaded().solver_knapsacks_forced(n, columns, *map(pointer, arrays)):
            raise ValueError(_MULTIPLIERS_TOO_LARGE)
        return lost

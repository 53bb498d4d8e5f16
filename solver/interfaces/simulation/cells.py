"""Cells of a column as they are, and as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.column_values import Coded

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cells_of(column: Any) -> list[Any]:
    """Return the cells of a column, None where one is blank."""
    if isinstance(column, Coded):
        distinct = [*column.values, None]  # a row without a value has code -1
        return [distinct[code] for code in column.codes.tolist()]
    cells: list[Any] = column.tolist() if hasattr(column, "tolist") else list(column)
    return cells


def numbers_of(column: Any) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where a cell is none."""
    import pandas as pd

    texts = [cell if isinstance(cell, int | float | str) else None for cell in cells_of(column)]
    try:
        return np.array(pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce"), np.float64)
    except OverflowError:  # whole numbers beyond float64
        return np.array([_number(cell) for cell in texts], np.float64)


def _number(cell: float | str | None) -> float:
    try:
        return np.nan if cell is None else float(cell)
    except OverflowError:
        return np.inf
    except ValueError:
        return np.nan

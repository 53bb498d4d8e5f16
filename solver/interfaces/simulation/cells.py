"""Cells of a column as they are, and as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cells_of", "numbers_of"]


def cells_of(column: Any) -> list[Any]:
    """Return the cells of a column, None where one is blank."""
    cells: list[Any] = column.tolist() if hasattr(column, "tolist") else list(column)
    return cells


def numbers_of(column: Any) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where a cell is none."""
    import pandas as pd

    texts = [cell if isinstance(cell, int | float | str) else None for cell in cells_of(column)]
    return np.array(pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce"), np.float64)

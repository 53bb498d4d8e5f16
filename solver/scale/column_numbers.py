"""Columns of Arrow as arrays of numbers, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation
from solver.problem.instance import MAX_CAPACITY
from solver.scale.arrow_arrays import nulls_of, values_of
from solver.scale.storage import arrow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def amount_columns(path: str, row: int, batch: Any, names: Sequence[str]) -> NDArray[np.float64] | None:
    """Return columns of finite numbers >= 0, nulls as 0."""
    if not names:
        return None
    amounts = np.empty((batch.num_rows, len(names)))
    for k, name in enumerate(names):
        amounts[:, k] = number_column(batch.column(name), 0.0)
        fits = (amounts[:, k] >= 0) & (amounts[:, k] < np.inf)
        if not fits.all():
            i = int(np.flatnonzero(~fits)[0])
            rule = f"{name}: expected a finite number >= 0"
            raise SpecError(Violation(f"{path}: row {row + i + 1}", rule, float(amounts[i, k])))
    return amounts


def number_column(array: Any, missing: float) -> NDArray[Any]:
    """Return a column as floats, nulls as ``missing``."""
    values = values_of(array)
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    if array.null_count:
        values = np.where(nulls_of(array), values.dtype.type(missing), values)
    return values


def list_rows(path: str, row: int, array: Any, m: int, name: str, missing: float) -> NDArray[Any]:
    """Return the (k, m) numbers of a column of lists."""
    pa, _ = arrow()
    where = f"{path}: rows from {row + 1}"
    if array.null_count:
        raise SpecError(Violation(where, f"{name}: expected no nulls", array.null_count))
    if pa.types.is_fixed_size_binary(array.type):
        kind = "<f4" if array.type.byte_width == 4 * m else "<f8"
        data = np.frombuffer(array.buffers()[1], kind)
        return data[array.offset * m : (array.offset + len(array)) * m].reshape(-1, m)
    values = number_column(array.flatten(), missing)
    ragged = len(values) != len(array) * m
    if not ragged and not pa.types.is_fixed_size_list(array.type):
        lengths = np.diff(values_of(array.offsets))
        ragged = bool((lengths != m).any())
    if ragged:
        raise SpecError(Violation(where, f"{name}: expected {m} numbers in every row, one a model"))
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    return values.reshape(-1, m)


def unit_column(path: str, row: int, batch: Any, name: str | None) -> NDArray[np.int64] | None:
    """Return a column of whole numbers >= 1, nulls as 1; None without one."""
    if name is None:
        return None
    values = number_column(batch.column(name), 1.0).astype(np.float64)
    fits = (values >= 1) & (values <= MAX_CAPACITY) & (values == np.floor(values))
    if not fits.all():
        i = int(np.flatnonzero(~fits)[0])
        shown = float(values[i])
        rule = f"{name}: expected a whole number >= 1"
        raise SpecError(
            Violation(f"{path}: row {row + i + 1}", rule, int(shown) if shown.is_integer() else shown)
        )
    return values.astype(np.int64)


def vector_column(
    path: str, row: int, batch: Any, name: str | None, *, least: float
) -> NDArray[np.float64] | None:
    """Return a column of one number an agent; penalties, which are at least 0, may be infinite."""
    if name is None:
        return None
    values = number_column(batch.column(name), np.nan).astype(np.float64)
    fits = values >= 0 if least == 0.0 else np.isfinite(values)
    if not fits.all():
        i = int(np.flatnonzero(~fits)[0])
        rule = f"{name}: expected {'>= 0' if least == 0.0 else 'a finite number'}"
        raise SpecError(Violation(f"{path}: row {row + i + 1}", rule, float(values[i])))
    return values

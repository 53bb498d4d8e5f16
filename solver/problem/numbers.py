"""Numbers as callers pass them: one way to read them, and one message for each way they can be wrong."""

from __future__ import annotations

import operator
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LARGEST = 1e100
"""Finite numbers beyond this are refused: sums and products of scores, penalties and prices must stay finite."""


def is_number(value: object) -> bool:
    """Whether a value is one real number that float64 can hold; text and truth values are none."""
    if isinstance(value, (bool, np.bool_, np.timedelta64)) or not isinstance(value, Real):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def whole_number(path: str, value: object, *, least: int) -> int:
    """Return a value as an int.

    Raises
    ------
    SpecError
        When it is no whole number, or below ``least``.
    """
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least:
        raise SpecError(Violation(path, f"expected a whole number >= {least}", value))
    return number


def _masked(values: object) -> int:
    """Return how many entries of an array, or of the arrays in a list, are masked: numpy would read what is beneath."""
    if isinstance(values, np.ma.MaskedArray):
        return int(np.ma.getmaskarray(values).sum())
    if not isinstance(values, (list, tuple)):
        return 0
    nested = np.ma.MaskedArray, list, tuple
    # A masked number among plain ones needs no look: numpy reads it as NaN.
    return sum(_masked(row) for row in values if isinstance(row, nested) and not _is_flat(row))


def _is_flat(row: NDArray[Any] | list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list holds numbers rather than lists or arrays, by its first entry."""
    return not isinstance(row, np.ndarray) and not (
        len(row) and isinstance(row[0], (np.ndarray, list, tuple))
    )


def is_plain(values: object) -> bool:
    """Whether nothing in an array, or in a list of arrays, is masked."""
    try:
        return not _masked(values)
    except RecursionError:  # a list that contains itself: numpy refuses it
        return True


def readable(values: object) -> NDArray[Any] | None:
    """Return values as numpy reads them; None where it cannot, or where some are masked or too large for float64."""
    if not is_plain(values):
        return None
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError, RuntimeError, np.ma.MAError):
        return None
    if array.dtype.kind == "f" and array.dtype.itemsize > np.dtype(np.float64).itemsize:
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float64)
        return narrow if np.array_equal(np.isfinite(array), np.isfinite(narrow)) else None
    return array


def real_array(path: str, values: ArrayLike, lines: list[Violation]) -> NDArray[Any] | None:
    """Return values as a float array, float32 and float64 as they are, or note what is wrong and return None.

    Masked entries, text, dates and numbers that float64 cannot hold are refused rather than read as something.
    """
    if not is_plain(values):
        count = _masked(values)
        advice = "; forbid pairs by a score of -inf or by eligible"
        lines.append(Violation(path, "expected no masked entries", count, hint=advice))
        return None
    array = readable(values)
    if array is None:
        rule = "expected real numbers in a rectangular array"
        lines.append(Violation(path, rule, shown=type(values).__name__, kind=ViolationKind.TYPE))
        return None
    if array.dtype.kind == "O":
        fits = (is_number(one) or isinstance(one, (bool, np.bool_)) for one in array.flat)
        wrong = next((at for at, fit in enumerate(fits) if not fit), None)
        if wrong is not None:
            where = np.unravel_index(wrong, array.shape)
            index = f"[{', '.join(map(str, where))}]" if where else ""
            lines.append(
                Violation(f"{path}{index}", "expected real numbers that fit 64 bits", array.flat[wrong])
            )
            return None
        return array.astype(np.float64)
    if array.dtype.kind not in "fiub":
        kind = {"c": "complex numbers", "U": "text", "S": "text", "M": "dates", "m": "durations"}
        found = kind.get(array.dtype.kind, str(array.dtype))
        lines.append(Violation(path, "expected real numbers", shown=found, kind=ViolationKind.TYPE))
        return None
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def wrong_shape(path: str, expected: str, shape: tuple[int, ...]) -> Violation:
    """Return the violation of an array whose shape is not the one expected."""
    return Violation(path, f"expected shape {expected}", shown=f"shape {shape}", kind=ViolationKind.TYPE)


def finite_array(path: str, values: ArrayLike, lines: list[Violation]) -> NDArray[np.float64] | None:
    """Return values as float64 whose finite entries are at most ``LARGEST``, or note what is wrong and return None."""
    array = real_array(path, values, lines)
    if array is None:
        return None
    array = array.astype(np.float64, copy=False)
    size = np.abs(array)
    wrong = np.argwhere(np.isfinite(size) & (size > LARGEST))
    if len(wrong):
        index = ", ".join(map(str, wrong[0]))
        where = f"{path}[{index}]" if index else path
        rule = f"expected at most {LARGEST:g} in size"
        lines.append(Violation(where, rule, shown=f"{array[tuple(wrong[0])]:g}"))
        return None
    return array

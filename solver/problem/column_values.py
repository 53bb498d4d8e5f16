"""Columns as files and callers give them: codes, numbers, flags and lists of names, with what is missing told apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import Violation
from solver.problem.values import describe, number_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

_MAX_NAMED_ROWS = 20
"""Offending rows spelled out for each rule."""

_FLAG_TEXTS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""Texts that stand for true and false."""

_SEPARATOR = re.compile(r"[;|]")


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of few distinct values.

    Parameters
    ----------
    codes : (n,) integer
        Index into ``values``; -1 where the row has none.
    values : sequence
        The distinct values.
    """

    codes: NDArray[Any]
    values: Sequence[Any]

    def __len__(self) -> int:
        return len(self.codes)


Column = Any
"""A :class:`Coded`, a numpy array, a masked array (masked: the row has none) or a list (None: likewise)."""


def list_rows(
    rows: Iterable[int] | NDArray[np.int64],
    line: Callable[[int], Violation],
    more: Callable[[int], Violation],
) -> list[Violation]:
    """Return a violation for each of the first offending rows, and one that counts the others."""
    found = list(rows)
    shown = [line(int(i)) for i in found[:_MAX_NAMED_ROWS]]
    return shown if len(found) <= _MAX_NAMED_ROWS else [*shown, more(len(found) - _MAX_NAMED_ROWS)]


def split_numbers(
    column: Column, path: Callable[[int], str], lines: list[Violation]
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a column of numbers as (values, where they are missing or None).

    Parameters
    ----------
    column : Coded, ndarray, masked array or list
        Masked entries and None are missing; NaN is a number as it stands.
    path : callable
        Names the cell of a row.
    lines : list of str
        Receives a line per row that holds something else than a number; its value is 1, which breaks no
        rule, so that the other rows are still looked at.
    """
    if isinstance(column, Coded):
        column = np.array([*column.values, None], dtype=object)[np.asarray(column.codes)]
    if isinstance(column, np.ma.MaskedArray):
        missing = np.ma.getmaskarray(column)
        column = np.asarray(column.data)
        if column.dtype.kind in "iuf":
            return column, missing
        column = _blanked(column, missing)
    array = column if isinstance(column, np.ndarray) else None
    if array is not None and array.dtype.kind in "iuf":
        return array, None
    values = list(column) if array is None else array.tolist()
    bad = [
        i
        for i, value in enumerate(values)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | np.number))
    ]
    if bad:
        lines.extend(
            list_rows(
                bad,
                lambda i: Violation(
                    path(i),
                    "expected a number",
                    values[i],
                    hint=number_hint(values[i]),
                ),
                lambda more: Violation(path(bad[-1]), f"the last of {more} more that are no numbers"),
            )
        )
        for i in bad:
            values[i] = 1
    blank = np.array([value is None for value in values], dtype=np.bool_)
    return np.array([0 if value is None else _as_float(value) for value in values], dtype=np.float64), blank


def _as_float(value: Any) -> float:
    """Return a number as float64 holds it: infinite beyond its range, which every rule refuses."""
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def _blanked(values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[np.object_]:
    """Return values as objects, None where they are missing."""
    objects = values.astype(object)
    objects[missing] = None
    return objects


def coded(column: Column) -> Coded:
    """Return any column as codes and distinct values, in order of first appearance. O(n)."""
    if isinstance(column, Coded):
        return column
    if isinstance(column, np.ma.MaskedArray):
        column = _blanked(np.asarray(column.data), np.ma.getmaskarray(column))
    raw = column.tolist() if isinstance(column, np.ndarray) else column
    # The type is part of the key: 1, 1.0 and True are equal, and not the same to write.
    keys = [(type(value), tuple(value) if isinstance(value, list | np.ndarray) else value) for value in raw]
    try:
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        values = [value for _, value in places]
    except TypeError:  # a list that holds lists, or a mapping: no valid value, but one for an error to show
        given = {(kind, repr(value)): value for kind, value in keys}
        keys = [(kind, repr(value)) for kind, value in keys]
        places = {key: place for place, key in enumerate(given)}
        values = list(given.values())
    return Coded(np.fromiter(map(places.__getitem__, keys), np.int64, len(keys)), values)


def parsed_column(
    name: str,
    column: Column,
    n: int,
    parse: Callable[[Any], Any],
    lines: list[Violation],
) -> tuple[list[Any], NDArray[np.int32]]:
    """Return the distinct parsed values of a column and each row's place among them."""
    if column is None:
        return [parse(None)], np.broadcast_to(np.int32(0), (n,))
    encoded = coded(column)
    codes = np.asarray(encoded.codes)
    places: dict[Any, int] = {}
    translated = np.zeros(len(encoded.values) + 1, np.int32)  # the last entry serves code -1
    for code, value in enumerate([*encoded.values, None]):
        try:
            parsed = parse(value)
        except ValueError as error:
            rows = np.flatnonzero(codes == code)
            rule, got = str(error), describe(value)
            lines.extend(
                list_rows(
                    rows,
                    lambda i, rule=rule, got=got: Violation(f"agents[{i}].{name}", rule, shown=got),  # type: ignore[misc]
                    lambda more: Violation("agents", f"{more} more rows with a bad {name}"),
                )
            )
            continue
        translated[code] = places.setdefault(parsed, len(places))
    return list(places), translated[codes]


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def read_text(value: Any) -> str | None:
    """Return a text, None where it is blank; a ValueError for anything else."""
    if _is_blank(value):
        return None
    if not isinstance(value, str):
        msg = "expected text"
        raise ValueError(msg)
    return value


def read_flag(value: Any) -> bool:
    """Return a flag from true, false, yes, no, 1, 0 in any case; a blank is false.

    Raises
    ------
    ValueError
        For anything else.
    """
    if _is_blank(value):
        return False
    if isinstance(value, bool | np.bool_):
        return bool(value)
    known = _FLAG_TEXTS.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if known is None:
        msg = "expected true or false"
        raise ValueError(msg)
    return known


def read_names(value: Any) -> tuple[str, ...] | None:
    """Read a list of names, or text that separates them by ``;`` or ``|``; None where there is none."""
    if _is_blank(value):
        return None
    names = tuple(part.strip() for part in _SEPARATOR.split(value)) if isinstance(value, str) else value
    if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
        msg = "expected a list of names, or names separated by ';'"
        raise ValueError(msg)
    return names

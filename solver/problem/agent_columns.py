"""From columns to agents: a million rows checked in numpy, without an object for each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.problem.agents import PROFILE_FIELDS, Agent, AgentTable, Profile, several, stated
from solver.problem.instance import MAX_CAPACITY
from solver.problem.values import describe, did_you_mean, number_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "FLAG_FIELDS",
    "LIST_FIELDS",
    "NUMBER_FIELDS",
    "TEXT_FIELDS",
    "Coded",
    "agent_table",
    "coded",
    "list_rows",
    "read_flag",
    "split_numbers",
]

TEXT_FIELDS = ("task_type", "tenant")
FLAG_FIELDS = ("requires_context", "requires_tools", "requires_vision")
LIST_FIELDS = (
    "required_capabilities",
    "preferred_capabilities",
    "allowed_models",
    "forbidden_models",
    "allowed_regions",
    "allowed_providers",
)
NUMBER_FIELDS = (
    "min_context_tokens",
    "input_tokens",
    "output_tokens",
    "priority",
    "min_score",
    "unassigned_penalty",
    "copies",
    "count",
)

_MOST_NAMED_ROWS = 20
"""Offending rows spelled out for each rule."""

_COUNTS = ("min_context_tokens", "input_tokens", "output_tokens", "copies", "count")
_POSITIVE = ("copies", "count")
_DEFAULTS = {"priority": 1.0, "min_score": np.nan, "unassigned_penalty": np.nan, "copies": 1, "count": 1}
_FLAG_TEXTS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""Texts that stand for true and false."""

_RESOURCE_PREFIX = "resources."
"""First part of the names of columns that hold resources."""

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


def agent_table(columns: Mapping[str, Column]) -> AgentTable:
    """Return the agents of equally long columns, named as the fields of :class:`~solver.problem.agents.Agent`. O(n).

    Parameters
    ----------
    columns : mapping of str to Coded, ndarray, masked array or list
        ``id`` is required; resources have a column each, such as ``resources.memory_gb``. Rows without a
        value take the default of the field. Lists of capabilities, models, regions or providers are lists,
        or text separated by ``;`` or ``|``.

    Raises
    ------
    SpecError
        One line per violation, ``agents[3].priority: expected > 0, got -5``; after 20 rows that break the
        same rule the rest are counted.
    """
    lines = [
        Violation(
            f"agents.{name}",
            "unknown field",
            kind=ViolationKind.UNKNOWN,
            hint=did_you_mean(name, Agent.model_fields),
        )
        for name in columns
        if name not in Agent.model_fields and not name.startswith(_RESOURCE_PREFIX)
    ]
    if "resources" in columns:
        lines.append(
            Violation(
                "agents.resources", f"expected one column for each, such as {_RESOURCE_PREFIX}memory_gb"
            )
        )
    if "id" not in columns:
        msg = Violation("agents.id", "required, but missing", kind=ViolationKind.MISSING)
        raise SpecError(*lines, msg)
    n = len(columns["id"])
    unequal = [
        Violation(f"agents.{name}", f"expected {n} values like the column of ids", len(column))
        for name, column in columns.items()
        if len(column) != n
    ]
    if unequal:
        raise SpecError(*lines, *unequal)
    ids = _ids(columns["id"], lines)
    numbers = {name: _numbers(name, columns.get(name), n, lines) for name in NUMBER_FIELDS}
    tenants, tenant = _parsed("tenant", columns.get("tenant"), n, _text, lines)
    profiles, profile = _profiles(columns, n, lines)
    resources = {
        name.removeprefix(_RESOURCE_PREFIX): _numbers(name, column, n, lines)
        for name, column in columns.items()
        if name.startswith(_RESOURCE_PREFIX)
    }
    if lines:
        raise SpecError(*lines)
    return AgentTable(
        ids=ids,
        profiles=profiles,
        profile=profile,
        min_context_tokens=numbers["min_context_tokens"],
        input_tokens=numbers["input_tokens"],
        output_tokens=numbers["output_tokens"],
        priority=numbers["priority"],
        min_score=numbers["min_score"],
        tenants=tuple(tenants),
        tenant=tenant,
        resources={name: taken for name, taken in resources.items() if taken.any()},
        unassigned_penalty=stated(numbers["unassigned_penalty"]),
        copies=several(numbers["copies"]),
        multiplicity=several(numbers["count"]),
    )


def list_rows(
    rows: Iterable[int] | NDArray[np.int64],
    line: Callable[[int], Violation],
    more: Callable[[int], Violation],
) -> list[Violation]:
    """Return a violation for each of the first offending rows, and one that counts the others."""
    found = list(rows)
    shown = [line(int(i)) for i in found[:_MOST_NAMED_ROWS]]
    return shown if len(found) <= _MOST_NAMED_ROWS else [*shown, more(len(found) - _MOST_NAMED_ROWS)]


def _ids(column: Column, lines: list[Violation]) -> NDArray[np.object_]:
    """Return ids as text, noting those that are missing, of a wrong type, or repeated."""
    if isinstance(column, Coded):
        column = np.array([*column.values, None], dtype=object)[np.asarray(column.codes)]
    values = column.tolist() if isinstance(column, np.ndarray) else list(column)
    kinds = set(map(type, values))
    if int in kinds:
        values = [str(value) if type(value) is int else value for value in values]
    ids = np.empty(len(values), dtype=object)
    ids[:] = values
    distinct: set[Any] = set()
    if kinds <= {str, int}:
        distinct = set(values)
    if len(distinct) == len(values) and "" not in distinct:
        return ids
    bad = [i for i, value in enumerate(values) if not isinstance(value, str) or not value]
    lines.extend(
        list_rows(
            bad,
            lambda i: (
                Violation(f"agents[{i}].id", "required, but missing", kind=ViolationKind.MISSING)
                if values[i] in (None, "")
                else Violation(f"agents[{i}].id", "expected text", values[i], kind=ViolationKind.TYPE)
            ),
            lambda more: Violation("agents", f"{more} more rows without a valid id"),
        )
    )
    first: dict[str, int] = {}
    again = [
        i
        for i, value in enumerate(values)
        if isinstance(value, str) and value and first.setdefault(value, i) != i
    ]
    lines.extend(
        list_rows(
            again,
            lambda i: Violation(
                f"agents[{i}].id",
                "expected unique ids",
                values[i],
                shown=f"{values[i]!r} again, first at agents[{first[values[i]]}]",
                kind=ViolationKind.DUPLICATE,
            ),
            lambda more: Violation("agents", f"{more} more repeated ids"),
        )
    )
    return ids


def _numbers(name: str, column: Column, n: int, lines: list[Violation]) -> NDArray[Any]:
    """Return a column of numbers with defaults filled in, noting rows that break the field's rule."""
    is_count = name in _COUNTS
    dtype = np.int64 if is_count else np.float64
    default = _DEFAULTS.get(name, 0)
    if column is None:
        return np.broadcast_to(np.array(default, dtype), (n,))
    values, missing = split_numbers(column, lambda i: f"agents[{i}].{name}", lines)
    if is_count:
        with np.errstate(invalid="ignore"):
            least = int(name in _POSITIVE)
            good = (values >= least) & (values <= MAX_CAPACITY) & (values == np.floor(values))
        rule = f"expected a whole number from {least} to 2**53"
    else:
        good = np.isfinite(values)
        rule = "expected a finite number"
        if name == "priority":
            good &= values > 0
            rule = "expected a finite number > 0"
        elif name == "unassigned_penalty":
            good = values >= 0
            rule = "expected a number >= 0, or inf"
        elif name.startswith(_RESOURCE_PREFIX):
            good &= values >= 0
            rule = "expected a finite number >= 0"
    if missing is not None:
        good |= missing
    if not good.all():
        lines.extend(
            list_rows(
                np.flatnonzero(~good),
                lambda i: Violation(f"agents[{i}].{name}", rule, values[i], shown=f"{values[i]:.17g}"),
                lambda more: Violation("agents", f"{more} more rows with a bad {name}"),
            )
        )
        return np.zeros(n, dtype)
    if missing is not None and missing.any():
        values = np.where(missing, default, values)
    return np.ascontiguousarray(values, dtype=dtype)


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


def _parsed(
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


def _text(value: Any) -> str | None:
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


def _names(value: Any) -> tuple[str, ...] | None:
    """Read a list of names, or text that separates them by ``;`` or ``|``; None where there is none."""
    if _is_blank(value):
        return None
    names = tuple(part.strip() for part in _SEPARATOR.split(value)) if isinstance(value, str) else value
    if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
        msg = "expected a list of names, or names separated by ';'"
        raise ValueError(msg)
    return names


def _profiles(
    columns: Mapping[str, Column], n: int, lines: list[Violation]
) -> tuple[tuple[Profile, ...], NDArray[np.int32]]:
    """Return the distinct profiles of the rows and each row's place among them. O(n) per field."""
    combined = np.zeros(n, np.int64)
    count = 1
    fields: dict[str, tuple[list[Any], NDArray[np.int32]]] = {}
    for name in PROFILE_FIELDS:
        if name not in columns:
            continue
        parse = read_flag if name in FLAG_FIELDS else _names if name in LIST_FIELDS else _text
        distinct, codes = _parsed(name, columns[name], n, parse, lines)
        fields[name] = (distinct, codes)
        if len(distinct) > 1:
            combined = combined * len(distinct) + codes
            count *= len(distinct)
            if count > 4 * n + 1024:
                combined = np.unique(combined, return_inverse=True)[1].astype(np.int64)
                count = n
    if n == 0 or lines:
        return (Profile(),), np.zeros(n, np.int32)
    first = np.full(int(combined.max()) + 1, -1, np.int64)
    first[combined[::-1]] = np.arange(n - 1, -1, -1)
    used = np.flatnonzero(first >= 0)
    used = used[np.argsort(first[used], kind="stable")]
    place = np.zeros(len(first), np.int32)
    place[used] = np.arange(len(used))
    profiles = []
    for row in first[used].tolist():
        facts = {name: distinct[codes[row]] for name, (distinct, codes) in fields.items()}
        profiles.append(Profile(**{name: value for name, value in facts.items() if value is not None}))
    return tuple(profiles), place[combined]

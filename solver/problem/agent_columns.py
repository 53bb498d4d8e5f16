"""Reads agents from columns: a million rows are checked in numpy, without an object for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import (
    SpecError,
    Violation,
    missing_value,
    repeated_value,
    unknown_field,
    wrong_type,
)
from solver.problem.agents import PROFILE_FIELDS, Agent, AgentTable, Profile, none_if_all_nan, none_if_all_one
from solver.problem.column_values import (
    Coded,
    Column,
    list_rows,
    parsed_column,
    read_flag,
    read_names,
    read_text,
    split_numbers,
)
from solver.problem.instance import MAX_CAPACITY
from solver.problem.numbers import LARGEST
from solver.problem.values import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

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

_COUNTS = ("min_context_tokens", "input_tokens", "output_tokens", "copies", "count")
_POSITIVE = ("copies", "count")
_DEFAULTS = {"priority": 1.0, "min_score": np.nan, "unassigned_penalty": np.nan, "copies": 1, "count": 1}
_HINTED_COLUMNS = 20
"""Unknown columns that are compared with the known ones."""

_RESOURCE_PREFIX = "resources."
"""First part of the names of columns that hold resources."""


def agent_table(columns: Mapping[str, Column], *, rows: int | None = None) -> AgentTable:
    """Return the agents of equally long columns, named as the fields of :class:`~solver.problem.agents.Agent`. O(n).

    Parameters
    ----------
    columns : mapping of str to Coded, ndarray, masked array or list
        ``id`` is required; resources have a column each, such as ``resources.memory_gb``. Rows without a
        value take the default of the field. Lists of capabilities, models, regions or providers are lists,
        or text separated by ``;`` or ``|``.
    rows : int, optional
        Number of rows, where ids are not needed: the table has none, and the column is not required.

    Raises
    ------
    SpecError
        One line per violation, ``agents[3].priority: expected > 0, got -5``; after 20 rows that break the
        same rule the rest are counted.
    """
    unknown = [
        name for name in columns if name not in Agent.model_fields and not name.startswith(_RESOURCE_PREFIX)
    ]
    lines = [
        unknown_field(f"agents.{name}", did_you_mean(name, Agent.model_fields) if k < _HINTED_COLUMNS else "")
        for k, name in enumerate(unknown)
    ]
    if "resources" in columns:
        lines.append(
            Violation(
                "agents.resources", f"expected one column for each, such as {_RESOURCE_PREFIX}memory_gb"
            )
        )
    if "id" not in columns and rows is None:
        msg = missing_value("agents.id")
        raise SpecError(*lines, msg)
    n = len(columns["id"]) if rows is None else rows
    unequal = [
        Violation(f"agents.{name}", f"expected {n} values like the column of ids", len(column))
        for name, column in columns.items()
        if len(column) != n
    ]
    if unequal:
        raise SpecError(*lines, *unequal)
    ids = _ids(columns["id"], lines) if rows is None else np.broadcast_to(np.array("", object), (n,))
    numbers = {name: _numbers(name, columns.get(name), n, lines) for name in NUMBER_FIELDS}
    tenants, tenant = parsed_column("tenant", columns.get("tenant"), n, read_text, lines)
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
        unassigned_penalty=none_if_all_nan(numbers["unassigned_penalty"]),
        copies=none_if_all_one(numbers["copies"]),
        multiplicity=none_if_all_one(numbers["count"]),
    )


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
                missing_value(f"agents[{i}].id")
                if values[i] in (None, "")
                else wrong_type(f"agents[{i}].id", "expected text", values[i])
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
            lambda i: repeated_value(
                f"agents[{i}].id", "expected unique ids", values[i], first=f"agents[{first[values[i]]}]"
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
            good &= (values > 0) & (values <= LARGEST)
            rule = "expected a finite number > 0"
            if (np.isfinite(values) & (values > LARGEST)).any():
                rule += f", at most {LARGEST:g}"
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
        parse = read_flag if name in FLAG_FIELDS else read_names if name in LIST_FIELDS else read_text
        distinct, codes = parsed_column(name, columns[name], n, parse, lines)
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

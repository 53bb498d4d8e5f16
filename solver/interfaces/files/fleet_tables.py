"""Fleets as tables: one model a row, capacity and capabilities in columns of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation, unknown_field
from solver.interfaces.files.columns import ColumnKinds, Table
from solver.problem.column_values import read_flag
from solver.problem.spec import Capacity, Model
from solver.problem.values import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_TEXTS = frozenset({"id", "provider", "region"})
_FLAGS = frozenset({"supports_tools", "supports_vision"})
_MAPPINGS = ("capabilities", "resources")
_CAPACITY = "capacity."
_HINTED_COLUMNS = 20
"""Unknown columns that are compared with the known ones."""

FLEET_KINDS = ColumnKinds(text=_TEXTS, number=lambda name: name not in _FLAGS)
"""What the columns of a fleet hold, by the names of their fields."""


def fleet_rows(
    table: Table, field_of: Mapping[str, str], skipped: Collection[str] | None
) -> list[dict[str, Any]]:
    """Return the models of a table as mappings, blank cells left out.

    Parameters
    ----------
    table : Table
        Columns named like the fields of :class:`~solver.Model` and
        :class:`~solver.Capacity`, and ``capabilities.coding`` or ``resources.memory_gb``.
    field_of : mapping of str to str
        The field of columns that have another name.
    skipped : collection of str, optional
        Columns that mean nothing here; None: all that are no fields.

    Raises
    ------
    SpecError
        One line per column that is no field, and per cell that is no flag.
    """
    lines: list[Violation] = []
    models: list[dict[str, Any]] = [{} for _ in range(table.rows)]
    for column, values in table.columns.items():
        place = _place(field_of.get(column, column))
        if column in (skipped or ()) or (place is None and skipped is None):
            continue
        if place is None:
            known = [*Model.model_fields, *Capacity.model_fields]
            hint = did_you_mean(column, known) if len(lines) < _HINTED_COLUMNS else ""
            lines.append(unknown_field(f"models.{column}", hint))
            continue
        plain = values.tolist() if hasattr(values, "tolist") else list(values)
        for row, value in enumerate(plain):
            if value is None or value == "":
                continue
            if place[-1] in _FLAGS:
                try:
                    value = read_flag(value)
                except ValueError as error:
                    lines.append(Violation(f"models[{row}].{place[-1]}", str(error), value))
                    continue
            target = models[row]
            for step in place[:-1]:
                target = target.setdefault(step, {})
            target[place[-1]] = value
    if lines:
        raise SpecError(*lines)
    return models


def _place(name: str) -> tuple[str, ...] | None:
    """Return the steps to the field that a column holds, None where there is no such field."""
    head, dot, rest = name.partition(".")
    if head in _MAPPINGS and dot and rest:
        return (head, rest)
    inner = name.removeprefix(_CAPACITY)
    if inner in Capacity.model_fields and (name != inner or name not in Model.model_fields):
        return ("capacity", inner)
    return (name,) if name in Model.model_fields and name not in (*_MAPPINGS, "capacity") else None

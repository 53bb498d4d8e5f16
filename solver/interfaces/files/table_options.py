"""Options of tables in a problem file: columns under other names, and columns that mean nothing here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation, ViolationKind, unknown_field, wrong_type
from solver.interfaces.files.error_locations import PlacedError
from solver.interfaces.files.sources import READING_FIELDS
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from solver.interfaces.files.columns import Table

TABLE_OPTIONS = ("columns", "ignore_columns", *READING_FIELDS)
"""Options of a table of agents or models in a problem file, beside its path."""

_NESTED_PREFIXES = ("resources", "capabilities", "capacity")
"""First parts of column names that stand for a nested field, such as `resources.memory_gb`."""


def check_columns(table: Table, wanted: tuple[str, ...]) -> None:
    """Raise for columns that options name and the table lacks."""
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise PlacedError(
            *(
                Violation(
                    table.where(-1),
                    f"no column {describe(column)}",
                    kind=ViolationKind.UNKNOWN,
                    hint=did_you_mean(column, table.columns),
                )
                for column in missing
            )
        )


def column_options(
    part: str, options: dict[str, Any], fields: list[str]
) -> tuple[dict[str, str], list[str] | None]:
    """Return (column of each renamed field, columns to skip or None for all that are no fields)."""
    lines: list[Violation] = []
    columns = options.get("columns", {})
    if not isinstance(columns, dict) or not all(
        isinstance(name, str) for pair in columns.items() for name in pair
    ):
        lines.append(wrong_type(f"{part}.columns", "expected a mapping of fields to columns", columns))
        columns = {}
    lines.extend(
        unknown_field(f"{part}.columns.{name}", did_you_mean(name, fields))
        for name in columns
        if name not in fields and name.partition(".")[0] not in _NESTED_PREFIXES
    )
    ignored = options.get("ignore_columns", [])
    if ignored != "all" and not (
        isinstance(ignored, list) and all(isinstance(name, str) for name in ignored)
    ):
        lines.append(wrong_type(f"{part}.ignore_columns", "expected a list of columns or 'all'", ignored))
    if lines:
        raise SpecError(*lines)
    return columns, None if ignored == "all" else ignored

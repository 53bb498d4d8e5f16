"""Files of a simulation beside trace and fleet: schedules of disruptions, and capacity rules."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation, missing_value
from solver.interfaces.files.documents import read_document
from solver.interfaces.files.tables import is_table, read_table
from solver.load.control.scaling_rules import ScalingAction, ScalingRule
from solver.problem.values import unknown_name
from solver.simulate.schedule import Disruption

if TYPE_CHECKING:
    from pathlib import Path

    from solver.interfaces.files.sources import Reading

_NUMBERS = (
    "from_s",
    "until_s",
    "failure_rate",
    "reject_rate",
    "slower",
    "slots",
    "threshold_utilization",
    "threshold_duration_ms",
    "clear_utilization",
    "cooldown_ms",
)
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


def read_schedule(path: Path, reading: Reading) -> tuple[Disruption, ...]:
    """Return the disruptions in a file: a list of mappings, or a table with a row each.

    Raises
    ------
    SpecError
        Naming entry, field and value.
    """
    return tuple(
        _built(Disruption, entry, f"schedule[{k}]")
        for k, entry in enumerate(_entries(path, "schedule", reading))
    )


def read_rules(path: Path, reading: Reading) -> tuple[ScalingRule, ...]:
    """Return the capacity rules in a file: a list of mappings, or a table with a row each.

    Raises
    ------
    SpecError
        Naming entry, field and value.
    """
    rules = []
    for k, entry in enumerate(_entries(path, "rules", reading)):
        where = f"rules[{k}]"
        action = entry.get("action")
        if action not in [each.value for each in ScalingAction]:
            known = ", ".join(each.value for each in ScalingAction)
            raise SpecError(Violation(f"{where}.action", f"expected {known}", action))
        rules.append(_built(ScalingRule, {**entry, "action": ScalingAction(action)}, where))
    return tuple(rules)


def _entries(path: Path, key: str, reading: Reading) -> list[dict[str, Any]]:
    if is_table(path):
        table = read_table(path, reading=reading)
        rows: Any = [
            {
                name: table.columns[name][i]
                for name in table.columns
                if table.columns[name][i] not in (None, "")
            }
            for i in range(table.rows)
        ]
    else:
        found = read_document(path, reading)
        rows = found.get(key) if isinstance(found, dict) else found
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise SpecError(f"{path}: expected a list of mappings, one for each entry of the {key}")
    return rows


def _built(kind: type[Any], entry: dict[str, Any], where: str) -> Any:
    """Return an entry as an object of its class, with errors that say where."""
    known = {field.name: field for field in fields(kind)}
    problems = [
        unknown_name(f"{where}.{name}", f"expected one of {', '.join(known)}", name, list(known))
        for name in entry
        if name not in known
    ]
    problems += [
        missing_value(f"{where}.{name}")
        for name, field in known.items()
        if field.default is MISSING and name not in entry
    ]
    values = {}
    for name, value in entry.items():
        if name in known and value is not None:
            values[name], wrong = _typed(name, value)
            if wrong:
                problems.append(Violation(f"{where}.{name}", wrong, value))
    if problems:
        raise SpecError(*problems)
    try:
        return kind(**values)
    except SpecError as error:
        raise SpecError(*(f"{where}.{line}" for line in error.violations)) from None


def _typed(name: str, value: Any) -> tuple[Any, str]:
    """Return a value as its field takes it, and what is wrong with it."""
    if name in ("outage", "announced"):
        if isinstance(value, bool):
            return value, ""
        text = str(value).lower()
        return text in _TRUE, "" if text in (*_TRUE, *_FALSE) else "expected true or false"
    if name not in _NUMBERS:
        return value if not isinstance(value, int | float) else str(value), ""
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
    except (TypeError, ValueError):
        number = float("nan")
    if number != number:  # NaN
        return value, "expected a number"
    if name == "slots":
        return int(number), "" if number == int(number) else "expected a whole number"
    return number, ""

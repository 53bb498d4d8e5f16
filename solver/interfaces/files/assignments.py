"""Reading plans, our own and those of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError
from solver.interfaces.files.columns import ColumnKinds
from solver.interfaces.files.documents import read_document
from solver.interfaces.files.library_errors import located_errors
from solver.interfaces.files.sources import Reading, content_suffix
from solver.interfaces.files.tables import read_table
from solver.problem.column_values import Coded
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Plans = dict[str, str | dict[str, int] | None]
"""Model of each agent, or how many times each of its models serves it; None for the unassigned."""

_UNITS = "units"
_UNASSIGNED_WORDS = frozenset({"", "none", "null", "nan", "n/a", "na", "-", "unassigned"})
"""How other tools write that an agent has no model, unless a model is called so."""


def read_assignments(
    path: str | Path,
    *,
    agent: str = "agent",
    model: str = "model",
    several: bool = False,
    reading: Reading | None = None,
) -> Plans:
    """Return the model of each agent in an assignment file, None for the unassigned.

    Parameters
    ----------
    path : str or Path
        A table, or JSON as :func:`~solver.interfaces.files.results.write_results` writes it. Other columns
        than the two are skipped.
    agent, model : str
        The columns.
    several : bool
        Whether an agent may have several models: in rows of its own each, or as a list, with the number of
        times in the column ``units`` where it is not one.
    reading : Reading, optional
        Encoding and dialect where they are known, limits, and where notes go.

    Raises
    ------
    SpecError
        When the file cannot be read or is broken, lacks a column, or names an agent twice where it has one
        model.
    MissingExtraError
        For Parquet without pyarrow, and workbooks without openpyxl.
    """
    path = Path(path)
    reading = Reading() if reading is None else reading
    with located_errors(path):
        if content_suffix(path) == ".json":
            columns, where = _json_columns(path, (agent, model), reading)
        else:
            kinds = ColumnKinds(coded=frozenset({model}), text=frozenset({agent}))
            table = read_table(path, kinds, reading=reading, first_name=agent)
            columns, where = table.columns, table.where
        if missing := [name for name in (agent, model) if name not in columns]:
            options = {agent: "--plan-agent-column", model: "--plan-model-column"}
            raise SpecError(
                *(
                    f"{where(-1)}: no column {describe(name)}{did_you_mean(name, columns)} "
                    f"({options[name]} names another)"
                    for name in missing
                )
            )
        rows = _rows(columns, agent, model)
        return _plans(rows, where, (agent, model), several=several)


def _rows(columns: Mapping[str, Any], agent: str, model: str) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (agent, model, units) of each row, None where a cell is blank."""
    agents, models = _texts(columns[agent]), _texts(columns[model])
    units = columns.get(_UNITS)
    counts = [None] * len(agents) if units is None else _texts(units, numbers=True)
    return zip(agents, models, counts, strict=True)


def _plans(
    rows: Iterator[tuple[Any, Any, Any]],
    where: Callable[[int], str],
    names: tuple[str, str],
    *,
    several: bool,
) -> Plans:
    plans: Plans = {}
    lines: list[str] = []
    for row, (agent, model, units) in enumerate(rows):
        if not isinstance(agent, str):
            lines.append(f"{where(row)}: {names[0]}: expected an id, got {describe(agent)}")
            continue
        if agent in plans and not several:
            lines.append(f"{where(row)}: {names[0]}: expected one row an agent, got {describe(agent)} again")
            continue
        served = _served(model, units)
        if served is None:
            lines.append(f"{where(row)}: {names[1]}: expected an id, got {describe(model)}")
        elif several:
            known = plans.setdefault(agent, {})
            assert isinstance(known, dict)
            for name, times in served.items():
                known[name] = known.get(name, 0) + times
        elif len(served) > 1 or sum(served.values()) > 1:
            lines.append(f"{where(row)}: {names[1]}: expected one model, got {describe(model)}")
        else:
            plans[agent] = next(iter(served), None)
    if lines:
        raise SpecError(*lines)
    return plans


def _served(model: Any, units: Any) -> dict[str, int] | None:
    """Return how many times each model serves an agent, None where the cells say nothing of the kind."""
    models = model if isinstance(model, Sequence) and not isinstance(model, str) else [model]
    times = units if isinstance(units, Sequence) and not isinstance(units, str) else [units] * len(models)
    if isinstance(units, np.ndarray):
        times = units.tolist()
    if len(times) != len(models):
        return None
    served: dict[str, int] = {}
    for name, count in zip(models, times, strict=True):
        if name is None:
            continue
        count = 1 if count is None else count
        if not isinstance(name, str) or isinstance(count, bool) or not isinstance(count, int | float):
            return None
        if count != int(count) or count < 0:
            return None
        served[name] = served.get(name, 0) + int(count)
    return served


def _texts(column: Any, *, numbers: bool = False) -> list[Any]:
    """Return a column of ids as text, None where there is none; numbers stay numbers where asked."""
    if isinstance(column, Coded):
        values = np.array([*column.values, None], dtype=object)[np.asarray(column.codes)].tolist()
    else:
        values = column.tolist() if hasattr(column, "tolist") else list(column)
    return [_text(value, numbers) for value in values]


def _text(value: Any, numbers: bool) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_text(entry, numbers) for entry in value]
    if numbers or type(value) is not int:
        return None if value == "" else value
    return str(value)


def _json_columns(
    path: Path, names: tuple[str, str], reading: Reading
) -> tuple[dict[str, Any], Callable[[int], str]]:
    document = read_document(path, reading)
    rows = document.get("assignments") if isinstance(document, dict) else document
    if rows is None and isinstance(document, dict) and document and _is_mapping_of_ids(document):
        rows = [{names[0]: agent, names[1]: model} for agent, model in document.items()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = (
            f"{path}: expected a list of assignments, an object with one as 'assignments', "
            "or an object with the model of each agent"
        )
        raise SpecError(msg)
    named = dict.fromkeys(name for row in rows for name in row) or dict.fromkeys(names)

    def where(row: int) -> str:
        return f"{path}: assignments[{row}]" if row >= 0 else str(path)

    return {name: [row.get(name) for row in rows] for name in named}, where


def _is_mapping_of_ids(document: dict[Any, Any]) -> bool:
    """Return whether a document is the model of each agent, by id, and no report that lacks its assignments."""
    return "status" not in document and all(
        model is None or isinstance(model, str) for model in document.values()
    )


def known_ids(
    plans: Plans, agents: Mapping[str, Any], models: Sequence[str], note: Callable[[str], None]
) -> Plans:
    """Return plans with ids as the problem writes them.

    Blanks around ids are dropped where the id is known without them, and words such as ``unassigned`` or
    ``none`` stand for no model where no model is called so. What is not known stays as it is.

    Parameters
    ----------
    plans : mapping
        As :func:`read_assignments` returns them.
    agents : mapping
        With the ids of agents as keys.
    models : sequence of str
        Ids of models.
    note : callable
        Receives what was changed, in words.
    """
    columns = frozenset(models)
    words: set[str] = set()
    trimmed = 0

    def known(name: str, ids: Any) -> str:
        nonlocal trimmed
        if name in ids or name.strip() not in ids:
            return name
        trimmed += 1
        return name.strip()

    def model(name: str) -> str | None:
        found = known(name, columns)
        if found not in columns and found.strip().lower() in _UNASSIGNED_WORDS:
            words.add(found)
            return None
        return found

    result: Plans = {}
    for agent, given in plans.items():
        entry: str | dict[str, int] | None = None
        if isinstance(given, str):
            entry = model(given)
        elif given is not None:
            entry = {name: times for one, times in given.items() if (name := model(one)) is not None}
        result[known(agent, agents)] = entry
    if trimmed:
        note(f"blanks around {trimmed:,} ids of the plan are dropped")
    if words:
        note(f"the plan's {describe(sorted(words))} stands for no model")
    return result

"""Tables of given scores: one pair a row, one model a column, or one choice a column."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind, missing_value, repeated_value
from solver.interfaces.files.columns import ColumnKinds
from solver.interfaces.files.tables import Table, read_table
from solver.problem.column_values import Coded, coded, list_rows, split_numbers
from solver.problem.scores import ScoreTable
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from solver.interfaces.files.score_layouts import ScoreLayout
    from solver.interfaces.files.sources import Reading

_NUMBER = re.compile(r"\d+")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ORDINAL = re.compile(rf"\b({'|'.join(_ORDINALS)})\b", re.IGNORECASE)
_NAMED_COLUMNS = 12
"""Columns named in an error."""


def read_score_table(path: Path, layout: ScoreLayout, *, reading: Reading) -> tuple[Table, ScoreTable]:
    """Return the columns of a score table, and the scores in them.

    Parameters
    ----------
    path : Path
        CSV, JSON Lines, Parquet or Excel.
    layout : ScoreLayout
        What stands where. Further columns of long and ranked tables are skipped.
    reading : Reading
        Encoding and dialect where they are known, limits, and where notes go.

    Raises
    ------
    SpecError
        With the file and line of what a row breaks.
    MissingExtraError
        For Parquet without pyarrow, and workbooks without openpyxl.
    """
    if layout.layout == "long":
        kinds = ColumnKinds(
            coded=frozenset({layout.agent, layout.model}), number=lambda name: name == layout.score
        )
        table = read_table(path, kinds, reading=reading)
        needed = [layout.agent, layout.model, layout.score]
    elif layout.layout == "wide":
        skipped = frozenset(layout.ignore_columns)
        kinds = ColumnKinds(text=frozenset({layout.agent}) | skipped, number=lambda _: True)
        table = read_table(path, kinds, reading=reading, first_name=layout.agent)
        needed = [layout.agent, *layout.ignore_columns]
    else:
        # Which columns are choices is known with their names only, so every column is read as text.
        table = read_table(path, ColumnKinds(coded=_Everything()), reading=reading, first_name=layout.agent)
        needed = [layout.agent, *layout.choices]
    missing = [name for name in needed if name not in table.columns]
    if missing:
        hints = _layout_hint(table, layout, missing)
        lines = [
            Violation(
                table.where(-1),
                f"no column {describe(name)}{did_you_mean(name, table.columns)}{_option(layout, name)}",
            )
            for name in missing
        ]
        raise SpecError(*(f"{line}{hints}" for line in lines))
    if not table.rows:
        msg = f"{table.where(-1)}: expected at least one row of scores, got none"
        raise SpecError(msg)
    lines = []
    read = {"long": _long, "wide": _wide, "ranked": _ranked}[layout.layout]
    scores = read(table, layout, lines)
    if lines:
        raise SpecError(*lines)
    if layout.layout == "ranked":
        rows = scores.agent_codes
        assert rows is not None
        table = replace(table, rows=len(rows), where=_where_of_pairs(table.where, rows))
        used = {layout.agent, *_choices(table, layout, [])}
        if others := [name for name in table.columns if name not in used]:
            reading.note(f"{path}: columns that are no choices are skipped: {describe(others)}")
    return table, scores


def _where_of_pairs(where: Callable[[int], str], rows: NDArray[np.int64]) -> Callable[[int], str]:
    """Return what names the row of the k-th pair of a table whose rows hold several."""
    return lambda pair: where(int(rows[pair]) if pair >= 0 else -1)


class _Everything(frozenset[str]):
    """A set of names that holds every name."""

    __slots__ = ()

    def __contains__(self, _name: object) -> bool:
        return True


def _option(layout: ScoreLayout, name: str) -> str:
    """Return how to say that a needed column has another name."""
    if name not in (layout.agent, layout.model, layout.score):
        return ""
    what = next(field for field in ("agent", "model", "score") if getattr(layout, field) == name)
    return f" (--{what}-column names another)"


def _layout_hint(table: Table, layout: ScoreLayout, missing: Sequence[str]) -> str:
    """Return which other layout the columns there are speak for."""
    names = list(table.columns)
    shown = f"; the columns are {describe(names[:_NAMED_COLUMNS])}" if len(names) <= _NAMED_COLUMNS else ""
    if layout.layout == "long" and len(missing) >= 2 and len(names) > 1:
        if len(_numbered(names)) > 1:
            return f"{shown}; choices in columns are read with --layout ranked"
        return f"{shown}; one model a column is read with --layout wide"
    return shown


def _long(table: Table, layout: ScoreLayout, lines: list[Violation]) -> ScoreTable:
    """Return the scores of a table with one pair a row."""
    agents, models = (_ids(table, name, lines) for name in (layout.agent, layout.model))
    return ScoreTable(
        values=_scores(table, layout.score, lines),
        agent_ids=tuple(agents.values),
        model_ids=tuple(models.values),
        agent_codes=agents.codes,
        model_codes=models.codes,
    )


def _one_row_each(table: Table, agent: str, lines: list[Violation]) -> Coded:
    """Return the ids of agents, noting those that come in more rows than one."""
    agents = _ids(table, agent, lines)
    if len(agents.values) < table.rows and not lines:
        again = np.flatnonzero(agents.codes[1:] <= np.maximum.accumulate(agents.codes)[:-1]) + 1
        lines.extend(
            list_rows(
                again,
                lambda i: repeated_value(
                    table.where(i), f"{agent}: expected unique ids", agents.values[agents.codes[i]]
                ),
                lambda more: Violation(table.where(int(again[-1])), f"the last of {more} more repeated ids"),
            )
        )
    return agents


def _wide(table: Table, layout: ScoreLayout, lines: list[Violation]) -> ScoreTable:
    """Return the scores of a table with one agent a row; a blank cell forbids the pair."""
    agents = _one_row_each(table, layout.agent, lines)
    models = [name for name in table.columns if name != layout.agent and name not in layout.ignore_columns]
    if not models:
        lines.append(
            Violation(
                f"{table.where(-1)}", "expected a column per model", shown=f"none besides {layout.agent!r}"
            )
        )
        return ScoreTable(values=np.zeros((table.rows, 0)))
    columns = []
    for name in models:
        before = len(lines)
        columns.append(_scores(table, name, lines, blank=-np.inf))
        if len(lines) > before and name not in layout.ignore_columns:
            hint = "; a column that is no model is named under ignore_columns (--ignore-column)"
            lines[before] = lines[before].noted(hint)
    return ScoreTable(
        values=np.stack(columns, axis=1), agent_ids=tuple(agents.values), model_ids=tuple(models)
    )


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the longest list of names that differ in one number only, from 1 on, in its order."""
    families: dict[str, dict[int, str]] = {}
    for name in names:
        written = _ORDINAL.sub(lambda word: str(_ORDINALS.index(word[0].lower()) + 1), name)
        if len(found := _NUMBER.findall(written)) == 1 and len(found[0]) <= 4:
            stem = re.sub(r"(?<=\0)(st|nd|rd|th)\b", "", _NUMBER.sub("\0", written).lower())
            families.setdefault(stem, {}).setdefault(int(found[0]), name)
    runs = [
        [family[number] for number in range(1, len(family) + 1)]
        for family in families.values()
        if set(family) == set(range(1, len(family) + 1))
    ]
    return max(runs, key=len, default=[])


def _choices(table: Table, layout: ScoreLayout, lines: list[Violation]) -> list[str]:
    """Return the columns of choices, the first choice first."""
    if layout.choices:
        return list(layout.choices)
    found = _numbered([name for name in table.columns if name != layout.agent])
    if not found:
        lines.append(
            Violation(
                f"{table.where(-1)}",
                "expected columns of choices such as pref1, pref2, ..., or their names as choices",
                list(table.columns)[:_NAMED_COLUMNS],
            )
        )
    return found


def _ranked(table: Table, layout: ScoreLayout, lines: list[Violation]) -> ScoreTable:
    """Return the scores of choices: as many points as there are columns for the first, 1 for the last.

    A model that an agent does not name has no score.
    """
    agents = _one_row_each(table, layout.agent, lines)
    names = _choices(table, layout, lines)
    models: dict[str, int] = {}
    rows, columns, values = [], [], []
    for place, name in enumerate(names):
        choice = coded(table.columns[name])
        texts = [_model_name(value) for value in choice.values]
        bad = [code for code, text in enumerate(texts) if text is None and choice.values[code] is not None]
        lines.extend(
            Violation(
                f"{table.where(int(row))}",
                f"{name}: expected the id of a model",
                choice.values[choice.codes[row]],
                kind=ViolationKind.UNKNOWN,
            )
            for row in np.flatnonzero(np.isin(choice.codes, bad))[:_NAMED_COLUMNS]
        )
        places = np.array(
            [-1 if text is None else models.setdefault(text, len(models)) for text in texts] + [-1]
        )
        where = places[np.asarray(choice.codes)]
        chosen = np.flatnonzero(where >= 0)
        rows.append(chosen)
        columns.append(where[chosen])
        values.append(np.full(len(chosen), float(len(names) - place)))
    if not models:
        if names:
            lines.append(
                Violation(
                    f"{table.where(-1)}",
                    f"expected choices in {describe(names[:_NAMED_COLUMNS])}",
                    shown="none",
                )
            )
        return ScoreTable(values=np.zeros((table.rows, 0)))
    row, column = np.concatenate(rows), np.concatenate(columns)
    order = np.lexsort((column, row))
    twice = order[1:][(np.diff(row[order]) == 0) & (np.diff(column[order]) == 0)]
    ids = list(models)
    lines.extend(
        Violation(
            f"{table.where(int(row[k]))}",
            "expected a model once",
            ids[column[k]],
            shown=f"{describe(ids[column[k]])} twice",
            kind=ViolationKind.DUPLICATE,
        )
        for k in twice[:_NAMED_COLUMNS]
    )
    return ScoreTable(
        values=np.concatenate(values),
        agent_ids=tuple(agents.values),
        model_ids=tuple(ids),
        agent_codes=np.asarray(agents.codes)[row] if not lines else row,
        model_codes=column,
    )


def _model_name(value: Any) -> str | None:
    """Return the id of a model in a cell; None for a blank and for what is no id."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def _ids(table: Table, name: str, lines: list[Violation]) -> Coded:
    """Return a column of ids as text and codes, in order of first appearance, noting rows without one."""
    column = coded(table.columns[name])
    bad = [
        code
        for code, value in enumerate(column.values)
        if value is None or value == "" or isinstance(value, bool) or not isinstance(value, str | int)
    ]
    rows = np.flatnonzero(np.isin(column.codes, [-1, *bad]))

    def complaint(row: int) -> Violation:
        value = None if column.codes[row] < 0 else column.values[column.codes[row]]
        rule = "required, but missing" if value in (None, "") else f"expected an id, got {describe(value)}"
        return Violation(table.where(row), f"{name}: {rule}")

    lines.extend(
        list_rows(
            rows,
            complaint,
            lambda more: Violation(table.where(int(rows[-1])), f"the last of {more} more without {name}"),
        )
    )
    return _by_appearance(column)


def _scores(
    table: Table, name: str, lines: list[Violation], *, blank: float | None = None
) -> NDArray[np.float64]:
    """Return a column of scores, noting rows that hold none. Blank cells become ``blank`` where given."""
    given, missing = split_numbers(table.columns[name], lambda row: f"{table.where(row)}: {name}", lines)
    values = given.astype(np.float64)
    infinite = ~np.isfinite(values)
    if missing is not None:
        infinite &= ~missing
        if blank is None:
            rows = np.flatnonzero(missing)
            lines.extend(
                list_rows(
                    rows,
                    lambda i: missing_value(table.where(i), f"{name}: required, but missing"),
                    lambda more: Violation(
                        table.where(int(rows[-1])), f"the last of {more} more without {name}"
                    ),
                )
            )
        else:
            values[missing] = blank
    bad = np.flatnonzero(infinite)
    lines.extend(
        list_rows(
            bad,
            lambda i: Violation(table.where(i), f"{name}: expected a finite number", values[i]),
            lambda more: Violation(table.where(int(bad[-1])), f"the last of {more} more that are not finite"),
        )
    )
    return values


def _by_appearance(column: Coded) -> Coded:
    """Return a coded column with its values as text, in order of first appearance. O(n)."""
    codes = np.asarray(column.codes, dtype=np.int64)
    count = len(column.values)
    first = np.full(count + 1, len(codes), dtype=np.int64)  # the last entry takes code -1
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    order = np.argsort(first[:count], kind="stable")
    place = np.full(count + 1, -1, dtype=np.int64)
    place[order] = np.arange(count)
    return Coded(place[codes], [str(column.values[code]) for code in order.tolist()])

"""Tables of given scores: one pair a row, or one agent a row and one model a column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError
from solver.interfaces.files.tables import Table, read_table
from solver.problem.agent_columns import Coded, coded, list_rows, split_numbers
from solver.problem.scores import ScoreTable
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_score_table", "score_options"]

_LAYOUTS = ("long", "wide")


def score_options(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of :func:`read_score_table` in a problem file, checked.

    Raises
    ------
    SpecError
        One line per option that is no text, and for an unknown layout.
    """
    lines = [
        f"scores.{name}: expected text, got {describe(value)}"
        for name, value in given.items()
        if not isinstance(value, str)
    ]
    layout = given.get("layout", "long")
    if isinstance(layout, str) and layout not in _LAYOUTS:
        lines.append(
            f"scores.layout: expected 'long' or 'wide', got {layout!r}{did_you_mean(layout, _LAYOUTS)}"
        )
    if lines:
        raise SpecError(*lines)
    return dict(given)


def read_score_table(
    path: Path, *, agent: str = "agent", model: str = "model", score: str = "score", layout: str = "long"
) -> tuple[Table, ScoreTable]:
    """Return the columns of a score table, and the scores in them; other columns are skipped.

    Parameters
    ----------
    path : Path
        CSV, JSON Lines or Parquet.
    agent, model, score : str
        Columns of a long table. A wide one has an ``agent`` column, and every other is a model.
    layout : {"long", "wide"}
        One pair a row, or one agent a row and one model a column, where a blank cell forbids the pair.

    Raises
    ------
    SpecError
        With ``scores[row].column`` for what a row breaks.
    MissingExtraError
        For Parquet without pyarrow.
    """
    if layout == "wide":
        table = read_table(path, text=[agent], numbers=None)
    else:
        table = read_table(path, coded=[agent, model], numbers=[score])
    missing = [
        name for name in ([agent] if layout == "wide" else [agent, model, score]) if name not in table.columns
    ]
    if missing:
        raise SpecError(
            *(f"{path}: no column {name!r}{did_you_mean(name, table.columns)}" for name in missing)
        )
    lines: list[str] = []
    scores = _wide(table, agent, lines) if layout == "wide" else _long(table, agent, model, score, lines)
    if lines:
        raise SpecError(*lines)
    return table, scores


def _long(table: Table, agent: str, model: str, score: str, lines: list[str]) -> ScoreTable:
    """Return the scores of a table with one pair a row."""
    agents, models = (_ids(table, name, lines) for name in (agent, model))
    return ScoreTable(
        values=_scores(table, score, lines),
        agent_ids=tuple(agents.values),
        model_ids=tuple(models.values),
        agent_codes=agents.codes,
        model_codes=models.codes,
    )


def _wide(table: Table, agent: str, lines: list[str]) -> ScoreTable:
    """Return the scores of a table with one agent a row; a blank cell forbids the pair."""
    agents = _ids(table, agent, lines)
    if len(agents.values) < table.rows and not lines:
        again = np.flatnonzero(agents.codes[1:] <= np.maximum.accumulate(agents.codes)[:-1]) + 1
        lines.extend(
            list_rows(
                again,
                lambda i: f"{table.where(i)}: {agent}: {_again(agents.values[agents.codes[i]])}",
                lambda more: f"{table.where(int(again[-1]))}: the last of {more} more repeated ids",
            )
        )
    models = [name for name in table.columns if name != agent]
    if not models:
        lines.append(f"{table.where(-1)}: expected a column per model, got none besides {agent!r}")
        return ScoreTable(values=np.zeros((table.rows, 0)))
    columns = [_scores(table, name, lines, blank=-np.inf) for name in models]
    return ScoreTable(
        values=np.stack(columns, axis=1), agent_ids=tuple(agents.values), model_ids=tuple(models)
    )


def _again(name: str) -> str:
    return f"expected unique ids, got {name!r} again"


def _ids(table: Table, name: str, lines: list[str]) -> Coded:
    """Return a column of ids as text and codes, in order of first appearance, noting rows without one."""
    column = coded(table.columns[name])
    bad = [
        code
        for code, value in enumerate(column.values)
        if value is None or value == "" or isinstance(value, bool) or not isinstance(value, str | int)
    ]
    rows = np.flatnonzero(np.isin(column.codes, [-1, *bad]))

    def complaint(row: int) -> str:
        value = None if column.codes[row] < 0 else column.values[column.codes[row]]
        rule = "required, but missing" if value in (None, "") else f"expected an id, got {describe(value)}"
        return f"{table.where(row)}: {name}: {rule}"

    lines.extend(
        list_rows(
            rows,
            complaint,
            lambda more: f"{table.where(int(rows[-1]))}: the last of {more} more without {name}",
        )
    )
    return _by_appearance(column)


def _scores(table: Table, name: str, lines: list[str], *, blank: float | None = None) -> NDArray[np.float64]:
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
                    lambda i: f"{table.where(i)}: {name}: required, but missing",
                    lambda more: f"{table.where(int(rows[-1]))}: the last of {more} more without {name}",
                )
            )
        else:
            values[missing] = blank
    bad = np.flatnonzero(infinite)
    lines.extend(
        list_rows(
            bad,
            lambda i: f"{table.where(i)}: {name}: expected a finite number, got {values[i]}",
            lambda more: f"{table.where(int(bad[-1]))}: the last of {more} more that are not finite",
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

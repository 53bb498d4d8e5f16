"""Score tables as a matrix, their columns found by the usual names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation
from solver.interfaces.files.columns import ColumnKinds
from solver.interfaces.files.tables import read_table
from solver.interfaces.simulation.cells import cells_of, numbers_of
from solver.problem.values import describe

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from solver.interfaces.files.sources import Reading
    from solver.interfaces.files.tables import Table

_MODEL_COLUMNS = ("model", "model_id", "model_name", "llm", "generator")
_AGENT_COLUMNS = (
    "agent",
    "agent_id",
    "prompt_id",
    "prompt",
    "query_id",
    "query",
    "request_id",
    "id",
    "question_id",
)
_SCORE_COLUMNS = (
    "score",
    "win_prob",
    "win_rate",
    "quality",
    "reward",
    "outcome",
    "accuracy",
    "correct",
    "value",
)
_COST_COLUMNS = ("cost_usd", "cost", "usd", "price")
_SIZE_COLUMNS = ("output_tokens", "output_chars", "tokens")
"""Names of columns that stand in for cost, in a unit of their own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreMatrix:
    """Scores of agents on models.

    Parameters
    ----------
    agents, models : tuple of str
        Rows and columns.
    scores : (n, m) float64
        NaN where there is none.
    cost : (n, m) float64 or None
        Of each pair, where the table has any.
    cost_column : str or None
        What cost was read from.
    """

    agents: tuple[str, ...]
    models: tuple[str, ...]
    scores: NDArray[np.float64]
    cost: NDArray[np.float64] | None = None
    cost_column: str | None = None


def read_score_matrix(
    path: Path,
    reading: Reading,
    *,
    agent: str | None = None,
    model: str | None = None,
    score: str | None = None,
    cost: str | None = None,
) -> ScoreMatrix:
    """Return the scores in a table: a row per pair, or a row per agent with a column per model.

    Parameters
    ----------
    path : Path
        CSV, JSON Lines, Parquet or Excel.
    reading : Reading
        Encoding and dialect, and where notes about the columns found go.
    agent, model, score, cost : str, optional
        Names of the columns; default: the usual ones. Without a column of models the table is wide.

    Raises
    ------
    SpecError
        When a column is missing, a pair is there twice, or a score is no number.
    """
    table = read_table(path, ColumnKinds(number=lambda _: False), reading=reading)
    if not table.rows or not table.columns:
        raise SpecError(f"{table.where(-1)}: expected at least one score, got none")
    agent_name = _found(table, agent, _AGENT_COLUMNS) or next(iter(table.columns))
    model_name = _found(table, model, _MODEL_COLUMNS)
    if model_name is None:
        return _wide(path, table, agent_name, reading)
    score_name = _found(table, score, _SCORE_COLUMNS)
    if score_name is None:
        raise SpecError(
            f"{table.where(-1)}: no column of scores found; there are {describe(list(table.columns))}"
        )
    cost_name = _found(table, cost, (*_COST_COLUMNS, *_SIZE_COLUMNS))
    agents, rows = _ids(table, agent_name)
    models, columns = _ids(table, model_name)
    pair = rows * len(models) + columns
    if len(np.unique(pair)) < len(pair):
        _, first, count = np.unique(pair, return_index=True, return_counts=True)
        at = int(first[count > 1][0])
        again = int(np.flatnonzero(pair == pair[at])[1])
        raise SpecError(
            Violation(
                f"{table.where(again)}: {agents[rows[at]]}, {models[columns[at]]}",
                "expected each pair once",
                shown="two",
            )
        )
    reading.note(
        f"{path.name}: {agent_name} names agents, {model_name} models, {score_name} is the score"
        + ("" if cost_name is None else f", {cost_name} the cost")
    )
    scores = np.full((len(agents), len(models)), np.nan)
    scores[rows, columns] = _numbers(table, score_name)
    costs = None
    if cost_name is not None:
        costs = np.full(scores.shape, np.nan)
        costs[rows, columns] = _numbers(table, cost_name, least=0.0)
    return ScoreMatrix(agents=agents, models=models, scores=scores, cost=costs, cost_column=cost_name)


def _found(table: Table, given: str | None, usual: tuple[str, ...]) -> str | None:
    if given is not None:
        if given not in table.columns:
            raise SpecError(
                f"{table.where(-1)}: no column {describe(given)}; there are {describe(list(table.columns))}"
            )
        return given
    lower = {name.lower(): name for name in table.columns}
    return next((lower[name] for name in usual if name in lower), None)


def _codes(values: Any) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return distinct values in the order they appear, and the position of each row's."""
    import pandas as pd

    codes, names = pd.factorize(pd.Series([str(value) for value in cells_of(values)]))
    return tuple(names), np.asarray(codes, np.int64)


def _ids(table: Table, name: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return distinct ids and the position of each row's.

    Raises
    ------
    SpecError
        For rows without one.
    """
    cells = cells_of(table.columns[name])
    bad = [
        row
        for row, cell in enumerate(cells)
        if cell in (None, "") or isinstance(cell, float | bool | list | dict)
    ]
    if bad:
        raise SpecError(
            *(Violation(f"{table.where(row)}: {name}", "expected an id", cells[row]) for row in bad)
        )
    return _codes(cells)


def _numbers(table: Table, name: str, least: float = -np.inf) -> NDArray[np.float64]:
    cells, numbers = cells_of(table.columns[name]), numbers_of(table.columns[name])
    rule = "expected a finite number" if least == -np.inf else f"expected a finite number >= {least:g}"
    bad = [
        Violation(f"{table.where(int(i))}: {name}", rule, cells[i])
        for i in np.flatnonzero(~(np.isfinite(numbers) & (numbers >= least)))
        if cells[i] not in (None, "")
    ]
    if bad:
        raise SpecError(*bad)
    return numbers


def _wide(path: Path, table: Table, agent: str, reading: Reading) -> ScoreMatrix:
    agents, rows = _ids(table, agent)
    if len(agents) < table.rows:
        again = int(np.flatnonzero(rows[1:] <= np.maximum.accumulate(rows)[:-1])[0]) + 1
        shown = f"{describe(agents[rows[again]])} again"
        raise SpecError(Violation(f"{table.where(again)}: {agent}", "expected each agent once", shown=shown))
    models = tuple(name for name in table.columns if name != agent)
    if not models:
        where = f"{table.where(-1)}: {agent}"
        raise SpecError(Violation(where, "expected a column per model beside it", shown="none"))
    reading.note(f"{path.name}: {agent} names agents, every other column is a model")
    scores = np.column_stack([_numbers(table, name) for name in models])
    return ScoreMatrix(agents=agents, models=models, scores=scores[np.argsort(rows)])


def read_groups(
    path: Path, scores: ScoreMatrix, reading: Reading, agent: str | None, column: str | None
) -> NDArray[np.int64]:
    """Return the task type of each agent, as a number, from a table that names it.

    Parameters
    ----------
    path : Path
        A row per agent.
    scores : ScoreMatrix
        Whose agents.
    reading : Reading
        Encoding and dialect.
    agent, column : str, optional
        Columns of the agent and of its task type; by default the usual names, and the first other one.

    Raises
    ------
    SpecError
        When an agent is missing, or a column.
    """
    table = read_table(path, ColumnKinds(number=lambda _: False), reading=reading)
    if not table.rows or not table.columns:
        raise SpecError(f"{table.where(-1)}: expected the task type of every agent, got none")
    name = _found(table, agent, _AGENT_COLUMNS) or next(iter(table.columns))
    column = _found(table, column, ("task_type", "group", "dataset", "category"))
    if column is None:
        raise SpecError(f"{table.where(-1)}: no column of task types found; name it with --group-column")
    ids = [str(cell) for cell in cells_of(table.columns[name])]
    _, codes = _codes(table.columns[column])
    code_of = dict(zip(ids, codes.tolist(), strict=True))
    missing = [each for each in scores.agents if each not in code_of]
    if missing:
        raise SpecError(
            Violation(
                f"{path}: {name}", "expected every agent of the scores", shown=f"no {describe(missing[0])}"
            )
        )
    reading.note(f"{path.name}: predictions use {column}")
    return np.array([code_of[each] for each in scores.agents], np.int64)

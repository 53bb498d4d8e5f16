"""Classifies each row that counts pairs: pairs of one model, whole models, or whole agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.flow.counting_rows import CountingRows


@dataclass(frozen=True, slots=True, eq=False)
class RowKinds:
    """The kind of each of g rows, and what it consists of.

    Parameters
    ----------
    size : (g,) int64
        Pairs of each row.
    column : (g,) int64
        The model of a row on one model; m, "outside", for a row of agents.
    on_model, whole, of_models, of_agents : (g,) bool
        Rows on one model; those of them that hold all its pairs; rows of whole models, and of whole agents.
    group, member : (u,) int64
        Rows of whole models, and their models.
    team, person : (v,) int64
        Rows of whole agents, and their agents.
    """

    size: NDArray[np.int64]
    column: NDArray[np.int64]
    on_model: NDArray[np.bool_]
    whole: NDArray[np.bool_]
    of_models: NDArray[np.bool_]
    of_agents: NDArray[np.bool_]
    group: NDArray[np.int64]
    member: NDArray[np.int64]
    team: NDArray[np.int64]
    person: NDArray[np.int64]

    @property
    def sets(self) -> NDArray[np.bool_]:
        """Rows that are sets of pairs of one column."""
        return self.on_model | self.of_agents


def row_kinds(rows: CountingRows, m: int) -> RowKinds | None:
    """Return the kinds of rows that are counts, None where one is of no kind."""
    count, allowed = rows.limits.count, rows.allowed
    size = np.bincount(rows.row, minlength=count)
    present = size > 0
    column, last = np.full(count, m, np.int64), np.full(count, -1, np.int64)
    np.minimum.at(column, rows.row, rows.model)
    np.maximum.at(last, rows.row, rows.model)
    on_model = present & (column == last)
    other = present & ~on_model
    group, member, of_models = _whole_lines(rows.row, rows.model, other, allowed.sum(axis=0), size)
    other &= ~of_models
    team, person, of_agents = _whole_lines(rows.row, rows.agent, other, allowed.sum(axis=1), size)
    if (other & ~of_agents).any():
        return None
    whole = on_model & (size == allowed.sum(axis=0)[np.minimum(column, m - 1)])
    column[of_agents] = m
    return RowKinds(size, column, on_model, whole, of_models, of_agents, group, member, team, person)


def _whole_lines(
    row: NDArray[np.int64],
    line: NDArray[np.int64],
    among: NDArray[np.bool_],
    line_size: NDArray[np.int64],
    size: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the rows that consist of all pairs of some lines, models or agents, and these lines.

    Parameters
    ----------
    row, line : (e,) int64
        Rows, and the line of each of their pairs.
    among : (g,) bool
        Rows that are looked at.
    line_size : (lines,) int64
        Allowed pairs of each line.
    size : (g,) int64
        Pairs of each row.

    Returns
    -------
    row, line : (u,) int64
        Every line of every such row.
    whole : (g,) bool
        Which rows are such.
    """
    some = among[row]
    pair = np.unique(row[some] * len(line_size) + line[some])
    group, member = pair // len(line_size), pair % len(line_size)
    covered = np.bincount(group, line_size[member], len(size)).astype(np.int64)
    whole = among & (covered == size)
    kept = whole[group]
    return group[kept], member[kept], whole

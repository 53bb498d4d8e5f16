"""Exact sub-problems: a few models with their agents freed, or the kernel that holds every better answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.cpsat_model import PairModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.lagrangian.form import Form

__all__ = ["Reply", "solve_part"]


@dataclass(frozen=True, slots=True)
class Reply:
    """Outcome of a sub-problem.

    Parameters
    ----------
    columns : (n,) int64 or None
        A better assignment of all agents.
    complete : bool
        Everything in the sub-problem was searched.
    exact : bool
        Nothing was rounded, so that ``complete`` is a proof.
    """

    columns: NDArray[np.int64] | None
    complete: bool
    exact: bool


def solve_part(
    form: Form,
    columns: NDArray[np.int64],
    free: NDArray[np.int64],
    keep: NDArray[np.bool_],
    *,
    target: float,
    limit_s: float,
    seed: int,
) -> Reply:
    """Reassign some agents by CP-SAT so that the total loss is at most ``target``.

    Parameters
    ----------
    form : Form
        The problem.
    columns : (n,) int64
        A feasible assignment; agents that are not free stay there.
    free : (f,) int64
        Agents that may move, ascending.
    keep : (c, f) bool
        Columns open to each of them; their present one always is.
    target : float
        Largest total loss of interest.
    limit_s : float
        Seconds for the search, model building not included: about a millisecond per hundred pairs.
    seed : int
        For CP-SAT.
    """
    keep = keep & np.isfinite(form.loss[:, free])
    keep[columns[free], np.arange(len(free))] = True
    position, column = np.nonzero(keep.T)
    agent = free[position]
    fixed = np.ones(form.n, bool)
    fixed[free] = False
    held = np.flatnonzero(fixed)
    settled = float(form.loss[columns[held], held].sum())
    model = PairModel(position, form.loss[column, agent])
    order = np.argsort(column, kind="stable")
    bounds = np.searchsorted(column[order], np.arange(form.columns + 1))
    for k in range(form.resources):
        load = np.bincount(columns[held], weights=form.demand[k, columns[held], held], minlength=form.columns)
        for c in range(form.models):
            where = order[bounds[c] : bounds[c + 1]]
            model.at_most(where, form.demand[k, column[where], agent[where]], form.capacity[k, c] - load[c])
    if form.rows:
        _add_rows(form, model, columns, held, column, agent)
    model.loss_at_most(target - settled)
    outcome = model.solve(limit_s=limit_s, seed=seed)
    found = None
    if outcome.picked is not None:
        found = columns.copy()
        found[agent[outcome.picked]] = column[outcome.picked]
    return Reply(found, outcome.complete, model.exact and model.exact_loss)


def _add_rows(
    form: Form,
    model: PairModel,
    columns: NDArray[np.int64],
    held: NDArray[np.int64],
    column: NDArray[np.intp],
    agent: NDArray[np.int64],
) -> None:
    used = np.zeros(form.rows + 1)
    place, row, weight = [], [], []
    for layer_row, coefficient in zip(form.row, form.coefficient, strict=True):
        at = layer_row[columns[held], held]
        used += np.bincount(at, weights=coefficient[columns[held], held], minlength=form.rows + 1)
        touched = np.flatnonzero(layer_row[column, agent] < form.rows)
        place.append(touched)
        row.append(layer_row[column[touched], agent[touched]])
        weight.append(coefficient[column[touched], agent[touched]])
    places, rows, weights = np.concatenate(place), np.concatenate(row), np.concatenate(weight)
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.arange(form.rows + 1))
    for g in range(form.rows):
        entries = order[bounds[g] : bounds[g + 1]]
        model.at_most(places[entries], weights[entries], float(form.row_bound[g] - used[g]))

"""Exact sub-problems: a few models with their agents freed, or the kernel that holds every better answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.pair_model import PairModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.standard_form import StandardForm


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
        Nothing feasible was lost to rounding, so that ``complete`` is a proof.
    rounding : float
        Most that a total loss may be off by.
    """

    columns: NDArray[np.int64] | None
    complete: bool
    exact: bool
    rounding: float


def solve_part(
    form: StandardForm,
    columns: NDArray[np.int64],
    free: NDArray[np.int64],
    keep: NDArray[np.bool_],
    *,
    target: float,
    limit_s: float,
    seed: int,
    proof: bool = False,
) -> Reply:
    """Reassign some agents by CP-SAT so that the total loss is at most ``target``.

    Parameters
    ----------
    form : StandardForm
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
    proof : bool
        Whether ``complete`` will be taken for a proof, and is worth a second run that confirms it.
    """
    if not len(free):  # no agent has one of the models chosen
        return Reply(None, complete=True, exact=True, rounding=0.0)
    keep = keep & np.isfinite(form.loss[:, free])
    keep[columns[free], np.arange(len(free))] = True
    position, column = np.nonzero(keep.T)
    agent = free[position]
    fixed = np.ones(form.n, bool)
    fixed[free] = False
    held = np.flatnonzero(fixed)
    settled = float(form.loss[columns[held], held].sum())
    model = PairModel(position, form.loss[column, agent])
    settled_in = columns[held]
    load: NDArray[np.float64] = np.stack(
        [np.bincount(settled_in, weights=d[settled_in, held], minlength=form.columns) for d in form.demand]
    )
    used = np.zeros(form.rows + 1)
    for row, coefficient in zip(form.row, form.coefficient, strict=True):
        used += np.bincount(
            row[settled_in, held], weights=coefficient[settled_in, held], minlength=form.rows + 1
        )
    model.couple(form, agent, column, load=load, row_load=used[:-1])
    model.loss_at_most(target - settled)
    outcome = model.solve(limit_s=limit_s, seed=seed, quick=not proof, confirm=proof)
    found = None
    if outcome.picked is not None:
        found = columns.copy()
        found[agent[outcome.picked]] = column[outcome.picked]
    return Reply(found, outcome.complete, model.exact, model.rounding)


def solve_whole(form: StandardForm, *, limit_s: float, seed: int) -> Reply:
    """Look for any feasible assignment among all pairs, or prove that there is none.

    Parameters
    ----------
    form : StandardForm
        The problem.
    limit_s : float
        Seconds for the search, model building not included.
    seed : int
        For CP-SAT.
    """
    agent, column = np.nonzero(np.isfinite(form.loss).T)
    model = PairModel(agent, form.loss[column, agent])
    model.couple(form, agent, column)
    outcome = model.solve(limit_s=limit_s, seed=seed, confirm=True)
    found = None
    if outcome.picked is not None:
        found = np.empty(form.n, np.int64)
        found[agent[outcome.picked]] = column[outcome.picked]
    return Reply(found, outcome.complete, model.exact, model.rounding)

"""The dual bound, exactly: a primal-dual interior point method with one multiplier per coupling row.

The linear relaxation ``min loss·x, Σ_columns x = 1 for every agent, coupling·x + s = bound, x, s >= 0`` is
solved by Mehrotra's predictor-corrector method. The n assignment rows are eliminated elementwise, which
leaves one symmetric system with a row per coupling: (models × resources + limit rows) unknowns, whatever n.
Any multipliers >= 0 give a valid bound by weak duality, so the method may be stopped at any time.

References
----------
S. Mehrotra, "On the implementation of a primal-dual interior point method", SIAM J. Optim. 2 (1992).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.lagrangian.newton import Newton
from solver.engines.lagrangian.row_selection import (
    RowSelectionParameters,
    broken_rows,
    first_rows,
    with_rows,
)
from solver.engines.lagrangian.weak_duality import dual_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.standard_form import StandardForm

_STEP_S = 3e-4
"""Upper estimate of the seconds of a step, without its arrays."""

_STEP_S_PER_PAIR, _STEP_S_PER_RESOURCE, _STEP_S_PER_LAYER = 2e-8, 3e-9, 1.8e-8
"""Upper estimates of the seconds of a step for each pair, and for each of its resources and layers of limit rows."""

_SECONDS_PER_PRODUCT = 1.5e-10
"""Seconds of a step for each product in the dense algebra of the coupling rows."""

_ROW_GROWTH = 1.5
"""Factor on the time of the last relaxation, as an estimate for one with more rows."""

_PATIENT_STEPS = 35
"""Steps in float32 before a standstill is taken for the end."""

_ROUNDABLE = 1e-3
"""Complementarity, relative to the largest loss, from which rounding pays."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Relaxation:
    """The solved relaxation of a :class:`StandardForm`.

    Parameters
    ----------
    price : (r, c) float64
        Multiplier of each capacity, loss per unit, >= 0.
    row_price : (g,) float64
        Multiplier of each limit row, >= 0.
    bound : float
        No choice of columns loses less.
    weight : (c, n) float
        Primal solution: how much of each agent goes to each column. Near a vertex, so that at most as many
        agents as there are coupling rows are split.
    infeasible : bool
        The bound exceeds the largest loss there is: no choice exists.
    iterations : int
        Newton systems factorised.
    converged : bool
        The weights are near enough to a vertex to be rounded; False where time cut the iteration short.
    price_change, row_price_change : (r, c) and (g,) float64, or None
        How fast the multipliers change with the losses, where a change of these was given.
    """

    price: NDArray[np.float64]
    row_price: NDArray[np.float64]
    bound: float
    weight: NDArray[Any]
    infeasible: bool
    iterations: int
    converged: bool = True
    price_change: NDArray[np.float64] | None = None
    row_price_change: NDArray[np.float64] | None = None


def relax(
    form: StandardForm,
    *,
    deadline: Deadline,
    share: float = 0.5,
    tolerance: float = 1e-6,
    jitter: float = 2e-4,
    rng: np.random.Generator,
    single: bool = False,
    most_iterations: int = 60,
    change: NDArray[np.float64] | None = None,
    rows: RowSelectionParameters | None = None,
) -> Relaxation:
    """Solve the linear relaxation. O(c n K) a step with K coupling rows, 10 to 25 steps.

    Parameters
    ----------
    form : StandardForm
        The problem.
    deadline : Deadline
        Checked before every step.
    share : float
        Part of the time left that may be spent here.
    tolerance : float
        Complementarity at which to stop, relative to the bound.
    jitter : float
        Random noise added to the losses, relative to their mean, which breaks ties so that the primal
        solution comes close to a vertex; the bound is evaluated without it.
    rng : numpy.random.Generator
        Source of the noise.
    single : bool
        Iterate in float32: half the time on large arrays; the bound is still float64.
    most_iterations : int
        Upper limit of steps.
    change : (c, n) float64, optional
        A direction of the losses, in which the multipliers are differentiated at the end: another step's work.
    rows : RowSelectionParameters, optional
        Which limit rows are looked at where they are many.
    """
    rows = RowSelectionParameters() if rows is None else rows
    kept = first_rows(form, rows)
    now = deadline.clock.now()
    stop_s = now + share * max(0.0, deadline.remaining_s())
    options = _Options(tolerance, jitter, single, most_iterations, change)
    if kept is None:
        return _solved(form, deadline, now, stop_s, rng, options)
    found = _solved(with_rows(form, kept), deadline, now, stop_s, rng, options)
    for _ in range(rows.rounds):
        began, now = now, deadline.clock.now()
        missing = np.setdiff1d(broken_rows(form, found.weight, rows.added), kept)
        if found.infeasible or not len(missing) or now + _ROW_GROWTH * (now - began) > stop_s:
            break
        if not found.converged:
            break
        grown = np.union1d(kept, missing)
        better = _solved(with_rows(form, grown), deadline, now, stop_s, rng, options)
        if not better.converged and not better.infeasible:
            break
        found, kept = better, grown
    return replace(
        found,
        row_price=_spread(found.row_price, kept, form.rows),
        row_price_change=None
        if found.row_price_change is None
        else _spread(found.row_price_change, kept, form.rows),
    )


def _spread(value: NDArray[np.float64], kept: NDArray[np.intp], rows: int) -> NDArray[np.float64]:
    """Return values of some limit rows as those of all, zero for the others."""
    spread = np.zeros(rows)
    spread[kept] = value
    return spread


@dataclass(frozen=True, slots=True)
class _Options:
    tolerance: float
    jitter: float
    single: bool
    most_iterations: int
    change: NDArray[np.float64] | None


def _seconds_per_step(form: StandardForm) -> float:
    """Return about how long a Newton step takes."""
    unknowns = form.capacity.size + form.rows
    per_pair_s = _STEP_S_PER_PAIR + _STEP_S_PER_RESOURCE * form.resources + _STEP_S_PER_LAYER * len(form.row)
    cross = form.n * float(unknowns) ** 2
    return _STEP_S + form.loss.size * per_pair_s + (cross + float(unknowns) ** 3) * _SECONDS_PER_PRODUCT


def _unsolved(form: StandardForm) -> Relaxation:
    """Return a relaxation that took no time: free capacities, each agent mostly where it loses least."""
    price, row_price = np.zeros(form.capacity.shape), np.zeros(form.rows)
    finite = np.isfinite(form.loss)
    unit = float(form.loss[finite].mean()) if finite.any() else 0.0
    weight = np.where(finite, 1.0 / (1.0 + form.loss / (unit or 1.0)), 0.0)
    weight /= weight.sum(axis=0)
    return Relaxation(
        price=price,
        row_price=row_price,
        bound=dual_bound(form, price, row_price),
        weight=weight,
        infeasible=False,
        iterations=0,
        converged=False,
    )


def _solved(
    form: StandardForm,
    deadline: Deadline,
    before: float,
    stop_s: float,
    rng: np.random.Generator,
    options: _Options,
) -> Relaxation:
    """Solve the relaxation with all limit rows of a form."""
    tolerance, jitter, single = options.tolerance, options.jitter, options.single
    most_iterations, change = options.most_iterations, options.change
    if deadline.limited and before + 2 * _seconds_per_step(form) > stop_s:
        return _unsolved(form)
    newton = Newton(form, rng=rng, jitter=jitter, dtype=np.float32 if single else np.float64)
    iterations, history = 0, [newton.complementarity]
    step_s = 0.0  # the longest of the last steps: on a busy machine another may take as long
    # In float32, for want of time, a bound that is nearly zero is not worth its last digits.
    residual, least = (1e-3, form.worst) if single else (1e-5, 0.0)
    while iterations < most_iterations and not newton.converged(tolerance, residual, least=least):
        now = deadline.clock.now()
        step_s, before = max(0.7 * step_s, now - before), now
        if now + step_s > stop_s and iterations:
            break
        if newton.best_bound * newton.unit > form.worst * (1 + 1e-6) + 1e-6:
            break
        if not newton.advance():
            break
        iterations += 1
        history.append(newton.complementarity)
        converged = float(np.abs(newton.row_residual).max()) < 1e-4
        if single and converged and iterations > _PATIENT_STEPS and history[-1] > 0.7 * history[-4]:
            break  # float32 has given what it can
    price, row_price = newton.multipliers()
    bound = dual_bound(form, price, row_price)
    changes = (None, None) if change is None else newton.response(change)
    return Relaxation(
        price=price,
        row_price=row_price,
        bound=bound,
        weight=newton.weight,
        infeasible=bound > form.worst * (1 + 1e-9) + 1e-9,
        iterations=iterations,
        price_change=changes[0],
        row_price_change=changes[1],
        converged=newton.complementarity * newton.unit < _ROUNDABLE * form.worst,
    )

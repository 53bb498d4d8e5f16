"""Limit rows that the relaxation looks at: all of a few, and of thousands those that bind.

Agents kept apart, or the quotas of hundreds of tenants, are thousands of rows that hardly ever bind. Each of them
would be an unknown of the linear systems, whose cost grows with the cube of their number. Any row may be left out at
the price zero: the bound stays valid, and rows that the relaxed solution breaks are put back (cutting planes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.standard_form import StandardForm

_BROKEN_FROM = 1e-3
"""Excess that is more than rounding, relative to a row's bound or to one typical contribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSelectionParameters:
    """How many limit rows a relaxation has; measured in ``benchmarks/bench_deadlines.py``."""

    all_up_to: int = 120
    """Rows up to which all are looked at from the start."""
    wide: float = 0.02
    """Part of the pairs that a row has to touch to be looked at from the start where rows are more."""
    added: int = 120
    """Most broken rows put back at a time."""
    rounds: int = 3
    """Times that rows are put back."""


def first_rows(form: StandardForm, parameters: RowSelectionParameters) -> NDArray[np.intp] | None:
    """Return the limit rows to begin with, or None for all of them."""
    if form.rows <= parameters.all_up_to:
        return None
    touched = np.zeros(form.rows + 1)
    for row in form.row:
        touched += np.bincount(row.ravel(), minlength=form.rows + 1)
    touched = touched[:-1]
    widest = np.argsort(-touched, kind="stable")[: parameters.all_up_to]
    return np.sort(widest[touched[widest] >= parameters.wide * form.loss.size])


def with_rows(form: StandardForm, kept: NDArray[np.intp]) -> StandardForm:
    """Return the form with some of its limit rows."""
    number = np.full(form.rows + 1, len(kept), np.int32)
    number[kept] = np.arange(len(kept), dtype=np.int32)
    rows, coefficients = [], []
    for row, coefficient in zip(form.row, form.coefficient, strict=True):
        renumbered = number[row]
        if (renumbered < len(kept)).any():
            rows.append(renumbered)
            coefficients.append(np.where(renumbered < len(kept), coefficient, 0.0))
    nothing = (0, *form.loss.shape)
    return replace(
        form,
        row=np.stack(rows) if rows else np.zeros(nothing, np.int32),
        coefficient=np.stack(coefficients) if rows else np.zeros(nothing),
        row_bound=form.row_bound[kept],
    )


def broken_rows(form: StandardForm, weight: NDArray[Any], most: int) -> NDArray[np.intp]:
    """Return the limit rows that a fractional solution breaks, at most so many, the most broken ones."""
    load, size = np.zeros(form.rows + 1), np.zeros(form.rows + 1)
    for row, coefficient in zip(form.row, form.coefficient, strict=True):
        used = (coefficient * weight).ravel()
        load += np.bincount(row.ravel(), used, minlength=form.rows + 1)
        size += np.bincount(row.ravel(), np.abs(used), minlength=form.rows + 1)
    scale = np.maximum(np.abs(form.row_bound), np.maximum(size[:-1], 1e-12))
    excess = (load[:-1] - form.row_bound) / scale
    broken = np.flatnonzero(excess > _BROKEN_FROM)
    worst = broken[np.argsort(-excess[broken], kind="stable")]
    return np.sort(worst[:most])

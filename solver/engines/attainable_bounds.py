"""Right-hand sides that whole agents can reach: a row of equal or whole coefficients moves in steps.

A quota of 2.5 agents is one of 2, and a budget of 10.5 with costs of 2 and 4 is one of 10. A Lagrangian bound at the
lower right-hand side holds as well (Chvátal 1973, for a single row), and is the one that a network's prices attain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.limit_rows import NO_ROW
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.limit_rows import Layer

_MAX_STEP_ENTRIES = 5_000_000
"""Pairs times layers up to which coefficients are searched for a common step."""

_LARGEST_WHOLE = 2.0**53
"""Whole numbers up to this are exact in float64."""

_LOOKED_AT = 8
"""Agents whose coefficients are looked at before all."""

_ROW_STEPS = "_row_steps"
"""Name under which an instance keeps the steps of its rows."""


def attainable_bounds(instance: Instance) -> NDArray[np.float64]:
    """Return (g,) right-hand sides of the limit rows, rounded down to a multiple of each row's step.

    Notes
    -----
    Rows that may be exceeded at a price keep theirs: part of a step may be worth it. So do large instances. O(pairs ·
    layers), once per instance.
    """
    limits = instance.limits
    if limits is None:
        return np.zeros(0)
    if instance.n * instance.m * len(limits.layers) > _MAX_STEP_ENTRIES:
        return limits.bound
    known = vars(instance)
    if _ROW_STEPS not in known:
        known[_ROW_STEPS] = _row_steps(instance)
    step: NDArray[np.float64] = known[_ROW_STEPS]
    with np.errstate(over="ignore"):  # by tiny steps: the row keeps its bound
        ratio = limits.bound / np.where(step > 0, step, 1.0)
    reached = step * np.floor(ratio + EXCESS_TOLERANCE * np.maximum(np.abs(ratio), 1.0))
    # Never above what the row says: what the certificate lets pass by rounding counts as the right-hand side.
    return np.where((step > 0) & limits.hard, np.minimum(reached, limits.bound), limits.bound)


def _row_steps(instance: Instance) -> NDArray[np.float64]:
    """Return the step of every row: the size of its coefficients, or the largest whole number that divides all."""
    limits = instance.limits
    assert limits is not None
    step = np.zeros(limits.count)
    for layer in limits.layers:
        if _is_one_row_without_step(layer):
            continue
        touched = np.nonzero((layer.row != NO_ROW) & (layer.coefficient != 0))
        row, size = layer.row[touched], np.abs(layer.coefficient[touched])
        if not len(row):
            continue
        order = np.argsort(row, kind="stable")
        row, size = row[order], size[order]
        first = np.flatnonzero(np.diff(row, prepend=-1))
        least, most = np.minimum.reduceat(size, first), np.maximum.reduceat(size, first)
        step[row[first]] = np.where(least == most, most, 0.0)
        whole = np.logical_and.reduceat((size == np.floor(size)) & (size < _LARGEST_WHOLE), first)
        if (whole & (least != most)).any():
            divisor = np.gcd.reduceat(np.where(size < _LARGEST_WHOLE, size, 0.0).astype(np.int64), first)
            step[row[first]] = np.where(whole & (least != most), divisor, step[row[first]])
    return step


def _is_one_row_without_step(layer: Layer) -> bool:
    """Whether a few coefficients of a layer that is a single row show already that it has no step."""
    if layer.row.strides != (0, 0) or not layer.row.size or layer.row[0, 0] == NO_ROW:
        return False
    some = np.abs(layer.coefficient[:_LOOKED_AT])
    some = some[some > 0]
    return len(some) > 1 and bool((some != some[0]).any()) and bool((some != np.floor(some)).any())

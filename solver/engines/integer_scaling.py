"""Real numbers as integers for CP-SAT, by a scale whose loss is known; rows that may be exceeded at a price."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.engines.standard_form import StandardForm

_EXACT_SCALES = (1.0, 10.0, 100.0, 1000.0, 1e4, 1e5, 1e6)
"""Factors that may turn all numbers of a row into whole numbers, tried in turn."""

_LARGEST_OBJECTIVE = 2.0**42
"""Scaled total loss at most. CP-SAT takes up to 63 bits, but answered wrongly on weights of 48 bits with parts of its
presolve switched off (OR-Tools 9.15); 42 bits leave twelve digits."""

_LARGEST_ROW = 2.0**46
"""Scaled coefficients of a row sum up to this at most."""

_LARGEST_SOFT_ROW = 2.0**52
"""Scaled coefficients of a soft row sum up to this at most: its rounding is part of the loss, so it is finer."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """Numbers as integers.

    Parameters
    ----------
    values : int64 array
        ``original × scale``, rounded.
    scale : float
        What they were multiplied by.
    exact : bool
        Whether no rounding happened.
    """

    values: NDArray[np.int64]
    scale: float
    exact: bool


def scale_to_integers(
    values: NDArray[np.float64],
    *,
    terms: int,
    up: bool = False,
    extra: float = 0.0,
    sum_limit: float = _LARGEST_ROW,
) -> Scaled:
    """Return values as integers, exactly if a power of ten makes them whole.

    Parameters
    ----------
    values : float64 array
        Finite numbers.
    terms : int
        How many of them may be added up.
    up : bool
        Round up where rounding is needed (for demands, so that no capacity is ever exceeded); else to nearest.
    extra : float
        Another magnitude that must fit, such as the right-hand side.
    sum_limit : float
        What no sum may exceed.
    """
    largest = max(float(np.abs(values).max(initial=0.0)) * max(terms, 1), abs(extra), 1e-300)
    for scale in _EXACT_SCALES:
        if largest * scale > sum_limit:
            break
        scaled = values * scale
        whole = np.rint(scaled)
        if (np.abs(scaled - whole) <= 1e-13 * np.maximum(np.abs(scaled), 1.0)).all():
            return Scaled(whole.astype(np.int64), scale, exact=True)
    scale = 2.0 ** np.floor(np.log2(sum_limit / largest))
    scaled = values * scale
    # A hair below the next integer is float64 noise of an exact product, not another unit.
    rounded = np.ceil(scaled - 1e-9 * np.abs(scaled)) if up else np.rint(scaled)
    return Scaled(rounded.astype(np.int64), scale, exact=False)


@dataclass(frozen=True, slots=True, eq=False)
class SoftRow:
    """A limit row that may be exceeded at a price: ``Σ weights of the chosen pairs <= bound + excess``.

    Parameters
    ----------
    where : (k,) int64
        Pairs that touch the row.
    weights : (k,) float64
        What each of them adds.
    bound : float
        Right-hand side.
    price : float
        What a unit of excess costs, in loss.
    most : float
        The excess can never be more.
    """

    where: NDArray[np.intp]
    weights: NDArray[np.float64]
    bound: float
    price: float
    most: float


def soft_rows(
    form: StandardForm, agent: NDArray[np.int64], column: NDArray[np.int64], *, most_loss: float = np.inf
) -> list[SoftRow]:
    """Return the soft rows of a form over the given pairs, without those that nothing can exceed.

    Excesses that cost more than ``most_loss`` by themselves are ruled out.
    """
    rows = []
    for g in form.soft.tolist():
        weight = np.zeros(len(agent))
        for row, coefficient in zip(form.row, form.coefficient, strict=True):
            weight += np.where(row[column, agent] == g, coefficient[column, agent], 0.0)
        largest = np.full(form.n, -np.inf)
        np.maximum.at(largest, agent, weight)
        bound, price = float(form.row_bound[g]), float(form.violation_price[g])
        most = float(largest.sum()) - bound
        where = np.flatnonzero(weight)
        if most > 0 and price > 0:
            rows.append(SoftRow(where, weight[where], bound, price, min(most, most_loss / price)))
    return rows


def joint_scale(
    loss: NDArray[np.float64], soft: Sequence[SoftRow], agents: int
) -> tuple[Scaled, tuple[float, ...]]:
    """Return the scaled losses and one scale per soft row, such that a step of each row costs whole units of loss.

    Powers of ten where these make everything whole. Else a row of whole
    numbers keeps them and its price is rounded, where that loses less, and a step of any other costs whole units.
    """
    if not soft:
        return scale_to_integers(loss, terms=agents, sum_limit=_LARGEST_OBJECTIVE), ()
    worst = float(loss.max(initial=0.0)) * agents + sum(row.price * row.most for row in soft)
    steps = [scale_to_integers(np.append(row.weights, row.bound), terms=len(row.where) + 1) for row in soft]
    if all(step.exact for step in steps):
        per_step = np.array([row.price / step.scale for row, step in zip(soft, steps, strict=True)])
        whole = scale_to_integers(
            np.concatenate([loss, per_step]), terms=1, extra=worst, sum_limit=_LARGEST_OBJECTIVE
        )
        if whole.exact and (whole.values[len(loss) :] > 0).all():
            return replace(whole, values=whole.values[: len(loss)]), tuple(step.scale for step in steps)
    scale = 2.0 ** np.floor(np.log2(_LARGEST_OBJECTIVE / max(worst, 1e-300)))
    scaled = Scaled(np.rint(loss * scale).astype(np.int64), float(scale), exact=False)
    finest = [row.price * float(scale) for row in soft]
    sums = [float(np.abs(row.weights).sum()) + abs(row.bound) for row in soft]
    coarser = [
        max(1.0, np.ceil(fine * total / _LARGEST_SOFT_ROW)) for fine, total in zip(finest, sums, strict=True)
    ]
    scales = []
    for row, step, fine, units in zip(soft, steps, finest, coarser, strict=True):
        keeps = step.exact and row.most * step.scale <= min(len(row.where), agents) and fine >= step.scale
        scales.append(step.scale if keeps else fine / units)
    return scaled, tuple(scales)

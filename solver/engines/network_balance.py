"""Rough prices for floors and capacities, by balancing soft choices: a start for exact methods and for greedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance

_HOTTEST = 0.1
"""Temperature at the beginning, in ranges of the scores."""

_COLDEST = 0.001
"""Temperature at the end."""


def balanced_prices(instance: Instance, *, pairs: int, rounds: int) -> NDArray[np.float64]:
    """Return (m,) prices at which some rows, choosing softly, keep roughly within floors and capacities.

    The iterative scaling of Sinkhorn (1967), projected on intervals of column sums, at a temperature that falls.

    Parameters
    ----------
    instance : Instance
        With a network shape.
    pairs : int
        Pairs of the rows looked at; rows are taken evenly.
    rounds : int
        Passes over these pairs.
    """
    shape = instance.network
    if shape is None:
        raise ValueError("expected an instance with a network shape")
    n, m = instance.n, instance.m
    size = max(1, min(n, pairs // m))
    rows = (np.arange(size) * (n / size)).astype(np.int64)
    score = np.asarray(instance.score[rows], np.float64)
    finite = np.isfinite(score)
    low, high = (float(score.min(where=finite, initial=0.0)), float(score.max(where=finite, initial=0.0)))
    value_range = (high - low) or 1.0
    # In ranges of the scores, where four bytes are precise enough and exponentials take a third of the time.
    value = np.where(finite, (score - low) / value_range, -np.inf).T.astype(np.float32, order="C")
    outside = np.full(size, -1.0, np.float32)
    if instance.penalty is not None:
        left = np.isfinite(instance.penalty[rows])
        outside[left] = (-instance.penalty[rows][left] - low) / value_range
    share = shape.supply[rows].sum() / shape.supply.sum()
    most = np.maximum(instance.slots * share, 1e-9)
    least = np.minimum(shape.floor * share, most)
    supply = shape.supply[rows].astype(np.float32)
    prices = np.zeros(m)
    weight = np.empty_like(value)
    for k in range(rounds):
        temperature = _HOTTEST * (_COLDEST / _HOTTEST) ** (k / rounds)
        np.subtract(value, prices.astype(np.float32)[:, None], out=weight)
        top = np.maximum(weight.max(axis=0), outside)
        weight -= top
        weight *= np.float32(1.0 / temperature)
        np.exp(weight, out=weight)
        total = weight.sum(axis=0) + np.exp((outside - top) / np.float32(temperature))
        load = (weight @ (supply / total)).astype(np.float64)
        free = prices + temperature * np.log(np.maximum(load, 1e-300))  # at which the load would be one
        above = free - temperature * np.log(most)
        below = free - temperature * np.log(np.maximum(least, 1e-300))
        prices = np.where(above > 0, above, np.where((below < 0) & (least > 0), below, 0.0))
    return value_range * np.clip(prices, -2.0, 2.0)

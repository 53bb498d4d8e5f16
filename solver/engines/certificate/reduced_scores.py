"""Reduced scores: scores less the charges of capacities and limits at given prices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.blocks import priced_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from solver.problem.instance import Instance


def reduced_scores(
    instance: Instance,
    rows: slice | NDArray[np.int64],
    prices: NDArray[np.float64],
    *,
    limit_prices: NDArray[np.float64] | None = None,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return ``score − price·demand − limit price·coefficient`` of some rows, in ``out`` if given."""
    value: NDArray[np.float64]
    if instance.demand is None:
        value = np.subtract(instance.score[rows], prices[:, 0], out=out, dtype=np.float64)
    else:
        score = instance.score[rows]
        value = np.empty(score.shape) if out is None else out
        value[...] = score
        for k in range(instance.r):
            value -= instance.demand[rows, :, k] * prices[:, k]
    if limit_prices is not None and instance.limits is not None and instance.limits.layers:
        value -= instance.limits.charge(rows, limit_prices)
    return value


def reduced_blocks(
    instance: Instance,
    parts: list[slice],
    prices: NDArray[np.float64],
    limit_prices: NDArray[np.float64] | None,
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield blocks of rows with their reduced scores, ``-inf`` for pairs too large for an empty model.

    All blocks share one buffer: fresh pages of memory would cost as much as the sums.
    """
    if instance.demand is None and limit_prices is None:
        blocks = priced_blocks(instance.score, prices[:, 0], parts)
    else:
        blocks = _charged_blocks(instance, parts, prices, limit_prices)
    for rows, value in blocks:
        if instance.has_oversized:
            value[instance.oversized(rows)] = -np.inf
        yield rows, value


def _charged_blocks(
    instance: Instance,
    parts: list[slice],
    prices: NDArray[np.float64],
    limit_prices: NDArray[np.float64] | None,
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    buffer = np.empty((parts[0].stop - parts[0].start, instance.m))
    for rows in parts:
        out = buffer[: rows.stop - rows.start]
        yield rows, reduced_scores(instance, rows, prices, limit_prices=limit_prices, out=out)

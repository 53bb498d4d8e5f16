"""Passes over the rows of a score matrix: the arcs that are possible in a box of prices, and best models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.kernels.library import loaded, pointer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def reduce_rows(
    score: NDArray[Any],
    *,
    among: NDArray[np.int64] | None,
    outside: NDArray[np.float64] | None,
    low: NDArray[np.float64],
    side: NDArray[np.float64],
    rows: slice,
    choice: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find what every agent may choose at prices between ``low`` and ``low + side``. O(rows · m).

    Parameters
    ----------
    score : (n, m) float32 or float64
        In C order; ``-inf`` forbids.
    among : (k,) int64 or None
        Rows of ``score`` to look at; row i of the pass is ``among[i]``.
    outside : (n,) or (k,) float64 or None
        Value of staying unassigned, choice m.
    low, side : (m,) float64
        Lowest prices, ``inf`` for closed models, and widths of the box, 0 for those.
    rows : slice
        Part of the pass.
    choice : (n,) or (k,) int64
        Written for the rows of the part: the only possible choice, arbitrary where there are several.

    Returns
    -------
    row, model : (g,) int64
        The possible pairs of all agents with several, row by row.
    """
    _check_rows(score, rows, len(score) if among is None else len(among))
    _check_written(rows, choice=(choice, np.int64))
    m = score.shape[1]
    count = rows.stop - rows.start
    among = None if among is None else np.ascontiguousarray(among, np.int64)
    outside = None if outside is None else np.ascontiguousarray(outside, np.float64)
    low, side = np.ascontiguousarray(low, np.float64), np.ascontiguousarray(side, np.float64)
    if low.shape != (m,) or side.shape != (m,):
        raise ValueError(f"expected low and side ({m},), got {low.shape} and {side.shape}")
    if among is not None and len(among) and not 0 <= int(among.min()) <= int(among.max()) < len(score):
        raise ValueError(f"expected among within {len(score)} rows")
    if outside is not None and (outside.ndim != 1 or len(outside) < rows.stop):
        raise ValueError(f"expected outside ({rows.stop},), got {outside.shape}")
    row, model = np.empty((2, count * (m + 1)), np.int64)
    scratch = np.empty(m)
    found = _kernel("reduce", score)(
        pointer(score), m, pointer(among), pointer(outside), pointer(low), pointer(side),
        rows.start, rows.stop, pointer(choice), pointer(row), pointer(model), pointer(scratch),
    )  # fmt: skip
    return row[:found].copy(), model[:found].copy()


def best_models(
    score: NDArray[Any],
    prices: NDArray[np.float64],
    rows: slice,
    model: NDArray[np.int64],
    value: NDArray[np.float64],
) -> None:
    """Write the first best model at some prices, and the score there, for a part of the rows. O(rows · m).

    Parameters
    ----------
    score : (n, m) float32 or float64
        In C order.
    prices : (m,) float64
        Subtracted from every row.
    rows : slice
        Part of the pass.
    model : (n,) int64
        Written.
    value : (n,) float64
        Written.
    """
    _check_rows(score, rows, len(score))
    if not score.shape[1]:
        raise ValueError("expected at least one model")
    _check_written(rows, model=(model, np.int64), value=(value, np.float64))
    prices = np.ascontiguousarray(prices, np.float64)
    if prices.shape != (score.shape[1],):
        raise ValueError(f"expected prices ({score.shape[1]},), got {prices.shape}")
    scratch = np.empty(score.shape[1])
    _kernel("best", score)(
        pointer(score), score.shape[1], pointer(prices),
        rows.start, rows.stop, pointer(model), pointer(value), pointer(scratch),
    )  # fmt: skip


def _check_rows(score: NDArray[Any], rows: slice, count: int) -> None:
    """Raise ValueError unless ``rows`` are a plain part of ``count`` rows of scores that C can read."""
    if score.ndim != 2 or score.dtype not in (np.float32, np.float64):
        raise ValueError(f"expected scores (n, m) of float32 or float64, got {score.shape} of {score.dtype}")
    if not 0 <= rows.start <= rows.stop <= count:
        raise ValueError(f"expected a part of {count} rows, got {rows.start} to {rows.stop}")


def _check_written(rows: slice, **arrays: tuple[NDArray[Any], type]) -> None:
    """Raise ValueError unless C may write the rows of every array."""
    for name, (array, kind) in arrays.items():
        if array.dtype != kind or array.ndim != 1 or len(array) < rows.stop:
            raise ValueError(
                f"expected {name} ({rows.stop},) {kind.__name__}, got {array.shape} {array.dtype}"
            )
        if not array.flags.writeable:
            raise ValueError(f"expected {name} to be writeable")


def _kernel(name: str, score: NDArray[Any]) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(
        loaded(), f"solver_{name}_{'f32' if score.dtype == np.float32 else 'f64'}"
    )
    return function

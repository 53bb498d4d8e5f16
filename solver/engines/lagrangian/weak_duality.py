"""Weak duality: the losses with every coupling row priced in, and the bound that any multipliers >= 0 prove."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.standard_form import StandardForm


def reduced_losses(
    form: StandardForm, price: NDArray[np.float64], row_price: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return ``loss + Σ price·demand + Σ row price·coefficient``, fresh (c, n) float64."""
    total = form.loss.copy()
    for k in range(form.resources):
        total += price[k][:, None] * form.demand[k]
    padded = np.append(row_price, 0.0)
    for row, coefficient in zip(form.row, form.coefficient, strict=True):
        total += padded[row] * coefficient
    return total


def dual_bound(form: StandardForm, price: NDArray[np.float64], row_price: NDArray[np.float64]) -> float:
    """Return the Lagrangian bound of any multipliers >= 0, in float64."""
    best = reduced_losses(form, price, row_price).min(axis=0)
    return float(best.sum() - (price * form.capacity).sum() - row_price @ form.row_bound)

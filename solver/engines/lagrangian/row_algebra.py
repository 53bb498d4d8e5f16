"""The limit rows inside the interior point method: left-hand sides, prices, and their part of the system.

Most limits touch one row per agent (a budget, the quota of the agent's tenant). Their sums run over columns
first and are scattered by agent afterwards, which is an order of magnitude cheaper than pair by pair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.standard_form import StandardForm


class RowAlgebra:
    """Limit rows of a form, scaled.

    Parameters
    ----------
    form : StandardForm
        The problem.
    scale : (g,) float64
        What each row is divided by.
    dtype : type
        float32 or float64.
    """

    def __init__(self, form: StandardForm, scale: NDArray[np.float64], dtype: type) -> None:
        self.rows, self.dtype = form.rows, dtype
        self.columns, self.n = form.loss.shape
        padded = np.append(scale, 1.0)
        self.layers: list[tuple[NDArray[np.int64], NDArray[Any], bool]] = []
        for row, coefficient in zip(form.row, form.coefficient, strict=True):
            scaled = (coefficient / padded[row]).astype(dtype)
            highest = np.where(row < form.rows, row, -1).max(axis=0)
            alike = bool(((row == highest) | (row == form.rows)).all())
            if alike:  # pairs the layer does not touch have coefficient zero: any row will do for them
                of_agent = np.where(highest < 0, form.rows, highest).astype(np.int64)
                self.layers.append((of_agent, scaled, True))
            else:
                self.layers.append((row.astype(np.int64), scaled, False))

    def act(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the (g,) left-hand sides."""
        used = np.zeros(self.rows + 1)
        for row, coefficient, alike in self.layers:
            weights = np.einsum("cn,cn->n", coefficient, x) if alike else (coefficient * x).ravel()
            used += np.bincount(row.ravel(), weights=weights, minlength=self.rows + 1)
        return used[:-1].astype(self.dtype)

    def charge(self, price: NDArray[Any], total: NDArray[Any]) -> None:
        """Add the price of every pair to the (c, n) ``total``."""
        padded = np.append(price, self.dtype(0))
        for row, coefficient, _ in self.layers:
            total += padded[row] * coefficient

    def tall(self, ratio: NDArray[Any]) -> NDArray[Any]:
        """Return the (g, n) sums over columns of ``ratio × coefficient``."""
        sums = np.zeros((self.rows + 1) * self.n)
        agent = np.arange(self.n)
        for row, coefficient, alike in self.layers:
            if alike:
                sums[row * self.n + agent] += np.einsum("cn,cn->n", coefficient, ratio)
            else:
                index = (row * self.n + agent).ravel()
                sums += np.bincount(index, weights=(ratio * coefficient).ravel(), minlength=len(sums))
        return sums.reshape(self.rows + 1, self.n)[:-1].astype(self.dtype)

    def add_products(self, system: NDArray[np.float64], ratio: NDArray[Any], demand: NDArray[Any]) -> None:
        """Add products of limit rows with each other and with the capacity rows to the system."""
        first = len(system) - self.rows
        side = self.rows + 1
        products = np.zeros(side * side)
        column = np.arange(self.columns)[:, None]
        for at, (row, coefficient, alike) in enumerate(self.layers):
            weighted = ratio * coefficient
            for other, (other_row, other_coefficient, other_alike) in enumerate(self.layers[: at + 1]):
                if alike and other_alike:
                    weights = np.einsum("cn,cn->n", weighted, other_coefficient)
                    index = row * side + other_row
                else:
                    weights = (weighted * other_coefficient).ravel()
                    index = (row * side + other_row + np.zeros_like(column)).ravel()
                block = np.bincount(index, weights=weights, minlength=side * side)
                products += block
                if other != at:
                    products += block.reshape(side, side).T.ravel()
            for k, taken in enumerate(demand):
                cross = self._cross(row, weighted * taken, alike)
                block_at = slice(k * self.columns, (k + 1) * self.columns)
                system[first:, block_at] += cross
                system[block_at, first:] += cross.T
        system[first:, first:] += products.reshape(side, side)[:-1, :-1]

    def _cross(self, row: NDArray[np.int64], weights: NDArray[Any], alike: bool) -> NDArray[np.float64]:
        """Return the (g, c) sums of weights by row and column."""
        side = self.rows + 1
        if alike and (row == row[0]).all():
            cross = np.zeros((side, self.columns))
            cross[row[0]] = weights.sum(axis=1)
            return cross[:-1]
        index = row * np.int64(self.columns) + np.arange(self.columns)[:, None]
        sums: NDArray[Any] = np.bincount(
            index.ravel(), weights=weights.ravel(), minlength=side * self.columns
        )
        return sums.reshape(side, self.columns)[:-1]

"""Coupling rows: what limits across models become before an engine sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NO_ROW", "Layer", "LimitRows"]

NO_ROW = -1
"""The row of a pair that a layer does not touch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """Rows that share no pair: every (agent, model) pair belongs to at most one row of a layer.

    Twenty tenants' quotas are one layer, not twenty dense matrices.

    Parameters
    ----------
    row : (n, m) int32
        Row that the pair belongs to, or NO_ROW; usually a broadcast view.
    coefficient : (n, m) float64
        What the pair adds to its row when chosen; usually a broadcast view.
    """

    row: NDArray[np.int32]
    coefficient: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LimitRows:
    """Linear rows ``Σ coefficient of the chosen pairs <= bound``, and agents that move as one.

    Parameters
    ----------
    names : tuple of str
        One per row.
    bound : (g,) float64
        Right-hand sides, of any sign.
    layers : tuple of Layer
        The left-hand sides.
    together : tuple of (k,) int64 arrays
        Groups of agents served by one and the same model, or all left unassigned; disjoint, ascending.
    together_names : tuple of str
        One per group.
    """

    names: tuple[str, ...] = ()
    bound: NDArray[np.float64]
    layers: tuple[Layer, ...] = ()
    together: tuple[NDArray[np.int64], ...] = ()
    together_names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.bound)

    def usage(self, choice: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (g,) left-hand sides of an (n,) choice. O(n) per layer."""
        served = np.flatnonzero(choice >= 0)
        models = choice[served]
        used = np.zeros(self.count)
        for layer in self.layers:
            row = layer.row[served, models]
            touched = row != NO_ROW
            coefficient = layer.coefficient[served, models]
            used += np.bincount(row[touched], weights=coefficient[touched], minlength=self.count)
        return used

    def magnitude(self, choice: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (g,) sums of absolute contributions: the scale of rounding in :meth:`usage`."""
        served = np.flatnonzero(choice >= 0)
        models = choice[served]
        total = np.abs(self.bound)
        for layer in self.layers:
            row = layer.row[served, models]
            touched = row != NO_ROW
            size = np.abs(layer.coefficient[served, models])
            total += np.bincount(row[touched], weights=size[touched], minlength=self.count)
        return total

    def charge(self, rows: slice | NDArray[np.int64], prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the fresh (rows, m) float64 price of every pair under (g,) row prices."""
        padded = np.append(prices, 0.0)  # NO_ROW indexes the last entry
        first = self.layers[0]
        total: NDArray[np.float64] = padded[first.row[rows]] * first.coefficient[rows]
        for layer in self.layers[1:]:
            total += padded[layer.row[rows]] * layer.coefficient[rows]
        return total

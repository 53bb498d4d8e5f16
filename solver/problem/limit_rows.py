"""Coupling rows: what limits across models become before an engine sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


class RowNames(Sequence[str]):
    """Names of rows, spelled out when they are read: a limit on every model may have thousands.

    Parameters
    ----------
    parts : sequence of (str, (k,) int64 or None)
        The name of each limit, and the models that it has a row each for; None where it has one row.

    Examples
    --------
    >>> list(RowNames([("usd", None), ("apart", np.array([0, 2]))]))
    ['usd', 'apart (model 0)', 'apart (model 2)']
    """

    def __init__(self, parts: Sequence[tuple[str, NDArray[np.int64] | None]]) -> None:
        self._parts = tuple(parts)
        self._count = sum(1 if models is None else len(models) for _, models in self._parts)

    @cached_property
    def _spelled(self) -> tuple[str, ...]:
        names: list[str] = []
        for name, models in self._parts:
            names += [name] if models is None else [f"{name} (model {j})" for j in models.tolist()]
        return tuple(names)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        """Return one name, or several."""
        return self._spelled[index]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LimitRows:
    """Linear rows ``Σ coefficient of the chosen pairs <= bound``, and agents that move as one.

    Parameters
    ----------
    names : sequence of str
        One per row.
    bound : (g,) float64
        Right-hand sides, of any sign.
    layers : tuple of Layer
        The left-hand sides.
    together : tuple of (k,) int64 arrays
        Groups of agents served by one and the same model, or all left unassigned; disjoint, ascending.
    together_names : tuple of str
        One per group.
    violation_price : (g,) float64 or None
        What each unit beyond the bound takes off the objective, >= 0; ``inf`` where the row must hold. None where
        all rows must hold.
    """

    names: Sequence[str] = ()
    bound: NDArray[np.float64]
    layers: tuple[Layer, ...] = ()
    together: tuple[NDArray[np.int64], ...] = ()
    together_names: tuple[str, ...] = ()
    violation_price: NDArray[np.float64] | None = None

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.bound)

    @property
    def hard(self) -> NDArray[np.bool_]:
        """(g,) whether the row must hold."""
        if self.violation_price is None:
            return np.ones(self.count, bool)
        return np.isposinf(self.violation_price)

    @property
    def is_soft(self) -> bool:
        """Whether some row may be exceeded at a price."""
        return self.violation_price is not None

    def violation_charges(self, load: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (g,) charges for what (g,) left-hand sides exceed; zeros for rows that must hold."""
        if self.violation_price is None:
            return np.zeros(self.count)
        prices = np.where(self.hard, 0.0, self.violation_price)
        return prices * np.maximum(load - self.bound, 0.0)

    def hard_rows(self) -> LimitRows | None:
        """Return the rows that must hold, and who moves together; None where nothing is left. O(n m) per layer."""
        if self.violation_price is None:
            return self
        kept = self.hard
        if not kept.any() and not self.together:
            return None
        number = np.append(np.where(kept, np.cumsum(kept) - 1, NO_ROW), NO_ROW).astype(np.int32)
        layers = [Layer(row=number[layer.row], coefficient=layer.coefficient) for layer in self.layers]
        return replace(
            self,
            names=tuple(name for name, keep in zip(self.names, kept, strict=True) if keep),
            bound=self.bound[kept],
            layers=tuple(layer for layer in layers if (layer.row != NO_ROW).any()),
            violation_price=None,
        )

    def usage(self, choice: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (g,) left-hand sides of an (n,) choice. O(n) per layer."""
        return self.usage_and_magnitude(choice)[0]

    def usage_and_magnitude(
        self, choice: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the (g,) left-hand sides, and the (g,) sums of absolute contributions: the scale of their rounding."""
        agents = np.flatnonzero(choice >= 0)
        models = choice[agents]
        used, size = np.zeros(self.count), np.abs(self.bound)
        for layer in self.layers:
            row = entries_at(layer.row, agents, models)
            coefficient = entries_at(layer.coefficient, agents, models)
            if row.min(initial=0) == NO_ROW:
                touched = row != NO_ROW
                row, coefficient = row[touched], coefficient[touched]
            signed = np.bincount(row, weights=coefficient, minlength=self.count)
            used += signed
            if coefficient.min(initial=0.0) < 0.0:
                signed = np.bincount(row, weights=np.abs(coefficient), minlength=self.count)
            size += signed
        return used, size

    def magnitude(self, choice: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (g,) sums of absolute contributions: the scale of rounding in :meth:`usage`."""
        return self.usage_and_magnitude(choice)[1]

    def charge(self, rows: slice | NDArray[np.int64], prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the fresh (rows, m) float64 price of every pair under (g,) row prices."""
        padded = np.append(prices, 0.0)  # NO_ROW indexes the last entry
        first = self.layers[0]
        total: NDArray[np.float64] = padded[first.row[rows]] * first.coefficient[rows]
        for layer in self.layers[1:]:
            total += padded[layer.row[rows]] * layer.coefficient[rows]
        return total


def entries_at(table: NDArray[Any], agents: NDArray[np.intp], models: NDArray[np.int64]) -> NDArray[Any]:
    """Return the entries of an (n, m) table at some pairs; of a broadcast view, without touching what is repeated."""
    by_agent, by_model = table.strides
    if by_agent == 0:
        return np.broadcast_to(table[0, 0], agents.shape) if by_model == 0 else table[0][models]
    if by_model == 0:
        return table[:, 0][agents]
    flat: NDArray[Any] = table.ravel() if table.flags.c_contiguous else np.zeros(0)
    # Flat indices take half the time of pairs.
    return flat[agents * table.shape[1] + models] if len(flat) else table[agents, models]

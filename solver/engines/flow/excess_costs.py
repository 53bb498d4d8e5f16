"""The cost of the units through a node whose row may be exceeded: a convex function in three pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.limit_rows import LimitRows

_WHOLE_UNITS = 1e-9
"""Distance to a whole number of units within which a bound is one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViolationCosts:
    """Violation costs at t nodes: the charge of k units is ``price * max(weight * k - bound, 0)``.

    Units up to ``free`` cost ``first`` each, the next one, across the bound, ``across``, and all others ``beyond``. Of
    a row that asks for at least so much, the first units save what the bound would charge: they cost less than nothing.

    Parameters
    ----------
    node : (t,) int64
        Nodes, each once.
    free : (t,) int64
        Units before the bound is crossed.
    first, across, beyond : (t,) float64
        Costs of a unit before, across and beyond the bound; ascending.
    none : (t,) float64
        Charge of no units.
    units : int
        Units through any node at most.
    """

    node: NDArray[np.int64]
    free: NDArray[np.int64]
    first: NDArray[np.float64]
    across: NDArray[np.float64]
    beyond: NDArray[np.float64]
    none: NDArray[np.float64]
    units: int

    @classmethod
    def of_rows(
        cls, limits: LimitRows, weight: NDArray[np.float64], number: NDArray[np.int64], units: int
    ) -> ViolationCosts:
        """Return the costs of exceeding soft rows: those whose pairs have a weight; their nodes are numbered."""
        rows = np.flatnonzero((weight != 0.0) & (number >= 0))
        weight, bound = weight[rows], limits.bound[rows]
        price = np.zeros(0) if limits.violation_price is None else limits.violation_price[rows]
        crossed = np.maximum(bound / weight, 0.0)
        whole = np.rint(crossed)
        crossed = np.where(np.abs(crossed - whole) <= _WHOLE_UNITS * np.maximum(1.0, whole), whole, crossed)
        free = np.minimum(np.floor(crossed), units).astype(np.int64)
        charge = [price * np.maximum(weight * k - bound, 0.0) for k in (0, free, free + 1)]
        slope = price * weight
        return cls(
            node=number[rows],
            free=free,
            first=np.minimum(slope, 0.0),
            across=charge[2] - charge[1],
            beyond=np.maximum(slope, 0.0),
            none=charge[0],
            units=units,
        )

    def waived(self) -> ViolationCosts:
        """Return violation costs without nodes: no row is charged."""
        none = np.zeros(0)
        nodes = np.zeros(0, np.int64)
        return ViolationCosts(
            node=nodes, free=nodes, first=none, across=none, beyond=none, none=none, units=self.units
        )

    @property
    def are_partial(self) -> bool:
        """Whether some bound is crossed within a unit: fractions of agents would pay less than whole ones."""
        return bool(((self.across != self.first) & (self.across != self.beyond)).any())

    def arcs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return node, capacity and cost of three arcs each."""
        ones = np.minimum(1, self.units - self.free)
        return (
            np.concatenate([self.node] * 3),
            np.concatenate([self.free, ones, self.units - self.free - ones]),
            np.concatenate([self.first, self.across, self.beyond]),
        )

    def marginal(self, unit: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the cost of the unit with a number from 1 at each node."""
        return np.where(
            unit <= self.free, self.first, np.where(unit == self.free + 1, self.across, self.beyond)
        )

    def most(self, step: NDArray[np.float64]) -> float:
        """Return the most that all nodes can earn at (t,) prices of a unit, less the charges."""
        at = np.stack(
            [
                np.zeros(len(self.node)),
                self.free,
                np.minimum(self.free + 1, self.units),
                np.full(len(self.node), self.units),
            ]
        )
        charge = self.none + self.first * np.minimum(at, self.free)
        charge = charge + self.across * np.clip(at - self.free, 0.0, 1.0)
        charge = charge + self.beyond * np.maximum(at - self.free - 1.0, 0.0)
        return float((step * at - charge).max(axis=0).sum())

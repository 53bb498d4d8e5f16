"""What the models sell: slots in tiers of non-decreasing cost, seen from the side of the prices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Supply"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Supply:
    """Tiers of slots. A model offers a tier once its price exceeds the tier's cost.

    Parameters
    ----------
    model : (t,) int64
        Model each tier belongs to, non-decreasing.
    cost : (t,) float64
        Cost of each slot of the tier, >= 0, non-decreasing within a model; 0 for plain capacities.
    slots : (t,) float64
        Slots of the tier; fractions occur in samples.
    models : int
        Number of models m.
    """

    model: NDArray[np.int64]
    cost: NDArray[np.float64]
    slots: NDArray[np.float64]
    models: int

    @classmethod
    def plain(cls, slots: NDArray[np.int64]) -> Supply:
        """One free tier per model."""
        m = len(slots)
        return cls(model=np.arange(m), cost=np.zeros(m), slots=slots.astype(np.float64), models=m)

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """(m,) float64, slots of each model over all its tiers."""
        return np.bincount(self.model, self.slots, self.models)

    @cached_property
    def closed(self) -> NDArray[np.bool_]:
        """(m,) bool, models without a single slot: they take part in nothing but the final prices."""
        return self.total <= 0

    @cached_property
    def cheapest(self) -> NDArray[np.float64]:
        """(m,) float64, cost of the first slot of each model: a lower bound of its price."""
        floor = np.full(self.models, np.inf)
        stocked = self.slots > 0
        np.minimum.at(floor, self.model[stocked], self.cost[stocked])
        return np.where(self.closed, 0.0, floor)

    def scaled(self, share: float) -> Supply:
        """Return the supply that a sample of that share of the agents competes for."""
        return Supply(model=self.model, cost=self.cost, slots=self.slots * share, models=self.models)

    def value(self, prices: NDArray[np.float64]) -> float:
        """Return Σ slots·max(price − cost, 0): what the models earn, the supply part of the dual."""
        return float(self.slots @ np.maximum(prices[self.model] - self.cost, 0.0))

    def smooth(
        self, prices: NDArray[np.float64], temperature: float
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Return value, (m,) offered slots and (m,) their derivative when a tier opens softly.

        The kink at the cost of a tier is replaced by a softplus of the given temperature, as the agents'
        maximum is by a log-sum-exp: both come from the same logistic noise.
        """
        x = (prices[self.model] - self.cost) / temperature
        tail = np.exp(-np.abs(x))
        value = temperature * float(self.slots @ (np.maximum(x, 0.0) + np.log1p(tail)))
        open_share = np.where(x >= 0, 1.0, tail) / (1.0 + tail)
        offered = self.slots * open_share
        slope = offered * (1.0 - open_share) / temperature
        return (
            value,
            np.bincount(self.model, offered, self.models),
            np.bincount(self.model, slope, self.models),
        )

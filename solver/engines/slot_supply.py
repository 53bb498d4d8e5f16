"""The supply side of the dual: the models' slots in tiers of non-decreasing cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance


@dataclass(frozen=True, kw_only=True, eq=False)
class Supply:
    """Tiers of slots. A model offers a tier once its price exceeds the tier's cost.

    Parameters
    ----------
    model : (t,) int64
        Model each tier belongs to.
    cost : (t,) float64
        Cost of each slot of the tier, >= 0; 0 for plain capacities.
    slots : (t,) float64
        Slots of the tier; fractions occur in samples.
    models : int
        Number of models m.
    anchor : int or None
        A model whose price is held in Newton steps. Needed when there are exactly as many slots as agents and
        no agent may stay unassigned: every slot is sold at any price, and all prices can rise or fall together at
        no change of the dual.
    """

    model: NDArray[np.int64]
    cost: NDArray[np.float64]
    slots: NDArray[np.float64]
    models: int
    anchor: int | None = None

    @classmethod
    def of(cls, instance: Instance) -> Supply:
        """Return the slots of an instance, in the tiers of its load cost if it has one."""
        model, cost, slots = instance.tiers
        return cls(model=model, cost=cost, slots=slots.astype(np.float64), models=instance.m)

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """(m,) float64, slots of each model over all its tiers."""
        return np.bincount(self.model, self.slots, self.models).astype(np.float64, copy=False)

    @cached_property
    def closed(self) -> NDArray[np.bool_]:
        """(m,) bool, models without a single slot: they take part in nothing but the final prices."""
        return self.total <= 0

    @cached_property
    def cheapest(self) -> NDArray[np.float64]:
        """(m,) float64, lower bounds of the prices: the cost of a model's first slot, none with an anchor."""
        if self.anchor is not None:
            return np.full(self.models, -np.inf)
        return np.where(self.closed, 0.0, self._first_cost)

    @cached_property
    def _first_cost(self) -> NDArray[np.float64]:
        floor = np.full(self.models, np.inf)
        stocked = self.slots > 0
        np.minimum.at(floor, self.model[stocked], self.cost[stocked])
        return floor

    @cached_property
    def _is_first(self) -> NDArray[np.bool_]:
        """(t,) bool, the cheapest stocked tier of each model."""
        return self.cost <= self._first_cost[self.model]

    @cached_property
    def max_slot_cost(self) -> NDArray[np.float64]:
        """(m,) float64, cost of the last slot of each model."""
        ceiling = np.zeros(self.models)
        stocked = self.slots > 0
        np.maximum.at(ceiling, self.model[stocked], self.cost[stocked])
        return ceiling

    def anchored(self) -> Supply:
        """Return the supply when every slot is sold: tiers and their costs decide nothing any more."""
        m = self.models
        return Supply(
            model=np.arange(m), cost=np.zeros(m), slots=self.total, models=m, anchor=int(self.total.argmax())
        )

    def pooled(self, first: NDArray[np.int64]) -> Supply:
        """Return the supply with every model's tiers moved to the model ``first`` names for it."""
        return replace(self, model=first[self.model])

    def scaled(self, share: float) -> Supply:
        """Return the supply that a sample of that share of the agents competes for."""
        return replace(self, slots=self.slots * share)

    def rounded(self, agents: int) -> Supply:
        """Return whole slots by largest remainder.

        All in all they are rounded up where they suffice for so many agents, and down where not: whether an
        agent has to stay unassigned must not change.
        """
        whole = np.floor(self.slots)
        exactly = float(self.slots.sum())
        total = np.floor(exactly) if exactly < agents - 1e-9 else np.ceil(exactly - 1e-9)
        whole[np.argsort(whole - self.slots, kind="stable")[: int(total - whole.sum())]] += 1
        return replace(self, slots=whole)

    def value(self, prices: NDArray[np.float64]) -> float:
        """Return Σ slots·max(price − cost, 0): what the models earn, the supply part of the dual."""
        return float(self.slots @ np.maximum(prices[self.model] - self.cost, 0.0))

    def smooth(
        self, prices: NDArray[np.float64], temperature: float
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Return value, (m,) offered slots and (m,) their derivative when the dearer tiers open softly.

        The kink at the cost of a tier is replaced by a softplus of the given temperature, as the agents'
        maximum is by a log-sum-exp. The cheapest tier of a model needs no softening: prices never fall below
        its cost, which is a bound of the problem, so it is always on offer.
        """
        margin = prices[self.model] - self.cost
        if self._is_first.all():
            return float(self.slots @ margin), self.total, np.zeros(self.models)
        x = np.where(self._is_first, 0.0, margin) / temperature
        tail = np.exp(-np.abs(x))
        soft = temperature * (np.maximum(x, 0.0) + np.log1p(tail))
        value = float(self.slots @ np.where(self._is_first, margin, soft))
        share = np.where(x >= 0, 1.0, tail) / (1.0 + tail)
        offered = self.slots * np.where(self._is_first, 1.0, share)
        slope = np.where(self._is_first, 0.0, self.slots * share * (1.0 - share) / temperature)
        return (
            value,
            np.bincount(self.model, offered, self.models).astype(np.float64, copy=False),
            np.bincount(self.model, slope, self.models).astype(np.float64, copy=False),
        )

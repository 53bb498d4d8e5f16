"""Slots that are used up by a known number of agents, at the prices of what is left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from solver.online.horizon import HorizonPrices, horizon_prices

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.online.live_load import LiveLoad
    from solver.online.parameters import PriceParams, RefreshParams
    from solver.online.window import AgentRow, Sample

_REFRESHED_EACH = 20
"""First arrivals, each of which is followed by new prices."""

_MIN_STRIDE = 5
"""Fewest arrivals between two refreshes after these."""


class HorizonPricing:
    """Slots are used up by a known number of agents.

    Parameters
    ----------
    slots : (m,) int64
        Slots of each model over the horizon.
    arrivals : int
        Agents to come.
    budget : bool
        Whether money is limited.
    params, refresh : PriceParams, RefreshParams
        Tuning constants.
    """

    uses_up = True

    def __init__(
        self,
        slots: NDArray[np.int64],
        arrivals: int,
        *,
        budget: bool,
        params: PriceParams,
        refresh: RefreshParams,
    ) -> None:
        self.left = slots.astype(np.float64)
        self.arrivals_left = arrivals
        self._budget = budget
        self._params = params
        self._parts = refresh.horizon_parts
        self._count, self._next = 0, 0
        self._prices = HorizonPrices(np.zeros(len(slots)), 0.0, -np.inf)
        self._slot = np.where(self.left >= 1.0, 0.0, np.inf)

    def arrived(self, now_s: float) -> bool:
        """Count an arrival and return whether prices should be computed again."""
        self._count += 1
        self.arrivals_left -= 1
        return self._count >= self._next

    def due(self, now_s: float) -> bool:
        """Return whether prices should be computed again."""
        return self._count >= self._next

    def level(self, load: LiveLoad) -> NDArray[np.float64]:
        """Return the price of a slot, ``inf`` where no slot is free, or left."""
        return np.where(load.taken() >= load.limit, np.inf, self._slot)

    def levels(self, load: LiveLoad, count: int) -> NDArray[np.float64]:
        """Return (count, m) levels, as if 0 to ``count`` − 1 more requests had already been admitted."""
        more = np.arange(count)[:, None]
        slot = np.where(self.left - more >= 1.0, self._slot, np.inf)
        return np.where(load.taken() + more >= load.limit, np.inf, slot)

    def net(self, row: AgentRow, level: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scores less the price of a slot and of the money."""
        net: NDArray[np.float64] = row.scores - level
        if self._prices.dollar > 0 and row.cost_usd is not None:
            net -= self._prices.dollar * row.cost_usd
        return net

    def slot_price(self, load: LiveLoad) -> NDArray[np.float64]:
        """Return the price of a slot of the horizon, (m,)."""
        return np.asarray(self._prices.slot, np.float64)

    def refusal_value(self, row: AgentRow) -> float:
        """Return the value of refusing this request."""
        return row.unserved if row.unserved == row.unserved else self._prices.unserved  # NaN: none named

    def worth_it(self, row: AgentRow, column: int, net: float) -> bool:
        """Return whether to serve; while slots suffice for all still to come, prices turn no agent away."""
        if self._budget or self.left.sum() <= self.arrivals_left:
            return net >= self.refusal_value(row)
        return not row.scores[column] < row.unserved

    def out_of_slots(self, row: AgentRow) -> bool:
        """Return whether every eligible model's slots are used up."""
        return not (np.isfinite(row.scores) & (self.left >= 1.0)).any()

    def claim(self, column: int) -> bool:
        """Use up a slot; False when none is left."""
        if self.left[column] < 1.0:
            return False
        self._use(column, 1.0)
        return True

    def unclaim(self, column: int) -> None:
        """Give a slot back."""
        self._use(column, -1.0)

    def _use(self, column: int, count: float) -> None:
        left = self.left[column] = self.left[column] - count
        self._slot[column] = self._prices.slot[column] if left >= 1.0 else np.inf

    def next_release_s(self, row: AgentRow, limit: NDArray[np.int64]) -> float:
        """Return a second: concurrency is full, and how long it is held is not known here."""
        return 1.0

    def price_job(
        self, sample: Sample, load: LiveLoad, usd_left: float | None, now_s: float
    ) -> Callable[[], HorizonPrices]:
        """Return the problem of what is left."""
        self._next = self._count + self._stride()
        return partial(
            horizon_prices,
            sample,
            slots_left=np.where(load.limit > 0, self.left, 0.0),
            arrivals_left=self.arrivals_left,
            usd_left=usd_left,
            before=self._prices,
            params=self._params,
        )

    def _stride(self) -> int:
        """Return the arrivals until the next prices: few at both ends, where one arrival says or uses much."""
        if self._count < _REFRESHED_EACH:
            return 1
        return max(_MIN_STRIDE, min(self._count, self.arrivals_left) // self._parts)

    def install(self, prices: HorizonPrices, load: LiveLoad) -> None:
        """Charge new prices."""
        self._prices = prices
        self._slot = np.where(self.left >= 1.0, prices.slot, np.inf)

"""Prices of steady traffic laid out for look-ups by occupancy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.online.steady import SteadyPrices

_EMPTIER_PREFERENCE = 1e-9
"""Score a second by which an empty replica is preferred to a full one."""

_TIE_PREFERENCE = 1e-3
"""Share of that which decides between equally full ones."""


class PriceTable:
    """What a second of each model costs at an occupancy, for one setting of the limits. O(m) a look-up.

    Parameters
    ----------
    prices : SteadyPrices
        Tables of the pools.
    limit : (m,) int64
        Slots and queue places; from the limit of a pool on its price is infinite.
    tie_break : (m,) float64
        Order of equal models, from 0 to 1.
    """

    def __init__(
        self, prices: SteadyPrices, limit: NDArray[np.int64], tie_break: NDArray[np.float64]
    ) -> None:
        self.limit = limit
        self._pool, self._tie_break = prices.pool, tie_break
        count = len(prices.table)
        self._pooled = count < len(limit)
        of_pool = np.bincount(prices.pool, limit, count).astype(np.int64) if self._pooled else limit
        width = int(of_pool.max()) + 1
        at_open = _widened(prices.table, width)
        highest = np.maximum(np.where(np.isfinite(at_open), at_open, -np.inf).max(axis=1), 0.0)
        at_open = np.where(np.isfinite(at_open), at_open, highest[:, None])
        closed = np.arange(at_open.shape[1]) >= of_pool[:, None]
        self._last = np.full(
            count, at_open.shape[1] - 1
        )  # an array: a number would be converted at each look-up
        self._start = np.arange(count) * at_open.shape[1]
        self._flat = np.where(closed, np.inf, at_open).ravel()
        self._others = prices.alternatives
        if self._others is not None:
            self._at_open = at_open.ravel()
            displaced = _widened(self._others.displaced, width)
            self._displaced = np.where(np.isfinite(displaced), displaced, 1.0).ravel()
            self._expected = self._others.service @ self._others.mean_price

    def price(self, taken: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the price of a second, (m,), ``inf`` where there is no room.

        Parameters
        ----------
        taken : (m,) int64
            Slots and queue places taken.
        """
        if self._pooled:
            at = self._position(taken)
        else:
            at = np.minimum(taken, self._last)
            at += self._start
            if self._others is None:
                alone: NDArray[np.float64] = self._flat[at]
                return alone
        return self._price(at, at, taken)

    def prices(self, taken: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        """Return (count, m) prices, as if 0 to ``count`` − 1 more requests had been admitted, to each model alone."""
        at = self._position(taken)
        if self._pooled:
            later = [taken + more for more in range(count)]
            rows = [self._price(at, self._position(one), one) for one in later]
            return np.array(rows).reshape(count, len(taken))
        later_taken = taken + np.arange(count)[:, None]
        return self._price(at, self._position(later_taken), later_taken)

    def _price(
        self, at: NDArray[np.int64], here: NDArray[np.int64], taken: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return prices at the positions ``here`` while the others stand ``at`` theirs."""
        price = self._flat.take(here)
        if self._others is not None:
            difference = self._others.service @ self._at_open.take(at)
            difference -= self._expected
            price += difference * self._displaced.take(here)
            np.maximum(price, 0.0, out=price)
        return self._of_replicas(price, taken) if self._pooled else price

    def _position(self, taken: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where in the flat tables each pool stands."""
        if self._pooled:
            taken = np.bincount(self._pool, taken, len(self._start)).astype(np.int64)
        at: NDArray[np.int64] = np.minimum(taken, self._last)
        at += self._start
        return at

    def _of_replicas(self, price: NDArray[np.float64], taken: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the price of each replica of each pool: equal, but that the emptier one is preferred."""
        crowding = np.minimum(taken / np.maximum(self.limit, 1), 1.0)
        price = price[self._pool] + _EMPTIER_PREFERENCE * (crowding + _TIE_PREFERENCE * self._tie_break)
        return np.where(taken >= self.limit, np.inf, price)


def _widened(table: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return a table of at least so many columns; the last one is repeated."""
    missing = width - table.shape[1]
    return np.pad(table, ((0, 0), (0, missing)), mode="edge") if missing > 0 else table

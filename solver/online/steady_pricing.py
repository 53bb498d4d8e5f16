"""Slots that come back, at prices that depend on how many are taken."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from solver.online.arrival_rate import ArrivalRate
from solver.online.price_table import PriceTable
from solver.online.steady import SteadyLimits, SteadyPrices, steady_prices

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.online.live_load import LiveLoad
    from solver.online.parameters import PriceParams, RefreshParams
    from solver.online.window import AgentRow, Sample

_GREEDY_LOAD_WEIGHT = 0.3
"""Load weight before the first prices: score × (1 − 0.3 × utilization), as in the balancer."""


class SteadyPricing:
    """Slots come back; prices depend on how many are taken.

    Parameters
    ----------
    typical_service_s : callable
        Returns the predicted service of a typical agent, (m,) seconds.
    requests_per_s, tokens_per_s : (m,) float64
        Rate limits, ``inf`` for none.
    tenant_shares : (t,) float64
        Most of the fleet's slot-seconds of each tenant with a share.
    wait_cost_per_s : float
        Score lost per second waited.
    replicas : int
        Routers that share the traffic.
    budget_left_s : callable
        Returns the seconds that the budget has to last from a time on; infinite without a budget.
    params, refresh : PriceParams, RefreshParams
        Tuning constants.
    tie_break : (m,) float64
        Order of equal models, from 0 to 1.
    """

    uses_up = False

    def __init__(
        self,
        *,
        typical_service_s: Callable[[], NDArray[np.float64]],
        requests_per_s: NDArray[np.float64],
        tokens_per_s: NDArray[np.float64],
        tenant_shares: NDArray[np.float64],
        wait_cost_per_s: float,
        replicas: int,
        budget_left_s: Callable[[float], float],
        params: PriceParams,
        refresh: RefreshParams,
        tie_break: NDArray[np.float64],
    ) -> None:
        self._typical_service_s = typical_service_s
        self._rates = (requests_per_s, tokens_per_s, tenant_shares)
        self._wait_cost_per_s = wait_cost_per_s
        self._replicas = replicas
        self._budget_left_s = budget_left_s
        self._params, self._refresh = params, refresh
        self._tie_break = tie_break
        self._rate = ArrivalRate(refresh.rate_arrivals, refresh.rate_services)
        self._count, self._next, self._next_s = 0, 1, -np.inf
        self._prices: SteadyPrices | None = None
        self._table: PriceTable | None = None
        self._service = self._service_asked = typical_service_s()
        self._rated = False

    def arrived(self, now_s: float) -> bool:
        """Count an arrival and return whether prices should be computed again."""
        self._count += 1
        self._rate.arrived(now_s)
        return self._count >= self._next or now_s >= self._next_s or self._table is None

    def due(self, now_s: float) -> bool:
        """Return whether enough has come, enough time has passed, or capacity has changed."""
        return self._count >= self._next or (self._count > 0 and now_s >= self._next_s) or self._table is None

    def rate_per_s(self, now_s: float) -> float:
        """Return arrivals a second at all replicas together."""
        return self._replicas * self._rate.per_s(now_s, float(self._service.mean()))

    def _laid_out(self, load: LiveLoad) -> PriceTable | None:
        """Return the table for the present limits; None before the first prices."""
        table, prices = self._table, self._prices
        if table is not None and prices is not None and load.limit is not table.limit:
            self._next = self._count
            table = self._table = PriceTable(prices, load.limit, self._tie_break)
        return table

    def level(self, load: LiveLoad) -> NDArray[np.float64]:
        """Return the price of a second at this occupancy; before the first prices, the occupancy."""
        table = self._table
        if table is not None:
            if load.limit is not table.limit:
                table = self._laid_out(load) or table
            return table.price(load.taken())
        return _fullness(load.taken(), load.limit)

    def levels(self, load: LiveLoad, count: int) -> NDArray[np.float64]:
        """Return (count, m) levels, as if 0 to ``count`` − 1 more requests had already been admitted."""
        table = self._laid_out(load)
        if table is not None:
            return table.prices(load.taken(), count)
        return _fullness(load.taken() + np.arange(count)[:, None], load.limit)

    def net(self, row: AgentRow, level: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scores less the price of service."""
        prices = self._prices
        if prices is None:
            return _greedy(row, level)
        service = self._service if row.service_s is None else row.service_s
        net: NDArray[np.float64] = row.scores - level * service
        if self._rated:
            net -= prices.request + prices.token * row.tokens
        if prices.dollar > 0 and row.cost_usd is not None:
            net -= prices.dollar * row.cost_usd
        if row.tenant >= 0:
            net -= prices.tenant_second[row.tenant] * service
        return net

    def slot_price(self, load: LiveLoad) -> NDArray[np.float64]:
        """Return the price of a slot for the time of a typical request, (m,); of a full model, of its last slot."""
        table = self._laid_out(load)
        if table is None:
            return np.zeros(len(self._service))
        price = table.price(np.minimum(load.taken(), np.maximum(load.limit - 1, 0))) * self._service
        return np.where(np.isfinite(price), price, 0.0)

    def refusal_value(self, row: AgentRow) -> float:
        """Return the value of refusing this request."""
        if row.unserved == row.unserved:
            return row.unserved
        return -np.inf if self._prices is None else self._prices.unserved

    def worth_it(self, row: AgentRow, column: int, net: float) -> bool:
        """Return whether to serve; where the objective does not price refusals, only money turns an agent away."""
        if row.unserved != row.unserved and (self._prices is None or not self._prices.dollar > 0):
            return True
        return net >= self.refusal_value(row)

    def out_of_slots(self, row: AgentRow) -> bool:
        """Return False: slots come back."""
        return False

    def claim(self, column: int) -> bool:
        """Return True: slots come back when they are released."""
        return True

    def unclaim(self, column: int) -> None:
        """Do nothing, likewise."""

    def next_release_s(self, row: AgentRow, limit: NDArray[np.int64]) -> float:
        """Return the mean time between two releases of the eligible models, at full load."""
        service = self._service if row.service_s is None else row.service_s
        releases = (limit * np.isfinite(row.scores) / np.maximum(service, 1e-9)).sum()
        return float(min(1.0 / releases, 60.0)) if releases > 0 else 60.0

    def price_job(
        self, sample: Sample, load: LiveLoad, usd_left: float | None, now_s: float
    ) -> Callable[[], SteadyPrices]:
        """Return the problem of every resource and of the tables over occupancy."""
        refresh = self._refresh
        self._next = self._count + min(refresh.every_arrivals, 1 + self._count // 10)
        self._next_s = now_s + refresh.every_s
        self._service_asked = self._typical_service_s()
        requests, tokens, shares = self._rates
        left_s = self._budget_left_s(now_s)
        usd_per_s = np.inf if usd_left is None else max(usd_left, 0.0) / max(left_s, 1e-9)
        return partial(
            steady_prices,
            sample,
            limits=SteadyLimits(
                slots=load.slots,
                queue=load.limit - load.slots,
                requests_per_s=requests,
                tokens_per_s=tokens,
                usd_per_s=usd_per_s,
                tenant_shares=shares,
            ),
            service_s=self._service_asked,
            rate_per_s=self.rate_per_s(now_s),
            wait_cost_per_s=self._wait_cost_per_s,
            before=self._prices,
            params=self._params,
        )

    def install(self, prices: SteadyPrices, load: LiveLoad) -> None:
        """Charge new prices, laid out for the present limits: a model closed meanwhile stays closed."""
        self._service = self._service_asked
        self._prices = prices
        self._rated = bool(prices.token.any() or prices.request.any())
        self._table = PriceTable(prices, load.limit, self._tie_break)


def _fullness(taken: NDArray[np.int64], limit: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of the places that is taken, ``inf`` where all are."""
    return np.where(taken >= limit, np.inf, taken / np.maximum(limit, 1))


def _greedy(row: AgentRow, occupancy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores less a share that grows with the occupancy, which is infinite where a model is full."""
    scores = row.scores
    size = np.abs(np.where(np.isfinite(scores), scores, 0.0))
    net = scores - _GREEDY_LOAD_WEIGHT * size * np.minimum(occupancy, 1.0)
    return np.where(occupancy == np.inf, -np.inf, net)

"""What the router charges now: one strategy for a finite horizon, one for steady traffic.

Each reads the live load, charges a row, and is refreshed with prices computed elsewhere. The router calls
``charge``, ``claim`` and ``install`` under its lock; ``compute`` runs without it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from solver.online.horizon import HorizonPrices, horizon_prices
from solver.online.steady import SteadyLimits, SteadyPrices, steady_prices

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.online.live import LiveLoad
    from solver.online.parameters import PriceParams, RefreshParams
    from solver.online.window import AgentRow, Sample

__all__ = ["HorizonPricing", "Pricing", "SteadyPricing"]

_GREEDY_LOAD_WEIGHT = 0.3
"""Load weight before the first prices: score × (1 − 0.3 × utilization), as in the balancer."""

_GROUP_S = 1e-3
"""Seconds within which arrivals count as one group."""

_FEW_GROUPS = 5
"""Groups below which an arrival rate is measured over a whole service time at least."""


class Pricing(Protocol):
    """A way to price capacity."""

    def arrived(self, now_s: float) -> None:
        """Count an arrival."""
        ...

    def due(self, now_s: float) -> bool:
        """Return whether prices should be computed again."""
        ...

    def net(self, row: AgentRow, load: LiveLoad, more: int = 0) -> NDArray[np.float64]:
        """Return what each model is worth to an agent after its price, (m,), ``-inf`` where there is no room.

        ``more`` others are thought let in before, on each model.
        """
        ...

    def slot_price(self, load: LiveLoad) -> NDArray[np.float64]:
        """Return what one more slot of each model is worth now, in score, (m,); 0 before the first prices."""
        ...

    def nobody(self, row: AgentRow) -> float:
        """Return the value of serving nobody."""
        ...

    def worth_it(self, row: AgentRow, column: int, net: float) -> bool:
        """Return whether serving the agent there, at ``net``, is better than serving nobody."""
        ...

    def out_of_slots(self, row: AgentRow) -> bool:
        """Return whether no eligible model will have a slot again."""
        ...

    def claim(self, column: int) -> bool:
        """Take one of what a model has for the horizon; False when nothing is left."""
        ...

    def unclaim(self, column: int) -> None:
        """Give it back: nothing was reserved."""
        ...

    def next_release_s(self, row: AgentRow) -> float:
        """Return a guess of the seconds until an eligible model has room again."""
        ...

    def compute(
        self, sample: Sample, load: LiveLoad, usd_left: float | None, now_s: float
    ) -> Callable[[], None]:
        """Compute prices from a sample, and return what installs them."""
        ...


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
        self._stride = max(5, arrivals // refresh.horizon_parts)
        self._count, self._next = 0, 0
        self._prices = HorizonPrices(np.zeros(len(slots)), 0.0, -np.inf)
        self._slot = np.where(self.left >= 1.0, 0.0, np.inf)

    def arrived(self, now_s: float) -> None:
        """Count an arrival."""
        self._count += 1
        self.arrivals_left -= 1

    def due(self, now_s: float) -> bool:
        """Return whether prices should be computed again."""
        return self._count >= self._next

    def net(self, row: AgentRow, load: LiveLoad, more: int = 0) -> NDArray[np.float64]:
        """Return scores less the price of a slot and of the money, ``-inf`` where there is no room."""
        net = row.scores - self._slot
        if self._prices.dollar > 0 and row.cost_usd is not None:
            net -= self._prices.dollar * row.cost_usd
        net[load.taken() + more >= load.limit] = -np.inf
        if more:
            net[self.left - more < 1.0] = -np.inf
        return net

    def slot_price(self, load: LiveLoad) -> NDArray[np.float64]:
        """Return the price of a slot of the horizon, (m,)."""
        return np.asarray(self._prices.slot, np.float64)

    def nobody(self, row: AgentRow) -> float:
        """Return the value of serving nobody."""
        return row.unserved if row.unserved == row.unserved else self._prices.unserved  # NaN: none named

    def worth_it(self, row: AgentRow, column: int, net: float) -> bool:
        """Return whether to serve; while slots suffice for all still to come, prices turn nobody away."""
        if self._budget or self.left.sum() <= self.arrivals_left:
            return net >= self.nobody(row)
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

    def next_release_s(self, row: AgentRow) -> float:
        """Return a second: concurrency is full, and how long it is held is not known here."""
        return 1.0

    def compute(
        self, sample: Sample, load: LiveLoad, usd_left: float | None, now_s: float
    ) -> Callable[[], None]:
        """Price what is left."""
        self._next = self._count + (1 if self._count < 20 else self._stride)
        prices = horizon_prices(
            sample,
            slots_left=np.where(load.limit > 0, self.left, 0.0),
            arrivals_left=self.arrivals_left,
            usd_left=usd_left,
            before=self._prices,
            params=self._params,
        )

        def install() -> None:
            self._prices = prices
            self._slot = np.where(self.left >= 1.0, prices.slot, np.inf)

        return install


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
        self._groups: deque[list[Any]] = deque(maxlen=8 * max(1, int(refresh.rate_arrivals)))
        self._count, self._next, self._next_s = 0, 1, -np.inf
        self._limit: NDArray[np.int64] | None = None
        self._prices: SteadyPrices | None = None
        self._service = typical_service_s()
        self._flat = np.zeros(0)
        self._base = np.zeros(0, np.int64)
        self._last = 0
        self._pooled = self._rated = False

    def arrived(self, now_s: float) -> None:
        """Count an arrival; those of one millisecond came together."""
        self._count += 1
        if self._groups and now_s - self._groups[-1][0] < _GROUP_S:
            self._groups[-1][1] += 1
        else:
            self._groups.append([now_s, 1])

    def due(self, now_s: float) -> bool:
        """Return whether enough has come, enough time has passed, or capacity has changed."""
        return self._count >= self._next or (self._count > 0 and now_s >= self._next_s) or self._limit is None

    def rate_per_s(self, now_s: float) -> float:
        """Return arrivals a second over the last few groups, and over at least a part of a service time."""
        groups = self._groups
        if not groups:
            return 1.0
        mean_s = float(self._service.mean())
        used = min(len(groups), self._refresh.rate_arrivals)
        shortest = mean_s * (self._refresh.rate_services if used >= _FEW_GROUPS else 1.0)
        span = max(now_s - groups[-used][0], shortest, 1e-6)
        count = -0.5 * groups[-used][1] if used > 1 else 0.0  # the first group opens the span
        for at in range(1, len(groups) + 1):
            if at > used and groups[-at][0] < now_s - span:
                break
            count += groups[-at][1]
        return float(self._replicas * max(count, 1.0) / span)

    def _table_of(self, load: LiveLoad) -> None:
        """Lay out the table for look-ups; full from the present limit of each model on, closed where it is 0."""
        prices = self._prices
        assert prices is not None
        pool, limit = prices.pool, load.limit
        width = int(limit.max()) + 1
        self._pooled = len(prices.table) < len(pool)
        if self._pooled:
            limit = np.bincount(pool, limit, len(prices.table)).astype(np.int64)
            width = int(limit.max()) + 1
        table = prices.table
        finite = np.where(np.isfinite(table), table, -np.inf).max(axis=1)
        table = np.where(np.isfinite(table), table, np.maximum(finite, 0.0)[:, None])
        if table.shape[1] < width:
            table = np.pad(table, ((0, 0), (0, width - table.shape[1])), mode="edge")
        table = np.where(np.arange(table.shape[1]) < limit[:, None], table, np.inf)
        self._last = table.shape[1] - 1
        self._flat = table.ravel()
        self._base = np.arange(len(table)) * table.shape[1]
        self._limit = load.limit

    def _price_at(self, load: LiveLoad, more: int) -> NDArray[np.float64]:
        """Return the price of a second of each model at the present occupancy."""
        taken = load.taken()
        if more:
            taken = taken + more
        prices = self._prices
        if self._pooled and prices is not None:
            together = np.bincount(prices.pool, taken, len(self._base)).astype(np.int64)
            price = self._flat[self._base + np.minimum(together, self._last)][prices.pool]
            crowding = np.minimum(taken / np.maximum(load.limit, 1), 1.0)
            preferred = price + 1e-9 * (crowding + 1e-3 * self._tie_break)
            return np.where(taken >= load.limit, np.inf, preferred)
        return self._flat.take(np.minimum(taken, self._last) + self._base)

    def net(self, row: AgentRow, load: LiveLoad, more: int = 0) -> NDArray[np.float64]:
        """Return scores less the price of service at this occupancy, ``-inf`` where there is no room."""
        prices = self._prices
        if prices is None:
            return self._greedy(row, load, more)
        if load.limit is not self._limit:
            self._next = self._count
            self._table_of(load)
        price = self._price_at(load, more)
        service = self._service if row.service_s is None else row.service_s
        price *= service
        net: NDArray[np.float64] = row.scores - price
        if self._rated:
            net -= prices.request + prices.token * row.tokens
        if prices.dollar > 0 and row.cost_usd is not None:
            net -= prices.dollar * row.cost_usd
        if row.tenant >= 0:
            net -= prices.tenant_second[row.tenant] * service
        return net

    def _greedy(self, row: AgentRow, load: LiveLoad, more: int) -> NDArray[np.float64]:
        taken, limit = load.taken() + more, np.maximum(load.limit, 1)
        scores = row.scores
        if np.isfinite(scores).any():
            size = np.abs(np.where(np.isfinite(scores), scores, 0.0))
            scores = scores - _GREEDY_LOAD_WEIGHT * size * np.minimum(taken / limit, 1.0)
        return np.where(taken >= load.limit, -np.inf, scores)

    def slot_price(self, load: LiveLoad) -> NDArray[np.float64]:
        """Return the price of a slot for the time of a typical request, (m,); of a full model, of its last slot."""
        if self._prices is None:
            return np.zeros(len(self._service))
        if load.limit is not self._limit:
            self._next = self._count
            self._table_of(load)
        taken = np.minimum(load.taken(), np.maximum(load.limit - 1, 0))
        if self._pooled:
            taken = np.bincount(self._prices.pool, taken, len(self._base)).astype(np.int64)
        price = self._flat.take(np.minimum(taken, self._last) + self._base)
        if self._pooled:
            price = price[self._prices.pool]
        price = price * self._service
        return np.where(np.isfinite(price), price, 0.0)

    def nobody(self, row: AgentRow) -> float:
        """Return the value of serving nobody."""
        if row.unserved == row.unserved:
            return row.unserved
        return -np.inf if self._prices is None else self._prices.unserved

    def worth_it(self, row: AgentRow, column: int, net: float) -> bool:
        """Return whether to serve; where the objective does not price refusals, only money turns anybody away."""
        if row.unserved != row.unserved and (self._prices is None or not self._prices.dollar > 0):
            return True
        return net >= self.nobody(row)

    def out_of_slots(self, row: AgentRow) -> bool:
        """Return False: slots come back."""
        return False

    def claim(self, column: int) -> bool:
        """Return True: slots come back when they are released."""
        return True

    def unclaim(self, column: int) -> None:
        """Do nothing, likewise."""

    def next_release_s(self, row: AgentRow) -> float:
        """Return the mean time between two releases of the eligible models, at full load."""
        service = self._service if row.service_s is None else row.service_s
        limit = self._limit if self._limit is not None else np.zeros(len(service), np.int64)
        releases = (limit * np.isfinite(row.scores) / np.maximum(service, 1e-9)).sum()
        return float(min(1.0 / releases, 60.0)) if releases > 0 else 60.0

    def compute(
        self, sample: Sample, load: LiveLoad, usd_left: float | None, now_s: float
    ) -> Callable[[], None]:
        """Price every resource, and tables over occupancy."""
        refresh = self._refresh
        self._next = self._count + min(refresh.every_arrivals, 1 + self._count // 10)
        self._next_s = now_s + refresh.every_s
        service = self._typical_service_s()
        requests, tokens, shares = self._rates
        left_s = self._budget_left_s(now_s)
        usd_per_s = np.inf if usd_left is None else max(usd_left, 0.0) / max(left_s, 1e-9)
        prices = steady_prices(
            sample,
            limits=SteadyLimits(
                slots=load.slots,
                queue=load.limit - load.slots,
                requests_per_s=requests,
                tokens_per_s=tokens,
                usd_per_s=usd_per_s,
                tenant_shares=shares,
            ),
            service_s=service,
            rate_per_s=self.rate_per_s(now_s),
            wait_cost_per_s=self._wait_cost_per_s,
            before=self._prices,
            params=self._params,
        )

        def install() -> None:
            self._service = service
            self._prices = prices
            self._rated = bool(prices.token.any() or prices.request.any())
            self._table_of(load)

        return install

"""Prices of steady traffic: slots come back, and what counts is how long they are held and how full a model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.online.horizon import range_of_scores, value_of_unassigned
from solver.online.occupancy import Alternatives, occupancy_prices
from solver.online.window_prices import window_prices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.online.parameters import PriceParams
    from solver.online.window import Sample

_REPLICA_EVIDENCE = 20
"""Agents with equal scores on two models from which the two count as replicas."""

_STEADY_SMOOTHING = 1.6
"""Temperature in steady traffic over that of a horizon; here a share of the range from refusing to the best score."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SteadyLimits:
    """What the fleet can take.

    Parameters
    ----------
    slots, queue : (m,) int64
        Slots and queue places; no slots: closed.
    requests_per_s, tokens_per_s : (m,) float64
        Rate limits, ``inf`` for none.
    usd_per_s : float
        Money left over the seconds left, ``inf`` for no budget.
    tenant_shares : (t,) float64
        Most of the fleet's slot-seconds for each tenant that has a share, 0 to 1.
    """

    slots: NDArray[np.int64]
    queue: NDArray[np.int64]
    requests_per_s: NDArray[np.float64]
    tokens_per_s: NDArray[np.float64]
    usd_per_s: float
    tenant_shares: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class SteadyPrices:
    """What the next agent is charged; replaced as a whole.

    Parameters
    ----------
    table : (p, k) float64
        Score a second of service costs in each pool at each occupancy, ``inf`` where it is full.
    pool : (m,) int64
        Pool of each model: replicas with equal scores and equal speed share one.
    second : (m,) float64
        Score a second of service costs on average.
    request, token : (m,) float64
        Score that one request and one token cost, beside the slot.
    dollar : float
        Score a US dollar costs.
    tenant_second : (t,) float64
        Score a second of service costs a tenant, for its share.
    unserved : float
        Value of refusing, for agents whose objective names none.
    alternatives : Alternatives or None
        Of the pools; None for mean prices alone.
    """

    table: NDArray[np.float64]
    pool: NDArray[np.int64]
    second: NDArray[np.float64]
    request: NDArray[np.float64]
    token: NDArray[np.float64]
    dollar: float
    tenant_second: NDArray[np.float64]
    unserved: float
    alternatives: Alternatives | None = None


def steady_prices(
    sample: Sample,
    *,
    limits: SteadyLimits,
    service_s: NDArray[np.float64],
    rate_per_s: float,
    wait_cost_per_s: float,
    before: SteadyPrices | None,
    params: PriceParams,
) -> SteadyPrices:
    """Price every resource from a window, then every slot by occupancy.

    Parameters
    ----------
    sample : Sample
        Recent agents, at least one.
    limits : SteadyLimits
        What the fleet can take.
    service_s : (m,) float64
        Predicted service of a typical agent, where the sample does not say.
    rate_per_s : float
        Arrivals a second, > 0.
    wait_cost_per_s : float
        Score lost per second waited.
    before : SteadyPrices, optional
        The last prices, to start from.
    params : PriceParams
        Tuning constants.
    """
    service = np.where(np.isnan(sample.service_s), service_s, sample.service_s)
    np.maximum(service, 1e-9, out=service)
    closed = limits.slots <= 0
    scores = np.where(closed, -np.inf, sample.scores)
    pool, lead = _replicas(sample.scores, service, closed)
    count = len(lead)
    resources = _Resources(limits, pool, count)
    scores, service, cost = scores[:, lead], service[:, lead], sample.cost_usd[:, lead]
    lowest, span = range_of_scores(sample.scores)
    least = min(lowest - params.unserved_margin * span, 0.0)
    unserved, stand_in = value_of_unassigned(sample.unserved, least)
    of_models, shared, rates = resources.rows(service, sample, cost, params.rate_limit_share)
    found = window_prices(
        scores,
        weights=sample.weights,
        unserved=unserved,
        rates=rates / rate_per_s,
        of_models=of_models,
        shared=shared,
        start=None if before is None else resources.start(before, lead),
        temperature=_STEADY_SMOOTHING
        * params.smoothing
        * (lowest + span - min(float(unserved.min()), lowest)),
    )
    request, token, dollar, tenant = resources.named(found.of_models, found.shared)
    net = scores - request - token * sample.tokens[:, None]
    if dollar > 0:
        net -= dollar * cost
    if tenant.size:
        net -= service * np.append(tenant, 0.0)[sample.tenant][:, None]
    occupied = occupancy_prices(
        net,
        service,
        weights=sample.weights,
        unserved=unserved,
        shares=found.shares,
        mean_price=found.of_models[0],
        rate_per_s=rate_per_s,
        slots=resources.slots,
        queue=resources.queue,
        wait_cost_per_s=wait_cost_per_s,
        rounds=params.coupling_rounds,
        largest_pool=params.largest_pool,
        alternatives=1 < count <= params.most_alternatives,
    )
    return SteadyPrices(
        table=occupied.table,
        pool=pool,
        second=found.of_models[0][pool],
        request=request[pool],
        token=token[pool],
        dollar=dollar,
        tenant_second=tenant,
        unserved=stand_in,
        alternatives=occupied.alternatives,
    )


class _Resources:
    """What pools of replicas and the whole fleet are short of, as rows of a linear program.

    Rows of every pool come first (seconds, and requests and tokens where they are limited), then shared ones (money
    where it is limited, and the seconds of each tenant).
    """

    def __init__(self, limits: SteadyLimits, pool: NDArray[np.int64], count: int) -> None:
        def summed(part: NDArray[Any]) -> NDArray[np.float64]:
            total: NDArray[np.float64] = np.bincount(pool, part, count).astype(np.float64)
            return total

        self.slots, self.queue = (summed(part).astype(np.int64) for part in (limits.slots, limits.queue))
        self._requests, self._tokens = summed(limits.requests_per_s), summed(limits.tokens_per_s)
        self._limits_requests = bool(np.isfinite(self._requests).any())
        self._limits_tokens = bool(np.isfinite(self._tokens).any())
        self._limits_money = limits.usd_per_s < np.inf
        self._limits = limits

    def rows(
        self, service: NDArray[np.float64], sample: Sample, cost: NDArray[np.float64], planned_share: float
    ) -> tuple[list[NDArray[np.float64] | None], list[NDArray[np.float64]], NDArray[np.float64]]:
        """Return what each pair uses of each pool's rows (None: one), of the shared rows, and all rates."""
        of_models: list[NDArray[np.float64] | None] = [service]
        rates = [np.maximum(self.slots, 1e-3)]
        if self._limits_requests:
            of_models.append(None)
            rates.append(planned_share * self._requests)
        if self._limits_tokens:
            of_models.append(np.broadcast_to(sample.tokens[:, None], service.shape))
            rates.append(planned_share * self._tokens)
        shared = []
        if self._limits_money:
            shared.append(cost)
            rates.append(np.array([max(self._limits.usd_per_s, 1e-12)]))
        for t, share in enumerate(self._limits.tenant_shares.tolist()):
            shared.append(service * (sample.tenant == t)[:, None])
            rates.append(np.array([max(share * self.slots.sum(), 1e-3)]))
        return of_models, shared, np.concatenate(rates)

    def start(self, before: SteadyPrices, lead: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the last prices in the order of the rows."""
        parts = [before.second[lead]]
        parts += [before.request[lead]] if self._limits_requests else []
        parts += [before.token[lead]] if self._limits_tokens else []
        parts += [np.array([before.dollar])] if self._limits_money else []
        parts.append(before.tenant_second)
        return np.concatenate(parts)

    def named(
        self, of_models: NDArray[np.float64], shared: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float, NDArray[np.float64]]:
        """Return the prices of a request, a token, a dollar, and of a tenant's second."""
        free = np.zeros(of_models.shape[1])
        rows = iter(of_models[1:])
        request = next(rows) if self._limits_requests else free
        token = next(rows) if self._limits_tokens else free
        dollar = float(shared[0]) if self._limits_money else 0.0
        return request, token, dollar, shared[int(self._limits_money) :]


def _replicas(
    scores: NDArray[np.float64], service: NDArray[np.float64], closed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Return the pool of each model and one model of each pool: equal columns are replicas of one model."""
    n, m = scores.shape
    alone = np.arange(m)
    if n < _REPLICA_EVIDENCE:
        return alone, alone
    mix = np.cos(np.arange(1.0, n + 1.0))  # any fixed weights: equal columns have equal sums
    sums = mix @ np.maximum(scores, -1e6) + np.pi * (mix @ service)
    order = np.argsort(sums, kind="stable")
    pool = alone.copy()
    for a, b in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
        near = abs(sums[a] - sums[b]) <= 1e-9 * (1.0 + abs(sums[a]))
        if near and not closed[a] and not closed[b] and _same(scores, a, b) and _same(service, a, b):
            pool[b] = pool[a]
    lead, pool = np.unique(pool, return_inverse=True)
    return pool, lead


def _same(columns: NDArray[np.float64], a: int, b: int) -> bool:
    return bool((columns[:, a] == columns[:, b]).all())

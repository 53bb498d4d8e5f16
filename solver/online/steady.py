"""Prices of steady traffic: slots come back, and what counts is how long they are held and how full a model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.online.horizon import range_of_scores, value_of_nobody
from solver.online.occupancy import Alternatives, occupancy_prices
from solver.online.window_prices import window_prices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.online.parameters import PriceParams
    from solver.online.window import Sample

__all__ = ["SteadyLimits", "SteadyPrices", "steady_prices"]

_REPLICA_EVIDENCE = 20
"""Agents with equal scores on two models from which the two count as replicas."""

_STEADY_SMOOTHING = 1.6
"""Temperature in steady traffic over that of a horizon; here a share of the range from nobody to the best score."""


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
        Value of serving nobody, for agents whose objective names none.
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
    slots, queue = (np.bincount(pool, part, count).astype(np.int64) for part in (limits.slots, limits.queue))
    requests: NDArray[np.float64] = np.bincount(pool, limits.requests_per_s, count).astype(np.float64)
    tokens: NDArray[np.float64] = np.bincount(pool, limits.tokens_per_s, count).astype(np.float64)
    scores, service, cost = scores[:, lead], service[:, lead], sample.cost_usd[:, lead]
    lowest, span = range_of_scores(sample.scores)
    least = min(lowest - params.unserved_margin * span, 0.0)
    unserved, stand_in = value_of_nobody(sample.unserved, least)
    of_models: list[NDArray[np.float64] | None] = [service]
    rates = [np.maximum(slots, 1e-3)]
    for limit, use in (
        (requests, None),
        (tokens, np.broadcast_to(sample.tokens[:, None], scores.shape)),
    ):
        if np.isfinite(limit).any():
            of_models.append(use)
            rates.append(params.rate_limit_share * limit)
    shared = []
    if limits.usd_per_s < np.inf:
        shared.append(cost)
        rates.append(np.array([max(limits.usd_per_s, 1e-12)]))
    for t, share in enumerate(limits.tenant_shares.tolist()):
        shared.append(service * (sample.tenant == t)[:, None])
        rates.append(np.array([max(share * slots.sum(), 1e-3)]))
    kinds = (len(of_models), len(shared))
    found = window_prices(
        scores,
        weights=sample.weights,
        unserved=unserved,
        rates=np.concatenate(rates) / rate_per_s,
        of_models=of_models,
        shared=shared,
        start=_start(before, lead, kinds, limits, requests, tokens),
        temperature=_STEADY_SMOOTHING
        * params.smoothing
        * (lowest + span - min(float(unserved.min()), lowest)),
    )
    request, token, dollar, tenant = _named(found.of_models, found.shared, limits, requests, tokens)
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
        slots=slots,
        queue=queue,
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


def _start(
    before: SteadyPrices | None,
    lead: NDArray[np.intp],
    kinds: tuple[int, int],
    limits: SteadyLimits,
    requests: NDArray[np.float64],
    tokens: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    """Return the last prices in the order of the rows, None where there are none."""
    if before is None:
        return None
    parts = [before.second[lead]]
    parts += [before.request[lead]] if np.isfinite(requests).any() else []
    parts += [before.token[lead]] if np.isfinite(tokens).any() else []
    parts += [np.array([before.dollar])] if limits.usd_per_s < np.inf else []
    parts.append(before.tenant_second)
    return np.concatenate(parts)


def _named(
    of_models: NDArray[np.float64],
    shared: NDArray[np.float64],
    limits: SteadyLimits,
    requests: NDArray[np.float64],
    tokens: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, NDArray[np.float64]]:
    """Return the prices of a request, a token, a dollar, and of a tenant's second."""
    free = np.zeros(of_models.shape[1])
    rows = iter(of_models[1:])
    request = next(rows) if np.isfinite(requests).any() else free
    token = next(rows) if np.isfinite(tokens).any() else free
    money = limits.usd_per_s < np.inf
    return request, token, float(shared[0]) if money else 0.0, shared[int(money) :]


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

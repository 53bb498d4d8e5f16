"""Prices set by a few agents: sampling misses them, a pass over all agents computes them.

A model with three slots among a million agents costs what the fourth keenest agent would pay for it; if there
are twenty slots too few, the level of all prices is what keeps just twenty agents out. Both are order
statistics of all agents at the prices of everything else, which samples tell well.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.params import DEFAULTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.price.params import PriceEngineParams
    from solver.engines.price.row_protocols import Rows
    from solver.engines.price.smoothed_dual import Estimate
    from solver.engines.slot_supply import Supply


NEAR_SHORTAGE = 3
"""Ranks around the last agent who has to leave that say how far off the level of prices may be."""


def small_slot_shortage(agents: int, supply: Supply, params: PriceEngineParams = DEFAULTS) -> int:
    """Return the number of missing slots if it is too small to show in a sample, else 0.

    Samples are then better drawn as if there were enough, and the level of prices found afterwards.
    """
    short = agents - int(supply.total.sum())
    return short if 0 < short / params.sampling.growth < params.sampling.little_shortage else 0


def scarce_seconds(rows: Rows, supply: Supply, params: PriceEngineParams) -> float:
    """Return about how long :func:`price_scarce` takes where there is something to price."""
    tiny = int(
        ((supply.total > 0) & (supply.total / params.sampling.growth < params.sampling.few_slots)).sum()
    )
    return rows.n * (rows.m * params.times.pass_s_per_pair + tiny * params.times.s_per_agent_and_scarce)


def price_scarce(
    rows: Rows, supply: Supply, estimate: Estimate, *, short: int, params: PriceEngineParams = DEFAULTS
) -> Estimate:
    """Return the estimate with the prices and the level that samples could not see, O(n m) if there are any.

    Parameters
    ----------
    rows : Rows
        All agents.
    supply : Supply
        All slots.
    estimate : Estimate
        From samples.
    short : int
        Agents who stay unassigned because slots are missing, if the estimate left that aside; else 0.
    """
    tiny = np.flatnonzero(
        (supply.total > 0) & (supply.total / params.sampling.growth < params.sampling.few_slots)
    )
    if not short and not len(tiny):
        return estimate
    prices, error = estimate.prices.copy(), estimate.error.copy()
    best, outside, worth = rows.standing(prices, tiny)
    if short:
        level, doubt = order_statistic(
            outside - best, short, near=NEAR_SHORTAGE
        )  # whoever leaves, that many do
        best = best + level
        prices = np.maximum(prices - level, supply.cheapest)
        error = np.maximum(error, doubt)
    for k, j in enumerate(tiny):
        allowed = worth[:, k] > -np.inf
        keen = np.full(len(best), -np.inf)  # infinite for those who have no other choice
        keen[allowed] = worth[allowed, k] - np.maximum(best, outside)[allowed]
        slots = int(supply.total[j])
        price, doubt = order_statistic(keen, slots, near=near_slots(slots))
        if supply.cheapest[j] < price < np.inf:
            prices[j], error[j] = price, doubt
    return replace(estimate, prices=prices, error=error)


def near_slots(slots: int) -> int:
    """Return how many ranks around the last slot's say how far off its price may be."""
    return 2 + math.isqrt(slots)


def order_statistic(values: NDArray[np.float64], rank: int, *, near: int) -> tuple[float, float]:
    """Return what separates the ``rank`` largest values from the rest, and a third of how far ``near`` ranks reach."""
    n = len(values)
    most = min(n, rank + near + 1)
    top = np.sort(np.partition(values, n - most)[n - most :])[::-1]
    if not np.isfinite(top).all():
        return np.inf, np.inf  # some have no other choice: no price is too high for them
    low, high = top[min(rank + near, most - 1)], top[max(rank - near, 0)]
    return float((top[rank - 1] + top[min(rank, most - 1)]) / 2), float(high - low) / 3.0

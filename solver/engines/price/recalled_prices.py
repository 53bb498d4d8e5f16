"""Prices of a similar instance, judged by a sample of this one and moved where only capacities have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.sample_sizes import stratified
from solver.engines.price.smoothed_dual import Estimate, price_error
from solver.engines.smoothed_demand import DenseDemand, newton_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.price.params import PriceEngineParams
    from solver.engines.price.row_protocols import Rows
    from solver.engines.price.sample_sizes import Scale
    from solver.engines.slot_supply import Supply


def recall_prices(
    rows: Rows,
    supply: Supply,
    scale: Scale,
    remembered: NDArray[np.float64],
    chosen: NDArray[np.int64],
    generator: np.random.Generator,
    params: PriceEngineParams,
) -> Estimate | None:
    """Judge the prices of a similar instance by a sample of this one.

    Parameters
    ----------
    rows, supply, scale
        This instance.
    remembered : (m,) float64
        Prices of the similar one.
    chosen : (n,) int64
        Model of each agent there, m for none. Agents whose model is no longer best at these prices have changed;
        their share says how far the prices may have moved.
    generator : numpy.random.Generator
        Draws the sample.

    Returns
    -------
    Estimate or None
        The prices, with the error that a batch with as many fresh agents would show; None if the sample
        contradicts them or is all there is.
    """
    n = rows.n
    k = min(params.recall.agents, n // params.sampling.growth)
    if k < params.sampling.first_sample[0]:
        return None
    looked_at = stratified(n, k, generator)
    score, outside = rows.sample(looked_at).dense()
    demand = DenseDemand(score, outside)
    share = supply.scaled(k / n)
    start = np.maximum(remembered, supply.cheapest)
    temperature = max(params.recall.temperature * scale.spread, scale.coolest)
    response = demand.respond(start, temperature)
    _, offered, slope = share.smooth(start, temperature)
    curvature = response.curvature + np.diag(slope)
    excess = response.load - offered
    held = (start <= supply.cheapest) & (excess < 0)
    low = supply.cheapest - start
    high = np.full(rows.m, scale.span)
    if supply.anchor is not None:
        held[supply.anchor] = True
        low[supply.anchor] = high[supply.anchor] = 0.0
    error = price_error(curvature, response, excess, held, k, k * k * (1.0 / k - 1.0 / n))
    step = newton_step(curvature, excess, low, high)
    contradicted = bool((np.abs(step) > params.recall.largest_drift * error + 2.0 * temperature).any())
    net = np.column_stack([score - start, np.full(k, -np.inf) if outside is None else outside])
    forgone = net.max(axis=1) - net[np.arange(k), chosen[looked_at]]
    changed = int((forgone > params.recall.forgone_rounding * scale.span).sum()) + 1
    if supply.anchor is None and changed <= params.recall.changed_share * k:
        load = np.bincount(chosen, minlength=rows.m + 1)[: rows.m].astype(np.float64)
        moved = _moved_prices(demand, supply, scale, start, load, n / k, params)
    else:
        moved = np.zeros(rows.m)
        if contradicted:
            return None
    fresh = min(1.0, (changed + 2.0 * np.sqrt(changed)) / k)
    shrink = np.sqrt(2.0 * k / (n - k))  # from the error of k agents to the distance of two batches of n
    error = np.minimum(shrink * np.sqrt(fresh) * error, scale.span)
    shift = np.abs(moved)
    if (shift > 0.0).any():
        error = np.maximum(error, params.recall.move_error * (shift + float(np.median(shift[shift > 0.0]))))
        error = np.minimum(error, scale.span)
    moving = error[error > 0]
    cool = params.sampling.final_temperature * float(np.median(moving)) if len(moving) else 0.0
    return Estimate(
        prices=np.maximum(start + moved, supply.cheapest),
        error=error,
        temperature=max(min(cool, temperature), scale.coolest),
        curvature=curvature / k,
        is_sample=True,
    )


def _moved_prices(
    demand: DenseDemand,
    supply: Supply,
    scale: Scale,
    start: NDArray[np.float64],
    load: NDArray[np.float64],
    represents: float,
    params: PriceEngineParams,
) -> NDArray[np.float64]:
    """Return how far other capacities move the prices of an instance whose agents are the same.

    A sample is too noisy to balance loads with capacities. But the loads at the old prices are known, and a sample
    says well by how much they change as prices do: it is used for the difference alone (a control variate).

    Parameters
    ----------
    demand : DenseDemand
        The sample.
    supply, scale
        This instance.
    start : (m,) float64
        The old prices.
    load : (m,) float64
        Agents of each model at the old prices.
    represents : float
        Agents that each of the sample stands for.
    """
    _, offered, _ = supply.smooth(start, scale.coolest)
    short = np.where(start > supply.cheapest, np.abs(load - offered), load - offered)
    if not (short > params.recall.slot_change_share * np.maximum(load, 1.0)).any():
        return np.zeros(len(start))
    temperature = max(params.recall.moving_temperature * scale.spread, scale.coolest)
    before = demand.respond(start, temperature).load
    prices = start
    for _ in range(params.recall.most_moving_steps):
        response = demand.respond(prices, temperature)
        _, offered, slope = supply.smooth(prices, temperature)
        excess = load + (response.load - before) * represents - offered
        curvature = response.curvature * represents + np.diag(slope)
        step = newton_step(curvature, excess, supply.cheapest - prices, np.full(len(start), scale.span))
        prices = np.maximum(prices + step, supply.cheapest)
        if float(np.abs(step).max()) < 1e-3 * temperature:
            break
    return prices - start

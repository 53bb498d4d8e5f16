"""Prices from samples of growing size, and how far off they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.box_descent import price_box
from solver.engines.price.contested_flow import solve_boxed_flow
from solver.engines.price.params import DEFAULTS
from solver.engines.price.sample_sizes import Scale, sample_sizes, stratified
from solver.engines.price.smoothed_dual import Estimate, sample_prices
from solver.engines.price.time_left import NO_DEADLINE
from solver.engines.smoothed_demand import DenseDemand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.price.params import PriceEngineParams
    from solver.engines.price.row_protocols import Rows
    from solver.engines.slot_supply import Supply


def estimate_prices(
    rows: Rows,
    supply: Supply,
    scale: Scale,
    generator: np.random.Generator,
    *,
    most: float = np.inf,
    deadline: Deadline = NO_DEADLINE,
    params: PriceEngineParams = DEFAULTS,
) -> Estimate:
    """Return prices from stratified samples of growing size, up to ``most`` agents; rough ones if negative.

    The first sample is solved by a flow, which needs no starting point. Each further one starts from the
    prices and errors of the one before, is reduced to the agents contested within three standard
    deviations, and improves on them by Newton steps. None is begun that would not end before the deadline.
    """
    n = rows.n
    first, *larger = sample_sizes(n, rows.m, params)
    sample = rows if first == n else rows.sample(stratified(n, first, generator))
    share = supply.scaled(first / n)
    low = np.where(np.isfinite(supply.cheapest), supply.cheapest, 0.0)
    contested = sample.reduce(low, low + scale.span).whole().gathered().contested
    prices = solve_boxed_flow(
        contested, share.rounded(first), resolution=params.sampling.coarse_unit * scale.span
    ).centre
    if most < 0:  # no time even for steps on the first sample
        unknown = np.full(rows.m, scale.span)
        return Estimate(
            prices=prices,
            error=unknown,
            temperature=scale.spread,
            curvature=np.zeros((rows.m, rows.m)),
            is_sample=True,
        )
    demand = DenseDemand(*sample.dense())
    began = deadline.remaining_s()
    estimate = sample_prices(
        demand,
        share,
        prices,
        scale.spread / 30,
        coolest=scale.coolest,
        span=scale.span,
        population=n,
        deadline=deadline
        if rows.m > params.sampling.untimed_models
        else NO_DEADLINE,  # with few, milliseconds that are well spent
        params=params,
    )
    for size in (size for size in larger if size <= most):
        left = deadline.remaining_s()
        if (
            deadline.limited and params.sampling.time_growth * (began - left) > left
        ):  # the next sample takes longer than the last
            break
        began = left
        sample = rows.sample(stratified(n, size, generator))
        estimate = refine_prices(sample, supply.scaled(size / n), scale, estimate, n, deadline, params)
    return estimate


def refine_prices(
    sample: Rows,
    share: Supply,
    scale: Scale,
    estimate: Estimate,
    population: int,
    deadline: Deadline = NO_DEADLINE,
    params: PriceEngineParams = DEFAULTS,
) -> Estimate:
    """Improve on an estimate by a larger sample of so many agents, which compete for their share of the slots."""
    start = start_temperature(estimate, 0.5)
    if sample.n * sample.m <= params.sampling.dense_pairs:
        return sample_prices(
            DenseDemand(*sample.dense()),
            share,
            estimate.prices,
            start,
            coolest=scale.coolest,
            span=scale.span,
            population=population,
            deadline=deadline,
            params=params,
        )
    radius = price_radius(estimate, sample.n, scale.span, params)
    prices = estimate.prices
    for _ in range(params.sampling.most_boxes):
        low, high = price_box(prices, radius, share.cheapest, np.inf, None)
        refined = sample_prices(
            sample.reduce(low, high).contested,
            share,
            np.clip(prices, low, high),
            start,
            coolest=scale.coolest,
            span=scale.span,
            population=population,
            bounds=(low, high),
            deadline=deadline,
            params=params,
        )
        prices = refined.prices
        pressed = (prices >= high) | ((prices <= low) & (low > share.cheapest))
        if not pressed[~share.closed].any() or deadline.expired():
            break
        radius = np.where(pressed, 2.0 * radius, radius)
    return refined


def price_radius(
    estimate: Estimate, agents: int, span: float, params: PriceEngineParams
) -> NDArray[np.float64]:
    """Return the half-widths of a box that holds the prices of ``agents`` agents, most likely."""
    radius = (
        params.sampling.deviations * estimate.error + params.sampling.tie_temperatures * estimate.temperature
    )
    if not estimate.is_sample:  # not a sample: what remains is the distance from one agent to the next
        radius += 4.0 / np.maximum(estimate.curvature.diagonal() * agents, 1e-300)
    return np.minimum(radius, span)


def start_temperature(estimate: Estimate, share: float) -> float:
    """Return the temperature to start at: a share of the typical error, not below the estimate's own temperature."""
    moving = estimate.error[estimate.error > 0]
    typical = float(np.median(moving)) if len(moving) else 0.0
    return max(share * typical, estimate.temperature)

"""Prices from samples: how many agents to look at, and how far off what they say may be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.box_flow import solve_boxed_flow
from solver.engines.price.box_search import is_on_grid, price_box
from solver.engines.price.smoothed_dual import Estimate, price_error, sample_prices
from solver.engines.price.ties import COLDEST
from solver.engines.price.time_left import NO_DEADLINE
from solver.engines.smoothed_demand import DenseDemand, newton_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.price.agent_rows import Rows
    from solver.engines.slot_supply import Supply

__all__ = [
    "GROWTH",
    "Scale",
    "estimate_prices",
    "heat",
    "planned_samples",
    "price_radius",
    "probe_scale",
    "recall_prices",
]

GROWTH = 8
"""Ratio of neighbouring sample sizes, the last being all agents; errors shrink by its square root."""

_FIRST_SAMPLE = 125, 250
"""Agents of the first sample, at least and at most."""

_SAMPLED_PER_MODEL = 5
"""Agents of the first sample for each model."""

_DENSE_SAMPLE_PAIRS = 100_000
"""Pairs up to which a sample is not worth reducing."""

_MOST_BOXES = 3
"""Boxes around a sample's prices at most."""

_PROBED_AGENTS = 256
"""Agents that tell range and grid of the scores."""

_UNTIMED_MODELS = 64
"""Models up to which the first sample keeps no deadline: it takes milliseconds that are well spent."""

_SAMPLE_TIME_GROWTH = 2.0
"""Factor on the time of the last sample, as an estimate for the next."""

_GRID_UNITS = (1.0, 0.1, 0.01, 0.001)
"""Units of a grid that are recognised."""

_MOST_LEVELS = 3000
"""Levels of a grid above which ties no longer matter."""

_SIGMAS = 3.0
"""Half-width of a box, in standard deviations."""

_TIE_TEMPERATURES = 2.0
"""Additional half-width, in temperatures: how far a tie can hold smoothed prices off the exact ones."""

_COARSE_UNIT = 1e-5
"""Unit that the first sample's flow rounds costs to, relative to the range of scores."""

_JUDGING_AGENTS = 8_000
"""Agents that judge remembered prices."""

_FORGONE_ROUNDING = 1e-9
"""Amount, relative to the range of scores, that an agent may forgo by rounding."""

_JUDGING_TEMPERATURE = 1 / 400
"""Temperature at which remembered prices are judged, relative to an agent's range of scores."""

_CHANGED_SHARE = 0.2
"""Share of agents whose choice has changed up to which only the capacities may have changed."""

_SLOT_CHANGE_SHARE = 1e-3
"""Change of slots, relative to a model's agents, below which it is within the error anyway."""

_MOVING_TEMPERATURE = 1 / 100
"""Temperature of the steps that follow a change of capacities, relative to an agent's range of scores."""

_MOST_MOVING_STEPS = 12
"""Number of these steps at most."""

_MOVE_ERROR = 0.04
"""Standard deviation of what a sample says of a move, relative to the move."""

_LARGEST_DRIFT = 5.0
"""Standard deviations beyond which remembered prices are discarded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a look at a few agents says about the values in play.

    Parameters
    ----------
    span : float
        Range of the finite scores and values of staying unassigned, > 0: prices range as far.
    spread : float
        Typical range of one agent's finite scores, > 0: what decides between models.
    grid : float or None
        Unit they are whole multiples of, if there is one with few levels.
    allowed : float
        Share of the pairs that are allowed.
    """

    span: float
    spread: float
    grid: float | None
    allowed: float

    def with_costs(self, costs: NDArray[np.float64]) -> Scale:
        """Return the scale once slots cost something: prices range further and off the grid."""
        if not costs.any():
            return self
        on_grid = self.grid is not None and is_on_grid(costs, self.grid)
        return replace(self, span=self.span + float(costs.max()), grid=self.grid if on_grid else None)

    @property
    def coolest(self) -> float:
        """Temperature below which nothing is gained: ties are resolved, or float64 is exhausted."""
        return COLDEST * self.grid if self.grid is not None else 1e-7 * self.spread


def probe_scale(rows: Rows, generator: np.random.Generator) -> Scale:
    """Look at a few random agents."""
    score, outside = rows.sample(_stratified(rows.n, min(rows.n, _PROBED_AGENTS), generator)).dense()
    seen = np.isfinite(score)
    finite = score[seen]
    levels = float(np.ptp(finite)) if len(finite) else 0.0
    if outside is not None:
        finite = np.concatenate((finite, outside[np.isfinite(outside)]))
    if not len(finite):
        return Scale(span=1.0, spread=1.0, grid=None, allowed=0.0)
    span = max(float(np.ptp(finite)), 1e-9 * float(np.abs(finite).max()), 1e-100)
    widest = np.where(seen, score, -np.inf).max(axis=1) - np.where(seen, score, np.inf).min(axis=1)
    widest = widest[widest > 0]
    spread = min(span, float(np.median(widest))) if len(widest) else span
    units = (unit for unit in _GRID_UNITS if levels / unit < _MOST_LEVELS and is_on_grid(finite, unit))
    return Scale(span=span, spread=spread, grid=next(units, None), allowed=float(seen.mean()))


def estimate_prices(
    rows: Rows,
    supply: Supply,
    scale: Scale,
    generator: np.random.Generator,
    *,
    most: float = np.inf,
    deadline: Deadline = NO_DEADLINE,
) -> Estimate:
    """Return prices from stratified samples of growing size, up to ``most`` agents; rough ones if negative.

    The first sample is solved by a flow, which needs no starting point. Each further one starts from the
    prices and errors of the one before, is reduced to the agents contested within three standard
    deviations, and improves on them by Newton steps. None is begun that would not end before the deadline.
    """
    n = rows.n
    first, *larger = _sample_sizes(n, rows.m)
    sample = rows if first == n else rows.sample(_stratified(n, first, generator))
    share = supply.scaled(first / n)
    low = np.where(np.isfinite(supply.cheapest), supply.cheapest, 0.0)
    contested = sample.reduce(low, low + scale.span).contested
    prices = solve_boxed_flow(contested, share.rounded(first), resolution=_COARSE_UNIT * scale.span).centre
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
        if rows.m > _UNTIMED_MODELS
        else NO_DEADLINE,  # with few, milliseconds that are well spent
    )
    for size in (size for size in larger if size <= most):
        left = deadline.remaining_s()
        if (
            deadline.limited and _SAMPLE_TIME_GROWTH * (began - left) > left
        ):  # the next sample takes longer than the last
            break
        began = left
        sample = rows.sample(_stratified(n, size, generator))
        estimate = _refine(sample, supply.scaled(size / n), scale, estimate, n, deadline)
    return estimate


def _refine(
    sample: Rows, share: Supply, scale: Scale, estimate: Estimate, population: int, deadline: Deadline
) -> Estimate:
    """Improve on an estimate by a larger sample."""
    start = heat(estimate, 0.5)
    if sample.n * sample.m <= _DENSE_SAMPLE_PAIRS:
        return sample_prices(
            DenseDemand(*sample.dense()),
            share,
            estimate.prices,
            start,
            coolest=scale.coolest,
            span=scale.span,
            population=population,
            deadline=deadline,
        )
    radius = price_radius(estimate, sample.n, scale.span)
    prices = estimate.prices
    for _ in range(_MOST_BOXES):
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
        )
        prices = refined.prices
        pressed = (prices >= high) | ((prices <= low) & (low > share.cheapest))
        if not pressed[~share.closed].any() or deadline.expired():
            break
        radius = np.where(pressed, 2.0 * radius, radius)
    return refined


def recall_prices(
    rows: Rows,
    supply: Supply,
    scale: Scale,
    remembered: NDArray[np.float64],
    chosen: NDArray[np.int64],
    generator: np.random.Generator,
) -> Estimate | None:
    """Judge the prices of a similar instance by a sample of this one.

    Parameters
    ----------
    rows, supply, scale
        This instance.
    remembered : (m,) float64
        Prices of the similar one.
    chosen : (n,) int64
        What each agent had there, m for nothing. Agents for whom that is no longer best at these prices have changed;
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
    k = min(_JUDGING_AGENTS, n // GROWTH)
    if k < _FIRST_SAMPLE[0]:
        return None
    looked_at = _stratified(n, k, generator)
    score, outside = rows.sample(looked_at).dense()
    demand = DenseDemand(score, outside)
    share = supply.scaled(k / n)
    start = np.maximum(remembered, supply.cheapest)
    temperature = max(_JUDGING_TEMPERATURE * scale.spread, scale.coolest)
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
    contradicted = bool((np.abs(step) > _LARGEST_DRIFT * error + 2.0 * temperature).any())
    net = np.column_stack([score - start, np.full(k, -np.inf) if outside is None else outside])
    forgone = net.max(axis=1) - net[np.arange(k), chosen[looked_at]]
    changed = int((forgone > _FORGONE_ROUNDING * scale.span).sum()) + 1
    if supply.anchor is None and changed <= _CHANGED_SHARE * k:
        load = np.bincount(chosen, minlength=rows.m + 1)[: rows.m].astype(np.float64)
        moved = _moved_prices(demand, supply, scale, start, load, n / k)
    else:
        moved = np.zeros(rows.m)
        if contradicted:
            return None
    fresh = min(1.0, (changed + 2.0 * np.sqrt(changed)) / k)
    shrink = np.sqrt(2.0 * k / (n - k))  # from the error of k agents to the distance of two batches of n
    error = np.minimum(shrink * np.sqrt(fresh) * error, scale.span)
    shift = np.abs(moved)
    if (shift > 0.0).any():
        error = np.maximum(error, _MOVE_ERROR * (shift + float(np.median(shift[shift > 0.0]))))
        error = np.minimum(error, scale.span)
    moving = error[error > 0]
    cool = 0.35 * float(np.median(moving)) if len(moving) else 0.0
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
    if not (short > _SLOT_CHANGE_SHARE * np.maximum(load, 1.0)).any():
        return np.zeros(len(start))
    temperature = max(_MOVING_TEMPERATURE * scale.spread, scale.coolest)
    before = demand.respond(start, temperature).load
    prices = start
    for _ in range(_MOST_MOVING_STEPS):
        response = demand.respond(prices, temperature)
        _, offered, slope = supply.smooth(prices, temperature)
        excess = load + (response.load - before) * represents - offered
        curvature = response.curvature * represents + np.diag(slope)
        step = newton_step(curvature, excess, supply.cheapest - prices, np.full(len(start), scale.span))
        prices = np.maximum(prices + step, supply.cheapest)
        if float(np.abs(step).max()) < 1e-3 * temperature:
            break
    return prices - start


def planned_samples(
    n: int, m: int, generator: np.random.Generator, *, most: float = np.inf
) -> list[NDArray[np.int64]]:
    """Return the rows that :func:`probe_scale` and then :func:`estimate_prices` draw with an equal generator.

    Where rows are expensive to visit, as in files, one pass can then collect all samples.
    """
    first, *larger = _sample_sizes(n, m)
    sizes = [
        min(n, _PROBED_AGENTS),
        *([] if first == n else [first]),
        *(size for size in larger if size <= most),
    ]
    return [_stratified(n, size, generator) for size in sizes]


def price_radius(estimate: Estimate, agents: int, span: float) -> NDArray[np.float64]:
    """Return the half-widths of a box that holds the prices of ``agents`` agents, most likely."""
    radius = _SIGMAS * estimate.error + _TIE_TEMPERATURES * estimate.temperature
    if not estimate.is_sample:  # not a sample: what remains is the distance from one agent to the next
        radius += 4.0 / np.maximum(estimate.curvature.diagonal() * agents, 1e-300)
    return np.minimum(radius, span)


def heat(estimate: Estimate, share: float) -> float:
    """Return a temperature to start at: a share of the typical error, no colder than the estimate's own."""
    moving = estimate.error[estimate.error > 0]
    typical = float(np.median(moving)) if len(moving) else 0.0
    return max(share * typical, estimate.temperature)


def _sample_sizes(n: int, m: int) -> list[int]:
    least, most = _FIRST_SAMPLE
    first = min(max(_SAMPLED_PER_MODEL * m, least), most)
    if n <= 2 * first:
        return [n]
    sizes = [n // GROWTH]
    while sizes[0] > GROWTH * first:
        sizes.insert(0, sizes[0] // GROWTH)
    return [first, *(size for size in sizes if size > 3 * first)]


def _stratified(n: int, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return one random row from each of ``size`` equal stretches: sorted, distinct, O(size)."""
    place = (np.arange(size) + generator.random(size)) * (n / size)
    return np.minimum(place.astype(np.int64), n - 1)

"""The price engine: certified optimum of slot instances at any size.

With m models and n agents, m much smaller than n, the whole problem lives in m prices. They are estimated
from random samples of growing size, each with an error bar; the full data is then reduced, in one pass, to
the agents whose choice is still open within the error bars; and what is left is solved exactly.
See ``docs/explanation/price-engine.md`` for the method, the theory and the references.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.engines.pricing.boxflow import solve_boxed_flow
from solver.engines.pricing.narrow import BoxOptimum, is_on_grid, price_box, solve_in_box
from solver.engines.pricing.rows import DenseRows
from solver.engines.pricing.smooth import DenseDemand, sample_prices
from solver.engines.pricing.supply import Supply
from solver.problem.instance import UNASSIGNED, chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.base import Engine
    from solver.engines.pricing.rows import Rows
    from solver.engines.pricing.smooth import Estimate
    from solver.problem.instance import Instance

__all__ = ["PriceEngine"]

_FIRST_SAMPLE = 250
_GROWTH = 8
_DENSE = 40_000  # elements of a matrix that is not worth sampling
_SIGMAS = 3.0
_HEAT = 2.0
_PASSES = 8
_LOOKS = 3
_START = 0.25
_ST2 = 1.0
_STS=0.5
_PROBED = 256
_UNITS = (1.0, 0.1, 0.01, 0.001)
_LEVELS = 3000


class PriceEngine:
    """Sampled prices, one reducing pass, one small flow."""

    name = "price"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why this engine cannot handle the instance in the time left, or None when it can."""
        if not instance.is_slots:
            return "agents take different amounts"
        return None

    def solve(
        self,
        instance: Instance,
        *,
        deadline: Deadline,
        hint: Claim | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> Claim | None:
        """Return the optimum with its prices. See :class:`solver.engines.base.Engine`."""
        outside = instance.unserved if _may_leave(instance) else None
        supply = Supply.plain(instance.slots)
        if outside is None and int(supply.total.sum()) == instance.n:
            supply = replace(supply, anchor=int(supply.total.argmax()))
        rows = DenseRows(instance.score, outside, supply.closed, threads)
        generator = np.random.default_rng(seed)
        probe = rows.sample(_stratified(rows.n, min(rows.n, _PROBED), generator))
        scale = _scale(*probe.dense())
        estimate = _estimate(rows, supply, scale, generator)
        found = _optimum(rows, supply, scale, estimate)
        if found is None:
            return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
        choice, prices = found
        if supply.anchor is not None:
            prices = prices - prices[~supply.closed].min()
        if supply.closed.any():
            prices = _price_closed(instance, choice, prices, supply.closed)
        choice[choice == instance.m] = UNASSIGNED
        return Claim(choice=choice, prices=prices[:, None])


def _price_closed(
    instance: Instance, choice: NDArray[np.int64], prices: NDArray[np.float64], closed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Price models without slots at what their first slot would be worth, the least that deters everyone."""
    worth = np.zeros(int(closed.sum()))
    for rows in chunks(instance.n, instance.m):
        pick = choice[rows]
        served = pick < instance.m
        own = np.where(served, 0.0, instance.unserved[rows])
        models = pick[served]
        block = instance.score[rows]
        own[served] = block[served, models] - prices[models]
        np.maximum(worth, (block[:, closed] - own[:, None]).max(axis=0), out=worth)
    prices = prices.copy()
    prices[closed] = worth
    return prices


def _may_leave(instance: Instance) -> bool:
    """Whether staying unassigned can be part of an optimum."""
    if instance.penalty is not None:
        return bool(np.isfinite(instance.penalty).any())
    return instance.n > int(instance.slots.sum()) or instance.score.min() == -np.inf


def _sample_sizes(n: int, m: int) -> list[int]:
    if n * m <= _DENSE:
        return []
    first = min(_FIRST_SAMPLE, n)
    sizes = [n // _GROWTH]
    while sizes[0] > _GROWTH * first:
        sizes.insert(0, sizes[0] // _GROWTH)
    return [first, *(size for size in sizes if size > 3 * first)]


def _estimate(
    rows: Rows, supply: Supply, scale: _Scale, generator: np.random.Generator
) -> Estimate:
    """Return prices from samples of growing size."""
    n = rows.n
    import os
    sizes = _sample_sizes(n, rows.m) or [n]
    if os.environ.get("SZ"): sizes=[int(float(x)*n) if float(x)<1 else int(x) for x in os.environ["SZ"].split(",")]
    estimate = None
    for size in sizes:
        sample = rows if size == n else rows.sample(_stratified(n, size, generator))
        share = supply.scaled(size / n)
        if estimate is None:
            score, outside = sample.dense()
            span = scale.span
            low = np.where(np.isfinite(supply.cheapest), supply.cheapest, 0.0)
            high = low + span
            everything = sample.reduce(low, high).contested
            prices = solve_boxed_flow(everything, share.rounded(size), bits=16).centre
            estimate = sample_prices(
                DenseDemand(score, outside), share, prices, span / 30, coolest=1e-4 * span, population=n
            )
            continue
        low, high = _box(estimate, supply, size, scale.span)
        reduced = sample.reduce(low, high).contested
        estimate = sample_prices(
            reduced,
            share,
            np.clip(estimate.prices, low, high),
            _heat(estimate, _STS),
            coolest=1e-4 * estimate.temperature,
            population=n,
            bounds=(low, high),
        )
    return estimate


def _radius(estimate: Estimate, agents: int, span: float) -> NDArray[np.float64]:
    """Return the half-widths of a box that holds the prices of ``agents`` agents, most likely."""
    radius = _SIGMAS * estimate.error + _HEAT * estimate.temperature
    if not estimate.error.any():  # not a sample: what remains is the distance from one agent to the next
        radius += 4.0 / np.maximum(estimate.curvature.diagonal() * agents, 1e-300)
    return np.minimum(radius, span)


def _heat(estimate: Estimate, share: float) -> float:
    """Return a temperature to start at: a share of the typical error, no colder than the estimate's own."""
    moving = estimate.error[estimate.error > 0]
    typical = float(np.median(moving)) if len(moving) else 0.0
    return max(share * typical, estimate.temperature)


def _box(
    estimate: Estimate, supply: Supply, agents: int, span: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return price_box(estimate.prices, _radius(estimate, agents, span), supply.cheapest, np.inf, None)


def _optimum(
    rows: Rows, supply: Supply, scale: _Scale, estimate: Estimate
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    radius = _radius(estimate, rows.n, scale.span)
    prices = estimate.prices
    temperature = _heat(estimate, _START)
    for attempt in range(_PASSES):
        low, high = price_box(prices, radius, supply.cheapest, np.inf, scale.grid)
        prices = np.clip(prices, low, high)
        reduction = rows.reduce(low, high)
        found = solve_in_box(
            reduction.contested,
            supply,
            prices,
            temperature,
            span=scale.span,
            grid=scale.grid,
            may_leave=attempt < _LOOKS,
        )
        if not isinstance(found, BoxOptimum):
            prices = found
            continue
        binds = found.rises | (found.falls & (low > supply.cheapest))
        if not binds.any():
            choice = reduction.choice
            choice[reduction.agent] = found.choice
            return choice, found.prices
        prices = found.centre
        radius = radius * np.where(binds, 6.0, 1.0 if attempt < _LOOKS else 2.5)
    return _everything(rows, supply, scale)


def _everything(
    rows: Rows, supply: Supply, scale: _Scale
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Solve one flow on all allowed arcs; None if that proves that not everyone can be served.

    No price of an optimum exceeds what a chain of re-assignments over all models can be worth.
    """
    low = np.where(np.isfinite(supply.cheapest), supply.cheapest, 0.0)
    high = low + (rows.m + 2) * scale.span
    reduction = rows.reduce(low, high)
    found = solve_boxed_flow(reduction.contested, supply)
    if found.rises.any():
        return None
    choice = reduction.choice
    choice[reduction.agent] = reduction.contested.model[np.flatnonzero(found.flow)]
    return choice, found.prices


def _stratified(n: int, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return one random row from each of ``size`` equal stretches: sorted, distinct, O(size)."""
    place = (np.arange(size) + generator.random(size)) * (n / size)
    return np.minimum(place.astype(np.int64), n - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Range of the values in play, and the unit they are multiples of, as seen in a sample."""

    span: float
    grid: float | None


def _scale(score: NDArray[np.float64], outside: NDArray[np.float64] | None) -> _Scale:
    finite = score[np.isfinite(score)]
    if outside is not None:
        finite = np.concatenate((finite, outside[np.isfinite(outside)]))
    if not len(finite):
        return _Scale(span=1.0, grid=None)
    span = max(float(np.ptp(finite)), 1e-9 * float(np.abs(finite).max()), 1e-300)
    units = (unit for unit in _UNITS if span / unit < _LEVELS and is_on_grid(finite, unit))
    return _Scale(span=span, grid=next(units, None))


if TYPE_CHECKING:
    _conforms: type[Engine] = PriceEngine

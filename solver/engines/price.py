"""The price engine: certified optimum of slot instances at any size.

With m models and n agents, m much smaller than n, the whole problem lives in m prices. They are estimated
from random samples of growing size, each with an error bar; the full data is then reduced, in one pass, to
the agents whose choice is still open within the error bars; and what is left is solved exactly.
See ``docs/explanation/price-engine.md`` for the method, the theory and the references.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.engines.pricing.boxflow import solve_boxed_flow
from solver.engines.pricing.narrow import solve_in_box
from solver.engines.pricing.rows import DenseRows
from solver.engines.pricing.smooth import DenseDemand, sample_prices
from solver.engines.pricing.supply import Supply
from solver.problem.instance import UNASSIGNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.base import Engine
    from solver.engines.pricing.rows import Rows
    from solver.engines.pricing.smooth import Estimate
    from solver.problem.instance import Instance

__all__ = ["PriceEngine"]

_FIRST_SAMPLE = 250
_GROWTH = 16
_DENSE = 40_000  # elements of a matrix that is not worth sampling
_SIGMAS = 3.0
_HEAT = 2.5
_PASSES = 6


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
        supply = Supply.plain(instance.slots)
        outside = instance.unserved if _may_leave(instance) else None
        rows = DenseRows(instance.score, outside, supply.closed, threads)
        generator = np.random.default_rng(seed)
        estimate = _estimate(rows, supply, generator)
        choice, prices = _optimum(rows, supply, estimate)
        choice[choice == instance.m] = UNASSIGNED
        return Claim(choice=choice, prices=prices[:, None])


def _may_leave(instance: Instance) -> bool:
    """Whether staying unassigned can be part of an optimum."""
    if instance.penalty is not None:
        return bool(np.isfinite(instance.penalty).any())
    return instance.n > int(instance.slots.sum()) or not np.isfinite(instance.score).all()


def _sample_sizes(n: int, m: int) -> list[int]:
    if n * m <= _DENSE:
        return []
    sizes = [n // _GROWTH]
    while sizes[0] > 3 * _FIRST_SAMPLE:
        sizes.insert(0, max(_FIRST_SAMPLE, sizes[0] // _GROWTH))
    sizes[0] = max(sizes[0], _FIRST_SAMPLE)
    return sizes


def _estimate(rows: Rows, supply: Supply, generator: np.random.Generator) -> Estimate:
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
            span = _span(score, outside)
            low = supply.cheapest
            high = low + span
            everything = sample.reduce(low, high).contested
            prices = solve_boxed_flow(everything, share.rounded(size), bits=16).prices
            estimate = sample_prices(
                DenseDemand(score, outside), share, prices, span / 30, coolest=1e-4 * span, population=n
            )
            continue
        low, high = _box(estimate, supply, size)
        reduced = sample.reduce(low, high).contested
        estimate = sample_prices(
            reduced,
            share,
            np.clip(estimate.prices, low, high),
            0.5 * float(np.median(estimate.error)),
            coolest=1e-4 * estimate.temperature,
            population=n,
            bounds=(low, high),
        )
    return estimate


def _box(estimate: Estimate, supply: Supply, agents: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    radius = _SIGMAS * estimate.error + _HEAT * estimate.temperature
    radius += 4.0 / np.maximum(estimate.curvature.diagonal() * agents, 1e-300)
    radius = np.minimum(radius, 1e3 * np.median(radius))
    low = np.maximum(supply.cheapest, estimate.prices - radius)
    return low, np.maximum(low, estimate.prices + radius)


def _optimum(rows: Rows, supply: Supply, estimate: Estimate) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    low, high = _box(estimate, supply, rows.n)
    prices = np.clip(estimate.prices, low, high)
    span = 1.0
    temperature = max(0.5 * float(np.median(estimate.error)), estimate.temperature)
    for _ in range(_PASSES):
        reduction = rows.reduce(low, high)
        found = solve_in_box(
            reduction.contested, supply, prices, temperature, resolution=2.0**-36
        )
        binds = (found.rises) | (found.falls & (low > supply.cheapest))
        if not binds.any():
            choice = reduction.choice
            choice[reduction.agent] = found.choice
            return choice, found.prices
        prices = found.prices
        radius = (high - low) / 2 * np.where(binds, 6.0, 1.0)
        low = np.maximum(supply.cheapest, prices - radius)
        high = np.maximum(low, prices + radius)
    raise NotImplementedError


def _stratified(n: int, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return one random row from each of ``size`` equal stretches: sorted, distinct, O(size)."""
    place = (np.arange(size) + generator.random(size)) * (n / size)
    return np.minimum(place.astype(np.int64), n - 1)


def _span(score: NDArray[np.float64], outside: NDArray[np.float64] | None) -> float:
    finite = score[np.isfinite(score)]
    if outside is not None:
        finite = np.concatenate((finite, outside[np.isfinite(outside)]))
    return max(float(np.ptp(finite)), 1e-12 * float(np.abs(finite).max()), 1e-300)


if TYPE_CHECKING:
    _conforms: type[Engine] = PriceEngine

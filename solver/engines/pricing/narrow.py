"""From a box around the optimum to the optimum: Newton on the contested arcs, nested boxes, one small flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.pricing.boxflow import solve_boxed_flow
from solver.engines.pricing.rows import Reduction
from solver.engines.pricing.smooth import newton_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.pricing.arcs import Contested
    from solver.engines.pricing.boxflow import BoxedFlow
    from solver.engines.pricing.supply import Supply

__all__ = ["BoxOptimum", "solve_in_box"]

_SMALL = 8  # arcs per model that a flow solves faster than a further Newton step would save
_ROUNDS = 12
_COOLING = 0.2
_SETTLED = 3.0
_SHRINKS = 0.75  # a smaller box is worth having if it drops a quarter of the arcs
_WORTHWHILE = 0.6  # median side of a box against the one around it
_RETRIES = 4
_WIDEN = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxOptimum:
    """The optimum over a box of prices.

    Parameters
    ----------
    choice : (g,) int64
        Choice of each contested agent, m for unassigned.
    prices : (m,) float64
        Optimal prices.
    rises, falls : (m,) bool
        Prices that want to leave the box; none if the optimum over the box is the optimum at large.
    """

    choice: NDArray[np.int64]
    prices: NDArray[np.float64]
    rises: NDArray[np.bool_]
    falls: NDArray[np.bool_]

    @property
    def binds(self) -> NDArray[np.bool_]:
        """(m,) bool, prices that want to leave the box."""
        return self.rises | self.falls


def solve_in_box(
    contested: Contested, supply: Supply, prices: NDArray[np.float64], temperature: float, *, resolution: float
) -> BoxOptimum:
    """Minimise the dual over a box exactly and return an optimal assignment of the contested agents.

    Newton steps on the arcs say where in the box the optimum is, ever more precisely, and the problem is
    reduced to ever smaller boxes around it; the last one, a few arcs per model, is solved by a flow. A small
    box that binds is widened where it does, up to the box given.
    """
    m = contested.m
    outer = Reduction(
        choice=np.full(contested.groups, m), agent=np.arange(contested.groups), contested=contested
    )
    nest = [outer]
    prices, radius = _descend(nest, supply, prices, temperature)
    for attempt in range(_RETRIES + 1):
        current = nest[-1]
        optimum = _flow(current, supply, resolution)
        box = current.contested
        wants = (optimum.rises & (box.high < contested.high)) | (optimum.falls & (box.low > contested.low))
        if not wants.any():
            return optimum
        prices = optimum.prices
        radius = radius * np.where(wants, _WIDEN, 1.5)
        low = np.maximum(contested.low, prices - radius)
        high = np.minimum(contested.high, prices + radius)
        while len(nest) > 1 and not _covers(nest[-1].contested, low, high):
            nest.pop()
        wider = outer if attempt == _RETRIES - 1 else nest[-1].inside(low, high)
        nest.append(wider)
    return optimum


def _covers(box: Contested, low: NDArray[np.float64], high: NDArray[np.float64]) -> bool:
    return bool((box.low <= low).all() and (box.high >= high).all())


def _descend(
    nest: list[Reduction], supply: Supply, prices: NDArray[np.float64], temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Push ever smaller boxes onto the nest; return the centre and half-widths of the last."""
    contested = nest[0].contested
    radius = (contested.high - contested.low) / 2
    best = np.inf
    at = prices
    step = np.zeros(len(prices))
    stalled = 0
    for _ in range(_ROUNDS):
        contested = nest[-1].contested
        if contested.arcs <= _SMALL * contested.m:
            break
        response = contested.respond(prices, temperature)
        paid, offered, slope = supply.smooth(prices, temperature)
        value = response.value + paid
        if value > best + 1e-12 * abs(best):
            step = step * 0.25
            prices = at + step
            continue
        best, at = value, prices
        curvature = response.curvature + np.diag(slope)
        step = newton_step(
            curvature, response.load - offered, contested.low - prices, contested.high - prices
        )
        prices = prices + step
        spacing = 4.0 / np.maximum(curvature.diagonal(), 1e-300)
        radius = np.minimum(radius, 0.5 * np.abs(step) + 4.0 * temperature + spacing)
        ratio = float(np.median(2 * radius / np.maximum(contested.high - contested.low, 1e-300)))
        settled = np.abs(step).max() <= _SETTLED * temperature
        if ratio > _WORTHWHILE:
            if settled:
                if float(np.median(curvature.diagonal())) * temperature < 1.0:
                    break
                temperature *= _COOLING
                best = np.inf
            continue
        smaller = nest[-1].inside(
            np.maximum(contested.low, prices - radius), np.minimum(contested.high, prices + radius)
        )
        if smaller.contested.arcs < _SHRINKS * contested.arcs:
            nest.append(smaller)
            stalled = 0
        else:
            stalled += 1
            if stalled > 2:
                break
        if settled or stalled:
            if float(np.median(curvature.diagonal())) * temperature < 1.0:
                break
            temperature *= _COOLING
            best = np.inf
    return prices, radius


def _flow(reduction: Reduction, supply: Supply, resolution: float) -> BoxOptimum:
    """Solve the flow of a reduction, identical agents merged, and hand the flow out."""
    contested = reduction.contested
    merged = contested.merged(resolution)
    problem, home = (contested, None) if merged is None else merged
    solved: BoxedFlow = solve_boxed_flow(problem, supply)
    choice = reduction.choice.copy()
    used = np.flatnonzero(solved.flow)
    models = np.repeat(problem.model[used], solved.flow[used])
    if home is None:
        choice[reduction.agent] = models
    else:
        choice[reduction.agent[np.argsort(home, kind="stable")]] = models
    return BoxOptimum(choice=choice, prices=solved.prices, rises=solved.rises, falls=solved.falls)

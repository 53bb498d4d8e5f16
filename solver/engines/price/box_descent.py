"""Newton steps on contested arcs, and ever smaller boxes of prices around where they lead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.few_level_ties import TIE_TEMPERATURE
from solver.engines.price.time_left import take_time
from solver.engines.smoothed_demand import newton_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.price.params import BoxParams
    from solver.engines.price.row_protocols import ContestedArcs, Nested
    from solver.engines.slot_supply import Supply


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideBox:
    """The result of a search whose optimum lies outside its box: the centre of the next box.

    Parameters
    ----------
    prices : (m,) float64
        A better centre.
    pressed : (m,) bool
        Prices that ended at a side of the box, with the optimum beyond it: their sides were too short.
    """

    prices: NDArray[np.float64]
    pressed: NDArray[np.bool_]


def price_box(
    prices: NDArray[np.float64],
    radius: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64] | float,
    grid: float | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the box of that radius around prices, within ``[low, high]``.

    On a grid some optimal prices are whole multiples of it: sides are put 0.4 units beyond the multiples
    inside, at least one, so that no tie at an optimal price lies on a side of the box.
    """
    if grid is None:
        below, above = prices - radius, prices + radius
    else:
        radius = np.minimum(np.maximum(radius, 0.6 * grid), 1e9 * grid)
        below = (np.ceil((prices - radius) / grid - 1e-9) - 0.4) * grid
        above = (np.floor((prices + radius) / grid + 1e-9) + 0.4) * grid
    below = np.minimum(np.maximum(below, low), high)
    return below, np.maximum(np.minimum(above, high), below)


def descend(
    nest: list[Nested],
    supply: Supply,
    prices: NDArray[np.float64],
    temperature: float,
    grid: float | None,
    *,
    may_leave: bool,
    deadline: Deadline,
    params: BoxParams,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | OutsideBox:
    """Push ever smaller boxes onto the nest; return centre and half-widths of the last.

    If the first step aims beyond the outermost box, or the last ends at a side of it: where to.
    """
    contested = outermost = nest[0].contested
    radius = (contested.high - contested.low) / 2
    coolest = 0.0 if grid is None else TIE_TEMPERATURE * grid
    best = np.inf
    at = prices
    step = excess = np.zeros(len(prices))
    stalled = 0
    for attempt in range(params.most_steps):
        contested = nest[-1].contested
        if contested.arcs <= params.flow_arcs_per_model * contested.m:
            break
        take_time(deadline, 0.0)
        response = contested.respond(prices, temperature)
        paid, offered, slope = supply.smooth(prices, temperature)
        value = response.value + paid
        if value > best + 1e-12 * abs(best):
            step = step * params.shortening
            prices = at + step
            continue
        best, at = value, prices
        curvature = response.curvature + np.diag(slope)
        excess = response.load - offered
        if (
            attempt == 0
            and may_leave
            and (aim := _aim_outside(contested, supply, prices, curvature, excess, params))
        ):
            return aim
        while (
            pinned := _pinned(contested, outermost, at, excess, params)
        ).any():  # drawn too small: the one around it
            nest.pop()
            contested = nest[-1].contested
            radius = np.where(pinned, params.widening * radius, radius)
        step, radius = _step(contested, supply, prices, curvature, excess, temperature, radius, params)
        prices = prices + step
        settled = np.abs(step).max() <= (params.settled_step if temperature > coolest else 1.0) * temperature
        ratio = float(np.median(2 * radius / np.maximum(contested.high - contested.low, 1e-300)))
        if ratio <= params.worthwhile_side_share:
            smaller = nest[-1].inside(*price_box(prices, radius, contested.low, contested.high, grid))
            if smaller.contested.arcs < params.worthwhile_arcs_share * contested.arcs:
                nest.append(smaller)
                stalled = 0
            else:
                stalled += 1
        if stalled > 2 and temperature > coolest:
            break
        if settled or (stalled and temperature > coolest):
            if temperature <= coolest or float(np.median(curvature.diagonal())) * temperature < 1.0:
                break
            temperature = max(temperature * params.cooling, coolest)
            best = np.inf
    if may_leave:
        pressed = _at_a_side(outermost, at, excess, params) & (
            (excess > 0) | (outermost.low > supply.cheapest)
        )
        if pressed.any():
            return OutsideBox(prices=at, pressed=pressed)
    return prices, radius


def _aim_outside(
    box: ContestedArcs,
    supply: Supply,
    prices: NDArray[np.float64],
    curvature: NDArray[np.float64],
    excess: NDArray[np.float64],
    params: BoxParams,
) -> OutsideBox | None:
    """Return where a first step leads if that is well beyond the box."""
    side = box.high - box.low
    reach = params.aim_share * side
    aim = prices + newton_step(curvature, excess, np.maximum(-reach, supply.cheapest - prices), reach)
    if (np.maximum(box.low - aim, aim - box.high) > params.outside_share * side).any():
        return OutsideBox(prices=aim, pressed=np.zeros(len(prices), bool))
    return None


def _step(
    box: ContestedArcs,
    supply: Supply,
    prices: NDArray[np.float64],
    curvature: NDArray[np.float64],
    excess: NDArray[np.float64],
    temperature: float,
    radius: NDArray[np.float64],
    params: BoxParams,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a Newton step within the box, and the half-widths of a box around its end that holds the optimum."""
    low, high = box.low - prices, box.high - prices
    if supply.anchor is not None:
        low[supply.anchor] = high[supply.anchor] = 0.0
    # Balanced to an agent or two with no agent near the boundary: the flow will settle it, few arcs are open.
    lonely = (curvature.diagonal() * temperature < params.informative_agents) & (np.abs(excess) <= 2.0)
    low[lonely] = high[lonely] = 0.0
    step = newton_step(curvature, excess, low, high)
    held = high <= low if supply.anchor is not None else (prices <= supply.cheapest) & (excess < 0)
    # Room for the whole step, so that going back stays inside; a step far beyond what T shows says nothing.
    reach = np.abs(step)
    shorter = np.minimum(radius, reach + 3.0 * temperature + _unit_spread(curvature, held))
    return step, np.where(reach <= params.trusted_step * temperature, shorter, np.maximum(radius, reach))


def _at_a_side(
    box: ContestedArcs, prices: NDArray[np.float64], excess: NDArray[np.float64], params: BoxParams
) -> NDArray[np.bool_]:
    """Return (m,) which prices are at a side of the box and want to leave it for more than an agent or two."""
    margin = 1e-9 * (box.high - box.low)
    rises = (prices >= box.high - margin) & (excess > params.binding_agents)
    return rises | ((prices <= box.low + margin) & (excess < -params.binding_agents))


def _pinned(
    box: ContestedArcs,
    outermost: ContestedArcs,
    prices: NDArray[np.float64],
    excess: NDArray[np.float64],
    params: BoxParams,
) -> NDArray[np.bool_]:
    """Return (m,) which prices want to leave the box where the outermost one would let them."""
    free = np.where(excess > 0, box.high < outermost.high, box.low > outermost.low)
    return free & _at_a_side(box, prices, excess, params)


def _unit_spread(curvature: NDArray[np.float64], held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (m,) how far prices may move because loads are whole numbers: off by an agent or two each."""
    diagonal = np.maximum(curvature.diagonal(), 1e-100)
    spread: NDArray[np.float64] = 4.0 / diagonal
    free = np.flatnonzero(~held)
    if len(free):
        block = curvature[np.ix_(free, free)] + np.diag(1e-6 * diagonal[free] + 1e-12 * diagonal.max())
        inverse = np.linalg.inv(block)
        spread[free] = np.maximum(spread[free], 2.0 * np.sqrt((inverse * inverse).sum(axis=1)))
    return spread

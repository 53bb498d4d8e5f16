"""Newton steps on contested arcs, and ever smaller boxes of prices around where they lead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.ties import COLDEST
from solver.engines.price.time_left import take_time
from solver.engines.smoothed_demand import newton_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.price.agent_rows import Reduction
    from solver.engines.price.contested_arcs import Contested
    from solver.engines.slot_supply import Supply

__all__ = ["WIDENING", "Elsewhere", "descend", "price_box"]

_FLOW_ARCS_PER_MODEL = 48
"""Arcs per model that a flow solves as fast as a further Newton step would take."""

_MOST_BOX_STEPS = 24
"""Newton steps at most."""

_BOX_COOLING = 0.2
"""Factor between two temperatures."""

_SETTLED_STEP = 4.0
"""Step length, in temperatures, below which the temperature falls."""

_WORTHWHILE_ARCS = 0.75
"""Share of the arcs left by a smaller box up to which it is worth having."""

_WORTHWHILE_SIDE = 0.6
"""Median side of a box, relative to the one around it, up to which it is worth a reduction."""

_BOX_SHORTENING = 0.25
"""Factor on a step that did not lower the dual."""

_REACH = 0.5
"""Sides of a box that a first step may aim at."""

_BEYOND = 0.1
"""Share of a side by which a step must miss the box for another box to be worth a pass."""

_PRESSING = 3.0
"""Agents too many or too few at a side of the box above which its optimum lies outside."""

_TRUSTED_STEP = 8.0
"""Step length, in temperatures, up to which a smaller box is drawn around its end."""

_UNINFORMED_BELOW = 1.0
"""Agents within a temperature of a model's boundary below which a Newton step has no information."""

WIDENING = 6.0
"""Factor on the sides at which it binds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """The optimum lies outside the box: where another one should be centred.

    Parameters
    ----------
    prices : (m,) float64
        A better centre.
    pressed : (m,) bool
        Prices that ended at a side of the box and want further: their sides were too short.
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
    nest: list[Reduction],
    supply: Supply,
    prices: NDArray[np.float64],
    temperature: float,
    grid: float | None,
    *,
    may_leave: bool,
    deadline: Deadline,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | Elsewhere:
    """Push ever smaller boxes onto the nest; return centre and half-widths of the last.

    If the first step aims beyond the outermost box, or the last ends at a side of it: where to.
    """
    contested = outermost = nest[0].contested
    radius = (contested.high - contested.low) / 2
    coolest = 0.0 if grid is None else COLDEST * grid
    best = np.inf
    at = prices
    step = excess = np.zeros(len(prices))
    stalled = 0
    for attempt in range(_MOST_BOX_STEPS):
        contested = nest[-1].contested
        if contested.arcs <= _FLOW_ARCS_PER_MODEL * contested.m:
            break
        take_time(deadline, 0.0)
        response = contested.respond(prices, temperature)
        paid, offered, slope = supply.smooth(prices, temperature)
        value = response.value + paid
        if value > best + 1e-12 * abs(best):
            step = step * _BOX_SHORTENING
            prices = at + step
            continue
        best, at = value, prices
        curvature = response.curvature + np.diag(slope)
        excess = response.load - offered
        if attempt == 0 and may_leave and (aim := _aim_outside(contested, supply, prices, curvature, excess)):
            return aim
        while (
            pinned := _pinned(contested, outermost, at, excess)
        ).any():  # drawn too small: the one around it
            nest.pop()
            contested = nest[-1].contested
            radius = np.where(pinned, WIDENING * radius, radius)
        step, radius = _step(contested, supply, prices, curvature, excess, temperature, radius)
        prices = prices + step
        settled = np.abs(step).max() <= (_SETTLED_STEP if temperature > coolest else 1.0) * temperature
        ratio = float(np.median(2 * radius / np.maximum(contested.high - contested.low, 1e-300)))
        if ratio <= _WORTHWHILE_SIDE:
            smaller = nest[-1].inside(*price_box(prices, radius, contested.low, contested.high, grid))
            if smaller.contested.arcs < _WORTHWHILE_ARCS * contested.arcs:
                nest.append(smaller)
                stalled = 0
            else:
                stalled += 1
        if stalled > 2 and temperature > coolest:
            break
        if settled or (stalled and temperature > coolest):
            if temperature <= coolest or float(np.median(curvature.diagonal())) * temperature < 1.0:
                break
            temperature = max(temperature * _BOX_COOLING, coolest)
            best = np.inf
    if may_leave:
        pressed = _at_a_side(outermost, at, excess) & ((excess > 0) | (outermost.low > supply.cheapest))
        if pressed.any():
            return Elsewhere(prices=at, pressed=pressed)
    return prices, radius


def _aim_outside(
    box: Contested,
    supply: Supply,
    prices: NDArray[np.float64],
    curvature: NDArray[np.float64],
    excess: NDArray[np.float64],
) -> Elsewhere | None:
    """Return where a first step leads if that is well beyond the box."""
    side = box.high - box.low
    reach = _REACH * side
    aim = prices + newton_step(curvature, excess, np.maximum(-reach, supply.cheapest - prices), reach)
    if (np.maximum(box.low - aim, aim - box.high) > _BEYOND * side).any():
        return Elsewhere(prices=aim, pressed=np.zeros(len(prices), bool))
    return None


def _step(
    box: Contested,
    supply: Supply,
    prices: NDArray[np.float64],
    curvature: NDArray[np.float64],
    excess: NDArray[np.float64],
    temperature: float,
    radius: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a Newton step within the box, and the half-widths of a box around its end that holds the optimum."""
    low, high = box.low - prices, box.high - prices
    if supply.anchor is not None:
        low[supply.anchor] = high[supply.anchor] = 0.0
    # Balanced to an agent or two with nobody near the boundary: the flow will settle it, few arcs are open.
    lonely = (curvature.diagonal() * temperature < _UNINFORMED_BELOW) & (np.abs(excess) <= 2.0)
    low[lonely] = high[lonely] = 0.0
    step = newton_step(curvature, excess, low, high)
    held = high <= low if supply.anchor is not None else (prices <= supply.cheapest) & (excess < 0)
    # Room for the whole step, so that going back stays inside; a step far beyond what T shows says nothing.
    reach = np.abs(step)
    shorter = np.minimum(radius, reach + 3.0 * temperature + _unit_spread(curvature, held))
    return step, np.where(reach <= _TRUSTED_STEP * temperature, shorter, np.maximum(radius, reach))


def _at_a_side(box: Contested, prices: NDArray[np.float64], excess: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (m,) which prices are at a side of the box and want to leave it for more than an agent or two."""
    margin = 1e-9 * (box.high - box.low)
    rises = (prices >= box.high - margin) & (excess > _PRESSING)
    return rises | ((prices <= box.low + margin) & (excess < -_PRESSING))


def _pinned(
    box: Contested, outermost: Contested, prices: NDArray[np.float64], excess: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return (m,) which prices want to leave the box where the outermost one would let them."""
    free = np.where(excess > 0, box.high < outermost.high, box.low > outermost.low)
    return free & _at_a_side(box, prices, excess)


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

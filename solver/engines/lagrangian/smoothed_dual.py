"""Newton's method on the smoothed dual: prices at which the loads of very many agents equal the capacities.

Let an agent divide itself between its near models in proportion to ``exp(reduced score / heat)``, the heat being
a small part of what it pays. The dual then becomes smooth and convex,

    F(p) = Σ_i heat_i log Σ_j exp( (s_ij − p·a_ij) / heat_i ) + p·b,      gradient  b − load(p),

and exceeds the true dual by at most ``log k`` heats an agent. Newton steps with a line search on F converge from
anywhere; the temperature falls whenever they have. In the end few agents are divided, and which ones is known.

References
----------
D. P. Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM J. Control
Optim. 20 (1982).
Y. Nesterov, "Smooth minimization of non-smooth functions", Math. Program. 103 (2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.lagrangian.candidate_models import NearArcs

_TEMPERATURE_FACTOR = 0.4
"""Factor between two temperatures."""

_MAX_DUAL_STEPS = 40
"""Newton steps at most."""

_UNDIVIDED_FROM = 1e-3
"""Distance of the largest weight from 1 below which an agent does not add to the curvature."""

_MAX_CURVED = 8_000
"""Agents that the second derivative is summed over at most; more add only time."""

_MIN_GAIN = 0.02
"""Expected gain of a step, relative to temperature times payments, below which the temperature falls."""

_ARMIJO = 1e-4
"""Share of the predicted gain that a step must reach (Armijo 1966)."""

_SHORTENING = 0.3
"""Factor on a step that does not."""

_MAX_SHORTENINGS = 5
"""Times that a step is shortened at most."""

_FIRST_DAMPING = 1e-3
"""Damping of the curvature at the beginning (Levenberg 1944)."""

_MIN_DAMPING = 1e-6
"""Least damping."""

_MAX_DAMPING = 1e3
"""Largest damping."""

_FLAT_CURVATURE = 1e-7
"""Curvature, relative to the largest diagonal entry in scaled rows, below which a direction counts as flat."""

_FIRST_REACH = 0.1
"""Largest relative change of a price in one step."""

_REACH_TEMPERATURES = 8.0
"""Largest change of a price in one step, in temperatures; the larger of the two limits holds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SmoothedOptimum:
    """Prices and what agents do under them.

    Parameters
    ----------
    price : (K,) float64
        Prices of all coupling rows, capacities first.
    weight : (k, a) float64
        How each near agent divides itself between its near models.
    temperature : float
        At which they do.
    steps : int
        Newton systems solved.
    held : bool
        Some price stopped at the end of its trust radius.
    """

    price: NDArray[np.float64]
    weight: NDArray[np.float64]
    temperature: float
    steps: int
    held: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    price: NDArray[np.float64]
    value: float
    weight: NDArray[np.float64]
    heat: NDArray[np.float64]


def minimise_smoothed_dual(
    arcs: NearArcs,
    *,
    temperature: float,
    coldest: float,
    scale: NDArray[np.float64],
    trust_radius: float,
    deadline: Deadline,
    stop_s: float,
    rng: np.random.Generator,
    most_curved: int = _MAX_CURVED,
) -> SmoothedOptimum:
    """Minimise the smoothed dual, colder and colder. O(k a (r + layers)² + d K²) a step, d divided agents.

    Parameters
    ----------
    arcs : NearArcs
        Agents that may change their mind; prices start where these were found.
    temperature, coldest : float
        First and last: relative price change over which agents change their mind.
    scale : (K,) float64
        A typical price of each coupling row, > 0: prices move in parts of it.
    trust_radius : float
        Most that a price may move in all, in parts of itself or of its scale: farther away, other agents
        and other models would have to be looked at.
    deadline : Deadline
        Whose clock is read.
    stop_s : float
        Reading of the clock at which no further step is begun.
    rng : numpy.random.Generator
        Draws the agents that stand for all in the second derivative.
    most_curved : int
        Divided agents that the second derivative is taken from at most.
    """
    point = _evaluate(arcs, arcs.price, temperature)
    around = trust_radius * np.maximum(arcs.price, scale)
    low, high = np.maximum(arcs.price - around, 0.0), arcs.price + around
    damping, reach, steps = _FIRST_DAMPING, max(_FIRST_REACH, _REACH_TEMPERATURES * temperature), 0
    stake = float(arcs.unit.sum())
    while len(arcs.agents) and steps < _MAX_DUAL_STEPS and deadline.clock.now() < stop_s:
        steps += 1
        slope = arcs.right - arcs.load(point.weight)
        free = np.where(slope > 0, point.price > low, point.price < high)
        limit = reach * np.maximum(point.price, scale)
        move = _direction(arcs, point, np.where(free, slope, 0.0), damping, limit, rng, most_curved)
        gain, taken = -float(slope @ move), 0.0
        share = 1.0
        for _ in range(_MAX_SHORTENINGS if gain > 0 else 0):
            price = np.clip(point.price + share * move, low, high)
            trial = _evaluate(arcs, price, temperature)
            if trial.value <= point.value + _ARMIJO * float(slope @ (price - point.price)):
                point, taken = trial, share
                break
            share *= _SHORTENING
        if taken == 1.0:
            damping, reach = max(0.3 * damping, _MIN_DAMPING), min(2 * reach, 1.0)
        elif taken == 0.0 or taken < _SHORTENING:
            damping, reach = min(30 * damping, _MAX_DAMPING), max(0.3 * reach, temperature)
        done = gain < _MIN_GAIN * temperature * temperature * stake
        if not done and taken == 0.0 and damping >= _MAX_DAMPING:
            done = True
        if done:
            if temperature <= coldest or _at_end(point.price, low, high):
                break
            temperature = max(_TEMPERATURE_FACTOR * temperature, coldest)
            reach = min(reach, _REACH_TEMPERATURES * temperature)
            point = _evaluate(arcs, point.price, temperature)
    return SmoothedOptimum(
        price=point.price,
        weight=point.weight,
        temperature=temperature,
        steps=steps,
        held=_at_end(point.price, low, high),
    )


def _at_end(price: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> bool:
    """Return whether some price is at the end of its trust radius, zero not counted."""
    return bool(((price >= high) | ((price <= low) & (low > 0))).any())


def _evaluate(arcs: NearArcs, price: NDArray[np.float64], temperature: float) -> _Point:
    """Return smoothed value and weights at some prices."""
    value = arcs.at(price)
    heat = temperature * arcs.unit
    top = value.max(axis=0, initial=-np.inf)
    value -= top
    value /= heat
    weight = np.exp(value, out=value)
    total = weight.sum(axis=0)
    weight /= total
    smooth = float(top.sum() + (heat * np.log(total)).sum())
    smooth += arcs.decided_value + float(price @ (arcs.right - arcs.decided_load))
    return _Point(price, smooth, weight, heat)


def _direction(
    arcs: NearArcs,
    point: _Point,
    slope: NDArray[np.float64],
    damping: float,
    reach: NDArray[np.float64],
    rng: np.random.Generator,
    most_curved: int,
) -> NDArray[np.float64]:
    """Return a descent direction: Newton's where it may go, cut back to ``reach``."""
    move = np.zeros(len(slope))
    free = np.flatnonzero(slope)
    curve = _curvature(arcs, point, rng, most_curved)[np.ix_(free, free)]
    # Rows measured in tokens and in dollars meet here: what counts is the effect of their whole reach.
    unit = reach[free]
    curve = unit[:, None] * curve * unit
    diagonal = curve.diagonal().copy()
    at = np.arange(len(free))
    curve[at, at] += (
        damping * diagonal + _FLAT_CURVATURE * float(diagonal.max(initial=0.0)) + np.finfo(np.float64).tiny
    )
    try:
        scaled = -np.linalg.solve(curve, unit * slope[free])
    except np.linalg.LinAlgError:
        scaled = -np.sign(slope[free])
    scaled = np.clip(scaled, -1.0, 1.0)
    if float(scaled @ (unit * slope[free])) >= 0:
        scaled = -np.clip(
            unit * slope[free] / np.maximum(diagonal, diagonal.max(initial=0.0) * _FLAT_CURVATURE), -1.0, 1.0
        )
    move[free] = unit * scaled
    return move


def _curvature(
    arcs: NearArcs, point: _Point, rng: np.random.Generator, most_curved: int
) -> NDArray[np.float64]:
    """Return the (K, K) second derivative, from a sample where very many agents are divided."""
    count = len(point.price) + 1
    divided = np.flatnonzero(point.weight.max(axis=0) < 1 - _UNDIVIDED_FROM)
    represents = 1.0
    if len(divided) > most_curved:
        represents = len(divided) / most_curved
        divided = rng.choice(divided, most_curved, replace=False)
    weight, heat = point.weight[:, divided], point.heat[divided]
    row, amount = arcs.row[:, :, divided], arcs.amount[:, :, divided]
    mean = np.zeros((len(divided), count), np.float32)  # only a direction: half the time of float64
    agent = np.arange(len(divided))
    square = np.zeros(count * count)
    for at, (own_row, own) in enumerate(zip(row, amount, strict=True)):
        for k in range(len(weight)):
            mean[agent, own_row[k]] += weight[k] * own[k]
        for other in range(at + 1):
            half = 0.5 if other == at else 1.0
            index = own_row * count + row[other]
            weights = half * weight * own * amount[other] / heat
            square += np.bincount(index.ravel(), weights=weights.ravel(), minlength=count * count)
    curve = square.reshape(count, count)
    curve = curve + curve.T
    mean /= np.sqrt(heat).astype(np.float32)[:, None]
    curve -= mean.T @ mean
    return represents * curve[:-1, :-1]

"""Smoothed prices: Newton's method on the logit dual, followed down in temperature.

The dual of the transportation problem is ``D(p) = Σ_i max_j (s_ij − p_j) + Σ_t slots_t max(p_j(t) − cost_t, 0)``:
convex, piecewise linear, m variables. Replacing each maximum by a log-sum-exp of temperature τ gives a
smooth strictly convex ``D_τ`` with ``D ≤ D_τ ≤ D + n τ log m`` (Nesterov 2005; the logit model of discrete
choice). Its gradient and Hessian are

    g = offered − load,   H = (diag(load) − PᵀP) / τ + diag(slope),   P = softmax((s − p)/τ),

so a Newton step costs one pass and one m×m solve. Lowering τ from the range of the scores down to the
spacing of the agents at the boundaries follows the path of minimisers without ever meeting a kink, a tie or
a singular Hessian; this is entropic optimal transport with few columns (Cuturi 2013; Kitagawa, Mérigot and
Thibert 2019 for Newton on the semi-discrete problem).

Prices of a random sample of agents are an M-estimator of the prices of all: their covariance is the
sandwich ``H⁻¹ Σ H⁻¹`` (Huber 1967), which sizes the box that the next, larger sample is reduced to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.params import DEFAULTS
from solver.engines.price.time_left import NO_DEADLINE
from solver.engines.smoothed_demand import Demand, Response, newton_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.price.params import PriceEngineParams
    from solver.engines.slot_supply import Supply

_NO_CURVATURE = 1e-100
"""Curvature below which nothing is known; its inverse can still be squared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Prices from a sample, and how far off they may be.

    Parameters
    ----------
    prices : (m,) float64
        Minimiser of the smoothed dual of the sample.
    error : (m,) float64
        Standard deviation of the prices against those of all agents.
    temperature : float
        Where the path was left.
    curvature : (m, m) float64
        Second derivative of the smoothed dual per agent.
    is_sample : bool
        False if the prices are those of all agents.
    """

    prices: NDArray[np.float64]
    error: NDArray[np.float64]
    temperature: float
    curvature: NDArray[np.float64]
    is_sample: bool


def sample_prices(
    demand: Demand,
    supply: Supply,
    prices: NDArray[np.float64],
    temperature: float,
    *,
    coolest: float,
    span: float,
    population: int,
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    deadline: Deadline = NO_DEADLINE,
    params: PriceEngineParams = DEFAULTS,
) -> Estimate:
    """Follow the minimisers of the smoothed dual down in temperature, until sampling noise dominates.

    Parameters
    ----------
    demand : Demand
        The sample.
    supply : Supply
        Scaled to the sample.
    prices : (m,) float64
        Where to start.
    temperature : float
        Where to start.
    coolest : float
        Where to stop at the latest.
    span : float
        Range of the scores; no error is larger.
    population : int
        Number of agents the sample was drawn from.
    bounds : pair of (m,) float64, optional
        Box the prices must stay in.
    deadline : Deadline
        Beyond it no temperature is begun, and the last one's prices are returned.

    Returns
    -------
    Estimate
    """
    k = demand.agents
    correction = k * k * max(1.0 / k - 1.0 / population, 0.0)
    previous = None
    started = temperature
    for last in range(params.sampling.most_temperatures, -1, -1):
        prices, response, curvature, error = _minimise(
            demand,
            supply,
            prices,
            temperature,
            span=span,
            bounds=bounds,
            correction=correction,
            params=params,
        )
        # With few agents at its margin a model's curvature is luck: keep the error seen when warmer.
        margin = curvature.diagonal() * temperature
        enough = np.clip(response.load / 5, 1.0, params.sampling.trusted_margin)
        if previous is not None:
            error = np.where(margin < enough, previous, error)
        previous = error
        priced = prices > supply.cheapest
        noise = float(np.median(error[priced])) if priced.any() else 0.0
        thin = priced.any() and float(np.median((margin / enough)[priced])) < 1.0
        enough_known = not priced.any() and temperature <= params.sampling.idle_cooling * started
        over = last == 0 or deadline.expired()
        cold = temperature <= max(coolest, params.sampling.final_temperature * noise)
        if over or enough_known or cold or thin:
            return Estimate(
                prices=prices,
                error=error,
                temperature=temperature,
                curvature=curvature / k,
                is_sample=correction > 0,
            )
        temperature = max(
            temperature * params.sampling.cooling, 0.9 * params.sampling.final_temperature * noise, coolest
        )
    raise AssertionError("the last temperature returns")


def _minimise(
    demand: Demand,
    supply: Supply,
    prices: NDArray[np.float64],
    temperature: float,
    *,
    span: float,
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    correction: float,
    params: PriceEngineParams,
) -> tuple[NDArray[np.float64], Response, NDArray[np.float64], NDArray[np.float64]]:
    """Return the minimiser of the smoothed dual at one temperature.

    Beside it response, curvature and standard deviations of the prices, all before the last step.
    """
    best, at = np.inf, prices
    step = np.zeros(len(prices))
    longest = np.full(len(prices), params.sampling.longest_step * temperature)
    for _ in range(params.sampling.steps_per_temperature):
        response = demand.respond(prices, temperature)
        paid, offered, slope = supply.smooth(prices, temperature)
        value = response.value + paid
        if value > best + 1e-12 * abs(best):  # overshot a bend: go back most of the way, D_τ is convex
            step = step * params.sampling.shortening
            prices = at + step
            continue
        best, at = value, prices
        curvature = response.curvature + np.diag(slope)
        excess = response.load - offered
        held = (prices <= supply.cheapest) & (excess < 0)
        low = np.maximum(-longest, (supply.cheapest if bounds is None else bounds[0]) - prices)
        high = longest.copy() if bounds is None else np.minimum(longest, bounds[1] - prices)
        if supply.anchor is not None:
            held[supply.anchor] = True
            low[supply.anchor] = high[supply.anchor] = 0.0
        error = np.minimum(price_error(curvature, response, excess, held, demand.agents, correction), span)
        step = newton_step(curvature, excess, low, high)
        prices = prices + step
        if (np.abs(step) <= np.maximum(0.5 * temperature, params.sampling.noise_step * error)).all():
            break
    return prices, response, curvature, error


def price_error(
    curvature: NDArray[np.float64],
    response: Response,
    excess: NDArray[np.float64],
    held: NDArray[np.bool_],
    agents: int,
    correction: float,
) -> NDArray[np.float64]:
    """Return (m,) standard deviations of sampled prices, the sandwich H⁻¹ Σ H⁻¹ over the free prices.

    ``agents`` are k, ``correction`` is k² (1/k − 1/n) for k agents of n, ``held`` says which prices do not move.

    A price held at its floor by spare capacity does not move with the others; it may leave the floor only
    as far as the noise of its own load exceeds the spare capacity.
    """
    m = len(excess)
    error = np.zeros(m)
    if correction == 0.0:
        return error
    covariance = (response.moment - np.outer(response.load, response.load) / agents) * (correction / agents)
    diagonal = curvature.diagonal()
    diagonal = np.maximum(diagonal, 1e-9 * diagonal.max() + _NO_CURVATURE)
    noise = np.sqrt(np.maximum(covariance.diagonal(), 0.0))
    error[held] = np.maximum(3.0 * noise + excess, 0.0)[held] / (3.0 * diagonal[held])
    free = np.flatnonzero(~held)
    if len(free):
        block = curvature[np.ix_(free, free)]
        ridge = 1e-6 * diagonal[free] + 1e-12 * diagonal.max() + _NO_CURVATURE
        inverse = np.linalg.inv(block + np.diag(ridge))
        variance = ((inverse @ covariance[np.ix_(free, free)]) * inverse).sum(axis=1)
        error[free] = np.sqrt(np.maximum(variance, 0.0))
        error[free] = np.maximum(error[free], 0.5 * noise[free] / diagonal[free])
    return error

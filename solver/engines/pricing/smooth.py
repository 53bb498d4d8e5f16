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
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.pricing.supply import Supply

__all__ = ["Demand", "DenseDemand", "Estimate", "Response", "newton_step", "sample_prices"]

_COOLING = 0.25  # factor between temperatures; the minimiser moves by a few τ, which one or two steps recover
_SETTLED = 3.0  # steps shorter than this many temperatures end a stage
_TRUST = 12.0  # longest step, in temperatures: beyond, the curvature seen at τ says nothing
_STEPS_PER_TEMPERATURE = 6
_RIDGE = 1e-9  # of the largest curvature: keeps the common shift of all prices solvable when fill is 1
_MARGINAL = 3.0  # agents within a temperature of a boundary that make a curvature trustworthy
_BELOW_NOISE = 0.35  # cool until τ is this small against the sampling error of the prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """How agents respond to prices at a temperature.

    Parameters
    ----------
    value : float
        Σ_i τ log Σ_j exp((s_ij − p_j)/τ), the agents' part of the smoothed dual.
    load : (m,) float64
        Expected number of agents at each model.
    curvature : (m, m) float64
        Second derivative of ``value``.
    moment : (m, m) float64
        Σ_i P_i P_iᵀ over all agents, from which the sampling covariance of the load is computed.
    """

    value: float
    load: NDArray[np.float64]
    curvature: NDArray[np.float64]
    moment: NDArray[np.float64]


class Demand(Protocol):
    """The agents' side of the dual: a block of rows, or arcs left in a box."""

    agents: int

    def respond(self, prices: NDArray[np.float64], temperature: float) -> Response:
        """Return the agents' response to (m,) prices."""
        ...


class DenseDemand:
    """Some agents with all their scores.

    Parameters
    ----------
    score : (k, m) float64
        Scores; ``-inf`` forbids.
    outside : (k,) float64 or None
        Value of staying unassigned, ``-inf`` where that is forbidden; None when it is for everyone.
    """

    def __init__(self, score: NDArray[np.float64], outside: NDArray[np.float64] | None) -> None:
        self._score = score
        self._outside = outside
        self.agents = len(score)

    def respond(self, prices: NDArray[np.float64], temperature: float) -> Response:
        """Return the response in O(k m²)."""
        share = self._score - prices
        best = share.max(axis=1)
        if self._outside is not None:
            np.maximum(best, self._outside, out=best)
        share -= best[:, None]
        share *= 1.0 / temperature
        np.exp(share, out=share)
        total = share.sum(axis=1)
        if self._outside is not None:
            total += np.exp((self._outside - best) / temperature)
        share *= (1.0 / total)[:, None]
        load = share.sum(axis=0)
        moment = share.T @ share
        curvature = moment * (-1.0 / temperature)
        curvature.flat[:: len(load) + 1] += load / temperature
        value = float(best.sum() + temperature * np.log(total).sum())
        return Response(value=value, load=load, curvature=curvature, moment=moment)


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
    """

    prices: NDArray[np.float64]
    error: NDArray[np.float64]
    temperature: float
    curvature: NDArray[np.float64]


def newton_step(
    curvature: NDArray[np.float64], excess: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the minimiser of the quadratic model within ``low <= step <= high``, to first order.

    Steps that leave the bounds are clipped and fixed, the rest solved again: a few rounds of an active-set
    method, enough because the curvature is a weighted graph Laplacian (an M-matrix: raising one price never
    asks for lowering another).
    """
    m = len(excess)
    ridge = _RIDGE * max(float(curvature.diagonal().max()), 1e-300)
    full = curvature + np.diag(np.full(m, ridge))
    step = np.linalg.solve(full, excess)
    clipped = (step < low) | (step > high)
    for _ in range(3):
        if not clipped.any():
            break
        step = np.clip(step, low, high)
        free = ~clipped
        if not free.any():
            break
        right = excess[free] - full[np.ix_(free, clipped)] @ step[clipped]
        step[free] = np.linalg.solve(full[np.ix_(free, free)], right)
        now = clipped | (step < low) | (step > high)
        if (now == clipped).all():
            break
        clipped = now
    return np.clip(step, low, high)


def sample_prices(
    demand: Demand,
    supply: Supply,
    prices: NDArray[np.float64],
    temperature: float,
    *,
    coolest: float,
    population: int,
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
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
    population : int
        Number of agents the sample was drawn from.
    bounds : pair of (m,) float64, optional
        Box the prices must stay in.

    Returns
    -------
    Estimate
    """
    k = demand.agents
    correction = max(1.0 / k - 1.0 / population, 0.0)
    previous = np.zeros(len(prices))
    while True:
        prices, response, slope = _settle(demand, supply, prices, temperature, bounds)
        curvature = response.curvature + np.diag(slope)
        if correction == 0.0:
            error = np.zeros(len(prices))
        else:
            covariance = response.moment / k - np.outer(response.load, response.load) / k**2
            error = np.sqrt(correction) * _sandwich(curvature / k, covariance)
        # With few agents at its margin a model's curvature is luck: keep the wider error seen when warmer.
        error = np.where(curvature.diagonal() * temperature < _MARGINAL, np.maximum(error, previous), error)
        previous = error
        priced = error[~supply.closed & (prices > supply.cheapest + temperature)]
        noise = float(np.median(priced)) if len(priced) else 0.0
        margin = float(np.median(curvature.diagonal()[~supply.closed])) * temperature
        if temperature <= coolest or temperature <= _BELOW_NOISE * noise or margin < _MARGINAL:
            return Estimate(prices=prices, error=error, temperature=temperature, curvature=curvature / k)
        temperature = max(temperature * _COOLING, coolest)


def _settle(
    demand: Demand,
    supply: Supply,
    prices: NDArray[np.float64],
    temperature: float,
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
) -> tuple[NDArray[np.float64], Response, NDArray[np.float64]]:
    """Take Newton steps at one temperature until they are short against it."""
    reach = np.full(len(prices), _TRUST * temperature)
    low, high = -reach, reach
    best = np.inf
    at = prices
    step = np.zeros(len(prices))
    for _ in range(_STEPS_PER_TEMPERATURE):
        response = demand.respond(prices, temperature)
        paid, offered, slope = supply.smooth(prices, temperature)
        value = response.value + paid
        if value > best + 1e-12 * abs(best):  # overshot a bend: go back half the way, D_τ is convex
            step = step * 0.25
            prices = at + step
            continue
        best, at = value, prices
        if bounds is not None:
            low = np.maximum(-reach, bounds[0] - prices)
            high = np.minimum(reach, bounds[1] - prices)
        step = newton_step(response.curvature + np.diag(slope), response.load - offered, low, high)
        prices = prices + step
        if np.abs(step).max() <= _SETTLED * temperature:
            break
    return prices, response, slope


def _sandwich(curvature: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (m,) standard deviations of H⁻¹ Σ H⁻¹."""
    diagonal = curvature.diagonal()
    ridge = np.where(diagonal > 0, 1e-6 * diagonal, max(float(diagonal.max()), 1e-300))
    inverse = np.linalg.inv(curvature + np.diag(ridge))
    variance: NDArray[np.float64] = ((inverse @ covariance) * inverse).sum(axis=1)
    return np.sqrt(np.maximum(variance, 0.0))

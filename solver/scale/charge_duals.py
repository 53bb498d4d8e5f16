"""Newton's method on the dual of agents who pay for amounts, smoothed: prices at which usage meets every bound.

With charges ``q_j = Σ_ρ p_ρ w_ρj`` the smoothed dual of prices ``p >= 0`` is

    F(p) = Σ_i T log Σ_j exp( (s_ij − a_i·q_j) / T ) + p·b,      gradient  b − usage(p).

A budget whose costs are linear in the amounts that capacities limit too makes directions of p in which no charge
moves, and F is linear: there only ``p >= 0`` ends a step. So every step minimises the quadratic model over
``p >= 0`` exactly, and is measured by the charges that it moves, not by prices.

References
----------
D. P. Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM J. Control
Optim. 20 (1982).
C. L. Lawson and R. J. Hanson, "Solving least squares problems" (1974), chapter 23: least squares over x >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from solver.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.scale.coupling import Couplings
    from solver.scale.held_arcs import ChargeResponse


@dataclass(frozen=True, kw_only=True)
class NewtonParams(Params):
    """Constants of the method."""

    most_steps: int = 120
    """Newton systems at most."""
    cooling: float = 0.3
    """Factor between two temperatures."""
    settled: float = 0.02
    """Expected gain of a step below which the temperature falls, in temperatures for each agent that is divided."""
    armijo: float = 1e-4
    """Share of the predicted gain that a step must reach (Armijo 1966)."""
    shortening: float = 0.3
    """Factor on a step that does not."""
    most_shortenings: int = 6
    """Times that a step is shortened at most."""
    first_reach: float = 0.3
    most_reach: float = 4.0
    """Largest change of a charge in one step, at first and at most, in units of charge."""
    reach_temperatures: float = 8.0
    """The same in temperatures; the larger one holds."""
    least_share: float = 0.1
    """Share of a step inside the box below which the search ends at its side."""
    ridge: float = 1e-9
    """Curvature that every row has at least, relative to the most curved one, each in its own reach."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChargeOptimum:
    """Prices, and what agents do at them.

    Parameters
    ----------
    prices : (K,) float64
        Of the rows, >= 0.
    charge : (m, c) float64
        What they make agents pay.
    temperature : float
        At which they are optimal.
    response : ChargeResponse
        At these charges and that temperature.
    steps : int
        Newton systems solved.
    rises, falls : (m, c) bool
        Charges that ended at a side of the box and want further.
    """

    prices: NDArray[np.float64]
    charge: NDArray[np.float64]
    temperature: float
    response: ChargeResponse
    steps: int
    rises: NDArray[np.bool_]
    falls: NDArray[np.bool_]


def minimise_charges(
    respond: Callable[[NDArray[np.float64], float], ChargeResponse],
    couplings: Couplings,
    bound: NDArray[np.float64],
    prices: NDArray[np.float64],
    *,
    temperature: float,
    coldest: float,
    unit: NDArray[np.float64],
    density: float,
    box: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    params: NewtonParams | None = None,
) -> ChargeOptimum:
    """Minimise the smoothed dual, colder and colder.

    Parameters
    ----------
    respond : callable
        What agents do at (m, c) charges and a temperature.
    couplings : Couplings
        The rows.
    bound : (K,) float64
        Their right-hand sides, or the part of the agents that respond.
    prices : (K,) float64
        Where to start, >= 0, its charges in the box.
    temperature, coldest : float
        First and last, in units of scores.
    unit : (c,) float64
        Change of the charge of a column that matters as much as an agent's scores differ.
    density : float
        Agents that change their choice when all charges rise by one unit of scores, about.
    box : tuple of two (m, c) float64, optional
        Charges outside of which the response is not known: the search ends at its sides.
    params : NewtonParams, optional
        Constants.
    """
    params = params or NewtonParams()
    low, high = box or (np.zeros_like(couplings.weight[0]), np.full_like(couplings.weight[0], np.inf))
    descent = _Descent(respond, couplings, bound, prices, temperature, unit, low, high, params)
    while descent.steps < params.most_steps:
        gain, share, move = descent.direction()
        settled = params.settled * descent.temperature * max(float(len(bound)), density * descent.temperature)
        taken = descent.take(share, move, gain) if gain > settled else 0.0
        if descent.pressed and (taken == share or share <= 0):
            if (
                taken * gain <= settled
                or share < params.least_share
                or descent.steps > params.most_steps // 2
            ):
                break
        elif gain <= settled or taken == 0.0:
            descent.rises = descent.falls = np.zeros(low.shape, bool)
            if descent.temperature <= coldest:
                break
            descent.cool(max(params.cooling * descent.temperature, coldest))
    return ChargeOptimum(
        prices=descent.prices,
        charge=descent.charge,
        temperature=descent.temperature,
        response=descent.response,
        steps=descent.steps,
        rises=descent.rises,
        falls=descent.falls,
    )


class _Descent:
    """Where a search is, and the steps that it takes."""

    def __init__(
        self,
        respond: Callable[[NDArray[np.float64], float], ChargeResponse],
        couplings: Couplings,
        bound: NDArray[np.float64],
        prices: NDArray[np.float64],
        temperature: float,
        unit: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        params: NewtonParams,
    ) -> None:
        self.respond, self.couplings, self.bound, self.params = respond, couplings, bound, params
        self.unit, self.low, self.high = unit, low, high
        self.prices, self.temperature, self.steps = prices, temperature, 0
        self.charge = couplings.charge(prices)
        self.response = respond(self.charge, temperature)
        self.reach = params.first_reach
        self.rises = self.falls = np.zeros(low.shape, bool)
        self._flat = couplings.weight.reshape(len(bound), -1)

    @property
    def pressed(self) -> bool:
        """Whether the last direction ends at a side of the box."""
        return bool((self.rises | self.falls).any())

    def direction(self) -> tuple[float, float, NDArray[np.float64]]:
        """Return the expected gain of a change of prices, the share of it that may be taken, and the change."""
        self.steps += 1
        slope = self.bound - self.couplings.usage(self.response.load)
        span = max(self.reach, self.params.reach_temperatures * self.temperature)
        reach = _row_reach(self.couplings, span * self.unit)
        move = _step(self._flat, self.response.curvature, slope, self.prices, reach, self.params.ridge)
        turn = self.couplings.charge(move)
        share = min(1.0, span / max(float((np.abs(turn) / self.unit).max(initial=0.0)), 1e-300))
        inside = _share_inside(self.charge, turn, self.low, self.high)
        self.rises = self.falls = np.zeros(turn.shape, bool)
        if inside < share:
            share = inside
            edge = 1e-9 * np.where(np.isfinite(self.high), self.high - self.low, 0.0) + 1e-12 * self.unit
            there = self.charge + inside * turn
            self.rises = (turn > 0) & (there >= self.high - edge)
            self.falls = (turn < 0) & (there <= self.low + edge) & (self.low > 0)
        return -float(slope @ move), share, move

    def take(self, share: float, move: NDArray[np.float64], gain: float) -> float:
        """Go so far, or less where the dual does not fall; return the share of the change that was taken."""
        if share <= 0:
            return 0.0
        start, trial = self.response.value + float(self.prices @ self.bound), share
        for _ in range(self.params.most_shortenings):
            prices = np.maximum(self.prices + trial * move, 0.0)
            charge = np.clip(self.couplings.charge(prices), self.low, self.high)
            response = self.respond(charge, self.temperature)
            if response.value + float(prices @ self.bound) <= start - self.params.armijo * trial * gain:
                self.prices, self.charge, self.response = prices, charge, response
                break
            trial *= self.params.shortening
        else:
            trial = 0.0
        whole = trial == share
        self.reach = (
            min(2.0 * self.reach, self.params.most_reach) if whole else self.params.shortening * self.reach
        )
        return trial

    def cool(self, temperature: float) -> None:
        """Go on at another temperature."""
        self.temperature, self.reach = temperature, self.params.first_reach
        self.response = self.respond(self.charge, temperature)


def _row_reach(couplings: Couplings, reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (K,) changes of prices that move some charge by its (c,) reach, > 0."""
    with np.errstate(divide="ignore"):
        fits = np.where(
            couplings.weight > 0, reach / np.where(couplings.weight > 0, couplings.weight, 1.0), np.inf
        )
    least = fits.min(axis=(1, 2), initial=np.inf)
    return np.where(np.isfinite(least), least, 1.0)


def _share_inside(
    charge: NDArray[np.float64],
    turn: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> float:
    """Return the largest share of a change of charges that stays in a box."""
    room = np.where(turn > 0, high - charge, charge - low)
    moving = np.abs(turn) > 0
    if not moving.any():
        return np.inf
    return float(max(0.0, (room[moving] / np.abs(turn[moving])).min()))


def _step(
    flat: NDArray[np.float64],
    curvature: NDArray[np.float64],
    slope: NDArray[np.float64],
    prices: NDArray[np.float64],
    reach: NDArray[np.float64],
    ridge: float,
) -> NDArray[np.float64]:
    """Return the change of prices that minimises the quadratic model over prices >= 0.

    Rows that are used up are damped by how far their price may go: with no agent near a boundary there is no curvature.
    """
    curve = (flat @ curvature @ flat.T) * reach[:, None] * reach
    pull = slope * reach
    at = np.arange(len(pull))
    curve[at, at] += np.maximum(-pull, 0.0)
    largest = max(float(curve.diagonal().max(initial=0.0)), float(np.abs(pull).max(initial=0.0)), 1e-300)
    here = prices / reach
    values, vectors = np.linalg.eigh(curve)  # rounding may leave it indefinite
    root = np.sqrt(np.maximum(values, ridge * largest))
    factor = root[:, None] * vectors.T
    target = factor @ here - (vectors.T @ pull) / root
    try:
        there, _ = nnls(factor, target)
    except RuntimeError:  # too many sets of rows at zero: every row by itself is a descent direction as well
        there = np.maximum(here - pull / (len(pull) * curve.diagonal()), 0.0)
    return (there - here) * reach


def charge_errors(
    optimum: ChargeOptimum, couplings: Couplings, moments: NDArray[np.float64], part: float
) -> NDArray[np.float64]:
    """Return the (m, c) standard errors of charges that come from a sample: the sandwich H⁻¹ Σ H⁻¹ over priced rows.

    Parameters
    ----------
    optimum : ChargeOptimum
        Of the sample.
    couplings : Couplings
        The rows.
    moments : (c, c) float64
        Means of the products of two amounts over the sample.
    part : float
        Sample's share of all agents.
    """
    m, c = optimum.charge.shape
    flat = couplings.weight.reshape(len(couplings.bound), -1)
    load = optimum.response.load
    agents = max(float(load[:, -1].sum()), 1.0)
    noise = np.zeros((m, c, m, c))
    for j in range(m):
        noise[j, :, j, :] = load[j, -1] * moments
    spread = noise.reshape(m * c, m * c) - np.outer(load.ravel(), load.ravel()) / agents
    scale = np.maximum(_row_reach(couplings, np.maximum(optimum.charge.mean(axis=0), 1e-300)), 1e-300)
    priced = np.flatnonzero(optimum.prices > 1e-6 * scale)
    rows = flat[priced] * scale[priced, None]
    inverse = np.linalg.pinv(rows @ optimum.response.curvature @ rows.T, rcond=1e-8, hermitian=True)
    jacobian = rows.T @ inverse @ rows
    variance = (jacobian @ spread @ jacobian).diagonal() * max(1.0 - part, 0.0)
    error = np.sqrt(np.maximum(variance, 0.0)).reshape(m, c)
    for k in range(c):  # a charge of zero may turn out not to be: as uncertain as the others
        known = error[:, k] > 0
        if known.any():
            error[:, k] = np.maximum(error[:, k], 0.5 * float(np.median(error[known, k])))
    return error

"""Prices of capacity from one smoothed convex problem over a window of agents.

For agents i of weight w_i (sum 1) with scores s_ij, usage a_ijr of resource r, and q_r = what one arrival
may use of r::

    minimise  Σ_i w_i τ log( exp(u_i / τ) + Σ_j exp((s_ij − Σ_r p_r a_ijr) / τ) ) + Σ_r q_r p_r    over p >= 0

where u_i is the value of refusing agent i. This is the dual of the assignment problem of a typical arrival,
smoothed by entropy (Cuturi 2013; Li and Ye 2022 for its use in online allocation). Its minimum is found by
projected Newton steps (Bertsekas 1982): O(n m² + m³) each, three to five from the last prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_MAX_NEWTON_STEPS = 40
"""Newton steps at most."""

_USE_TOLERANCE = 2e-3
"""Relative error of the use of each priced resource at which prices are accepted; a window does not tell them
better."""

_SHORTEST_STEP = 1e-3
"""Step length below which the line search ends."""

_ARMIJO_SHARE = 1e-4
"""Share of the predicted decrease that a step must reach (Armijo 1966)."""

_LONGEST_MOVE = 0.25
"""Longest change of one price in one step, relative to the range of scores."""

_CURVATURE_RIDGE = 1e-6
"""Added to the diagonal of the second derivative, relative to the mean of its entries."""


_MIN_SHARE = 1e-7
"""Share of an agent below which a model is left out of second derivatives: they give a direction only."""

_SPARSE = 0.2
"""Part of all shares above that up to which second derivatives are summed pair by pair instead of by a product."""


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowPrices:
    """The minimum of the smoothed dual.

    Parameters
    ----------
    of_models : (k, m) float64
        Price of a unit of each of the k resources that every model has for itself, >= 0.
    shared : (r,) float64
        Price of a unit of each resource common to all models, >= 0.
    shares : (n, m) float64
        Share of agent i that model j serves; a row sums to at most 1.
    """

    of_models: NDArray[np.float64]
    shared: NDArray[np.float64]
    shares: NDArray[np.float64]


class _SmoothedDual:
    """The objective with usage in units of its mean, so that prices of slots, tokens and dollars compare."""

    def __init__(
        self,
        scores: NDArray[np.float64],
        weights: NDArray[np.float64],
        unserved: NDArray[np.float64],
        of_models: Sequence[NDArray[np.float64] | None],
        shared: Sequence[NDArray[np.float64]],
        rates: NDArray[np.float64],
        temperature: float,
    ) -> None:
        m = scores.shape[1]
        self.scores, self.weights, self.unserved = scores, weights, unserved
        self.temperature, self.models = temperature, m
        units = np.ones(len(of_models) * m + len(shared))
        self.of_models: list[NDArray[np.float64] | None] = []
        for k, use in enumerate(of_models):
            if use is not None:
                unit = np.maximum(weights @ use, 1e-12)
                units[k * m : (k + 1) * m] = unit
                self.of_models.append(use / unit)
            else:
                self.of_models.append(None)
        self.shared: list[NDArray[np.float64]] = []
        for r, use in enumerate(shared):
            mean = units[len(of_models) * m + r] = max(float((weights @ use).mean()), 1e-12)
            self.shared.append(use / mean)
        self.units = units
        self.limited = np.isfinite(rates)
        self.rates = np.where(self.limited, np.maximum(rates, 1e-9), 0.0) / units

    def value(self, prices: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the objective at some prices, and the (n, m) shares served."""
        m = self.models
        net = self.scores.copy()
        for k, use in enumerate(self.of_models):
            price = prices[k * m : (k + 1) * m]
            net -= price if use is None else use * price
        for price, use in zip(prices[len(self.of_models) * m :].tolist(), self.shared, strict=True):
            if price > 0:
                net -= price * use
        if kernels.available():
            worth = kernels.smoothed_shares(net, self.unserved, self.temperature)
            return float(self.weights @ worth + self.rates @ prices), net
        best = np.maximum(net.max(axis=1), self.unserved)
        net -= best[:, None]
        net /= self.temperature
        np.exp(net, out=net)
        total = net.sum(axis=1) + np.exp((self.unserved - best) / self.temperature)
        net /= total[:, None]
        worth = best + self.temperature * np.log(total)
        return float(self.weights @ worth + self.rates @ prices), net

    def uses(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (n, resources) expected use of each agent."""
        columns = [shares if use is None else shares * use for use in self.of_models]
        columns += [(shares * use).sum(axis=1)[:, None] for use in self.shared]
        return np.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]

    def hessian(self, shares: NDArray[np.float64], uses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (resources, resources) second derivatives."""
        m, w = self.models, self.weights
        matrix: NDArray[np.float64]
        if kernels.available() and np.count_nonzero(shares > _MIN_SHARE) <= _SPARSE * shares.size:
            matrix = kernels.negative_gram(uses, w, least_share=_MIN_SHARE)
        else:
            matrix = -(uses * w[:, None]).T @ uses
        own = [uses[:, k * m : (k + 1) * m] for k in range(len(self.of_models))]
        here = np.arange(m)
        for k, first in enumerate(own):
            for q, use in enumerate(self.of_models):
                matrix[here + k * m, here + q * m] += w @ first if use is None else w @ (first * use)
            for r, use in enumerate(self.shared):
                cross = w @ (first * use)
                at = len(own) * m + r
                matrix[k * m : (k + 1) * m, at] += cross
                matrix[at, k * m : (k + 1) * m] += cross
        for r, use in enumerate(self.shared):
            weighted = shares * use
            for q, other in enumerate(self.shared):
                matrix[len(own) * m + r, len(own) * m + q] += float(w @ (weighted * other).sum(axis=1))
        matrix /= self.temperature
        return matrix


def window_prices(
    scores: NDArray[np.float64],
    *,
    weights: NDArray[np.float64],
    unserved: NDArray[np.float64],
    rates: NDArray[np.float64],
    of_models: Sequence[NDArray[np.float64] | None] = (None,),
    shared: Sequence[NDArray[np.float64]] = (),
    start: NDArray[np.float64] | None = None,
    temperature: float,
) -> WindowPrices:
    """Return the prices at which a typical arrival uses what one arrival may use.

    Parameters
    ----------
    scores : (n, m) float64
        Higher is better; ``-inf`` forbids the pair.
    weights : (n,) float64
        Of the agents, > 0; scaled to sum 1 here.
    unserved : (n,) float64
        Value of refusing, finite.
    rates : (k m + r,) float64
        What one arrival may use of each resource: those of the models first, resource by resource, then
        the shared ones; ``inf`` for no limit.
    of_models : sequence of (n, m) float64 or None
        Usage of resources that each model has for itself; None: one unit each.
    shared : sequence of (n, m) float64
        Usage of resources common to all models.
    start : (k m + r,) float64, optional
        Prices to start from.
    temperature : float
        τ above, in score, > 0.
    """
    dual = _SmoothedDual(scores, weights / weights.sum(), unserved, of_models, shared, rates, temperature)
    k, m = len(of_models), scores.shape[1]
    prices = np.zeros(len(dual.rates)) if start is None else np.maximum(start, 0.0) * dual.units
    prices[~dual.limited] = 0.0
    finite = scores[np.isfinite(scores)]
    span = float(np.ptp(np.append(finite, unserved.min()))) if finite.size else 0.0
    longest = _LONGEST_MOVE * max(span, 1e-12)
    value, shares = dual.value(prices)
    for _ in range(_MAX_NEWTON_STEPS):
        uses = dual.uses(shares)
        use = dual.weights @ uses
        slope = np.where(dual.limited, dual.rates - use, 0.0)
        free = np.flatnonzero(dual.limited & ((prices > 1e-12) | (slope < 0)))
        if not free.size or (np.abs(slope[free]) <= _USE_TOLERANCE * (dual.rates[free] + use[free])).all():
            break
        matrix = dual.hessian(shares, uses)[np.ix_(free, free)]
        matrix[np.diag_indices(free.size)] += _CURVATURE_RIDGE * np.trace(matrix) / free.size + 1e-12
        move = np.zeros(len(prices))
        move[free] = -np.linalg.solve(matrix, slope[free])
        move *= min(1.0, longest / max(float(np.abs(move).max()), 1e-300))
        step = 1.0
        while True:
            trial = np.maximum(prices + step * move, 0.0)
            reached, trial_shares = dual.value(trial)
            enough = value + _ARMIJO_SHARE * float(slope @ (trial - prices)) + 1e-12 * abs(value)
            if reached <= enough or step < _SHORTEST_STEP:
                break
            step *= 0.4
        prices, value, shares = trial, reached, trial_shares
    prices = prices / dual.units
    return WindowPrices(of_models=prices[: k * m].reshape(k, m), shared=prices[k * m :], shares=shares)

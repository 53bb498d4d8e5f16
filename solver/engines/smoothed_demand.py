"""How agents respond to prices when each maximum is smoothed, and the Newton step that balances their demand.

See :mod:`solver.engines.price.smoothed_dual` for the method; the flow engine finds its core by one such step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from solver.problem.blocks import row_maxima

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_ACTIVE_SETS = 10
"""Active sets tried at most."""

_NEWTON_RIDGE = 1e-9
"""Added to the diagonal, relative to the largest curvature: keeps the common shift of all prices solvable when every
slot is sold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """How agents respond to prices at a temperature.

    Parameters
    ----------
    value : float
        Σ_i τ log Σ_j exp((s_ij − p_j)/τ), the agents' part of the smoothed dual, up to a constant.
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

    @property
    def agents(self) -> int:
        """Number of agents."""
        ...

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
        Value of staying unassigned, ``-inf`` where that is forbidden; None when it is for all agents.
    """

    def __init__(self, score: NDArray[np.float64], outside: NDArray[np.float64] | None) -> None:
        self._score = score
        self._outside = outside

    @property
    def agents(self) -> int:
        """Number of agents."""
        return len(self._score)

    def respond(self, prices: NDArray[np.float64], temperature: float) -> Response:
        """Return the response in O(k m²)."""
        share = self._score - prices
        best = row_maxima(share)
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


def newton_step(
    curvature: NDArray[np.float64],
    excess: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the minimiser of ``½ dᵀHd − excess·d`` over ``low <= d <= high``.

    The primal-dual active-set method of Hintermüller, Ito and Kunisch (2003), which ends after a few m×m
    solves because H is an M-matrix: raising one price never asks for lowering another. If it does not, the
    result is a diagonally scaled gradient step.
    """
    m = len(excess)
    diagonal = curvature.diagonal()
    largest = max(float(diagonal.max()), 1e-300)
    hessian = curvature + _NEWTON_RIDGE * largest * np.eye(m)
    weight = np.maximum(diagonal, 1e-6 * largest)
    step: NDArray[np.float64] = np.zeros(m)
    pull = excess
    above = below = np.zeros(m, bool)
    for attempt in range(_MAX_ACTIVE_SETS):
        now_above = pull + weight * (step - high) > 0
        now_below = pull + weight * (step - low) < 0
        fixed = high <= low
        now_above, now_below = now_above & ~fixed, now_below | fixed
        if attempt and (now_above == above).all() and (now_below == below).all():
            return np.minimum(np.maximum(step, low), high)
        above, below = now_above, now_below
        step = np.where(above, high, np.where(below, low, 0.0))
        free = np.flatnonzero(~above & ~below)
        if len(free) == m:
            step = np.linalg.solve(hessian, excess).astype(np.float64, copy=False)
        elif len(free):
            right = (excess - hessian @ step)[free]
            step[free] = np.linalg.solve(hessian[np.ix_(free, free)], right)
        pull = excess - hessian @ step
        pull[free] = 0.0
    step = np.clip(step, low, high)
    if 0.5 * step @ hessian @ step - excess @ step < 0:
        return step
    gradient: NDArray[np.float64] = np.clip(excess / (m * weight), low, high)
    return gradient

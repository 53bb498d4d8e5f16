"""The slowdown of models with their utilization, learned from requests that have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MEMORY = 1000.0
"""Requests over which the regression forgets."""

_PRIOR = 2.0
"""Weight of the assumption that load changes nothing, in units of the regression's sum of squares."""

_BOUNDS = (0.25, 4.0)
"""Least and largest factor: a line that extrapolates may not make a request free, or endless."""


class LearnedSlowdown:
    """Service time over predicted service time, as a line in the share of slots that were taken at the start.

    A predictor that knows sizes alone is right on average over loads: it overestimates requests on an idle model
    and underestimates those on a full one. The ratio of what a request took to what was predicted is regressed on
    the model's utilization when it started, one line for the fleet, because batching slows accelerators alike.
    Exponentially weighted least squares; O(1) memory.
    """

    __slots__ = ("_count", "_cross", "_mean_ratio", "_mean_used", "_square")

    def __init__(self) -> None:
        self._count = 0.0
        self._mean_used = self._mean_ratio = 0.0
        self._square = self._cross = 0.0

    def learn(self, utilization: float, ratio: float) -> None:
        """Take one more request into the line.

        Parameters
        ----------
        utilization : float
            Running requests over slots of its model when it started, without itself.
        ratio : float
            Service time over what was predicted.
        """
        self._count = min(self._count + 1.0, _MEMORY)
        weight = 1.0 / self._count
        used, off = utilization - self._mean_used, ratio - self._mean_ratio
        self._mean_used += weight * used
        self._mean_ratio += weight * off
        keep = 1.0 - weight
        self._square = keep * (self._square + weight * used * used)
        self._cross = keep * (self._cross + weight * used * off)

    def factors(self, utilization: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what predictions are to be multiplied by at these utilizations, (m,)."""
        if not self._count:
            return np.ones(len(utilization))
        slope = self._cross / (self._square + _PRIOR / self._count)
        return np.clip(1.0 + slope * (utilization - self._mean_used), *_BOUNDS)

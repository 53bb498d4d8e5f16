"""Traffic as arrays, and seeded generators of arrivals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GENERATORS", "Traffic", "generate_traffic"]

LONG_GAP_S = 86_400.0
"""A pause between two arrivals that is worth a warning, seconds: it dominates every average over time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Traffic:
    """Requests in the order of their arrival.

    Parameters
    ----------
    name : str
        For reports.
    arrival_s : (n,) float64
        Seconds since the first arrival, not decreasing.
    input_tokens, output_tokens : (n,) int64
        Prompt size, and what the answer turns out to have; policies do not know the latter in advance.
    """

    name: str
    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last arrival."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) else 0.0

    @property
    def rate_per_s(self) -> float:
        """Arrivals a second."""
        return (len(self) - 1) / self.span_s if self.span_s > 0 else math.inf

    def scaled_in_time(self, factor: float) -> Traffic:
        """Return the same requests ``factor`` times as dense, the pattern of arrivals kept."""
        return replace(self, arrival_s=self.arrival_s / factor)

    def thinned(self, share: float, *, seed: int) -> Traffic:
        """Return each request with probability ``share``, as of a randomly chosen part of the users.

        Raises
        ------
        SpecError
            If the share is not in (0, 1], or leaves nobody.
        """
        if not 0 < share <= 1:
            raise SpecError(Violation("thin", "expected > 0 and <= 1", share))
        kept = np.random.default_rng(seed).random(len(self)) < share
        if not kept.any():
            raise SpecError(Violation("thin", "expected a share that leaves at least one request", share))
        return replace(
            self,
            arrival_s=self.arrival_s[kept] - self.arrival_s[kept][0],
            input_tokens=self.input_tokens[kept],
            output_tokens=self.output_tokens[kept],
        )

    def first(self, count: int) -> Traffic:
        """Return the first requests."""
        return replace(
            self,
            arrival_s=self.arrival_s[:count],
            input_tokens=self.input_tokens[:count],
            output_tokens=self.output_tokens[:count],
        )


def _gamma(rng: np.random.Generator, n: int, cv: float) -> NDArray[np.float64]:
    shape = 1.0 / (cv * cv)
    return rng.gamma(shape, 1.0 / shape, n)


def _weibull(rng: np.random.Generator, n: int, cv: float) -> NDArray[np.float64]:
    shape = _weibull_shape(cv)
    return rng.weibull(shape, n) / math.gamma(1.0 + 1.0 / shape)


def _weibull_shape(cv: float) -> float:
    """Return the shape whose coefficient of variation is ``cv``, by bisection: it falls with the shape."""
    low, high = 0.1, 50.0
    for _ in range(80):
        middle = math.sqrt(low * high)
        log_ratio = math.lgamma(1.0 + 2.0 / middle) - 2.0 * math.lgamma(1.0 + 1.0 / middle)
        low, high = (middle, high) if math.expm1(log_ratio) > cv * cv else (low, middle)
    return low


def _poisson(rng: np.random.Generator, n: int, _cv: float) -> NDArray[np.float64]:
    return rng.exponential(1.0, n)


def _bursts(rng: np.random.Generator, n: int, cv: float) -> NDArray[np.float64]:
    """Return gaps of batches: geometric sizes with mean cv², each batch at one moment.

    Poisson batches of geometric size with mean b have gaps whose squared coefficient of variation is 2b − 1.
    """
    mean_size = max(1.0, (cv * cv + 1.0) / 2.0)
    starts = rng.random(n) < 1.0 / mean_size
    return np.where(starts, rng.exponential(mean_size, n), 0.0)


GENERATORS = {"poisson": _poisson, "gamma": _gamma, "weibull": _weibull, "bursts": _bursts}
"""Renewal processes by name, as gaps of mean 1."""


def generate_traffic(
    kind: str, requests: int, *, rate_per_s: float = 1.0, cv: float = 2.0, seed: int = 0
) -> Traffic:
    """Return seeded traffic.

    Parameters
    ----------
    kind : {"poisson", "gamma", "weibull", "bursts"}
        Gaps between arrivals. ``bursts`` are batches that arrive at one moment.
    requests : int
        How many, at least 1.
    rate_per_s : float
        Arrivals a second, > 0.
    cv : float
        Coefficient of variation of the gaps; 1 for Poisson, whatever is given.
    seed : int
        Of arrivals and sizes. Sizes are lognormal: 500 prompt and 200 answer tokens in the median.

    Raises
    ------
    SpecError
        If a parameter is out of range.
    """
    problems = []
    if kind not in GENERATORS:
        problems.append(Violation("trace", f"expected {', '.join(GENERATORS)}", kind))
    if not requests >= 1:
        problems.append(Violation("requests", "expected >= 1", requests))
    if not (rate_per_s > 0 and math.isfinite(rate_per_s)):
        problems.append(Violation("rate_per_s", "expected a number > 0", rate_per_s))
    if not 0.05 <= cv <= 20:
        problems.append(Violation("cv", "expected between 0.05 and 20", cv))
    if problems:
        raise SpecError(*problems)
    rng = np.random.default_rng([seed, 1])
    gaps = GENERATORS[kind](rng, requests, cv) / rate_per_s
    arrival = np.cumsum(gaps)
    name = kind if kind == "poisson" else f"{kind} cv={cv:g}"
    return Traffic(
        name=name,
        arrival_s=arrival - arrival[0],
        input_tokens=np.maximum(1, rng.lognormal(math.log(500), 0.8, requests)).astype(np.int64),
        output_tokens=np.maximum(1, rng.lognormal(math.log(200), 0.7, requests)).astype(np.int64),
    )

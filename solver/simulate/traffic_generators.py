"""Seeded generators of traffic: renewal processes, a day's rhythm, batches, and clients with rates of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.simulate.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_INPUT_MEDIAN, _INPUT_SIGMA = 500, 0.8  # tokens; sigma of the logarithm
_OUTPUT_MEDIAN, _OUTPUT_SIGMA = 200, 0.7
_WITHIN_BATCH_SIGMA = 0.2  # standard deviation of the logarithm of answer lengths within one batch
_BATCH_KINDS = 6  # task types of batches
_DIURNAL_AMPLITUDE = 0.7  # swing of the rate of a diurnal generator, as a share of its mean


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
    """Return gaps of batches: geometric sizes with mean b, each batch at one moment.

    Poisson batches of geometric size with mean b have gaps whose squared coefficient of variation is 2b − 1.
    """
    mean_size = max(1.0, (cv * cv + 1.0) / 2.0)
    starts = rng.random(n) < 1.0 / mean_size
    return np.where(starts, rng.exponential(mean_size, n), 0.0)


def _diurnal(rng: np.random.Generator, n: int, cv: float) -> NDArray[np.float64]:
    """Return gaps of a Gamma process in operational time: one day's rhythm over the whole of the trace.

    The rate is ``1 + 0.7 × sin(2π t / T − π/2)`` times its mean: lowest at both ends, highest in the middle.
    Arrivals of a process of rate 1 are mapped through the inverse of the integrated rate.
    """
    operational = np.cumsum(_gamma(rng, n, cv))
    end = operational[-1]
    time = np.linspace(0.0, end, 20_001)
    phase = 2.0 * math.pi * time / end - 0.5 * math.pi
    integrated = time - _DIURNAL_AMPLITUDE * end / (2.0 * math.pi) * (
        np.cos(phase) - math.cos(-0.5 * math.pi)
    )
    return np.diff(np.interp(operational, integrated, time), prepend=0.0)


GENERATORS: dict[str, Callable[[np.random.Generator, int, float], NDArray[np.float64]]] = {
    "poisson": _poisson,
    "gamma": _gamma,
    "weibull": _weibull,
    "bursts": _bursts,
    "batches": _bursts,
    "diurnal": _diurnal,
}
"""Arrival processes by name, as gaps of mean 1. Requests of one of the ``batches`` have a task type and a size
in common; ``bursts`` only arrive at one moment."""


def _sizes(rng: np.random.Generator, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return lognormal prompt and answer sizes, tokens."""
    inputs = rng.lognormal(math.log(_INPUT_MEDIAN), _INPUT_SIGMA, n)
    outputs = rng.lognormal(math.log(_OUTPUT_MEDIAN), _OUTPUT_SIGMA, n)
    return np.maximum(1, inputs).astype(np.int64), np.maximum(1, outputs).astype(np.int64)


def generate_traffic(
    kind: str, requests: int, *, rate_per_s: float = 1.0, cv: float = 2.0, seed: int = 0
) -> Traffic:
    """Return seeded traffic.

    Parameters
    ----------
    kind : {"poisson", "gamma", "weibull", "bursts", "batches", "diurnal"}
        Arrivals. ``bursts`` arrive together; ``batches`` also have a task type and about a size in common.
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
    arrival = np.cumsum(GENERATORS[kind](rng, requests, cv)) / rate_per_s
    inputs, outputs = _sizes(rng, requests)
    task_type = None
    if kind == "batches":
        batch = np.cumsum(np.diff(arrival, prepend=-1.0) > 0) - 1
        scatter = rng.lognormal(0.0, _WITHIN_BATCH_SIGMA, requests)
        inputs, outputs = inputs[batch], np.maximum(1, outputs[batch] * scatter).astype(np.int64)
        kinds = rng.integers(_BATCH_KINDS, size=int(batch[-1]) + 1)[batch]
        task_type = np.array([f"kind {kind}" for kind in kinds.tolist()], np.object_)
    return Traffic(
        name=kind if kind == "poisson" else f"{kind} cv={cv:g}",
        arrival_s=arrival - arrival[0],
        input_tokens=inputs,
        output_tokens=outputs,
        task_type=task_type,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRate:
    """What one client sends during one window: a row of the ServeGen table.

    Parameters
    ----------
    client : str
        Whose.
    start_s : float
        Start of the window, seconds.
    rate_per_s : float
        Mean requests a second, >= 0.
    cv : float
        Coefficient of variation of the gaps.
    family : {"Gamma", "Weibull"}
        Of the gaps.
    """

    client: str
    start_s: float
    rate_per_s: float
    cv: float
    family: str


def generate_clients(
    rates: Sequence[ClientRate], *, window_s: float, name: str, most: int | None = None, seed: int = 0
) -> Traffic:
    """Return the superposed requests of clients whose rates change from window to window.

    Within a window the gaps of a client are a renewal process of its family, mean and coefficient of variation
    (Xiang et al., ServeGen 2025). The first gap of a window is drawn as if the process had begun with the window,
    shifted by a uniform part of a gap.

    Parameters
    ----------
    rates : sequence of ClientRate
        Windows of all clients, at least one with a rate above zero.
    window_s : float
        Length of each window, seconds.
    name : str
        Of the traffic.
    most : int, optional
        Most requests: the busiest stretch is left out, the first so many are kept.
    seed : int
        Of arrivals and sizes.

    Raises
    ------
    SpecError
        If no client sends anything.
    """
    rng = np.random.default_rng([seed, 7])
    start = min((rate.start_s for rate in rates), default=0.0)
    parts: list[NDArray[np.float64]] = []
    count = 0
    by_window: dict[float, list[ClientRate]] = {}
    for rate in rates:
        if rate.rate_per_s > 0:
            by_window.setdefault(rate.start_s, []).append(rate)
    for window_start in sorted(by_window):
        for rate in by_window[window_start]:
            own = _window_arrivals(rng, rate, window_s)
            parts.append(own + (window_start - start))
            count += len(own)
        if most is not None and count >= most:
            break
    arrival = np.sort(np.concatenate(parts)) if parts else np.empty(0)
    arrival = arrival[:most]
    if not len(arrival):
        raise SpecError(Violation("trace", "expected a client with a rate above zero", shown="none"))
    inputs, outputs = _sizes(rng, len(arrival))
    return Traffic(name=name, arrival_s=arrival - arrival[0], input_tokens=inputs, output_tokens=outputs)


def _window_arrivals(rng: np.random.Generator, rate: ClientRate, window_s: float) -> NDArray[np.float64]:
    gaps_of = _gamma if rate.family.lower() == "gamma" else _weibull
    expected = rate.rate_per_s * window_s
    cv = min(max(rate.cv, 0.05), 20.0)
    draws = int(expected + 6.0 * cv * math.sqrt(expected + 1.0) + 10)
    gaps = gaps_of(rng, draws, cv) / rate.rate_per_s
    gaps[0] *= rng.random()
    times = np.cumsum(gaps)
    while times[-1] < window_s:
        more = np.cumsum(gaps_of(rng, draws, cv) / rate.rate_per_s)
        times = np.concatenate([times, times[-1] + more])
    return times[times < window_s]

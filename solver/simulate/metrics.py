"""Figures of a replay, and their means and confidence intervals over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from solver.simulate.replay import FAILED, OVERLOADED, REFUSED, SERVED, THROTTLED

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from solver.simulate.replay import Replay
    from solver.simulate.scenario import Scene

FIGURES = (
    "p50_latency_ms",
    "p95_latency_ms",
    "p99_latency_ms",
    "max_latency_ms",
    "p50_first_token_ms",
    "p95_first_token_ms",
    "p99_first_token_ms",
    "mean_wait_ms",
    "p95_wait_ms",
    "p99_wait_ms",
    "utilization",
    "utilization_spread",
    "jain_index",
    "overload_failures",
    "throttled",
    "failed",
    "refused",
    "served",
    "deadline_attainment",
    "quality",
    "quality_served",
    "cost_usd",
    "refreshes",
    "decision_us_p50",
    "decision_us_p99",
    "decision_us_p99_batch",
    "refresh_us_p50",
    "refresh_us_p99",
    "policy_us_per_request",
    "simulator_us_per_request",
)
"""Figures of each policy, in the order of reports."""

MEASURED = (
    "decision_us_p50",
    "decision_us_p99",
    "decision_us_p99_batch",
    "refresh_us_p50",
    "refresh_us_p99",
    "policy_us_per_request",
    "simulator_us_per_request",
)
"""Figures that are measured on this machine; all others depend on the seed alone."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its 95 % confidence interval; all None where no seed has the figure."""

    mean: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the three as a mapping."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def interval_of(values: ArrayLike) -> Interval:
    """Return mean and 95 % Student interval over seeds; NaN are left out, one value is its own interval."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return Interval(None, None, None)
    mean = float(known.mean())
    half = 0.0
    if len(known) > 1:
        half = float(stdtrit(len(known) - 1, 0.975) * known.std(ddof=1) / np.sqrt(len(known)))
    return Interval(mean, mean - half, mean + half)


def _percentile(values: NDArray[np.float64], share: float) -> float:
    return float(np.percentile(values, share)) if len(values) else float("nan")


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def figures_of(scene: Scene, result: Replay) -> dict[str, float]:
    """Return the figures of one replay; NaN where no request was served.

    Latencies are those of the served. ``quality`` is the mean over all that arrived: who is not served gets
    nothing, which is worth 0, or the lowest outcome there is where outcomes can be below 0. ``quality_served`` is
    the mean over the served alone. Utilization is the share of slot time between the first and the last arrival;
    its spread and Jain's index are over models. ``decision_us_p99`` is per request, ``decision_us_p99_batch`` the time
    of whole decisions on several requests that arrived together. ``refreshes`` counts the times that prices were
    computed in the background, and ``refresh_us_p99`` is the time of one.
    """
    count = {
        end: int((result.outcome == end).sum()) for end in (SERVED, FAILED, REFUSED, OVERLOADED, THROTTLED)
    }
    served = result.outcome == SERVED
    rows = np.flatnonzero(served)
    quality = scene.quality.outcome[rows, result.column[rows]]
    nothing = min(0.0, float(scene.quality.outcome.min()))
    missed = len(scene.traffic) - len(rows)
    started = np.flatnonzero(~np.isnan(result.start_s))
    cost = scene.fleet.cost_usd(scene.traffic)[started, result.column[started]].sum()
    return {
        **_delays(result, served),
        **_utilization(scene, result),
        "overload_failures": float(count[OVERLOADED]),
        "throttled": float(count[THROTTLED]),
        "failed": float(count[FAILED]),
        "refused": float(count[REFUSED]),
        "served": float(count[SERVED]),
        "deadline_attainment": _attainment(scene, result, served),
        "quality": (float(quality.sum()) + nothing * missed) / len(scene.traffic),
        "quality_served": _mean(quality),
        "cost_usd": float(cost),
        "refreshes": float(len(result.refresh_us)),
        **_measured(scene, result),
    }


def _delays(result: Replay, served: NDArray[np.bool_]) -> dict[str, float]:
    latency, wait = 1000.0 * result.latency_s[served], 1000.0 * result.wait_s[served]
    first = 1000.0 * result.to_first_token_s[served]
    return {
        "p50_latency_ms": _percentile(latency, 50),
        "p95_latency_ms": _percentile(latency, 95),
        "p99_latency_ms": _percentile(latency, 99),
        "max_latency_ms": _percentile(latency, 100),
        "p50_first_token_ms": _percentile(first, 50),
        "p95_first_token_ms": _percentile(first, 95),
        "p99_first_token_ms": _percentile(first, 99),
        "mean_wait_ms": _mean(wait),
        "p95_wait_ms": _percentile(wait, 95),
        "p99_wait_ms": _percentile(wait, 99),
    }


def _utilization(scene: Scene, result: Replay) -> dict[str, float]:
    span = scene.traffic.span_s
    able = result.slot_s > 0
    if span <= 0 or not able.any():
        nan = float("nan")
        return {"utilization": nan, "utilization_spread": nan, "jain_index": nan}
    busy = result.busy_s(span)
    per_model = busy[able] / result.slot_s[able]
    squares = float((per_model**2).sum())
    return {
        "utilization": float(busy.sum() / result.slot_s.sum()),
        "utilization_spread": float(per_model.std()),
        "jain_index": float(per_model.sum() ** 2 / (len(per_model) * squares))
        if squares > 0
        else float("nan"),
    }


def _attainment(scene: Scene, result: Replay, served: NDArray[np.bool_]) -> float:
    """Return the share of requests with a deadline that were answered within it."""
    deadline = scene.traffic.deadline_s
    if deadline is None or not (asked := ~np.isnan(deadline)).any():
        return float("nan")
    with np.errstate(invalid="ignore"):  # latencies of those who were not served are NaN
        met = served & (result.latency_s <= deadline)
    return float(met[asked].mean())


def _measured(scene: Scene, result: Replay) -> dict[str, float]:
    return {
        "decision_us_p50": _percentile(result.decision_us, 50),
        "decision_us_p99": _percentile(result.decision_us / result.decided, 99),
        "decision_us_p99_batch": _percentile(result.decision_us[result.decided > 1], 99),
        "refresh_us_p50": _percentile(result.refresh_us, 50),
        "refresh_us_p99": _percentile(result.refresh_us, 99),
        "policy_us_per_request": 1e6 * result.policy_s / len(scene.traffic),
        "simulator_us_per_request": 1e6 * (result.elapsed_s - result.policy_s) / len(scene.traffic),
    }

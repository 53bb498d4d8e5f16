"""Policies side by side on the same traffic: figures per seed, means and confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from solver.clock import ManualClock
from solver.errors import SpecError, Violation
from solver.simulate.policies.registry import check_policies, make_policy
from solver.simulate.quality import capability_population
from solver.simulate.replay import FAILED, OVERLOADED, REFUSED, SERVED, Scene, replay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.simulate.quality import Population
    from solver.simulate.replay import Replay
    from solver.simulate.servers import Fleet
    from solver.simulate.traffic import Traffic

__all__ = ["FIGURES", "MEASURED", "Interval", "interval_of", "make_scene", "run_experiment"]

FIGURES = (
    "p50_latency_ms",
    "p95_latency_ms",
    "p99_latency_ms",
    "max_latency_ms",
    "p50_first_token_ms",
    "p99_first_token_ms",
    "mean_wait_ms",
    "p99_wait_ms",
    "utilization",
    "utilization_spread",
    "jain_index",
    "overload_failures",
    "failed",
    "refused",
    "served",
    "quality",
    "cost_usd",
    "decision_us_p50",
    "decision_us_p99",
    "simulator_us_per_request",
)
"""Figures of each policy, in the order of reports."""

MEASURED = ("decision_us_p50", "decision_us_p99", "simulator_us_per_request")
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


def make_scene(
    traffic: Traffic,
    fleet: Fleet,
    *,
    seed: int,
    load: float | None = None,
    population: Population | None = None,
) -> Scene:
    """Return what happens in one replay.

    Parameters
    ----------
    traffic : Traffic
        Requests.
    fleet : Fleet
        Servers.
    seed : int
        Of outcomes, failures, and policies.
    load : float, optional
        Scale time so that arrivals are this share of what the fleet serves when full. None: as they are.
    population : Population, optional
        Agents with known outcomes; default: simulated from the fleet's capabilities.
    """
    if not len(traffic):
        raise SpecError(Violation("trace", "expected at least one request", shown="none"))
    if load is not None:
        if not 0 < load <= 100:
            raise SpecError(Violation("load", "expected > 0, such as 0.8", load))
        if traffic.span_s > 0:
            wanted = load * fleet.capacity_per_s(traffic.output_tokens)
            traffic = traffic.scaled_in_time(wanted / traffic.rate_per_s)
    population = population or capability_population(fleet, seed=seed)
    return Scene(
        traffic=traffic,
        fleet=fleet,
        quality=population.draw(len(traffic), np.random.default_rng([seed, 5])),
        expected_output_tokens=max(1, round(float(traffic.output_tokens.mean()))),
        fails=np.random.default_rng([seed, 6]).random(len(traffic)) < fleet.params.failure_rate,
        seed=seed,
    )


def _percentile(values: NDArray[np.float64], share: float) -> float:
    return float(np.percentile(values, share)) if len(values) else float("nan")


def figures_of(scene: Scene, result: Replay) -> dict[str, float]:
    """Return the figures of one replay; NaN where nobody was served."""
    served = result.outcome == SERVED
    latency, wait = 1000.0 * result.latency_s[served], 1000.0 * result.wait_s[served]
    first = 1000.0 * result.first_token_s[served]
    rows = np.flatnonzero(served)
    started = np.flatnonzero(served | (result.outcome == FAILED))
    slots = scene.fleet.slots
    span = scene.traffic.span_s
    per_model = result.busy_s[slots > 0] / slots[slots > 0] / span if span > 0 else np.full(1, np.nan)
    squares = float((per_model**2).sum())
    quality = scene.quality.outcome[rows, result.column[rows]]
    return {
        "p50_latency_ms": _percentile(latency, 50),
        "p95_latency_ms": _percentile(latency, 95),
        "p99_latency_ms": _percentile(latency, 99),
        "max_latency_ms": _percentile(latency, 100),
        "p50_first_token_ms": _percentile(first, 50),
        "p99_first_token_ms": _percentile(first, 99),
        "mean_wait_ms": float(wait.mean()) if len(wait) else float("nan"),
        "p99_wait_ms": _percentile(wait, 99),
        "utilization": float(result.busy_s.sum() / slots.sum() / span) if span > 0 else float("nan"),
        "utilization_spread": float(per_model.std()),
        "jain_index": float(per_model.sum() ** 2 / (len(per_model) * squares))
        if squares > 0
        else float("nan"),
        "overload_failures": float((result.outcome == OVERLOADED).sum()),
        "failed": float((result.outcome == FAILED).sum()),
        "refused": float((result.outcome == REFUSED).sum()),
        "served": float(served.sum()),
        "quality": float(quality.mean()) if len(quality) else float("nan"),
        "cost_usd": float(scene.fleet.cost_usd(scene.traffic)[started, result.column[started]].sum()),
        "decision_us_p50": _percentile(result.decision_us, 50),
        "decision_us_p99": _percentile(result.decision_us, 99),
        "simulator_us_per_request": 1e6
        * (result.elapsed_s - 1e-6 * float(result.decision_us.sum()))
        / len(scene.traffic),
    }


def run_experiment(
    traffic_of: Callable[[int], Traffic],
    fleet: Fleet,
    policies: Sequence[str],
    *,
    seeds: int = 5,
    load: float | None = None,
    population: Population | None = None,
    on_run: Callable[[str, int], object] | None = None,
) -> list[dict[str, Any]]:
    """Replay the same traffic against every policy, once per seed.

    Parameters
    ----------
    traffic_of : callable
        Traffic of a seed: the same for every policy, and for every seed where it is a trace.
    fleet : Fleet
        Servers.
    policies : sequence of str
        Names; see :mod:`solver.simulate.policies.registry`.
    seeds : int
        How many, from 0.
    load : float, optional
        Share of the fleet's capacity to scale arrivals to.
    population : Population, optional
        Agents with known outcomes.
    on_run : callable, optional
        Told of every replay before it begins.

    Returns
    -------
    list of dict
        Per policy ``policy``, ``trace``, ``load``, ``arrived``, and each of :data:`FIGURES` as ``mean``, ``low``
        and ``high``; ``against_first`` holds the same of the differences to the first policy, paired by seed.

    Raises
    ------
    SpecError
        If a policy is unknown, or a parameter out of range.
    """
    check_policies(policies, fleet.ids)
    if not seeds >= 1:
        raise SpecError(Violation("seeds", "expected >= 1", seeds))
    values: dict[str, dict[str, list[float]]] = {
        name: {figure: [] for figure in FIGURES} for name in policies
    }
    trace, arrived = "", 0
    for seed in range(seeds):
        traffic = traffic_of(seed)
        trace, arrived = traffic.name, len(traffic)
        scene = make_scene(traffic, fleet, seed=seed, load=load, population=population)
        for name in policies:
            if on_run is not None:
                on_run(name, seed)
            clock = ManualClock()
            figures = figures_of(scene, replay(scene, make_policy(name, scene, clock), clock))
            for figure in FIGURES:
                values[name][figure].append(figures[figure])
    first = values[policies[0]]
    results = []
    for name in policies:
        own = values[name]
        differences = {
            figure: interval_of(np.subtract(own[figure], first[figure])).to_dict()
            for figure in FIGURES
            if figure not in MEASURED
        }
        results.append(
            {
                "policy": name,
                "trace": trace,
                "load": load,
                "arrived": arrived,
                **{figure: interval_of(own[figure]).to_dict() for figure in FIGURES},
                "against_first": differences,
            }
        )
    return results

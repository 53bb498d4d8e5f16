"""Policies side by side on the same traffic: figures per seed, means and confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.clock import ManualClock
from solver.errors import SpecError, Violation
from solver.simulate.metrics import FIGURES, MEASURED, figures_of, interval_of
from solver.simulate.policies.registry import check_policies, make_policy
from solver.simulate.quality import Predictor, Quality, capability_population
from solver.simulate.replay import replay
from solver.simulate.report_series import series_of
from solver.simulate.rules import RulesInReplay
from solver.simulate.scenario import Scene
from solver.simulate.schedule import check_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from solver.load.control.scaling_rules import ScalingRule
    from solver.simulate.quality import Population
    from solver.simulate.schedule import Disruption
    from solver.simulate.servers import Fleet
    from solver.simulate.traffic import Traffic


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What holds for every replay of an experiment.

    Parameters
    ----------
    load : float, optional
        Scale time so that arrivals are this share of what the fleet serves when full. None: as they are.
    rate_per_s : float, optional
        Scale time to so many arrivals a second, instead; where two fleets are to see the same traffic.
    population : Population, optional
        Agents with known outcomes; default: simulated from the fleet's capabilities.
    predictor : Predictor
        What policies know of outcomes.
    schedule : tuple of Disruption
        What goes wrong.
    retries : int
        How often a request that a server turned away is decided on again, >= 0.
    rules : tuple of ScalingRule
        Capacity rules to try.
    enforce_rules : bool
        Whether they act on policies that keep a tracker.
    """

    load: float | None = None
    rate_per_s: float | None = None
    population: Population | None = None
    predictor: Predictor = field(default_factory=Predictor)
    schedule: tuple[Disruption, ...] = ()
    retries: int = 0
    rules: tuple[ScalingRule, ...] = ()
    enforce_rules: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.load is not None and not 0 < self.load <= 100:
            problems.append(Violation("load", "expected > 0, such as 0.8", self.load))
        if self.rate_per_s is not None and not 0 < self.rate_per_s < np.inf:
            problems.append(Violation("rate_per_s", "expected a number > 0", self.rate_per_s))
        if not 0 <= self.retries <= 100:
            problems.append(Violation("retries", "expected between 0 and 100", self.retries))
        if problems:
            raise SpecError(*problems)


def make_scene(traffic: Traffic, fleet: Fleet, *, seed: int, setup: Setup | None = None) -> Scene:
    """Return what happens in one replay.

    Parameters
    ----------
    traffic : Traffic
        Requests.
    fleet : Fleet
        Servers.
    seed : int
        Of outcomes, failures, and policies.
    setup : Setup, optional
        Load, population and the rest.

    Raises
    ------
    SpecError
        Without requests, or with a schedule for models that the fleet does not have.
    """
    setup = setup or Setup()
    if not len(traffic):
        raise SpecError(Violation("trace", "expected at least one request", shown="none"))
    check_schedule(setup.schedule, fleet.ids)
    if traffic.span_s > 0:
        wanted = setup.rate_per_s
        if wanted is None and setup.load is not None:
            wanted = setup.load * fleet.capacity_per_s(traffic.output_tokens)
        if wanted is not None:
            traffic = traffic.scaled_in_time(wanted / traffic.rate_per_s)
    return Scene(
        traffic=traffic,
        fleet=fleet,
        quality=_quality(traffic, fleet, setup, seed),
        uniform_draws=np.random.default_rng([seed, 6]).random((len(traffic), 2)),
        seed=seed,
        schedule=setup.schedule,
        retries=setup.retries,
    )


def _quality(traffic: Traffic, fleet: Fleet, setup: Setup, seed: int) -> Quality:
    """Return recorded scores where the trace has them of the whole fleet, else those of drawn agents."""
    recorded = traffic.recorded
    if recorded is not None and setup.population is None and set(fleet.ids) <= set(recorded.models):
        columns = [recorded.models.index(name) for name in fleet.ids]
        scores = recorded.scores[:, columns]
        lowest = float(np.nanmin(scores)) if not np.isnan(scores).all() else 0.0
        known = np.where(np.isnan(scores), lowest, scores)
        return Quality(outcome=known, predicted=known)
    population = setup.population or capability_population(fleet, seed=seed)
    rng = np.random.default_rng([seed, 5])
    return population.draw(len(traffic), rng, predictor=setup.predictor, task_type=traffic.task_type)


def run_experiment(
    traffic_of: Callable[[int], Traffic],
    fleet: Fleet,
    policies: Sequence[str],
    *,
    seeds: int = 5,
    first_seed: int = 0,
    setup: Setup | None = None,
    on_run: Callable[[str, int], object] | None = None,
    on_progress: Callable[[int], object] | None = None,
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
        How many.
    first_seed : int
        The seeds are this one and those after it.
    setup : Setup, optional
        Load, population, predictor, schedule, rules.
    on_run : callable, optional
        Told of every replay before it begins.
    on_progress : callable, optional
        Told now and then how many requests of the replay have arrived.

    Returns
    -------
    list of dict
        Per policy ``policy``, ``trace``, ``load``, ``arrived``, and each of :data:`FIGURES` as ``mean``, ``low``
        and ``high``; ``against_first`` holds the same of the differences to the first policy, paired by seed;
        ``per_seed`` each figure of each seed, None where a seed has none;
        ``series`` the curves of the first seed, ``rule_events`` what capacity rules did then, ``certificate`` what is
        proven about the plan of an offline optimum.

    Raises
    ------
    SpecError
        If a policy is unknown, or a parameter out of range.
    """
    setup = setup or Setup()
    check_policies(policies, fleet.ids)
    if not seeds >= 1:
        raise SpecError(Violation("seeds", "expected >= 1", seeds))
    values: dict[str, dict[str, list[float]]] = {
        name: {figure: [] for figure in FIGURES} for name in policies
    }
    curves: dict[str, dict[str, Any]] = {}
    trace, arrived, rate = "", 0, 0.0
    for seed in range(first_seed, first_seed + seeds):
        traffic = traffic_of(seed)
        trace, arrived = traffic.name, len(traffic)
        scene = make_scene(traffic, fleet, seed=seed, setup=setup)
        rate = scene.traffic.rate_per_s
        for name in policies:
            if on_run is not None:
                on_run(name, seed)
            figures, more = _one(name, scene, setup, on_progress)
            curves.setdefault(name, more)
            for figure in FIGURES:
                values[name][figure].append(figures[figure])
    first = values[policies[0]]
    return [
        {
            "policy": name,
            "trace": trace,
            "load": setup.load,
            "arrived": arrived,
            "rate_per_s": rate if np.isfinite(rate) else None,
            **{figure: interval_of(values[name][figure]).to_dict() for figure in FIGURES},
            "against_first": {
                figure: interval_of(np.subtract(values[name][figure], first[figure])).to_dict()
                for figure in FIGURES
                if figure not in MEASURED
            },
            "per_seed": {
                figure: [None if np.isnan(value) else value for value in values[name][figure]]
                for figure in FIGURES
                if figure not in MEASURED
            },
            **curves[name],
        }
        for name in policies
    ]


def seconds_per_request(
    traffic: Traffic, fleet: Fleet, policies: Sequence[str], setup: Setup, *, requests: int = 100
) -> dict[str, float]:
    """Return the measured seconds a request takes under each policy, from the first few requests of a trace."""
    scene = make_scene(
        traffic.first(requests), fleet, seed=0, setup=replace(setup, load=None, rate_per_s=None)
    )
    measured = {}
    for name in policies:
        clock = ManualClock()
        result = replay(scene, make_policy(name, scene, clock), clock)
        measured[name] = result.elapsed_s / len(scene.traffic)
    return measured


def _one(
    name: str, scene: Scene, setup: Setup, on_progress: Callable[[int], object] | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return figures and curves of one replay."""
    clock = ManualClock()
    policy = make_policy(name, scene, clock)
    rules = None
    if setup.rules:
        rules = RulesInReplay(setup.rules, scene, policy, clock, enforce=setup.enforce_rules)
    result = replay(scene, policy, clock, on_second=rules, on_progress=on_progress)
    more: dict[str, Any] = {"series": series_of(scene, result)}
    if rules is not None:
        more["rule_events"] = rules.events
    if (certificate := getattr(policy, "certificate", None)) is not None:
        more["certificate"] = certificate
    return figures_of(scene, result), more

"""Which engines suit the shape of an instance and the time left, best first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.clock import Deadline
from solver.engines import kernels
from solver.engines.base import load_engine, loading_seconds
from solver.engines.certificate import verification_seconds
from solver.engines.greedy import network_seconds
from solver.engines.portfolio.priced_greedy import is_too_large_to_search

if TYPE_CHECKING:
    from solver.engines.portfolio.params import PortfolioParams
    from solver.problem.instance import Instance


@dataclass(frozen=True, slots=True)
class Step:
    """One engine and the most it may take: seconds without a deadline, and a share of what is left with one."""

    engine: str
    own_limit_s: float = np.inf
    share: float = 1.0
    last_resort: bool = False
    """Whether it is taken only where nothing was found, or where a deadline leaves time."""

    def within(self, deadline: Deadline) -> Deadline:
        """Return the part of a deadline that this step may use."""
        now = deadline.clock.now()
        if deadline.limited:
            ends_s = now + self.share * max(0.0, deadline.ends_s - now)
            return Deadline(deadline.started_s, ends_s, deadline.clock) if self.share < 1.0 else deadline
        return Deadline(deadline.started_s, now + self.own_limit_s, deadline.clock)


def is_coupled(instance: Instance) -> bool:
    """Whether demands or limits make it more than a network flow."""
    return instance.network is None and not instance.is_slots


def engines_by_shape(instance: Instance, deadline: Deadline, params: PortfolioParams) -> tuple[str, ...]:
    """Return the engines to try, best first."""
    compiled = instance.n * instance.m <= params.transport_pairs and kernels.available()
    first = ("transport",) if compiled else ()
    if instance.network is not None:
        return ("flow", "cpsat") if instance.network.has_openings else (*first, "flow")
    if is_coupled(instance):
        return tuple(step.engine for step in coupled_steps(instance, deadline, params))
    if instance.load_cost is not None:
        return (*first, "price")
    if _has_many_models(instance, params):
        rest = _without_kernels(instance, deadline, params)
        return ("lsap", *(name for name in rest if name != "lsap"))
    return (*first, *_without_kernels(instance, deadline, params))


def is_answered_at_once(instance: Instance, deadline: Deadline, params: PortfolioParams) -> bool:
    """Whether the compiled kernel comes first and is done before any other engine would have an incumbent."""
    pairs = instance.n * instance.m
    if pairs > params.at_once_pairs or not instance.is_slots or not kernels.available():
        return False
    if deadline.limited and deadline.remaining_s() < params.at_once_s + params.at_once_s_per_pair * pairs:
        return False
    return instance.load_cost is not None or not _has_many_models(instance, params)


def coupled_steps(instance: Instance, deadline: Deadline, params: PortfolioParams) -> list[Step]:
    """Return what to try on an instance with demands or limits: exact engines first where it is small."""
    pairs = instance.n * instance.m
    steps = []
    counts = instance.limits is not None and instance.demand is None
    if counts and _flow_fits(instance, deadline.remaining_s() - params.margin_s):
        steps.append(Step("flow"))
    if pairs <= params.enumerated_pairs:
        steps.append(Step("enumeration"))
    if pairs <= params.cpsat_first_pairs:
        steps.append(Step("cpsat", own_limit_s=params.cpsat_first_s, share=params.cpsat_first_share))
    steps.append(Step("lagrangian"))
    if pairs <= params.cpsat_last_pairs:
        steps.append(Step("cpsat", own_limit_s=params.cpsat_last_s, last_resort=True))
    return steps


def _flow_fits(instance: Instance, patience_s: float) -> bool:
    """Whether the flow engine takes the instance and ends in so many seconds, its import included."""
    loading_s = loading_seconds("flow")
    if patience_s <= loading_s:
        return False
    return load_engine("flow").unsupported_reason(instance, remaining_s=patience_s - loading_s) is None


def answers_before_greedy(
    instance: Instance, engine: str, deadline: Deadline, params: PortfolioParams
) -> bool:
    """Whether the engine has an answer sooner than greedy would, or one where greedy seldom has any."""
    if (
        instance.network is not None and engine == "transport"
    ):  # it leaves greedy the time it needs, if there is more
        needed_s = seconds_for_greedy(instance, params)
        spare_s = deadline.remaining_s() - verification_seconds(instance) - needed_s
        return spare_s < 0 or spare_s > params.spare_share * needed_s
    if instance.network is not None or (engine == "flow" and instance.limits is not None):
        return _flow_fits(instance, params.flow_patience_share * deadline.remaining_s())
    if instance.is_slots:  # answered at prices, exactly or not
        return instance.n * instance.m > params.large_pairs
    if engine != "lagrangian" or instance.penalty is None or not np.isposinf(instance.penalty).all():
        return False
    if _fits_on_average(instance, params) or is_too_large_to_search(instance, deadline):
        return False
    return deadline.remaining_s() > params.bids_s_per_pair * instance.n * instance.m


def seconds_for_greedy(instance: Instance, params: PortfolioParams) -> float:
    """Return what is left of a deadline for greedy's best answer to a network, the kernel's last search included."""
    search_s = params.search_s_per_arc * (instance.m + 1) ** 2
    return params.greedy_factor * network_seconds(instance) + search_s


def _fits_on_average(instance: Instance, params: PortfolioParams) -> bool:
    """Whether all capacities hold what agents take on average: greedy then places all of them as a rule."""
    if instance.limits is not None:
        return False
    if instance.demand is None:
        return bool(instance.n <= instance.capacity[:, 0].sum())
    some = instance.demand[:: max(1, instance.n // params.sampled_agents)]
    taken = instance.n * some.mean(axis=0).mean(axis=0)
    return bool((taken <= params.loose_share * instance.capacity.sum(axis=0)).all())


def _has_many_models(instance: Instance, params: PortfolioParams) -> bool:
    """Whether models are so many for the agents that a matching is faster than prices and flows."""
    slots = instance.slot_total
    alike = instance.serve_first and instance.rank is None and not instance.forbids
    if alike and slots <= min(params.few_slots, instance.n // params.few_agents_per_model_compiled):
        return True
    few = params.few_agents_per_model_compiled if kernels.available() else params.few_agents_per_model
    return instance.m >= params.many_models and instance.n <= few * instance.m


def _without_kernels(instance: Instance, deadline: Deadline, params: PortfolioParams) -> tuple[str, ...]:
    """Return the engines for slots that need no compiler, best first."""
    if instance.n * (instance.slot_total + instance.n * instance.may_leave) <= params.lsap_cells:
        return ("lsap", "flow")
    most = params.flow_pairs
    if instance.n >= params.many_agents_per_model * instance.m:
        most = params.flow_pairs_many_agents
    elif instance.n < params.few_agents_per_model * instance.m:
        most = params.flow_pairs_few_agents
    exact = ("flow", "price") if instance.n * instance.m <= most else ("price", "flow")
    # Where costs differ too widely for whole numbers, both may fall short of a proof that floats can give.
    return (*exact, "lsap") if deadline.remaining_s() >= params.lsap_last_resort_s else exact

"""An independent check of given assignments against their problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.clock import Deadline
from solver.engines.base import Claim
from solver.engines.certificate import certify
from solver.engines.network_terms import principal_choice
from solver.errors import SpecError, Violation, ViolationKind
from solver.problem.compile import compile_problem
from solver.problem.network import UnitFlow
from solver.problem.resources import resource_titles
from solver.problem.values import did_you_mean
from solver.solution.solving import solve_instance

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.spec import Problem

_MAX_NAMED_ROWS = 20
"""Offending agents spelled out for each rule."""

_NAMED_MEMBERS = 5
"""Agents of a group spelled out in a violation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What an assignment file really holds.

    Parameters
    ----------
    objective : float
        Recomputed from the problem.
    bound : float or None
        No assignment exceeds it; None when it was not asked for.
    gap : float or None
        Relative distance between the two.
    assigned, agents : int
        Agents with a model, and all.
    violations : tuple of Violation
        Constraints broken, in ids.
    more_served : int
        Where service comes before score: how many more agents another assignment serves. The bound holds for
        assignments that serve as many as this one.
    """

    objective: float
    bound: float | None
    gap: float | None
    assigned: int
    agents: int
    violations: tuple[Violation, ...]
    more_served: int = 0

    @property
    def feasible(self) -> bool:
        """Whether no constraint is broken."""
        return not self.violations

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "feasible": self.feasible,
            "objective": self.objective,
            "bound": self.bound,
            "gap": self.gap,
            "assigned": self.assigned,
            "agents": self.agents,
            "violations": [str(found) for found in self.violations],
            "more_served": self.more_served,
        }


def verify_assignments(
    problem: Problem,
    assignments: Mapping[str, str | None] | Mapping[str, str | Sequence[str] | Mapping[str, int] | None],
    *,
    with_bound: bool = True,
) -> Verification:
    """Check assignments by id against a problem; everything but the ids is recomputed.

    Parameters
    ----------
    problem : Problem
        What was asked.
    assignments : mapping of str to str, sequence of str, mapping of str to int, or None
        Model of each agent, or its models, or its models and how many times each serves it; None, or an agent
        that is missing, is unassigned.
    with_bound : bool
        Solve the problem for a bound, to say how far from the best the assignments are.

    Raises
    ------
    SpecError
        For ids the problem does not know, all of them at once.
    """
    instance = compile_problem(problem)
    flow = _flow_of(problem, instance, assignments)
    choice = principal_choice(instance, flow)
    best = solve_instance(instance, deadline=Deadline.after(None)) if with_bound else None
    claim = Claim(
        choice=choice,
        prices=None if best is None else best.multipliers,
        limit_prices=None if best is None else best.limit_multipliers,
        flow=None if instance.network is None else flow,
    )
    certificate = certify(instance, claim)
    bounded = best is not None and not certificate.violations
    more = 0
    if best is not None and bounded and instance.network is None and instance.serve_first:
        more = max(0, int((best.choice >= 0).sum()) - int((choice >= 0).sum()))
    return Verification(
        more_served=more,
        objective=instance.sign * certificate.objective + 0.0,
        bound=instance.sign * certificate.bound + 0.0 if bounded else None,
        gap=certificate.gap if bounded else None,
        assigned=int((flow.served(instance.n) >= _wanted(instance)).sum()),
        agents=instance.n,
        violations=tuple(_in_ids(problem, instance, flow, found) for found in certificate.violations),
    )


def _flow_of(
    problem: Problem,
    instance: Instance,
    assignments: Mapping[str, str | None] | Mapping[str, str | Sequence[str] | Mapping[str, int] | None],
) -> UnitFlow:
    """Return assignments by id as units of agents on models; a :class:`SpecError` lists every id unknown."""
    rows, columns = problem.agents.positions, {name: j for j, name in enumerate(problem.model_ids)}
    arcs: list[tuple[int, int, int]] = []
    broken: list[Violation] = []
    for agent, given in assignments.items():
        if agent not in rows:
            broken.append(_unknown("agent", agent, rows))
            continue
        for model, units in _units_of(given).items():
            if model not in columns:
                broken.append(_unknown(f"model of {agent}", model, columns))
            else:
                arcs.append((rows[agent], columns[model], units))
    table = np.array(arcs, np.int64).reshape(len(arcs), 3)
    flow = UnitFlow.of_arcs(table[:, 0], table[:, 1], table[:, 2])
    if instance.network is None:
        served = flow.served(instance.n)
        several = np.flatnonzero(served > 1)[:_MAX_NAMED_ROWS]
        broken += [Violation(f"model of {problem.agents.ids[i]}", "expected one", served[i]) for i in several]
    if broken:
        raise SpecError(*broken)
    return flow


def _unknown(path: str, name: str, known: Iterable[str]) -> Violation:
    kind = ViolationKind.UNKNOWN
    return Violation(path, "not in the problem", name, kind=kind, hint=did_you_mean(name, known))


def _units_of(given: str | Sequence[str] | Mapping[str, int] | None) -> Mapping[str, int]:
    """Return the models of one agent and how many units each serves."""
    if given is None:
        return {}
    if isinstance(given, str):
        return {given: 1}
    return given if isinstance(given, Mapping) else Counter(given)


def _wanted(instance: Instance) -> NDArray[np.int64]:
    """Return the (n,) slots that each agent asks for."""
    return np.ones(instance.n, np.int64) if instance.network is None else instance.network.supply


def _in_ids(problem: Problem, instance: Instance, flow: UnitFlow, found: Violation) -> Violation:
    """Return a violation of the certificate in the ids of the problem."""
    ids, models, kind, at = problem.agents.ids, problem.model_ids, found.kind, found.position
    if kind is ViolationKind.TOGETHER:
        return _together_in_ids(problem, flow, found)
    if kind is ViolationKind.OVER_CAPACITY:
        j, k = at
        unit = f" {resource_titles(problem.models)[k]}" if k else ""
        rule = f"load {found.value:g} exceeds its capacity of {instance.capacity[j, k]:g}{unit}"
        return Violation(models[j], rule, kind=kind, position=at)
    if kind is ViolationKind.BELOW_FLOOR and instance.network is not None:
        j = at[0]
        rule = f"load {found.value:g} is below its floor of {instance.network.floor[j]}"
        if found.value >= instance.network.floor[j]:
            rule = f"load {found.value:g} is neither 0 nor at least {instance.network.floor_if_open[j]}"
        return Violation(models[j], rule, kind=kind, position=at)
    if kind is ViolationKind.NOT_ELIGIBLE:
        return Violation(ids[at[0]], f"not eligible for {models[at[1]]}", kind=kind, position=at)
    if kind is ViolationKind.UNSERVED and at:
        return Violation(ids[at[0]], _unserved_rule(instance, flow, at[0]), kind=kind, position=at)
    if len(at) == 2:
        i, j = at
        return Violation(ids[i], "expected different models", shown=f"{models[j]} {found.value} times")
    if len(at) == 1 and kind is not ViolationKind.LIMIT:
        served, wanted = flow.served(instance.n)[at[0]], _wanted(instance)[at[0]]
        return Violation(ids[at[0]], f"expected at most {wanted} in all", served, position=at)
    return found


def _unserved_rule(instance: Instance, flow: UnitFlow, agent: int) -> str:
    served, wanted = flow.served(instance.n)[agent], _wanted(instance)[agent]
    if served == 0:
        return "must be served, but is unassigned"
    return f"must be served {wanted} times, but is {served} times"


def _together_in_ids(problem: Problem, flow: UnitFlow, found: Violation) -> Violation:
    """Return a group that does not share a model, agents and models by id."""
    group = found.position
    at = flow.model[np.isin(flow.agent, group)]
    agents = ", ".join(str(problem.agents.ids[i]) for i in group[:_NAMED_MEMBERS])
    more = f" and {len(group) - _NAMED_MEMBERS:,} more" if len(group) > _NAMED_MEMBERS else ""
    models = ", ".join(problem.model_ids[j] for j in np.unique(at).tolist()) or "none for some of them"
    rule = f"expected one model for agents {agents}{more}"
    return Violation(found.path, rule, shown=models, kind=found.kind, position=group)

"""An independent check of somebody's assignments against their problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from solver.clock import Deadline
from solver.engines.base import Claim
from solver.engines.certificate import certify
from solver.engines.network_terms import principal_choice
from solver.errors import SpecError, Violation, ViolationKind
from solver.interfaces.report import number
from solver.interfaces.terminal import printable
from solver.problem.compile import compile_problem, unassigned_penalties
from solver.problem.network import UnitFlow
from solver.problem.resources import resource_titles
from solver.problem.values import did_you_mean
from solver.solution.solving import solve_instance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import RenderableType

    from solver.problem.instance import Instance
    from solver.problem.spec import Problem

__all__ = ["Verification", "verify_assignments"]

_PRINTED_VIOLATIONS = 20
"""Violations printed at most."""

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
    violations : tuple of str
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
    violations: tuple[str, ...]
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
            "violations": list(self.violations),
            "more_served": self.more_served,
        }

    def report(self) -> RenderableType:
        """Return the check as people read it."""
        head = Text("FEASIBLE", style="bold green") if self.feasible else Text("BROKEN", style="bold red")
        head.append(f"  {self.assigned:,} of {self.agents:,} agents assigned", style="default")
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(justify="right")
        grid.add_row("objective", number(self.objective))
        if self.bound is not None and self.gap is not None:
            grid.add_row("bound", number(self.bound))
            grid.add_row("gap", f"{self.gap:.4%}")
        if self.more_served:
            head.append(f", {self.more_served:,} more could be", style="yellow")
        lines = [Text(printable(f"  {line}"), style="red") for line in self.violations[:_PRINTED_VIOLATIONS]]
        if len(self.violations) > _PRINTED_VIOLATIONS:
            lines.append(Text(f"  and {len(self.violations) - _PRINTED_VIOLATIONS:,} more", style="red"))
        return Group(head, grid, *lines)


def verify_assignments(
    problem: Problem,
    assignments: Mapping[str, str | None] | Mapping[str, str | Sequence[str] | Mapping[str, int] | None],
    *,
    with_bound: bool = True,
) -> Verification:
    """Check assignments by id against a problem; nothing but the ids is believed.

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
    rows, columns = problem.agents.positions, {name: j for j, name in enumerate(problem.model_ids)}
    arcs: list[tuple[int, int, int]] = []
    unknown = []
    for agent, given in assignments.items():
        if agent not in rows:
            unknown.append(f"agent: not in the problem, got {agent!r}{did_you_mean(agent, rows)}")
            continue
        for model, units in _units_of(given).items():
            if model not in columns:
                unknown.append(
                    f"model of {agent}: not in the problem, got {model!r}{did_you_mean(model, columns)}"
                )
            else:
                arcs.append((rows[agent], columns[model], units))
    table = np.array(arcs, np.int64).reshape(len(arcs), 3)
    flow = UnitFlow.of_arcs(table[:, 0], table[:, 1], table[:, 2])
    served = flow.served(instance.n)
    choice = principal_choice(instance, flow)
    if instance.network is None:
        several = np.flatnonzero(served > 1)
        unknown += [
            Violation(f"model of {problem.agents.ids[i]}", "expected one", served[i])
            for i in several[:_PRINTED_VIOLATIONS]
        ]
    if unknown:
        raise SpecError(*unknown)
    best = solve_instance(instance, deadline=Deadline.after(None)) if with_bound else None
    prices = None if best is None else best.multipliers
    limit_prices = None if best is None else best.limit_multipliers
    claim = Claim(
        choice=choice,
        prices=prices,
        limit_prices=limit_prices,
        flow=None if instance.network is None else flow,
    )
    certificate = certify(instance, claim)
    more = 0
    if best is not None and instance.network is None and instance.serve_first and np.isfinite(best.objective):
        more = max(0, int((best.choice >= 0).sum()) - int((choice >= 0).sum()))
    return Verification(
        more_served=0 if certificate.violations else more,
        objective=instance.sign * certificate.objective + 0.0,
        bound=instance.sign * certificate.bound + 0.0
        if best is not None and not certificate.violations
        else None,
        gap=certificate.gap if best is not None and not certificate.violations else None,
        assigned=int((served >= _wanted(instance)).sum()),
        agents=instance.n,
        violations=(
            *_in_ids(problem, instance, flow, certificate.load),
            *_limits_in_ids(problem, certificate.violations, flow),
        )
        if certificate.violations
        else (),
    )


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


def _limits_in_ids(
    problem: Problem, violations: tuple[Violation, ...], flow: UnitFlow
) -> Iterator[Violation]:
    """Return the limits that do not hold, agents and models by id."""
    for found in violations:
        if found.kind is ViolationKind.LIMIT:
            yield found
        elif found.kind is ViolationKind.TOGETHER:
            at = flow.model[np.isin(flow.agent, found.position)]
            agents = ", ".join(map(str, (problem.agents.ids[i] for i in found.position[:_NAMED_MEMBERS])))
            models = ", ".join(problem.model_ids[j] for j in np.unique(at).tolist())
            more = (
                f" and {len(found.position) - _NAMED_MEMBERS:,} more"
                if len(found.position) > _NAMED_MEMBERS
                else ""
            )
            shown = models or "none for some of them"
            rule = f"expected one model for agents {agents}{more}"
            yield Violation(found.path, rule, shown=shown, kind=found.kind, position=found.position)


def _in_ids(
    problem: Problem, instance: Instance, flow: UnitFlow, load: NDArray[np.float64]
) -> tuple[str, ...]:
    """Return the violations of a certificate in the user's ids."""
    ids, models, titles = problem.agents.ids, problem.model_ids, resource_titles(problem)
    capacity, served, wanted = instance.capacity, flow.served(instance.n), _wanted(instance)
    forbidden = np.flatnonzero(~np.isfinite(instance.scores_of(flow.agent, flow.model)))
    lines = [f"{ids[flow.agent[k]]}: not eligible for {models[flow.model[k]]}" for k in forbidden]
    lines += [
        f"{models[j]}: load {load[j, k]:g} exceeds its capacity of {capacity[j, k]:g}"
        + (f" {titles[k]}" if k else "")
        for j, k in np.argwhere(load > capacity)
    ]
    shape = instance.network
    if shape is not None:
        wide = np.flatnonzero(flow.units > shape.width[flow.agent])
        lines += [
            Violation(
                f"{ids[flow.agent[k]]}",
                "expected different models",
                models[flow.model[k]],
                shown=f"{models[flow.model[k]]} {flow.units[k]} times",
            )
            for k in wide
        ]
        lines += [
            Violation(f"{ids[i]}", f"expected at most {wanted[i]} in all", served[i])
            for i in np.flatnonzero(served > wanted)
        ]
        for j in range(instance.m):
            if load[j, 0] < shape.floor[j]:
                lines.append(f"{models[j]}: load {load[j, 0]:g} is below its floor of {shape.floor[j]}")
            elif 0 < load[j, 0] < shape.floor_if_open[j]:
                least = shape.floor_if_open[j]
                lines.append(f"{models[j]}: load {load[j, 0]:g} is neither 0 nor at least {least}")
    penalty = unassigned_penalties(problem)
    if penalty is not None:
        lines += [
            f"{ids[i]}: must be served, but is unassigned"
            if served[i] == 0
            else f"{ids[i]}: must be served {wanted[i]} times, but is {served[i]} times"
            for i in np.flatnonzero((served < wanted) & np.isinf(penalty))
        ]
    return tuple(lines)

"""An independent check of somebody's assignments against their problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from solver.clock import Deadline
from solver.engines.base import Claim
from solver.engines.certificate import certify
from solver.errors import SpecError
from solver.interfaces.report import number
from solver.problem.compile import compile_problem
from solver.problem.instance import UNASSIGNED
from solver.problem.resources import resource_titles
from solver.problem.values import did_you_mean
from solver.solution.solving import solve_instance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from solver.problem.spec import Problem

__all__ = ["Verification", "verify_assignments"]

_SHOWN = 20


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
    """

    objective: float
    bound: float | None
    gap: float | None
    assigned: int
    agents: int
    violations: tuple[str, ...]

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
        lines = [Text(f"  {line}", style="red") for line in self.violations[:_SHOWN]]
        if len(self.violations) > _SHOWN:
            lines.append(Text(f"  and {len(self.violations) - _SHOWN:,} more", style="red"))
        return Group(head, grid, *lines)


def verify_assignments(
    problem: Problem, assignments: Mapping[str, str | None], *, with_bound: bool = True
) -> Verification:
    """Check assignments by id against a problem; nothing but the ids is believed.

    Parameters
    ----------
    problem : Problem
        What was asked.
    assignments : mapping of str to str or None
        Model of each agent; None, or an agent that is missing, is unassigned.
    with_bound : bool
        Solve the problem for a bound, to say how far from the best the assignments are.

    Raises
    ------
    SpecError
        For ids the problem does not know, all of them at once.
    """
    instance = compile_problem(problem)
    rows, columns = problem.agents.positions, {name: j for j, name in enumerate(problem.model_ids)}
    choice = np.full(instance.n, UNASSIGNED, np.int64)
    unknown = []
    for agent, model in assignments.items():
        if agent not in rows:
            unknown.append(f"agent: not in the problem, got {agent!r}{did_you_mean(agent, rows)}")
        elif model is not None and model not in columns:
            unknown.append(
                f"model of {agent}: not in the problem, got {model!r}{did_you_mean(model, columns)}"
            )
        elif model is not None:
            choice[rows[agent]] = columns[model]
    if unknown:
        raise SpecError(*unknown)
    best = solve_instance(instance, deadline=Deadline.after(None)) if with_bound else None
    prices = None if best is None else best.multipliers
    limit_prices = None if best is None else best.limit_multipliers
    certificate = certify(instance, Claim(choice=choice, prices=prices, limit_prices=limit_prices))
    return Verification(
        objective=certificate.objective,
        bound=certificate.bound if best is not None and not certificate.violations else None,
        gap=certificate.gap if best is not None and not certificate.violations else None,
        assigned=int((choice != UNASSIGNED).sum()),
        agents=instance.n,
        violations=(
            *_in_ids(problem, choice, certificate.load, instance.score, instance.capacity),
            *(line for line in certificate.violations if line.startswith("limit ")),
        )
        if certificate.violations
        else (),
    )


def _in_ids(problem: Problem, choice: Any, load: Any, score: Any, capacity: Any) -> tuple[str, ...]:
    """Return the violations of a certificate in the user's ids."""
    ids, models, titles = problem.agents.ids, problem.model_ids, resource_titles(problem)
    served = np.flatnonzero(choice != UNASSIGNED)
    forbidden = served[~np.isfinite(score[served, choice[served]])]
    lines = [f"{ids[i]}: not eligible for {models[choice[i]]}" for i in forbidden]
    lines += [
        f"{models[j]}: load {load[j, k]:g} exceeds its capacity of {capacity[j, k]:g}"
        + (f" {titles[k]}" if k else "")
        for j, k in np.argwhere(load > capacity)
    ]
    penalty = problem.objective.unassigned_penalty
    if penalty is not None and np.isinf(penalty):
        lines += [
            f"{ids[i]}: must be served, but is unassigned" for i in np.flatnonzero(choice == UNASSIGNED)
        ]
    return tuple(lines)

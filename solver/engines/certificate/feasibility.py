"""Which constraints an assignment breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.network_terms import unserved_agents
from solver.errors import Violation, ViolationKind
from solver.problem.instance import UNASSIGNED
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance

_MAX_NAMED = 5
"""Agents of a group that are spelled out."""


def malformed_choice(instance: Instance, choice: NDArray[np.int64]) -> tuple[Violation, ...]:
    """Return what is wrong with the form of an (n,) choice: its type, its shape, models that do not exist."""
    if choice.shape != (instance.n,) or choice.dtype != np.int64:
        shown = f"{choice.dtype} of shape {choice.shape}"
        rule = f"expected int64 of shape ({instance.n},)"
        return (Violation("choice", rule, shown=shown, kind=ViolationKind.TYPE),)
    if choice.min() >= UNASSIGNED and choice.max() < instance.m:
        return ()
    wrong = np.flatnonzero((choice < UNASSIGNED) | (choice >= instance.m))
    rule = f"expected -1 to {instance.m - 1}"
    return tuple(Violation(f"choice[{i}]", rule, choice[i], position=(int(i),)) for i in wrong)


def broken_constraints(
    instance: Instance,
    choice: NDArray[np.int64],
    load: NDArray[np.float64],
    own: NDArray[np.float64],
    served: NDArray[np.intp],
) -> tuple[Violation, ...]:
    """Return eligibility, capacity and service that a choice breaks.

    Parameters
    ----------
    instance, choice
        The problem, and a well-formed (n,) choice.
    load : (m, r) float64
        Units it uses.
    own : (k,) float64
        Scores of the agents served.
    served : (k,) int
        Those agents.
    """
    broken = []
    if instance.forbids and not own.min(initial=np.inf) > -np.inf:
        broken += [
            Violation(
                f"choice[{i}]",
                f"agent {i} is not eligible for model {choice[i]}",
                kind=ViolationKind.NOT_ELIGIBLE,
                position=(i, int(choice[i])),
            )
            for i in served[~np.isfinite(own)].tolist()
        ]
    room = (
        instance.capacity if instance.demand is None else instance.capacity * (1 + EXCESS_TOLERANCE) + 1e-12
    )
    over = load > room
    if over.any():
        broken += [
            Violation(
                f"load[{j}, {k}]",
                f"expected <= {instance.capacity[j, k]:g}",
                float(load[j, k]),
                shown=f"{load[j, k]:g}",
                kind=ViolationKind.OVER_CAPACITY,
                position=(j, k),
            )
            for j, k in np.argwhere(over).tolist()
        ]
    if instance.penalty is not None:
        broken += unserved_agents((choice == UNASSIGNED) & np.isposinf(instance.penalty))
    return tuple(broken)


def broken_limits(
    instance: Instance,
    choice: NDArray[np.int64],
    limit_load: NDArray[np.float64],
    magnitude: NDArray[np.float64],
) -> tuple[Violation, ...]:
    """Return the hard limits that a choice breaks, given (g,) left-hand sides of all limit rows and their scale."""
    limits = instance.limits
    if limits is None:
        return ()
    room = np.where(limits.hard, limits.bound + EXCESS_TOLERANCE * magnitude, np.inf)
    broken = [
        Violation(
            f"limit {limits.names[g]}",
            f"expected <= {limits.bound[g]:g}",
            float(limit_load[g]),
            shown=f"{limit_load[g]:g}",
            kind=ViolationKind.LIMIT,
            position=(g,),
        )
        for g in np.flatnonzero(limit_load > room).tolist()
    ]
    broken += [
        Violation(
            f"limit {name}",
            f"expected one model for agents {group.tolist()[:_MAX_NAMED]}",
            np.unique(choice[group]).tolist(),
            kind=ViolationKind.TOGETHER,
            position=tuple(group.tolist()),
        )
        for name, group in zip(limits.together_names, limits.together, strict=True)
        if (choice[group] != choice[group[0]]).any()
    ]
    return tuple(broken)

"""Resources besides slots: what agents take of them by name, what models have, as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.errors import Violation, ViolationKind
from solver.problem.instance import MAX_CAPACITY
from solver.problem.values import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from solver.problem.agents import AgentTable
    from solver.problem.spec import Problem

__all__ = [
    "SLOTS",
    "resource_capacity",
    "resource_names",
    "resource_rules",
    "resource_titles",
    "resources_taken",
    "with_resources",
]

SLOTS = "slots"
"""Name of the resource that every model has: places for agents."""

_TOKENS = {
    "tokens": ("input_tokens", "output_tokens"),
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
}
"""Resources that agents take without saying so: the sums of these fields."""


def resource_names(problem: Problem) -> tuple[str, ...]:
    """Return the resources that some model has, in the order in which they are first named."""
    return tuple(dict.fromkeys(name for model in problem.models for name in model.resources))


def resource_titles(problem: Problem) -> tuple[str, ...]:
    """Return the names of the instance's resources, slots first."""
    return (SLOTS, *resource_names(problem))


def resources_taken(agents: AgentTable, name: str) -> NDArray[np.float64]:
    """Return the (n,) float64 units of a resource that agents take; 0 where they do not say."""
    if name in _TOKENS:
        first, *rest = (getattr(agents, field) for field in _TOKENS[name])
        return np.asarray(sum(rest, first), np.float64)
    return agents.resources.get(name, np.zeros(len(agents)))


def resource_capacity(problem: Problem, name: str) -> NDArray[np.float64]:
    """Return the (m,) float64 units of a resource that models have; ``inf`` where they do not say."""
    return np.array([model.resources.get(name, np.inf) for model in problem.models])


def with_resources(
    problem: Problem, slots: NDArray[np.float64]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Return demand and capacity for an instance: slots alone, or slots and then every resource.

    Parameters
    ----------
    problem : Problem
        What is asked.
    slots : (m,) float64
        Slots each model has left.

    Returns
    -------
    tuple
        Demand, None or (n,), (n, m), (n, r) or (n, m, r), and capacity, (m,) or (m, r).
    """
    names = resource_names(problem)
    own: NDArray[np.float64] | None = problem.demand
    if not names:
        return own, slots
    taken = np.stack([resources_taken(problem.agents, name) for name in names], axis=1)
    units = np.stack([resource_capacity(problem, name) for name in names], axis=1)
    # A model that does not name a resource has as much as everybody together may take.
    plenty = np.minimum(np.maximum(taken.sum(axis=0), 1.0), MAX_CAPACITY)
    units = np.where(np.isinf(units), plenty, units)
    capacity = np.column_stack([slots, units])
    if own is None or own.ndim == 1:
        return np.column_stack([np.ones(len(taken)) if own is None else own, taken]), capacity
    n, m = own.shape
    spread = np.broadcast_to(taken[:, None, :], (n, m, len(names)))
    return np.concatenate([own[:, :, None], spread], axis=2), capacity


def resource_rules(problem: Problem) -> Iterator[Violation]:
    """Check the names of resources: a misspelt one must not bind nobody in silence."""
    known = resource_names(problem)
    for j, model in enumerate(problem.models):
        if SLOTS in model.resources:
            yield Violation(
                f"models[{j}].resources.{SLOTS}", "expected the slots of a batch as capacity.slots"
            )
    for name, taken in problem.agents.resources.items():
        path = f"agents[{int(np.flatnonzero(taken)[0])}].resources.{name}"
        if name in _TOKENS:
            yield Violation(
                path, f"expected another name, as these are counted from {' and '.join(_TOKENS[name])}"
            )
        elif name not in known and all(limit.unit != name for limit in problem.limits):
            hint = did_you_mean(name, known)
            yield Violation(
                path, "expected a resource that some model has", name, kind=ViolationKind.UNKNOWN, hint=hint
            )

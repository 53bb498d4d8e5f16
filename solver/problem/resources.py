"""Resources besides slots: what agents take of them by name, what models have, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import Violation
from solver.problem.instance import MAX_CAPACITY
from solver.problem.values import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from solver.problem.agents import AgentTable
    from solver.problem.limit_specs import LimitSpec
    from solver.problem.models import Model

    Demand = NDArray[np.float64] | Mapping[str, NDArray[np.float64]] | None

SLOTS = "slots"
"""Name of the resource that every model has: places for agents."""

TOKEN_SUMS = {
    "tokens": ("input_tokens", "output_tokens"),
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
}
"""Resources that agents take without saying so: the sums of these fields."""


def resource_names(models: Sequence[Model]) -> tuple[str, ...]:
    """Return the resources that some model has, in the order in which they are first named."""
    return tuple(dict.fromkeys(name for model in models for name in model.resources))


def resource_titles(models: Sequence[Model]) -> tuple[str, ...]:
    """Return the names of the instance's resources, slots first."""
    return (SLOTS, *resource_names(models))


def resources_taken(agents: AgentTable, name: str) -> NDArray[np.float64]:
    """Return the (n,) float64 units of a resource that agents take; 0 where they do not say."""
    if name in TOKEN_SUMS:
        first, *rest = (getattr(agents, field) for field in TOKEN_SUMS[name])
        return np.asarray(sum(rest, first), np.float64)
    return agents.resources.get(name, np.zeros(len(agents)))


def units_taken(agents: AgentTable, demand: Demand, name: str) -> NDArray[np.float64]:
    """Return the units of a resource that pairs take, (n,) or (n, m) float64: those of ``demand``, else the agents'."""
    if isinstance(demand, Mapping) and name in demand:
        own: NDArray[np.float64] = demand[name]
        return np.broadcast_to(own, (len(agents),)) if own.ndim == 0 else own
    return resources_taken(agents, name)


def slots_taken(agents: AgentTable, demand: Demand) -> NDArray[np.float64] | None:
    """Return the slots that pairs take, (n,) or (n, m) float64; None where each takes one."""
    if isinstance(demand, Mapping):
        return units_taken(agents, demand, SLOTS) if SLOTS in demand else None
    own: NDArray[np.float64] | None = demand
    return own


def resource_capacity(models: Sequence[Model], name: str) -> NDArray[np.float64]:
    """Return the (m,) float64 units of a resource that models have; ``inf`` where they do not say."""
    return np.array([model.resources.get(name, np.inf) for model in models])


def with_resources(
    agents: AgentTable, models: Sequence[Model], demand: Demand, slots: NDArray[np.float64]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Return demand and capacity for an instance: slots alone, or slots and then every resource.

    Parameters
    ----------
    agents, models, demand
        Of the problem.
    slots : (m,) float64
        Slots each model has left.

    Returns
    -------
    tuple
        Demand, None or (n,), (n, m), (n, r) or (n, m, r), and capacity, (m,) or (m, r). What pairs take of a
        resource is as wide as the widest of them.
    """
    names = resource_names(models)
    own = slots_taken(agents, demand)
    if not names:
        return own, slots
    amounts = [np.ones(len(agents)) if own is None else own]
    amounts += [units_taken(agents, demand, name) for name in names]
    pairs = any(one.ndim == 2 for one in amounts)
    spread = [one[:, None] if pairs and one.ndim == 1 else one for one in amounts]
    taken = np.stack(np.broadcast_arrays(*spread), axis=-1)
    units = np.stack([resource_capacity(models, name) for name in names], axis=1)
    # A model that does not name a resource has as much of it as all agents together may take.
    plenty = np.minimum(np.maximum(taken[..., 1:].sum(axis=0), 1.0), MAX_CAPACITY)
    units = np.where(np.isinf(units), plenty, units)
    return taken, np.column_stack([slots, units])


def resource_rules(
    agents: AgentTable, models: Sequence[Model], demand: Demand, limits: Sequence[LimitSpec]
) -> Iterator[Violation]:
    """Check the names of resources: a misspelt one would otherwise limit no model, without any message."""
    known = resource_names(models)
    for j, model in enumerate(models):
        if SLOTS in model.resources:
            yield Violation(
                f"models[{j}].resources.{SLOTS}", "expected the slots of a batch as capacity.slots"
            )
    given = demand if isinstance(demand, Mapping) else {}
    counted = {limit.unit for limit in limits}
    for name in given:
        if name in TOKEN_SUMS:
            rule = f"expected another name, as these are counted from {' and '.join(TOKEN_SUMS[name])}"
            yield Violation(f"demand.{name}", rule)
        elif name in agents.resources:
            yield Violation(f"demand.{name}", "expected none, since agents say what they take in resources")
        elif name != SLOTS and name not in known and name not in counted:
            rule = "expected slots or a resource that some model has"
            yield unknown_name(f"demand.{name}", rule, name, [SLOTS, *known])
    for name, taken in agents.resources.items():
        path = f"agents[{int(np.flatnonzero(taken)[0])}].resources.{name}"
        if name in TOKEN_SUMS:
            yield Violation(
                path, f"expected another name, as these are counted from {' and '.join(TOKEN_SUMS[name])}"
            )
        elif name not in known and all(limit.unit != name for limit in limits):
            yield unknown_name(path, "expected a resource that some model has", name, known)

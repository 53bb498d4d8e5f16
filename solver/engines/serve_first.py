"""Serve-first mode where demands or limits couple agents: which agents are served, as a problem of its own.

One weight per agent orders plans by service: first the number of agents served, then the number of the highest
priority, of the next, and so on. With plain slots one weighted problem decides service and score together
(:attr:`~solver.problem.instance.Instance.serve_step`); with demands or limits the sets of agents that fit do
not form a matroid, no weight in score is large enough without losing digits, and the two problems are solved in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.limit_rows import Layer, LimitRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_WEIGHT = 2.0**50
"""Sum of all weights at most: sums of whole numbers below this are exact in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOrder:
    """What serving each agent is worth when nothing but service counts.

    Parameters
    ----------
    weight : (n,) float64
        Whole numbers >= 1.
    exact : bool
        A larger total is exactly a better service. False with very many priorities, whose weights would not
        fit: then the sum of the dense ranks decides among plans that serve as many.
    """

    weight: NDArray[np.float64]
    exact: bool


def service_order(instance: Instance) -> ServiceOrder:
    """Return the weights of service of an instance in serve-first mode. O(n)."""
    n = instance.n
    if instance.rank is None:
        return ServiceOrder(weight=np.ones(n), exact=True)
    count = np.bincount(instance.rank)
    weights, total = [], 0  # Python's whole numbers do not overflow
    for agents in count.tolist():
        weights.append(total + 1)
        total += agents * weights[-1]
        if n * (total + 1) > _MAX_WEIGHT:
            rank = instance.rank.astype(np.float64)
            return ServiceOrder(weight=rank + 1.0 + rank.sum(), exact=False)
    return ServiceOrder(weight=np.array(weights, np.float64)[instance.rank] + total + 1.0, exact=True)


def service_instance(instance: Instance, order: ServiceOrder) -> Instance:
    """Return the problem of serving as well as possible: scores of zero, and a penalty of each agent's weight."""
    score = np.where(np.isfinite(np.asarray(instance.score)), 0.0, -np.inf)
    return Instance(
        score=score,
        capacity=instance.capacity,
        demand=instance.demand,
        penalty=order.weight,
        limits=None if instance.limits is None else instance.limits.hard_rows(),
    )


def fixed_service(instance: Instance, order: ServiceOrder, choice: NDArray[np.int64]) -> Instance:
    """Return the problem of the best score among plans that serve as well as ``choice``.

    Leaving an agent costs nothing, and a row asks for the same weight of service: a plan with more would be
    a better service, and is allowed.
    """
    limits = instance.limits or LimitRows(bound=np.zeros(0))
    weight = order.weight / order.weight.max()
    served = float(weight[choice != UNASSIGNED].sum())
    row = Layer(
        row=np.broadcast_to(np.int32(limits.count), (instance.n, instance.m)),
        coefficient=np.broadcast_to(-weight[:, None], (instance.n, instance.m)),
    )
    return Instance(
        score=instance.score,
        capacity=instance.capacity,
        demand=instance.demand,
        penalty=np.zeros(instance.n),
        limits=replace(
            limits,
            names=(*limits.names, "service"),
            bound=np.append(limits.bound, -served),
            layers=(*limits.layers, row),
            violation_price=None
            if limits.violation_price is None
            else np.append(limits.violation_price, np.inf),
        ),
    )

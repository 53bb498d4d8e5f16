"""The use that a plan makes of its models' resources, besides slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.blocks import chunks
from solver.problem.resources import resource_titles
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.spec import Problem
    from solver.solution.solution import Solution


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceReport:
    """How one resource of one model comes out of a plan.

    Parameters
    ----------
    resource, model_id : str
        The resource, and the model that offers it.
    used, capacity : float
        Units taken by its agents, and units it had.
    price : float
        What one more unit adds to the objective, in score, >= 0: a rate, as agents take several at once.
    """

    resource: str
    model_id: str
    used: float
    capacity: float
    price: float

    @property
    def utilization(self) -> float:
        """Used over capacity; 0 where there is none."""
        return self.used / self.capacity if self.capacity else 0.0


def resource_reports(problem: Problem, instance: Instance, solution: Solution) -> tuple[ResourceReport, ...]:
    """Return one report per model and resource it names, by resource and then by model."""
    load = solution.load.reshape(instance.m, -1)
    price = solution.prices.reshape(instance.m, -1)
    return tuple(
        ResourceReport(
            resource=name,
            model_id=model.id,
            used=float(load[j, k]),
            capacity=float(model.resources[name]),
            price=float(price[j, k]),
        )
        for k, name in enumerate(resource_titles(problem.models))
        for j, model in enumerate(problem.models)
        if k and name in model.resources
    )


def too_large(problem: Problem, instance: Instance, left: NDArray[np.intp]) -> NDArray[np.object_]:
    """Return, for each of some agents, what it asks more of than any eligible model has when empty; else "".

    O(len(left) · m · r).
    """
    why = np.full(len(left), "", object)
    if instance.demand is None:
        return why
    titles = resource_titles(problem.models)
    for block in chunks(len(left), instance.m):
        rows = left[block]
        eligible = np.isfinite(instance.score[rows])
        over = instance.demand[rows] > instance.capacity * (1 + EXCESS_TOLERANCE)
        alone = eligible.any(axis=1) & ~(eligible & ~over.any(axis=2)).any(axis=1)
        texts = np.full(len(rows), "", object)
        texts[alone] = "asks for more than any eligible model has"
        for k in range(instance.r):
            everywhere = alone & (over[:, :, k] | ~eligible).all(axis=1)
            texts[everywhere] = f"asks for more {titles[k]} than any eligible model has"
        why[block] = texts
    return why

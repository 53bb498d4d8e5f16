"""Why each agent got its model, or none, in one phrase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.blocks import chunks
from solver.problem.instance import UNASSIGNED
from solver.solution.limit_use import limits_in_the_way
from solver.solution.resource_use import too_large
from solver.solution.solution import Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.network import UnitFlow
    from solver.problem.spec import Problem
    from solver.solution.solution import Solution

_NAMED_MODELS = 3
"""Models spelled out in a reason."""

_BEST = "highest score"
_CHEAPEST = "lowest cost"


@dataclass(frozen=True, eq=False)
class Reasons:
    """The reasons of one solution.

    Parameters
    ----------
    problem, instance, solution
        What was asked, its arrays, and the answer.
    price_noise : float
        Prices up to this are rounding.
    """

    problem: Problem
    instance: Instance
    solution: Solution
    price_noise: float

    def of_agents(self) -> NDArray[np.object_]:
        """Return (n,) str. O(n m)."""
        ids = self.problem.model_ids
        choice = self.solution.choice
        costs = self.instance.sense == "minimize"
        better = "cost less" if costs else "score higher"
        texts = np.array(
            [
                _CHEAPEST if costs else _BEST,
                *(f"{name} would {better} but {why}" for name, why in zip(ids, self._taken, strict=True)),
            ],
            object,
        )
        if self.solution.unit_flow is not None:
            return self._of_several(self.solution.unit_flow, texts)
        codes = np.zeros(len(choice), np.int64)
        for rows in chunks(self.instance.n, self.instance.m):
            best = self.instance.score[rows].argmax(axis=1)
            picked = np.maximum(choice[rows], 0)
            index = np.arange(len(best))
            block = self.instance.score[rows]
            codes[rows] = np.where(block[index, picked] >= block[index, best], 0, best + 1)
        reasons = texts[codes]
        left = np.flatnonzero(choice == UNASSIGNED)
        if len(left):
            reasons[left] = self._why_unassigned(left)
        return reasons

    def _of_several(self, flow: UnitFlow, texts: NDArray[np.object_]) -> NDArray[np.object_]:
        """Return the reasons of agents that have several models. O(n m)."""
        n, m, shape = self.instance.n, self.instance.m, self.instance.network
        width = np.ones(n, np.int64) if shape is None else shape.width
        first = np.searchsorted(flow.agent, np.arange(n + 1))
        codes = np.zeros(n, np.int64)
        for rows in chunks(n, m):
            score = self.instance.score[rows].astype(np.float64)
            arcs = slice(int(first[rows.start]), int(first[rows.stop]))
            agent, model = flow.agent[arcs] - rows.start, flow.model[arcs]
            worst = np.full(len(score), np.inf)
            np.minimum.at(worst, agent, score[agent, model])
            full = flow.units[arcs] >= width[flow.agent[arcs]]
            score[agent[full], model[full]] = -np.inf
            best = score.argmax(axis=1)
            codes[rows] = np.where(score[np.arange(len(score)), best] > worst, best + 1, 0)
        reasons = texts[codes]
        left = self.solution.unassigned
        if len(left) and self.solution.left is not None and shape is not None:
            why = self._why_unassigned(left)
            lacks, wants = self.solution.left[left], shape.supply[left]
            few = np.isfinite(self.instance.score[left]).sum(axis=1) < shape.depth[left]
            why = np.where(few & (why != "no eligible model"), "too few eligible models", why)
            counted = [
                f"{lack} of {want} not served: {text}"
                for lack, want, text in zip(lacks, wants, why, strict=True)
            ]
            reasons[left] = np.where(wants > 1, np.array(counted, object), why)
        return reasons

    @property
    def _taken(self) -> list[str]:
        """Why an agent may not get the model it scores highest with, per model."""
        if self.instance.limits is None:
            return ["is in demand"] * self.instance.m
        noise = self.price_noise
        return [
            "is in demand" if price > noise else "the limits keep it away"
            for price in self.solution.multipliers.max(axis=1).tolist()
        ]

    def _why_unassigned(self, left: NDArray[np.intp]) -> NDArray[np.object_]:
        """Return the reason of each unassigned agent; one text per distinct set of eligible models."""
        if self.solution.status in (Status.INFEASIBLE, Status.UNKNOWN):
            return np.full(len(left), f"no plan: {self.solution.status.value}", object)
        block = self.instance.score[left]
        eligible = np.isfinite(block)
        refused = np.zeros(len(left), bool)
        if not self.instance.serve_first:
            refused = eligible.any(axis=1) & (block.max(axis=1) < self.instance.unserved[left])
        packed = np.packbits(eligible, axis=1)
        _, first, group = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        texts = np.array([self._full_text(np.flatnonzero(eligible[i])) for i in first], object)
        why = texts[group.ravel()]
        stopped = limits_in_the_way(self.problem, self.instance, self.solution, left)
        why = np.where(stopped == "", why, stopped)
        why[refused] = "refused: the penalty is cheaper than its best score"
        large = too_large(self.problem, self.instance, left)
        return np.where(large == "", why, large)

    def _full_text(self, models: NDArray[np.intp]) -> str:
        if not len(models):
            return "no eligible model"
        ids = self.problem.model_ids
        if len(models) == len(ids) and len(ids) > _NAMED_MODELS:
            return "capacity of every model full"
        named = ", ".join(ids[j] for j in models[:_NAMED_MODELS])
        more = f" and {len(models) - _NAMED_MODELS} more" if len(models) > _NAMED_MODELS else ""
        return f"capacity of {named}{more} full"

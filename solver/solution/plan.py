"""Plan: a solution in ids again, with loads, prices and a reason for every agent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.instance import UNASSIGNED, Instance, chunks
from solver.solution.assignment import Assignment
from solver.solution.limit_use import LimitReport, limit_reports, limits_in_the_way
from solver.solution.resource_use import ResourceReport, resource_reports, too_large
from solver.solution.solution import Solution, Status

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from solver.problem.scoring import PairScorer
    from solver.problem.spec import Problem

__all__ = ["ModelReport", "Plan", "finite"]

_NAMED_MODELS = 3  # models spelled out in a reason
_PRICE_NOISE = 1e-9  # of the largest score: prices below this are float64 rounding
_SEARCH_NOISE = 1e-6  # likewise, where prices come from an iterative search
_BEST = "highest score"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """How one model comes out of a plan.

    Parameters
    ----------
    model_id : str
        The model.
    agents : int
        Agents assigned to it.
    load, capacity : float
        Units used and units it had left for the batch.
    price : float
        What one more unit of its capacity would add to the objective, in score.
    mean_score : float
        Mean score of its agents; NaN when it has none.
    """

    model_id: str
    agents: int
    load: float
    capacity: float
    price: float
    mean_score: float

    @property
    def utilization(self) -> float:
        """Load over capacity; 0 for a model without capacity."""
        return self.load / self.capacity if self.capacity else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Which model serves which agent, and why.

    Attributes
    ----------
    problem : Problem
        What was asked.
    instance : Instance
        The arrays it was compiled to.
    solution : Solution
        The verified answer.
    scorer : PairScorer
        What computed the scores, for explanations.
    """

    problem: Problem
    instance: Instance
    solution: Solution
    scorer: PairScorer

    @property
    def status(self) -> Status:
        """What is known about the answer."""
        return self.solution.status

    @property
    def objective(self) -> float:
        """Total objective."""
        return self.solution.objective

    @property
    def bound(self) -> float:
        """Proven limit that no plan exceeds."""
        return self.solution.bound

    @property
    def gap(self) -> float:
        """Relative distance from objective to bound."""
        return self.solution.gap

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """(n,) float64, score of each agent's pair; 0 for the unassigned."""
        choice = self.solution.choice
        served = np.flatnonzero(choice != UNASSIGNED)
        scores = np.zeros(len(choice))
        scores[served] = self.instance.score[served, choice[served]]
        return scores

    @cached_property
    def reasons(self) -> NDArray[np.object_]:
        """(n,) str, why each agent got its model, or none. O(n m)."""
        ids = self.problem.model_ids
        choice = self.solution.choice
        texts = np.array(
            [
                _BEST,
                *(f"{name} would score higher but {why}" for name, why in zip(ids, self._taken, strict=True)),
            ],
            object,
        )
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

    @property
    def _taken(self) -> list[str]:
        """Why an agent may not get the model it scores highest with, per model."""
        if self.instance.limits is None:
            return ["is in demand"] * self.instance.m
        noise = self._price_noise
        return [
            "is in demand" if price > noise else "the limits keep it away"
            for price in self.solution.multipliers.max(axis=1).tolist()
        ]

    def _why_unassigned(self, left: NDArray[np.intp]) -> NDArray[np.object_]:
        """Return the reason of each unassigned agent; one text per distinct set of eligible models."""
        if self.status in (Status.INFEASIBLE, Status.UNKNOWN):
            return np.full(len(left), f"no plan: {self.status.value}", object)
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

    @property
    def assignments(self) -> list[Assignment]:
        """One :class:`Assignment` per agent, in input order. For millions prefer :meth:`to_columns`."""
        columns = self.to_columns()
        return [
            Assignment(agent, model, score, reason)
            for agent, model, score, reason in zip(
                columns["agent"].tolist(),
                columns["model"].tolist(),
                columns["score"].tolist(),
                columns["reason"].tolist(),
                strict=True,
            )
        ]

    @cached_property
    def models(self) -> tuple[ModelReport, ...]:
        """One report per model, in input order."""
        choice = self.solution.choice
        served = choice != UNASSIGNED
        count = np.bincount(choice[served], minlength=self.instance.m)
        total = np.bincount(choice[served], weights=self.scores[served], minlength=self.instance.m)
        load = self.solution.load.reshape(self.instance.m, -1)
        price = self.solution.prices.reshape(self.instance.m, -1)
        return tuple(
            ModelReport(
                model_id=name,
                agents=int(count[j]),
                load=float(load[j, 0]),
                capacity=float(self.instance.capacity[j, 0]),
                price=float(price[j, 0]),
                mean_score=float(total[j] / count[j]) if count[j] else float("nan"),
            )
            for j, name in enumerate(self.problem.model_ids)
        )

    @cached_property
    def resources(self) -> tuple[ResourceReport, ...]:
        """One report per model and resource it names, by resource; none where there are only slots."""
        return resource_reports(self.problem, self.instance, self.solution)

    @cached_property
    def limits(self) -> tuple[LimitReport, ...]:
        """One report per limit, two where it binds both ways, one per model for agents apart."""
        return limit_reports(self.problem, self.instance, self.solution, self.scorer)

    @property
    def _price_noise(self) -> float:
        """Prices up to this are rounding, or what an iterative search has not settled yet."""
        noise = _PRICE_NOISE if self.instance.is_slots else _SEARCH_NOISE
        return noise * float(np.abs(self.scores).max(initial=0.0))

    @property
    def bottlenecks(self) -> list[ModelReport]:
        """Models whose next unit of capacity would add to the objective, most valuable first."""
        noise = self._price_noise
        return sorted((model for model in self.models if model.price > noise), key=lambda model: -model.price)

    @property
    def scarce(self) -> list[ResourceReport]:
        """Resources of which one more unit would add to the objective, most valuable first."""
        noise = self._price_noise
        return sorted((one for one in self.resources if one.price > noise), key=lambda one: -one.price)

    def unassigned_reasons(self) -> dict[str, int]:
        """Return how many agents are unassigned for each reason, most frequent first."""
        texts, counts = np.unique(self.reasons[self.solution.unassigned].astype(str), return_counts=True)
        pairs = zip(texts.tolist(), counts.tolist(), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def to_columns(self) -> dict[str, NDArray[Any]]:
        """Return the plan as (n,) columns: agent, model (None: unassigned), score, reason."""
        names = np.array([*self.problem.model_ids, None], object)
        return {
            "agent": self.problem.agents.ids,
            "model": names[self.solution.choice],
            "score": self.scores,
            "reason": self.reasons,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the plan as a pandas DataFrame, one row per agent."""
        import pandas as pd

        return pd.DataFrame(self.to_columns())

    def to_csv(self) -> str:
        """Return the plan as CSV text."""
        return str(self.to_frame().to_csv(index=False))

    def summary(self) -> dict[str, Any]:
        """Return what the summary file holds: the certificate, totals and one entry per model."""
        solution = self.solution
        return {
            "status": solution.status.value,
            "objective": solution.objective,
            "bound": solution.bound,
            "gap": solution.gap,
            "engine": solution.engine,
            "elapsed_ms": solution.elapsed_ms,
            "agents": self.instance.n,
            "assigned": int((solution.choice != UNASSIGNED).sum()),
            "unassigned": self.unassigned_reasons(),
            "models": [
                {
                    "model": model.model_id,
                    "agents": model.agents,
                    "load": model.load,
                    "capacity": model.capacity,
                    "utilization": model.utilization,
                    "price": model.price,
                    "mean_score": model.mean_score,
                }
                for model in self.models
            ],
            "resources": [
                {
                    "resource": one.resource,
                    "model": one.model_id,
                    "used": one.used,
                    "capacity": one.capacity,
                    "utilization": one.utilization,
                    "price": one.price,
                }
                for one in self.resources
            ],
            "limits": [
                {
                    "limit": limit.name,
                    "side": limit.side,
                    "unit": limit.unit,
                    "used": limit.used,
                    "bound": limit.bound,
                    "price": limit.price,
                }
                for limit in self.limits
            ],
            "notes": list(solution.notes),
        }

    def to_json(self) -> str:
        """Return summary and assignments as JSON text; not-a-number and infinities become null."""
        import json

        columns = {name: column.tolist() for name, column in self.to_columns().items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return json.dumps(finite(self.summary() | {"assignments": rows}), allow_nan=False)

    def raise_for_status(self) -> Plan:
        """Return self, or raise :class:`~solver.errors.UnsolvedError` when there is no assignment to use."""
        self.solution.raise_for_status()
        return self


def finite(value: Any) -> Any:
    """Return a JSON value with every number JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value

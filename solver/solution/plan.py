"""Plan: a solution in ids again, with loads, prices and a reason for every agent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.blocks import chunks
from solver.problem.instance import UNASSIGNED, Instance
from solver.solution.assignment import Assignment
from solver.solution.limit_use import LimitReport, limit_reports, limits_in_the_way
from solver.solution.resource_use import ResourceReport, resource_reports, too_large
from solver.solution.solution import Solution, Status

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from solver.problem.fleet_scorer import PairScorer
    from solver.problem.network import UnitFlow
    from solver.problem.spec import Problem

__all__ = ["ModelReport", "Plan", "finite"]

_NAMED_MODELS = 3
"""Models spelled out in a reason."""

_PRICE_NOISE = 1e-9
"""Price relative to the largest score below which it is float64 rounding."""

_SEARCH_PRICE_NOISE = 1e-6
"""The same where prices come from an iterative search."""

_BEST = "highest score"
_CHEAPEST = "lowest cost"


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
    floor : float
        Units it must use.
    slot_change : float or None
        By how much one more slot changes the objective; None where no price is exact.
    serves_more : bool
        Whether that slot serves one agent more.
    floor_price : float
        What raising its floor by one unit betters the objective by, in score, <= 0.
    """

    model_id: str
    agents: int
    load: float
    capacity: float
    price: float
    mean_score: float
    floor: float = 0.0
    floor_price: float = 0.0
    slot_change: float | None = None
    serves_more: bool = False

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
        """(n,) float64, score of each agent's pair, or sum of its pairs; 0 for the unassigned."""
        choice = self.solution.choice
        flow = self.solution.unit_flow
        if flow is not None:
            worth = self.instance.scores_of(flow.agent, flow.model) * flow.units
            total = np.bincount(flow.agent, worth, self.instance.n).astype(np.float64, copy=False)
            return total if self.instance.sign > 0 else 0.0 - total
        served = np.flatnonzero(choice != UNASSIGNED)
        scores = np.zeros(len(choice))
        scores[served] = self.instance.score[served, choice[served]]
        return scores if self.instance.sign > 0 else 0.0 - scores

    @cached_property
    def reasons(self) -> NDArray[np.object_]:
        """(n,) str, why each agent got its model, or none. O(n m)."""
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
            return self._reasons_of_several(self.solution.unit_flow, texts)
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

    def _reasons_of_several(self, flow: UnitFlow, texts: NDArray[np.object_]) -> NDArray[np.object_]:
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
        if self.solution.unit_flow is not None:
            units = columns.get("units", np.full(self.instance.n, None, object))
            return [
                Assignment(
                    agent,
                    models[0] if models else None,
                    score,
                    reason,
                    model_ids=tuple(models),
                    units=None if carried is None else tuple(carried),
                )
                for agent, models, carried, score, reason in zip(
                    columns["agent"].tolist(),
                    columns["model"].tolist(),
                    units.tolist(),
                    columns["score"].tolist(),
                    columns["reason"].tolist(),
                    strict=True,
                )
            ]
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
        choice, flow = self.solution.choice, self.solution.unit_flow
        if flow is None:
            served = choice != UNASSIGNED
            count = np.bincount(choice[served], minlength=self.instance.m)
            total = np.bincount(choice[served], weights=self.scores[served], minlength=self.instance.m)
        else:
            count = flow.load(self.instance.m)
            worth = self.instance.sign * self.instance.scores_of(flow.agent, flow.model) * flow.units
            total = np.bincount(flow.model, worth, self.instance.m)
        load = self.solution.load.reshape(self.instance.m, -1)
        price = self.solution.prices.reshape(self.instance.m, -1)
        changes, serves_more = self.solution.slot_changes, self.solution.serves_more
        floor_price = np.zeros(self.instance.m)
        if len(self.solution.floor_prices):
            floor_price = self.solution.floor_prices
        return tuple(
            ModelReport(
                model_id=name,
                agents=int(count[j]),
                load=float(load[j, 0]),
                capacity=float(self.instance.capacity[j, 0]),
                price=float(price[j, 0]),
                mean_score=float(total[j] / count[j]) if count[j] else float("nan"),
                floor=float(self.problem.models[j].capacity.min_slots),
                floor_price=float(floor_price[j]),
                slot_change=None if changes is None else float(changes[j]),
                serves_more=False if serves_more is None else bool(serves_more[j]),
            )
            for j, name in enumerate(self.problem.model_ids)
        )

    @property
    def _has_floors(self) -> bool:
        return any(model.capacity.min_slots for model in self.problem.models)

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
        noise = _PRICE_NOISE if self.instance.has_exact_prices else _SEARCH_PRICE_NOISE
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
        """Return the plan as (n,) columns: agent, model (None: unassigned), score, reason.

        Where agents need several models or stand for several agents, ``model`` holds a list for each, and with
        counts ``units`` says how many times each model serves it.
        """
        names = np.array([*self.problem.model_ids, None], object)
        if self.solution.unit_flow is not None:
            return self._columns_of_several(self.solution.unit_flow)
        return {
            "agent": self.problem.agents.ids,
            "model": names[self.solution.choice],
            "score": self.scores,
            "reason": self.reasons,
        }

    def _columns_of_several(self, flow: UnitFlow) -> dict[str, NDArray[Any]]:
        worth = self.instance.scores_of(flow.agent, flow.model)
        order = np.lexsort((flow.model, -worth, -flow.units, flow.agent))
        ids = np.array(self.problem.model_ids, object)[flow.model[order]].tolist()
        units = flow.units[order].tolist()
        ends = np.searchsorted(flow.agent, np.arange(self.instance.n + 1)).tolist()
        models, carried = np.empty(self.instance.n, object), np.empty(self.instance.n, object)
        for i, (start, stop) in enumerate(pairwise(ends)):
            models[i], carried[i] = ids[start:stop], units[start:stop]
        columns = {"agent": self.problem.agents.ids, "model": models}
        if self.problem.agents.multiplicity is not None:
            columns["units"] = carried
        return columns | {"score": self.scores, "reason": self.reasons}

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
            "assigned": self.instance.n - len(solution.unassigned),
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
                | ({} if model.slot_change is None else {"slot_change": model.slot_change})
                | ({"serves_more": True} if model.serves_more else {})
                | ({"floor": model.floor, "floor_price": model.floor_price} if self._has_floors else {})
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
                | (
                    {}
                    if limit.violation_price is None
                    else {"violation_price": limit.violation_price, "charge": limit.charge}
                )
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

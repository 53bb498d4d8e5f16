"""Plan: a solution in ids again, with loads, prices and a reason for every agent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.instance import UNASSIGNED, Instance
from solver.solution.assignment import Assignment
from solver.solution.limit_use import LimitReport, limit_reports
from solver.solution.reasons import Reasons
from solver.solution.resource_use import ResourceReport, resource_reports

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from solver.problem.network import UnitFlow
    from solver.problem.pair_scorer import PairScorer
    from solver.problem.spec import Problem
    from solver.solution.solution import Solution, Status

_PRICE_NOISE = 1e-9
"""Price relative to the largest score below which it is float64 rounding."""

_SEARCH_PRICE_NOISE = 1e-6
"""Price relative to the largest score below which it is rounding, where an iterative search found the prices."""


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
        return Reasons(self.problem, self.instance, self.solution, self.price_noise).of_agents()

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
    def price_noise(self) -> float:
        """Prices up to this are rounding, or what an iterative search has not settled yet."""
        noise = _PRICE_NOISE if self.instance.has_exact_prices else _SEARCH_PRICE_NOISE
        return noise * float(np.abs(self.scores).max(initial=0.0))

    @property
    def bottlenecks(self) -> list[ModelReport]:
        """Models whose next unit of capacity would add to the objective, most valuable first."""
        noise = self.price_noise
        return sorted((model for model in self.models if model.price > noise), key=lambda model: -model.price)

    @property
    def scarce(self) -> list[ResourceReport]:
        """Resources of which one more unit would add to the objective, most valuable first."""
        noise = self.price_noise
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

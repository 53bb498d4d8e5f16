"""Resources and budgets of a batch in files, as rows of linear constraints.

An agent takes amounts of a few columns, whichever model serves it. Every constraint is a row: what it counts at a
model is a combination of the amounts, so that all an agent pays at model j is ``amounts · charge[j]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import Violation
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_ALLOWED_ROWS = 2_000
"""Rows at most: the second derivative takes memory for the square of models times columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResource:
    """Units that models have, and agents take of the model that serves them.

    Parameters
    ----------
    name : str
        Turns up in prices and violations.
    capacity : sequence of float
        Units of each model; ``inf`` for no limit.
    columns : sequence of str
        Columns of the files whose sum an agent takes; empty: the column called as the resource. Nulls take nothing.
    """

    name: str
    capacity: Sequence[float]
    columns: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """Return it as a manifest holds it: without a limit a capacity is null."""
        capacity = [None if math.isinf(units) else float(units) for units in self.capacity]
        return {"name": self.name, "capacity": capacity, "columns": list(self.columns)}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> BatchResource:
        """Return it from :meth:`document`."""
        capacity = [math.inf if units is None else units for units in document["capacity"]]
        return cls(name=document["name"], capacity=capacity, columns=document["columns"])

    @property
    def taken(self) -> tuple[str, ...]:
        """Columns that are summed."""
        return tuple(self.columns) or (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBudget:
    """What the whole batch may spend.

    Parameters
    ----------
    name : str
        Turns up in prices and violations.
    amount : float
        Most that is spent.
    rates : mapping of str to sequence of float
        What a unit of a column costs at each model.
    per_agent : sequence of float
        What serving an agent costs at each model besides; empty for nothing.
    """

    name: str
    amount: float
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    per_agent: Sequence[float] = ()

    def document(self) -> dict[str, Any]:
        """Return it as a manifest holds it."""
        rates = {name: list(map(float, some)) for name, some in self.rates.items()}
        per_agent = list(map(float, self.per_agent))
        return {"name": self.name, "amount": float(self.amount), "rates": rates, "per_agent": per_agent}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Couplings:
    """All constraints of a batch: K rows over m models and c columns.

    Parameters
    ----------
    names : tuple of str
        Of the rows.
    columns : tuple of str
        Columns of amounts in the files. The last of the c amounts is 1 for every agent and has no column.
    weight : (K, m, c) float64
        What a row counts of an agent's amounts at each model, >= 0.
    bound : (K,) float64
        Right-hand sides, >= 0.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    weight: NDArray[np.float64]
    bound: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        models: Sequence[str],
        slots: NDArray[np.float64],
        resources: Sequence[BatchResource],
        budgets: Sequence[BatchBudget],
    ) -> Couplings:
        """Return the rows of slots, resources and budgets; capacities without a limit have none."""
        m = len(models)
        columns = tuple(
            dict.fromkeys(
                [name for one in resources for name in one.taken]
                + [name for one in budgets for name in one.rates]
            )
        )
        place = {name: c for c, name in enumerate(columns)}
        names, weights, bounds = [], [], []

        def add(name: str, bound: float) -> NDArray[np.float64]:
            names.append(name)
            bounds.append(bound)
            weights.append(np.zeros((m, len(columns) + 1)))
            return weights[-1]

        for j in np.flatnonzero(np.isfinite(slots)).tolist():
            add(f"{models[j]}: slots", slots[j])[j, -1] = 1.0
        for one in resources:
            for j, units in enumerate(one.capacity):
                if math.isfinite(units):
                    row = add(f"{models[j]}: {one.name}", units)
                    for name in one.taken:
                        row[j, place[name]] += 1.0
        for budget in budgets:
            row = add(budget.name, budget.amount)
            for name, rates in budget.rates.items():
                row[:, place[name]] += np.asarray(rates, np.float64)
            if len(budget.per_agent):
                row[:, -1] += np.asarray(budget.per_agent, np.float64)
        return cls(
            names=tuple(names),
            columns=columns,
            weight=np.array(weights).reshape(len(names), m, len(columns) + 1),
            bound=np.array(bounds),
        )

    def charge(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (m, c) float64 that a unit of each column costs at each model, under (K,) prices of the rows."""
        charge: NDArray[np.float64] = np.tensordot(prices, self.weight, 1)
        return charge

    def usage(self, load: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (K,) float64 left-hand sides of the (m, c) amounts that models serve."""
        return np.array([math.fsum((row * load).ravel().tolist()) for row in self.weight])

    def shares(self, part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (K,) shares of every bound for some agents, by the (c,) amounts of them and of all."""
        mean = self.weight.mean(axis=1)
        some, all_of_it = mean @ part, mean @ whole
        fraction = float(part[-1] / whole[-1])
        shares: NDArray[np.float64] = np.where(
            all_of_it > 0, some / np.where(all_of_it > 0, all_of_it, 1.0), fraction
        )
        return shares

    def exceeded(self, largest: NDArray[np.float64]) -> list[tuple[int, NDArray[np.float64], float]]:
        """Return the rows of one model that some agent exceeds by itself, given the (c,) largest amounts.

        Model, (c,) weights and bound of each: an agent above the bound cannot go there.
        """
        found = []
        for row, bound in zip(self.weight, self.bound.tolist(), strict=True):
            touched = np.flatnonzero(row.any(axis=1))
            most = bound * (1 + EXCESS_TOLERANCE)
            if len(touched) == 1 and float(largest @ row[touched[0]]) > most:
                found.append((int(touched[0]), row[touched[0]], most))
        return found


def coupling_rules(
    m: int, resources: Sequence[BatchResource], budgets: Sequence[BatchBudget]
) -> list[Violation]:
    """Return what is wrong with resources and budgets."""
    names = [one.name for one in resources] + [one.name for one in budgets]
    lines = [
        Violation(name, "expected different names of resources and budgets")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    for one in resources:
        lines += _numbers(f"resources.{one.name}.capacity", one.capacity, m, unlimited=True)
    for budget in budgets:
        if not (0 <= budget.amount < math.inf):
            lines.append(Violation(f"budgets.{budget.name}.amount", "expected >= 0", budget.amount))
        if not (budget.rates or len(budget.per_agent)):
            lines.append(Violation(f"budgets.{budget.name}", "expected rates or per_agent", shown="neither"))
        for column, rates in budget.rates.items():
            lines += _numbers(f"budgets.{budget.name}.rates.{column}", rates, m, unlimited=False)
        if len(budget.per_agent):
            lines += _numbers(f"budgets.{budget.name}.per_agent", budget.per_agent, m, unlimited=False)
    if m * len(resources) + len(budgets) > _ALLOWED_ROWS:
        rule = f"expected at most {_ALLOWED_ROWS:,} capacities and budgets"
        lines.append(Violation("resources", rule, m * len(resources) + len(budgets)))
    return lines


def _numbers(path: str, values: Sequence[float], m: int, *, unlimited: bool) -> list[Violation]:
    if len(values) != m:
        return [Violation(path, f"expected one number for each of {m} models", len(values))]
    most = math.inf if unlimited else np.finfo(np.float64).max
    return [
        Violation(f"{path}[{j}]", "expected >= 0", value)
        for j, value in enumerate(values)
        if not 0 <= value <= most
    ]

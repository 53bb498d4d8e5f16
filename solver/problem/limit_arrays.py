"""Resolves limits that name agents and models by id into limits on arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.blocks import chunks
from solver.problem.limit_kinds import (
    Apart,
    Average,
    Budget,
    Changes,
    Commitment,
    Limit,
    Quota,
    RowLimit,
    Share,
    StayPut,
    Together,
)
from solver.problem.limit_members import concerned_agents, concerned_models
from solver.problem.limit_specs import (
    DEMAND,
    UNITS,
    ApartSpec,
    AverageSpec,
    BudgetSpec,
    ChangesSpec,
    CommitmentSpec,
    QuotaSpec,
    RowLimitSpec,
    ShareSpec,
    StayPutSpec,
    TogetherSpec,
)
from solver.problem.request_cost import TokenPrices
from solver.problem.resources import slots_taken, units_taken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from solver.problem.limit_specs import LimitSpec, Unit
    from solver.problem.pair_scorer import PairScorer
    from solver.problem.spec import Problem


class LimitArrays:
    """Builds the array limits of a problem; what several limits count is computed once.

    Parameters
    ----------
    problem : Problem
        What is asked; its limits were checked when it was made.
    scorer : PairScorer
        What knows the quality of pairs.
    """

    def __init__(self, problem: Problem, scorer: PairScorer) -> None:
        self._problem = problem
        self._scorer = scorer
        self._tables: dict[Unit, NDArray[np.float64]] = {}

    def limits(self) -> list[Limit]:
        """Return the array limits, in the order of the problem's. O(n m) per unit that is counted."""
        made: list[Limit] = []
        for limit in self._problem.limits:
            array = self._limit(limit)
            if isinstance(limit, RowLimitSpec) and isinstance(array, RowLimit):
                array = replace(array, violation_price=limit.violation_price)
            made.append(array)
        return made

    def counted(self, unit: Unit) -> NDArray[np.float64]:
        """Return what each pair counts in a unit, broadcastable to (n, m); 0 where facts are missing."""
        if unit not in self._tables:
            self._tables[unit] = self._table(unit)
        return self._tables[unit]

    def _table(self, unit: Unit) -> NDArray[np.float64]:
        agents, models = self._problem.agents, self._problem.models
        if unit == "agents":
            return np.ones((1, 1))
        tokens_in = agents.input_tokens.astype(np.float64)[:, None]
        tokens_out = agents.output_tokens.astype(np.float64)[:, None]
        if unit == "tokens":
            return tokens_in + tokens_out
        if unit == "usd":
            return TokenPrices(models).cost_usd(tokens_in, tokens_out)
        if unit == DEMAND:
            demand = slots_taken(agents, self._problem.demand)
            if demand is None:
                return np.ones((1, 1))
            return np.asarray(demand[:, None] if demand.ndim == 1 else demand)
        if unit not in UNITS:
            taken = units_taken(agents, self._problem.demand, unit)
            return taken[:, None] if taken.ndim == 1 else taken
        if unit == "latency_s":
            first = np.array([model.latency_s or 0.0 for model in models])
            speed = np.array([model.output_tokens_per_second or np.inf for model in models])
            return np.asarray(first + tokens_out / speed)
        quality = np.empty((len(agents), len(models)))
        for rows in chunks(*quality.shape):
            quality[rows] = self._scorer.terms(rows).quality
        return quality

    def _limit(self, limit: LimitSpec) -> Limit:
        name, agents = limit.name, concerned_agents(self._problem.agents, limit)
        models = concerned_models(self._problem.models, limit)
        use = self.counted(limit.unit)
        low, high = limit.amount("at_least"), limit.amount("at_most")
        match limit:
            case BudgetSpec():
                return Budget(name=name, agents=agents, models=models, amount=high or 0.0, cost=use)
            case QuotaSpec():
                return Quota(name=name, agents=agents, models=models, at_least=low, at_most=high, use=use)
            case CommitmentSpec():
                return Commitment(name=name, agents=agents, models=models, at_least=low or 0.0, use=use)
            case ShareSpec():
                low, high = limit.at_least_share, limit.at_most_share
                return Share(name=name, agents=agents, models=models, at_least=low, at_most=high, use=use)
            case AverageSpec():
                return Average(name=name, agents=agents, models=models, at_least=low, at_most=high, value=use)
            case TogetherSpec():
                return Together(name=name, agents=agents)
            case ApartSpec():
                return Apart(name=name, agents=agents, models=models, at_most=limit.at_most_agents)
            case ChangesSpec():
                before = self._before(limit.previous)
                return Changes(
                    name=name, agents=agents, models=models, previous=before, at_most=limit.at_most_agents
                )
            case StayPutSpec():
                before = self._before(limit.previous)
                return StayPut(
                    name=name, agents=agents, models=models, previous=before, cost=limit.cost_per_move
                )
        msg = f"no array limit for {type(limit).__name__}"
        raise TypeError(msg)

    def _before(self, previous: Mapping[str, str]) -> NDArray[np.int64]:
        column = {name: j for j, name in enumerate(self._problem.model_ids)}
        before = np.full(len(self._problem.agents), -1, np.int64)
        for agent, model in previous.items():
            before[self._problem.agents.positions[agent]] = column[model]
        return before

"""Builds the row that prices are charged against, from an agent or from arrays that the caller computed."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from solver.errors import SpecError, Violation
from solver.load.balance.model_pool import ModelPool
from solver.online.window import AgentRow, Forecast
from solver.problem.numbers import wrong_shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.load.balance.prediction import CompletionPredictor
    from solver.online.tail_latency import TailPrice
    from solver.problem.spec import Agent, Model, Objective

_TYPICAL_TOKENS = ([500.0], [250.0])
"""Input and output tokens of a request that states neither."""


class RowMaker:
    """Makes rows of a fleet. Scores do not contain load: prices stand in its place.

    Parameters
    ----------
    models : sequence of Model
        The fleet; column order.
    objective : Objective
        What is maximised.
    predictor : CompletionPredictor
        Of service times.
    tail : TailPrice, optional
        Of the slowest latencies.
    tenants : sequence of str
        Tenants that have a share.
    task_types : mapping of str to tuple of str, optional
        Required capabilities of the user's own task types.
    """

    def __init__(
        self,
        models: Sequence[Model],
        objective: Objective,
        *,
        predictor: CompletionPredictor,
        tail: TailPrice | None = None,
        tenants: Sequence[str] = (),
        task_types: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.pool = ModelPool(models, objective=objective, task_types=task_types, measured_latency=True)
        self._m = len(self.pool)
        self._ones = np.ones(self._m)
        self._predictor, self._tail = predictor, tail
        self._tenants = {tenant: t for t, tenant in enumerate(tenants)}
        penalty = objective.unassigned_penalty
        self._unserved = float("nan") if penalty is None or not np.isfinite(penalty) else -float(penalty)
        self._latency_weight = float(objective.latency_weight)
        self._priced = self.pool.scorer.token_prices.nonzero

    def typical_service_s(self) -> NDArray[np.float64]:
        """Return the predicted service of a request nothing is known about, (m,) seconds."""
        seconds: NDArray[np.float64] = np.maximum(self.predicted_s(*_TYPICAL_TOKENS)[0], 1e-9)
        return seconds

    def predicted_s(self, input_tokens: ArrayLike, output_tokens: ArrayLike) -> NDArray[np.float64]:
        """Return what service is predicted now for requests of (n,) tokens in and out, (n, m) seconds.

        Answers that were expected to be longer than any has been, by a first guess, are taken to be as long as that.
        """
        answers = np.minimum(np.asarray(output_tokens, np.float64), self._predictor.longest_answer)
        sizes = np.asarray(input_tokens, np.float64), answers
        return self._predictor.predict_ms(self.pool.models, *sizes) / 1000.0

    def tenant(self, name: str | None) -> int:
        """Return the position of a tenant with a share, -1 for others."""
        return -1 if name is None else self._tenants.get(name, -1)

    def of_agent(self, agent: Agent) -> AgentRow:
        """Return the row of an agent, scored by the objective with the predicted latency."""
        service = self._predictor.predict_ms(self.pool.models, [agent.input_tokens], [agent.output_tokens])
        service *= 1e-3
        scores = self.pool.scorer.rows([agent], latency_s=service).score[0]
        if self._tail is not None:
            scores = scores - agent.priority * self._tail.costs(self.pool.models, [agent.input_tokens])[0]
        service = service[0]
        cost = None
        if self._priced:
            cost = self.pool.scorer.token_prices.cost_usd(agent.input_tokens, agent.output_tokens)
        return AgentRow(
            scores,
            self._unserved * agent.priority,
            service,
            cost,
            float(agent.input_tokens + agent.output_tokens),
            self.tenant(agent.tenant),
            float(agent.priority),
            agent.tenant,
            Forecast(agent.input_tokens, agent.output_tokens, self._latency_weight * agent.priority),
        )

    def _named(self, agent: Agent, path: str) -> AgentRow:
        """Do :meth:`of_agent`; an error names the agent by this path."""
        try:
            return self.of_agent(agent)
        except SpecError as error:
            found = (each.at(each.path.replace("agents[0]", path, 1)) for each in error.violations)
            raise SpecError(*found) from None

    def of_arrays(
        self,
        scores: ArrayLike,
        cost_usd: ArrayLike | None,
        service_s: ArrayLike | None,
        tokens: float,
        tenant: str | None,
        priority: float,
    ) -> AgentRow:
        """Return the row of arrays in the order of the models, checked and copied."""
        row = np.array(scores, np.float64)
        m = self._m
        if row.shape != (m,):
            _raise_shape("scores", f"({m},)", row)
        if not row.dot(self._ones) < inf:  # a sum, which NaN and inf survive; NaN compares false
            _check_scores(row)
        if not 0 <= tokens < inf:
            raise SpecError(Violation("tokens", "expected a finite number >= 0", tokens))
        if not 0 < priority < inf:
            raise SpecError(Violation("priority", "expected a finite number > 0", priority))
        if priority != 1.0:
            row *= priority
        return AgentRow(
            row,
            self._unserved * priority,
            None if service_s is None else _amounts("service_s", service_s, m),
            None if cost_usd is None else _amounts("cost_usd", cost_usd, m),
            float(tokens),
            -1 if tenant is None else self.tenant(tenant),
            priority,
            tenant,
        )

    def of_one(
        self,
        agent: Agent | None,
        scores: ArrayLike | None,
        cost_usd: ArrayLike | None,
        service_s: ArrayLike | None,
        tokens: float,
        tenant: str | None,
        priority: float,
    ) -> AgentRow:
        """Return the row of an agent or of arrays, whichever is given."""
        if (agent is None) == (scores is None):
            shown = "neither" if agent is None else "both"
            raise SpecError(Violation("agent", "expected either an agent or scores", shown=shown))
        if agent is not None:
            return self._named(agent, "agent")
        assert scores is not None
        return self.of_arrays(scores, cost_usd, service_s, tokens, tenant, priority)

    def of_many(
        self,
        agents: Sequence[Agent] | None,
        scores: ArrayLike | None,
        service_s: ArrayLike | None,
        cost_usd: ArrayLike | None,
    ) -> list[AgentRow]:
        """Return the rows of agents or of (n, m) arrays, whichever are given."""
        if (agents is None) == (scores is None):
            shown = "neither" if agents is None else "both"
            raise SpecError(Violation("agents", "expected either agents or scores", shown=shown))
        if agents is not None:
            return [self._named(agent, f"agents[{i}]") for i, agent in enumerate(agents)]
        given = np.asarray(scores, np.float64)
        if given.ndim != 2:
            _raise_shape("scores", f"(n, {len(self.pool)})", given)
        extra: list[Any] = []
        for name, array in (("service_s", service_s), ("cost_usd", cost_usd)):
            part = None if array is None else np.asarray(array, np.float64)
            if part is not None and part.shape != given.shape:
                _raise_shape(name, str(given.shape), part)
            extra.append([None] * len(given) if part is None else part)
        return [
            self.of_arrays(row, service_s=service, cost_usd=cost, tokens=0, tenant=None, priority=1.0)
            for row, service, cost in zip(given, *extra, strict=True)
        ]


def _check_scores(row: NDArray[np.float64]) -> None:
    wrong = ~(row < inf)
    if wrong.any():
        j = int(np.argmax(wrong))
        raise SpecError(Violation(f"scores[{j}]", "expected a finite number or -inf", row[j]))


def _raise_shape(name: str, expected: str, array: NDArray[np.float64]) -> NoReturn:
    raise SpecError(wrong_shape(name, str(expected), array.shape))


def _amounts(name: str, values: ArrayLike, m: int) -> NDArray[np.float64]:
    array = np.array(values, np.float64)
    if array.shape != (m,):
        _raise_shape(name, f"({m},)", array)
    if not (np.minimum.reduce(array) >= 0 and np.maximum.reduce(array) < inf):
        j = int(np.argmax(~((array >= 0) & (array < inf))))
        raise SpecError(Violation(f"{name}[{j}]", "expected a finite number >= 0", array[j]))
    return array

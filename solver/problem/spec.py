"""The problem by id, as frozen values with units in their names: agents, models, capacity, objective, problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from solver.errors import SpecError, Violation, wrong_type
from solver.problem.agents import Agent, AgentTable
from solver.problem.limit_specs import LimitSpecs  # noqa: TC001 - pydantic reads it at run time
from solver.problem.models import Capacity, Model
from solver.problem.numbers import readable
from solver.problem.objective import Objective
from solver.problem.rules import broken_rules
from solver.problem.scores import ScoreTable
from solver.problem.values import Frozen, Text

__all__ = ["Agent", "AgentTable", "Capacity", "Frozen", "Model", "Objective", "Problem", "ScoreTable"]


def _demand(value: object) -> Any:
    """Return an array, or one per resource by name."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return _demand_array("", value)
    arrays: dict[str, Any] = {}
    lines: list[Violation] = []
    if not value:
        lines.append(Violation("", "expected slots or resources by name", shown="none"))
    for name, given in value.items():
        if not isinstance(name, str) or not name:
            rule = "expected names of resources"
            lines.append(wrong_type("", rule, name))
            continue
        try:
            arrays[name] = _demand_array(name, given)
        except SpecError as error:
            lines.extend(error.violations)
    if lines:
        raise SpecError(*(found.within("demand") for found in lines))
    return arrays


def _demand_array(name: str, value: object) -> Any:
    try:
        array = readable(value)
        if array is None or array.dtype.kind not in "iuf":
            raise TypeError
    except (TypeError, ValueError, OverflowError):
        rule = "expected numbers, one per agent or per agent and model"
        path = name or "demand"
        raise SpecError(wrong_type(path, rule, value)) from None
    array = array.astype(np.float64)
    array.flags.writeable = False
    return array


def _plain_demand(demand: Any) -> Any:
    if isinstance(demand, Mapping):
        return {name: array.tolist() for name, array in demand.items()}
    return None if demand is None else demand.tolist()


Demand = Annotated[
    Any,
    PlainValidator(_demand),
    PlainSerializer(_plain_demand),
]


class Problem(Frozen):
    """A batch to assign: agents, models, and what is wanted.

    Parameters
    ----------
    agents : sequence of Agent, or AgentTable
        At least one. Held as an :class:`~solver.problem.agents.AgentTable`, a sequence of agents.
    models : sequence of Model
        At least one. Zero capacity is allowed: no agent is served then, and the plan says why.
    objective : Objective
        What is maximised.
    scores : (n, m) array_like, sequence of ``{agent, model, score}``, or ScoreTable, optional
        Given scores, higher is better; rows and columns of an array in the order of agents and models.
    demand : (n,) or (n, m) array_like, or mapping of str to such, optional
        Slots agent i takes of model j; one each by default. A mapping says what pairs take of several resources, by
        name: ``{"slots": ..., "memory_gb": ...}``, where models have ``resources``.
    task_types : mapping of str to sequence of str
        Required capabilities of the user's own task types, besides those known.
    limits : sequence of LimitSpec, or of mappings with a ``kind``
        Couplings across models by id: budgets, quotas, shares, averages, commitments, agents together or
        apart, changes; see the how-to about limits.
    """

    agents: AgentTable
    models: tuple[Model, ...]
    objective: Objective = Field(default_factory=Objective)
    scores: ScoreTable | None = None
    demand: Demand = None
    task_types: dict[Text, tuple[Text, ...]] = Field(default_factory=dict)
    limits: LimitSpecs = ()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if lines := self._broken_rules():
            raise SpecError(*lines)
        return self

    def _broken_rules(self) -> list[Violation]:
        return broken_rules(
            agents=self.agents,
            models=self.models,
            objective=self.objective,
            scores=self.scores,
            demand=self.demand,
            task_types=self.task_types,
            limits=self.limits,
        )

    @property
    def model_ids(self) -> tuple[str, ...]:
        """Ids of the models, in column order."""
        return tuple(model.id for model in self.models)

    @property
    def quality(self) -> Literal["capability", "given", "combined"]:
        """Where quality comes from, the objective's default resolved."""
        return self.objective.quality or ("capability" if self.scores is None else "given")

    def __eq__(self, other: object) -> bool:
        return self.model_dump() == other.model_dump() if isinstance(other, Problem) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # holds arrays

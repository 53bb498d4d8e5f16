"""What is asked, as frozen values with units in their names: agents, models, capacity, objective, problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from solver.errors import SpecError, Violation, ViolationKind
from solver.problem.agents import Agent, AgentTable
from solver.problem.instance import MAX_CAPACITY
from solver.problem.limit_specs import LimitSpecs  # noqa: TC001 - pydantic reads it at run time
from solver.problem.rules import broken_rules
from solver.problem.scores import ScoreTable
from solver.problem.values import Count, Frozen, Identifier, PenaltyValue, Real, Text

__all__ = ["Agent", "AgentTable", "Capacity", "Frozen", "Model", "Objective", "Problem", "ScoreTable"]

Fraction = Annotated[Real, Field(ge=0, le=1)]
NonNegative = Annotated[Real, Field(ge=0)]
Flag = Annotated[bool, Field(strict=True)]


class Capacity(Frozen):
    """What a model can take.

    Parameters
    ----------
    max_concurrent : int
        Requests it serves at the same time.
    max_queue : int
        Requests that may wait for it besides.
    target_utilization : float
        Share of ``max_concurrent``, in (0, 1], above which the model counts as over its target. It raises
        alerts and steers live routing; it takes no slots away from a batch. 1 means no target below full.
    slots : int, optional
        Agents it may take in one batch, where that is not ``max_concurrent``: a batch that runs for hours
        fits many agents through each concurrent request.
    min_slots : int
        Slots that a batch must use, as promised to somebody: a floor.
    min_slots_if_open : int
        Slots that a batch must use if it uses any: 0, or so many and more.
    opening_cost : float
        Score points it costs to use the model at all, >= 0.
    load_cost : sequence of float
        Score points a slot costs in each of equally large tiers of the slots, not decreasing: the fuller the
        model, the dearer its next slot. As many tiers as every other model that has any.
    learn : bool
        Whether live load learns how many requests the model can usefully have in flight; ``max_concurrent``
        is where that begins. ``max_concurrent="learn"`` says the same, beginning with 4.
    low, high : int
        A learned capacity never leaves this range.
    slo_ms_per_token : float, optional
        With a learned capacity: objective for the 99th percentile of the time per output token,
        milliseconds. None: the capacity of greatest power, throughput over latency.
    """

    max_concurrent: Count
    max_queue: Count = 0
    target_utilization: Annotated[Real, Field(gt=0, le=1)] = 1.0
    slots: Count | None = None
    min_slots: Count = 0
    min_slots_if_open: Count = 0
    opening_cost: NonNegative = 0.0
    load_cost: tuple[NonNegative, ...] = ()
    learn: Flag = False
    low: Annotated[Count, Field(gt=0)] = 1
    high: Annotated[Count, Field(gt=0)] = 1024
    slo_ms_per_token: Annotated[Real, Field(gt=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _learned_from(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("max_concurrent") != "learn":
            return data
        low, high = data.get("low", 1), data.get("high", 1024)
        start = 4
        if type(low) is int and type(high) is int:  # otherwise their own rules speak
            start = max(low, min(4, high))
        return {**data, "max_concurrent": start, "learn": True}

    @model_validator(mode="after")
    def _range_fits(self) -> Self:
        if self.low > self.high:
            raise SpecError(f"low: expected <= high ({self.high}), got {self.low}")
        return self

    @property
    def batch_slots(self) -> int:
        """Agents it may take in one batch: ``slots`` where given, else ``max_concurrent``."""
        return self.max_concurrent if self.slots is None else self.slots


class Model(Frozen):
    """One deployment that serves agents. Facts that are not stated are None and never assumed.

    Parameters
    ----------
    id : str
        Unique in its problem.
    capacity : Capacity
        What it can take.
    capabilities : mapping of str to float
        Strength in each capability, 0 to 1; a capability that is not named counts 0.
    context_tokens : int, optional
        Context window in tokens. Not stated, it never lowers a score and never meets a hard requirement.
    usd_per_million_input_tokens, usd_per_million_output_tokens : float, optional
        List price. Needed where the objective weighs cost.
    latency_s : float, optional
        Seconds from request to first token. Needed where the objective weighs latency.
    output_tokens_per_second : float, optional
        Speed of generation. Needed where the objective weighs latency.
    provider, region : str, optional
        Who runs it, and where.
    supports_tools, supports_vision : bool
        Whether it calls tools, and takes images.
    requests_per_minute, tokens_per_minute : int, optional
        Rate limits, as facts.
    resources : mapping of str to float
        Units the batch may take of further resources, by name, such as ``{memory_gb: 80}``. Of a resource
        that only other models name it has plenty. ``tokens``, ``input_tokens`` and ``output_tokens`` are
        counted from what the agents expect.
    """

    id: Identifier
    capacity: Capacity
    capabilities: dict[Text, Fraction] = Field(default_factory=dict)
    context_tokens: Annotated[Count, Field(gt=0)] | None = None
    usd_per_million_input_tokens: NonNegative | None = None
    usd_per_million_output_tokens: NonNegative | None = None
    latency_s: NonNegative | None = None
    output_tokens_per_second: Annotated[Real, Field(gt=0)] | None = None
    provider: Text | None = None
    region: Text | None = None
    supports_tools: Flag = False
    supports_vision: Flag = False
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    resources: dict[Text, Annotated[Real, Field(ge=0, le=MAX_CAPACITY)]] = Field(default_factory=dict)


class Objective(Frozen):
    """What is maximised, over all assigned agents, and what leaving one out costs.

    The sum of ``priority × (quality × (1 − load_weight × utilization) − cost_weight × cost_usd
    − latency_weight × latency_s)``, minus ``priority × unassigned_penalty`` of each agent left out.

    Parameters
    ----------
    quality : {"capability", "given", "combined"}, optional
        Where quality comes from: computed from capabilities; the problem's scores as they are; or
        ``capability_weight × capability + given_weight × given``. None: given where the problem has scores.
    capability_weight, given_weight : float
        Weights of a combined quality, >= 0.
    required_weight, preferred_weight, context_weight : float
        Weights of the capability score, >= 0.
    load_weight : float
        How much a model's utilization before the batch lowers its quality, 0 to 1. Without live load there
        is no utilization and nothing is lowered.
    cost_weight : float
        Score points one US dollar costs, >= 0.
    latency_weight : float
        Score points one second costs, >= 0.
    unassigned_penalty : float, optional
        None: serve as many agents as possible first. A number: leave an agent out when that is cheaper.
        Infinite (``.inf`` in YAML, ``"infinite"`` in JSON): all agents or infeasible.
    min_score : float, optional
        Pairs whose quality, before load, cost and latency, is lower are not eligible.
    missing_score : float, optional
        Given score of pairs the problem's scores do not name. None: such pairs are not eligible.
    sense : {"maximize", "minimize"}
        With ``minimize`` scores are costs: their total is made as small as possible, utilization raises them,
        and objective, bound and scores are reported as costs.
    """

    quality: Literal["capability", "given", "combined"] | None = None
    capability_weight: NonNegative = 0.5
    given_weight: NonNegative = 0.5
    required_weight: NonNegative = 0.70
    preferred_weight: NonNegative = 0.20
    context_weight: NonNegative = 0.10
    load_weight: Fraction = 0.3
    cost_weight: NonNegative = 0.0
    latency_weight: NonNegative = 0.0
    unassigned_penalty: PenaltyValue | None = None
    min_score: Real | None = None
    missing_score: Real | None = None
    sense: Literal["maximize", "minimize"] = "maximize"


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
            lines.append(Violation("", rule, name, kind=ViolationKind.TYPE))
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
        array = np.array(value)
        if array.dtype.kind not in "iuf":
            raise TypeError
    except (TypeError, ValueError, OverflowError):
        rule = "expected numbers, one per agent or per agent and model"
        path = name or "demand"
        raise SpecError(Violation(path, rule, value, kind=ViolationKind.TYPE)) from None
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
        At least one. Zero capacity is allowed: nobody is served then, and the plan says why.
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
        if lines := broken_rules(self):
            raise SpecError(*lines)
        return self

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

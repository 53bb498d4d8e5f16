"""Bodies of requests, checked field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from solver.errors import SpecError, Violation, ViolationKind
from solver.problem.agents import Agent  # noqa: TC001 - pydantic reads it at run time
from solver.problem.spec import Capacity, Model
from solver.problem.values import Count, Frozen, Identifier, Text

_LONGEST_ID = 200

# Bounds that OpenAPI shows. Numbers of numpy, which the values of problems take, do not come in JSON.
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]
NonNegative = Annotated[float, Field(strict=True, ge=0)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Name = Annotated[Identifier, Field(max_length=_LONGEST_ID)]
Note = Annotated[str, Field(max_length=1_000)]
Target = Annotated[float, Field(strict=True, gt=0, le=1)]
Flag = Annotated[bool, Field(strict=True)]


def _short_id(agent: Agent) -> Agent:
    """Refuse ids that would fill the logs."""
    if len(agent.id) > _LONGEST_ID:
        msg = f"expected an id of at most {_LONGEST_ID} characters"
        raise ValueError(msg)
    return agent


class RequestModel(Frozen):
    """A model as ``auto-assign-all`` takes it: the capacity beside the rest, capabilities listed or weighted."""

    id: Name
    capabilities: dict[Text, Fraction] = Field(default_factory=dict)
    max_concurrent: Count
    max_queue: Count = 0
    target_utilization: Target = 1.0
    context_tokens: Annotated[Count, Field(gt=0)] | None = None
    usd_per_million_input_tokens: NonNegative | None = None
    usd_per_million_output_tokens: NonNegative | None = None
    latency_s: NonNegative | None = None
    output_tokens_per_second: Positive | None = None
    provider: Text | None = None
    region: Text | None = None
    supports_tools: Flag = False
    supports_vision: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _listed_capabilities(cls, data: Any) -> Any:
        listed = data.get("capabilities") if isinstance(data, dict) else None
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            return data
        return {**data, "capabilities": dict.fromkeys(listed, 1.0)}

    def to_model(self) -> Model:
        """Return the same as a model of a fleet."""
        fields = self.model_dump(exclude={"max_concurrent", "max_queue", "target_utilization"})
        capacity = Capacity(
            max_concurrent=self.max_concurrent,
            max_queue=self.max_queue,
            target_utilization=self.target_utilization,
        )
        return Model(capacity=capacity, **fields)


class AutoAssignRequest(Frozen):
    """Agents to be assigned at once; without ``models``, to the fleet of the service."""

    agents: tuple[Annotated[Agent, AfterValidator(_short_id)], ...]
    models: tuple[RequestModel, ...] | None = None
    strategy: Literal["greedy", "balanced", "optimal"] = "optimal"
    enable_load_balancing: Flag = True
    load_strategy: Literal["weighted", "least_loaded", "predictive"] = "weighted"
    queue: Flag = False
    ttl_s: Positive = 60.0
    deadline_ms: Positive | None = None

    @model_validator(mode="after")
    def _unique(self) -> AutoAssignRequest:
        seen: set[str] = set()
        doubled = []
        for i, agent in enumerate(self.agents):
            if agent.id in seen:
                doubled.append(
                    Violation(
                        f"agents[{i}].id", "expected unique ids", agent.id, kind=ViolationKind.DUPLICATE
                    )
                )
            seen.add(agent.id)
        if doubled:
            raise SpecError(*doubled)
        return self


class OverrideRequest(Frozen):
    """The model an agent is moved to by hand, and why."""

    model_id: Name
    reason: Note = ""
    ttl_s: Positive = 60.0


class DecideRequest(Frozen):
    """One agent, described, or by its scores on each model."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["agent"]}, {"required": ["scores"]}]}
    )

    agent: Annotated[Agent, AfterValidator(_short_id)] | None = None
    scores: dict[Text, Number] | None = None
    cost_usd: dict[Text, NonNegative] | None = None
    service_s: dict[Text, NonNegative] | None = None
    tokens: Count = 0
    tenant: Text | None = None
    priority: Positive = 1.0
    ttl_s: Positive | None = None


class ReleaseRequest(Frozen):
    """How a request went: recorded where ``latency_ms`` is given."""

    latency_ms: NonNegative | None = None
    tokens: Count | None = None
    cost_usd: NonNegative | None = None
    success: Flag = True


class RenewRequest(Frozen):
    """How long a lease is to live from now."""

    ttl_s: Positive = 30.0


class CapacityRequest(Frozen):
    """A new capacity of one model; what is left out stays as it is."""

    max_concurrent: Count | None = None
    max_queue: Count | None = None
    target_utilization: Target | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    budget_usd: NonNegative | None = None
    budget_period_s: Positive | None = None


class DrainRequest(Frozen):
    """Why a model is kept from new work, and for how long."""

    reason: Note = ""
    for_s: Positive | None = None

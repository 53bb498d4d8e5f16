"""What clients get: the documents of successful answers, as OpenAPI describes them.

The tests of the service validate every answer that they get against these.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

_STRICT = ConfigDict(extra="forbid")
_OPEN = ConfigDict(extra="allow")

When = Annotated[str, Field(description="UTC, ISO 8601.", json_schema_extra={"format": "date-time"})]
Share = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


@with_config(_STRICT)
class HealthAnswer(TypedDict):
    """The process answers."""

    status: str


@with_config(_STRICT)
class ReadyAnswer(TypedDict):
    """The service takes work."""

    status: str
    fleet: Annotated[Count, Field(description="Models of the fleet.")]


@with_config(_STRICT)
class Decided(TypedDict):
    """A decision of the router."""

    decision_id: Annotated[str, Field(description="For `/v1/explain`.")]
    at: When
    agent_id: str | None
    model: Annotated[str | None, Field(description="Who serves the agent; null when refused.")]
    lease_id: str | None
    lease_state: Annotated[str | None, Field(description="`running`, or `queued` until a slot is free.")]
    ttl_s: Annotated[float | None, Field(description="Seconds until the lease expires unless renewed.")]
    score: Annotated[float | None, Field(description="Of the pair; null beyond what a float holds.")]
    price: Annotated[
        float | None,
        Field(description="What the capacity is worth to others, in score; null beyond what a float holds."),
    ]
    runner_up: str | None
    margin: Annotated[float | None, Field(description="By how much the runner-up was beaten, in score.")]
    reason: str
    retry_after_s: NotRequired[
        Annotated[
            float | None, Field(description="When refused: seconds until it may be worth trying again.")
        ]
    ]


@with_config(_STRICT)
class DecisionsAnswer(TypedDict):
    """The latest decisions, newest first."""

    decisions: list[Decided]


@with_config(_STRICT)
class ReleaseAnswer(TypedDict):
    """What became of a lease."""

    lease_id: str
    outcome: Annotated[
        str | None, Field(description="`released` the first time; `expired` or `unknown` when it was gone.")
    ]


@with_config(_STRICT)
class RenewAnswer(TypedDict):
    """A lease that lives longer."""

    lease_id: str
    state: str
    ttl_s: float | None


@with_config(_STRICT)
class Candidate(TypedDict):
    """What a model would have scored."""

    model: str
    quality: float | None
    priority: float | None
    cost_usd: float | None
    latency_s: float | None
    score: float | None
    unmet: Annotated[list[str], Field(description="Requirements that the model does not meet.")]


@with_config(_STRICT)
class ExplainAnswer(TypedDict):
    """A decision, and every model's score for the same agent."""

    decision: Decided
    candidates: Annotated[
        list[Candidate] | None, Field(description="Null where the agent was given by its scores alone.")
    ]


@with_config(_STRICT)
class PlacedAgent(TypedDict):
    """An assignment."""

    agent_id: str
    model_id: str | None
    score: float | None
    reason: str
    lease_id: str | None
    at: When
    overridden_by: Annotated[str | None, Field(description="The operator who made it by hand.")]


@with_config(_STRICT)
class AutoAssignAnswer(TypedDict):
    """A batch that was assigned."""

    assignments: list[PlacedAgent]
    total_score: float | None
    strategy_used: str
    load_balancing_enabled: bool
    models_filtered: Annotated[list[str], Field(description="Models that were full before.")]
    avg_utilization: Annotated[Share, Field(description="Before the batch.")]
    computation_time_ms: Annotated[float, Field(ge=0)]


@with_config(_STRICT)
class AssignmentsAnswer(TypedDict):
    """The assignments that stand."""

    assignments: list[PlacedAgent]


@with_config(_STRICT)
class PlanRow(TypedDict):
    """One agent of a plan."""

    agent: str
    model: Annotated[
        str | list[str] | None,
        Field(description="Null: unassigned. A list where agents need several models, or stand for several."),
    ]
    score: float | None
    reason: str
    units: NotRequired[Annotated[list[int], Field(description="How many of the agents each model serves.")]]
    lease_id: NotRequired[Annotated[str | None, Field(description="With commit: the lease that was taken.")]]


@with_config(_OPEN)
class PlanModel(TypedDict):
    """One model of a plan."""

    model: str
    agents: Count
    load: float
    capacity: float | None
    utilization: float | None
    price: Annotated[float | None, Field(description="What one more slot is worth, in score.")]
    mean_score: float | None


@with_config(_STRICT)
class AssignAnswer(TypedDict):
    """A plan with its certificate."""

    status: Annotated[str, Field(description="`optimal`, `feasible` or `infeasible`.")]
    objective: float | None
    bound: Annotated[float | None, Field(description="No assignment is better than this.")]
    gap: float | None
    engine: str
    elapsed_ms: float
    agents: Count
    assigned: Count
    unassigned: Annotated[dict[str, int], Field(description="Agents by the reason they are left out.")]
    models: list[PlanModel]
    resources: list[dict[str, Any]]
    limits: list[dict[str, Any]]
    notes: list[str]
    committed: bool
    refused: NotRequired[Annotated[Count, Field(description="With commit: places others took meanwhile.")]]
    assignments: list[PlanRow]


@with_config(_STRICT)
class StopEntry(TypedDict):
    """Why a model takes nothing new."""

    owner: str
    name: str
    reason: str
    ends_in_s: float | None


@with_config(_STRICT)
class LoadEntry(TypedDict):
    """The live load of one model."""

    model: str
    in_fleet: bool
    active_requests: Count
    queue_depth: Count
    max_concurrent: Count
    max_queue: Count
    utilization: Share
    target_utilization: Share
    accepting: bool
    slot_price: Annotated[float | None, Field(description="What one more slot is worth now, in score.")]
    requests_60s: Count
    success_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    stops: list[StopEntry]


@with_config(_STRICT)
class LoadAnswer(TypedDict):
    """The live load of every model."""

    at: When
    models: list[LoadEntry]


@with_config(_STRICT)
class ModelCapacity(TypedDict):
    """What one model can take."""

    model: str
    max_concurrent: Count
    max_queue: Count
    target_utilization: Share
    requests_per_minute: int | None
    tokens_per_minute: int | None
    budget_usd: float | None
    budget_period_s: float | None


@with_config(_STRICT)
class CapacityAnswer(TypedDict):
    """What every model can take."""

    models: list[ModelCapacity]


@with_config(_STRICT)
class StopAnswer(TypedDict):
    """Whether a model takes new work now."""

    model: str
    accepting: bool


@with_config(_STRICT)
class ForgetAnswer(TypedDict):
    """A model that is known no longer."""

    model: str
    forgotten: bool


@with_config(_STRICT)
class AlertEntry(TypedDict):
    """An alert that was raised or cleared."""

    at: When
    rule: str
    model: str
    raised: bool
    detail: str
    metric: NotRequired[str]
    value: NotRequired[float | None]
    threshold: NotRequired[float]


@with_config(_STRICT)
class AlertsAnswer(TypedDict):
    """Alerts that stand, and the latest, newest first."""

    standing: list[AlertEntry]
    log: list[AlertEntry]


@with_config(_OPEN)
class AuditEntry(TypedDict):
    """What an operator did; further fields say how."""

    at: When
    who: str
    action: str
    what: str


@with_config(_STRICT)
class AuditAnswer(TypedDict):
    """What operators did, newest first."""

    audit: list[AuditEntry]


def answer_schema(answer: type[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON schema of an answer, and the schemas that it refers to by name.

    Parameters
    ----------
    answer : type
        One of the documents of this module.
    """
    schema = TypeAdapter(answer).json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    return schema, schema.pop("$defs", {})

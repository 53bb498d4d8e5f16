"""The endpoint of whole problems: solved what-if, or with capacity reserved for the plan."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from solver.interfaces.http.access import Role
from solver.interfaces.http.answers import AssignAnswer
from solver.interfaces.http.json_codec import to_json
from solver.interfaces.http.reply import Reply
from solver.interfaces.http.solves import BatchAnswer, BatchTerms
from solver.load.lease import ONE_SLOT, Ask, Demand, Lease

if TYPE_CHECKING:
    from solver.interfaces.http.endpoint import Call, Endpoints
    from solver.interfaces.http.service import Service

_ASSIGN_EXAMPLE = {
    "problem": {
        "agents": [{"id": "a1"}, {"id": "a2"}],
        "models": [
            {"id": "large", "capacity": {"max_concurrent": 1}},
            {"id": "small", "capacity": {"max_concurrent": 1}},
        ],
        "scores": [[90, 60], [80, 70]],
    },
    "deadline_ms": 1000,
    "commit": False,
}
_ASSIGN_SCHEMA = {
    "type": "object",
    "required": ["problem"],
    "additionalProperties": False,
    "properties": {
        "problem": {
            "type": "object",
            "description": "A problem as in a problem file; its models default to the fleet.",
        },
        "deadline_ms": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "engine": {"type": "string", "default": "auto"},
        "seed": {"type": "integer", "minimum": 0, "default": 0},
        "commit": {"type": "boolean", "default": False, "description": "Reserve the capacity of the fleet."},
        "use_load": {"type": "boolean", "default": True, "description": "Count the live load of the fleet."},
        "ttl_s": {"type": ["number", "null"], "exclusiveMinimum": 0, "default": 60},
    },
}


def add_batches(endpoints: Endpoints) -> None:
    """Add the endpoint."""
    add = endpoints.add
    add(
        "POST",
        "/v1/assign",
        role=Role.READ,
        raw_body=_ASSIGN_SCHEMA,
        example=_ASSIGN_EXAMPLE,
        answer=AssignAnswer,
        summary="Solve a whole problem; with commit, reserve it",
        tag="batches",
    )(assign)


async def assign(call: Call) -> Reply:
    """Solve a problem in a process of its own, within the deadline, and return the plan with its certificate.

    A what-if question by default: nothing is reserved. With `commit` the problem has no models of its own, the
    token needs the role route, and each agent that is served gets a lease.
    """
    service, limits = call.service, call.service.limits
    service.admit()
    arrived_s = time.monotonic()
    fleet = service.fleet
    ids = () if fleet is None else fleet.ids
    terms = BatchTerms(
        models=None if fleet is None else fleet.models,
        load=await service.on_store(lambda: {model: service.tracker.current_load(model) for model in ids}),
        deadline_ms=limits.deadline_ms,
        longest_ms=limits.longest_deadline_ms,
        longest_ttl_s=limits.longest_ttl_s,
        may_commit=call.caller.role >= Role.ROUTE,
        arrived_s=arrived_s,
    )
    answer = await service.solvers.solve(call.raw, terms)
    return await _commit(service, answer) if answer.commit else Reply(200, answer.body)


async def _commit(service: Service, answer: BatchAnswer) -> Reply:
    """Reserve what was planned; what others took meanwhile is listed as refused."""
    served = [row for row in answer.rows if row.model_id is not None]
    asks = [
        Ask(
            model=row.model_id,
            demand=Demand(tokens=row.tokens, cost_usd=row.cost_usd) if row.tokens else ONE_SLOT,
            ttl_s=answer.ttl_s,
        )
        for row in served
        if row.model_id is not None
    ]
    leases = await service.off_loop(lambda: service.tracker.acquire_many(asks))
    lease_of: dict[str, str] = {}
    refused: dict[str, str] = {}
    for row, lease in zip(served, leases, strict=True):
        if isinstance(lease, Lease):
            service.hold(lease, row.agent_id)
            lease_of[row.agent_id] = lease.lease_id
        else:
            refused[row.agent_id] = lease.reason.value
    rows = [
        {
            "agent": row.agent_id,
            "model": row.model_id if row.agent_id in lease_of else None,
            "score": row.score,
            "reason": f"refused: {refused[row.agent_id]}" if row.agent_id in refused else row.reason,
            "lease_id": lease_of.get(row.agent_id),
        }
        for row in answer.rows
    ]
    document = answer.summary | {"committed": True, "refused": len(refused), "assignments": rows}
    return Reply(200, await service.off_loop(lambda: to_json(document)))

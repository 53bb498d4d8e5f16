"""Endpoints that take and give back capacity for one agent at a time: decisions and leases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind, missing_value
from solver.interfaces.http.access import Role
from solver.interfaces.http.answers import Decided, ReleaseAnswer, RenewAnswer
from solver.interfaces.http.json_codec import JsonText
from solver.interfaces.http.limits import checked_ttl
from solver.interfaces.http.problem_details import RequestRefused, retry_after
from solver.interfaces.http.reply import Reply, json_reply
from solver.interfaces.http.requests import DecideRequest, ReleaseRequest, RenewRequest
from solver.load.lease import LeaseState, ReleaseOutcome
from solver.online.refusal import RouteRefusalReason
from solver.problem.values import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from solver.interfaces.http.endpoint import Call, Endpoints
    from solver.load.lease import Lease

_STATUS = {
    RouteRefusalReason.NO_ELIGIBLE_MODEL: 422,
    RouteRefusalReason.STORE_UNAVAILABLE: 503,
}
_AGENT = {"id": "ticket-17", "task_type": "coding", "input_tokens": 800, "output_tokens": 300}


def add_routing(endpoints: Endpoints) -> None:
    """Add the endpoints."""
    endpoints.add(
        "POST",
        "/v1/decide",
        role=Role.ROUTE,
        body=DecideRequest,
        answer=Decided,
        summary="Choose a model for one agent and reserve it",
        example={"agent": _AGENT},
        direct=True,
    )(decide)
    endpoints.add(
        "POST",
        "/v1/leases/{lease_id}:release",
        role=Role.ROUTE,
        body=ReleaseRequest,
        required=False,
        answer=ReleaseAnswer,
        summary="Give capacity back, and say how it went",
        example={"latency_ms": 812.0, "tokens": 310, "success": True},
        direct=True,
    )(release)
    endpoints.add(
        "POST",
        "/v1/leases/{lease_id}:renew",
        role=Role.ROUTE,
        body=RenewRequest,
        required=False,
        answer=RenewAnswer,
        summary="Let a lease live longer",
        example={"ttl_s": 60},
        direct=True,
    )(renew)


async def decide(call: Call) -> Reply:
    """Route one agent at the present prices.

    The lease holds the capacity until it is released or `ttl_s` has passed. Status 429 with `Retry-After`
    when nothing has room, 422 when no model meets the requirements.
    """
    service, asked = call.service, call.body
    service.admit()
    fleet, router = service.routing()
    ttl_s = checked_ttl(service.limits, asked.ttl_s)
    arrays: dict[str, Any] = {}
    if asked.scores is not None:
        arrays = {
            "scores": _column(fleet.ids, asked.scores, "scores", -math.inf),
            "cost_usd": _column(fleet.ids, asked.cost_usd, "cost_usd", 0.0),
            "service_s": _column(fleet.ids, asked.service_s, "service_s", None),
            "tokens": asked.tokens,
            "tenant": asked.tenant,
            "priority": asked.priority,
        }
    if service.tracker.store.remote:
        decision = await router.route_async(asked.agent, ttl_s=ttl_s, **arrays)
    else:
        decision = router.route(asked.agent, ttl_s=ttl_s, **arrays)
    if decision.lease is not None:
        service.hold(decision.lease, decision.agent_id, decision)
    explained = asked.agent is not None and len(call.raw) <= service.limits.explained_bytes
    document = service.log_decision(decision, call.raw if explained else None)
    refusal = decision.refusal
    if refusal is not None:
        status = _STATUS.get(refusal.reason, 429)
        wait_s = 1.0 if refusal.retry_after_s is None and status != 422 else refusal.retry_after_s
        raise RequestRefused(
            status,
            refusal.reason.value,
            headers=retry_after(wait_s),
            reason=refusal.reason.name.lower(),
            decision=JsonText(document),
        )
    return Reply(200, document)


def _column(
    ids: tuple[str, ...], given: Mapping[str, float] | None, name: str, default: float | None
) -> NDArray[np.float64] | None:
    """Return values by model as an array in the order of the fleet."""
    if given is None:
        return None
    known = set(ids)
    for model in given:
        if model not in known:
            raise SpecError(
                Violation(
                    f"{name}.{model}",
                    "expected a model of the fleet",
                    kind=ViolationKind.UNKNOWN,
                    hint=did_you_mean(model, ids),
                )
            )
    if default is None and (missing := [model for model in ids if model not in given]):
        raise SpecError(missing_value(f"{name}.{missing[0]}", "missing"))
    return np.array([given.get(model, default) for model in ids], np.float64)


async def release(call: Call) -> Reply:
    """End a lease. Repeating it is harmless: the outcome is then `unknown`."""
    service, lease_id, how = call.service, call.path["lease_id"], call.body
    held = service.held.get(lease_id)
    outcome: ReleaseOutcome | None
    if held is None or held.decision is None:
        lease: Lease | str = lease_id if held is None else held.lease
        outcome = await service.on_store(
            lambda: service.tracker.release(lease, tokens=how.tokens, cost_usd=how.cost_usd)
        )
        if held is not None and how.latency_ms is not None and outcome is ReleaseOutcome.RELEASED:
            service.tracker.record(
                held.lease.model, latency_ms=how.latency_ms, success=how.success, cost_usd=how.cost_usd
            )
    else:
        decision = held.decision
        outcome = await service.on_store(
            lambda: decision.release(
                latency_ms=how.latency_ms, tokens=how.tokens, cost_usd=how.cost_usd, success=how.success
            )
        )
    if (
        service.held.pop(lease_id) is not None and held is not None
    ):  # only now: a store may have failed before
        service.assignments.ended(held.agent_id, held.lease)
    return json_reply({"lease_id": lease_id, "outcome": None if outcome is None else outcome.value})


async def renew(call: Call) -> Reply:
    """Extend a lease from now. Status 404 when it is gone: its capacity may be another client's by now."""
    service, lease_id = call.service, call.path["lease_id"]
    ttl_s = checked_ttl(service.limits, call.body.ttl_s)
    held = service.held.get(lease_id)
    lease: Any = lease_id if held is None else held.lease
    state = await service.on_store(lambda: service.tracker.renew(lease, ttl_s=ttl_s))
    if state is LeaseState.GONE:
        raise RequestRefused(404, f"no live lease {lease_id!r}: it was released, or has expired")
    if held is not None:
        service.held.renew(held, service.tracker.clock.now() + call.body.ttl_s)
    return json_reply({"lease_id": lease_id, "state": state.value, "ttl_s": ttl_s})

"""Endpoints that take and give back capacity: decisions, leases, and the batches of ``auto-assign-all``."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.interfaces.http.access import Role
from solver.interfaces.http.endpoint import Call, Endpoints, Reply, json_reply
from solver.interfaces.http.problem_details import RequestRefused, retry_after
from solver.interfaces.http.requests import (
    AutoAssignRequest,
    DecideRequest,
    OverrideRequest,
    ReleaseRequest,
    RenewRequest,
)
from solver.interfaces.http.service import Placed, Service
from solver.load.lease import Lease, LeaseState
from solver.load.refusal import Refusal, RefusalReason
from solver.online.decision import RouteRefusalReason
from solver.problem.values import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from solver.load.balance.decision import Reservation
    from solver.load.lease import ReleaseOutcome
    from solver.problem.spec import Model
    from solver.solution.assignment import Assignment

__all__ = ["add_routing"]

_ROUTER = "/api/v1/model-router"
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
        summary="Let a lease live longer",
        example={"ttl_s": 60},
        direct=True,
    )(renew)
    endpoints.add(
        "POST",
        f"{_ROUTER}/auto-assign-all",
        role=Role.ROUTE,
        body=AutoAssignRequest,
        summary="Assign agents to models at once, with their capacity reserved",
        example={
            "agents": [{"id": "a1", "task_type": "coding"}, {"id": "a2", "task_type": "math"}],
            "models": [
                {"id": "own-large", "capabilities": ["coding", "math"], "max_concurrent": 10, "max_queue": 5},
                {"id": "own-small", "capabilities": {"coding": 0.6}, "max_concurrent": 20, "max_queue": 0},
            ],
            "strategy": "optimal",
            "enable_load_balancing": True,
        },
    )(auto_assign_all)
    endpoints.add("GET", f"{_ROUTER}/assignments", role=Role.READ, summary="The assignments that stand")(
        assignments
    )
    endpoints.add(
        "PUT",
        f"{_ROUTER}/assignments/{{agent_id}}",
        role=Role.OPERATE,
        body=OverrideRequest,
        summary="Move an agent to a model by hand",
        example={"model_id": "own-large", "reason": "a customer asked for it"},
    )(override)


async def decide(call: Call) -> Reply:
    """Route one agent at the present prices.

    The lease holds the capacity until it is released or `ttl_s` has passed. Status 429 with `Retry-After`
    when nothing has room, 422 when no model meets the requirements.
    """
    service, asked = call.service, call.body
    service.admit()
    fleet, router = service.routing()
    ttl_s = _ttl(service, asked.ttl_s)
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
    entry = service.log_decision(decision, asked.agent)
    refusal = decision.refusal
    if refusal is not None:
        status = _STATUS.get(refusal.reason, 429)
        wait_s = 1.0 if refusal.retry_after_s is None and status != 422 else refusal.retry_after_s
        raise RequestRefused(
            status,
            refusal.reason.value,
            headers=retry_after(wait_s),
            reason=refusal.reason.name.lower(),
            decision=entry,
        )
    return json_reply(entry)


def _ttl(service: Service, ttl_s: float | None) -> float | None:
    longest = service.limits.longest_ttl_s
    if ttl_s is not None and ttl_s > longest:
        raise SpecError(Violation("ttl_s", f"expected at most {longest:g} seconds", ttl_s))
    return ttl_s


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
        raise SpecError(Violation(f"{name}.{missing[0]}", "missing", kind=ViolationKind.MISSING))
    return np.array([given.get(model, default) for model in ids], np.float64)


async def release(call: Call) -> Reply:
    """End a lease. Repeating it is harmless: the outcome is then `unknown`."""
    service, lease_id, how = call.service, call.path["lease_id"], call.body
    held = service.held.pop(lease_id)
    if held is None or held.decision is None:
        lease: Any = lease_id if held is None else held.lease
        outcome: ReleaseOutcome | None = await service.on_store(
            lambda: service.tracker.release(lease, tokens=how.tokens, cost_usd=how.cost_usd)
        )
        if held is not None and how.latency_ms is not None:
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
    if held is not None and held.agent_id is not None:
        placed = service.assignments.get(held.agent_id)
        if placed is not None and placed.lease_id == lease_id:
            del service.assignments[held.agent_id]
    return json_reply({"lease_id": lease_id, "outcome": None if outcome is None else outcome.value})


async def renew(call: Call) -> Reply:
    """Extend a lease from now. Status 404 when it is gone: its capacity may be somebody else's by now."""
    service, lease_id = call.service, call.path["lease_id"]
    ttl_s = _ttl(service, call.body.ttl_s)
    held = service.held.get(lease_id)
    lease: Any = lease_id if held is None else held.lease
    state = await service.on_store(lambda: service.tracker.renew(lease, ttl_s=ttl_s))
    if state is LeaseState.GONE:
        raise RequestRefused(404, f"no live lease {lease_id!r}: it was released, or has expired")
    if held is not None:
        service.held.renew(held, service.tracker.clock.now() + call.body.ttl_s)
    return json_reply({"lease_id": lease_id, "state": state.value, "ttl_s": ttl_s})


async def auto_assign_all(call: Call) -> Reply:
    """Assign a batch with the load strategy on one of the three routing strategies.

    With `enable_load_balancing` the live load counts and capacity is reserved; an agent that was assigned
    before gives its old place back first. Without it the batch is assigned to the stated capacity alone, and
    nothing is reserved. Without `models` the fleet of the service is used.
    """
    started = time.perf_counter()
    service, asked = call.service, call.body
    service.admit()
    _ttl(service, asked.ttl_s)
    if len(asked.agents) > service.limits.batch_agents:
        raise RequestRefused(
            413, f"expected at most {service.limits.batch_agents:,} agents; /v1/assign takes more"
        )
    if len(service.assignments) + len(asked.agents) > service.limits.assignments_kept:
        raise RequestRefused(429, "too many assignments stand", headers=retry_after(asked.ttl_s))
    models = await _models_of(service, asked)
    deadline_ms = min(asked.deadline_ms or service.limits.deadline_ms, service.limits.longest_deadline_ms)
    blind = not asked.enable_load_balancing
    balancer = service.balancer(asked.load_strategy, asked.strategy, queue=asked.queue, blind=blind)
    before = await service.on_store(lambda: _figures(service, models))
    if blind:
        placed: Any = await service.off_loop(
            lambda: balancer.select(asked.agents, models, deadline_ms=deadline_ms)
        )
    else:
        old = [_taken_back(service, agent.id) for agent in asked.agents]
        leases = [lease for lease in old if lease is not None]
        await service.on_store(lambda: [lease.release() for lease in leases])
        placed = await service.off_loop(
            lambda: balancer.assign_and_reserve(asked.agents, models, deadline_ms=deadline_ms)
        )
    entries = [_place(service, one, asked.ttl_s) for one in placed]
    await service.on_store(lambda: [lease.renew(ttl_s=asked.ttl_s) for lease in _leases(placed)])
    return json_reply(
        {
            "assignments": [entry.to_dict() for entry in entries],
            "total_score": float(sum(entry.score for entry in entries if entry.model_id is not None)),
            "strategy_used": asked.strategy,
            "load_balancing_enabled": asked.enable_load_balancing,
            "models_filtered": [] if blind else before["full"],
            "avg_utilization": 0.0 if blind else before["avg_utilization"],
            "computation_time_ms": 1000.0 * (time.perf_counter() - started),
        }
    )


def _leases(placed: list[Reservation]) -> list[Lease]:
    return [lease for one in placed if isinstance(lease := getattr(one, "lease", None), Lease)]


async def _models_of(service: Service, asked: AutoAssignRequest) -> tuple[Model, ...]:
    """Return the models of a batch; make the capacity of those that are new known."""
    if asked.models is None:
        return service.routing()[0].models
    if not asked.models:
        raise SpecError(Violation("models", "expected at least one", shown="none"))
    own = {} if service.fleet is None else {model.id: model for model in service.fleet.models}
    models = tuple(model.to_model() for model in asked.models)
    problems = []
    for j, model in enumerate(models):
        fleet = own.get(model.id)
        if fleet is None:
            continue
        for name in ("max_concurrent", "max_queue"):
            stated, wanted = getattr(model.capacity, name), getattr(fleet.capacity, name)
            if stated != wanted:
                rule = f"expected {wanted}, as the fleet of the service has it"
                problems.append(Violation(f"models[{j}].{name}", rule, stated))
    if problems:
        raise SpecError(*problems)
    if asked.enable_load_balancing:
        await service.on_store(lambda: _announce(service, models, own))
    return models


def _announce(service: Service, models: tuple[Model, ...], own: Mapping[str, Model]) -> None:
    """Set the capacity of models that are not of the fleet, as the latest request has it."""
    known = set(service.tracker.snapshot().models)
    new = {model.id for model in models} - known
    if len(known) + len(new) > service.limits.models_known:
        raise RequestRefused(429, "too many models are known; forget some", headers=retry_after(60.0))
    for model in models:
        if model.id not in own and service.tracker.capacity(model.id) != model.capacity:
            service.tracker.set_capacity(model.id, model.capacity)


def _figures(service: Service, models: tuple[Model, ...]) -> dict[str, Any]:
    """Return which models are full before a batch, and the mean utilization."""
    snapshot = service.tracker.snapshot()
    index = snapshot.index
    where = [index[model.id] for model in models if model.id in index]
    full = [snapshot.models[j] for j in where if snapshot.active[j] >= snapshot.open_slots[j]]
    mean = float(np.mean(snapshot.utilization[where])) if where else 0.0
    return {"full": full, "avg_utilization": mean}


def _taken_back(service: Service, agent_id: str) -> Lease | None:
    """Forget an assignment; return the lease that is to be released."""
    placed = service.assignments.pop(agent_id, None)
    if placed is None or placed.lease_id is None:
        return None
    held = service.held.pop(placed.lease_id)
    return None if held is None else held.lease


def _place(service: Service, one: Assignment, ttl_s: float) -> Placed:
    """Note an assignment and its lease."""
    lease: Lease | None = getattr(one, "lease", None)
    placed = Placed(
        one.agent_id, one.model_id, one.score, one.reason, None if lease is None else lease.lease_id
    )
    if lease is not None:
        lease.ttl_s = ttl_s
        service.hold(lease, one.agent_id)
        service.assignments[one.agent_id] = placed
    return placed


async def assignments(call: Call) -> Reply:
    """List the assignments of `auto-assign-all` whose leases are held, in the order they were made."""
    service = call.service
    return json_reply({"assignments": [placed.to_dict() for placed in service.assignments.values()]})


async def override(call: Call) -> Reply:
    """Reserve a slot of the model named, and give the old one back; nothing changes where there is none."""
    service, asked, agent_id = call.service, call.body, call.path["agent_id"]
    service.admit()
    _ttl(service, asked.ttl_s)
    if service.tracker.capacity(asked.model_id) is None:
        raise SpecError(
            Violation("model_id", "expected a known model", asked.model_id, kind=ViolationKind.UNKNOWN)
        )
    answer = await service.on_store(lambda: service.tracker.try_acquire(asked.model_id, ttl_s=asked.ttl_s))
    if isinstance(answer, Refusal):
        status = 503 if answer.reason is RefusalReason.STORE_UNAVAILABLE else 429
        raise RequestRefused(
            status,
            f"{asked.model_id} has no room: {answer.reason.value}",
            headers=retry_after(1.0 if answer.retry_after_s is None else answer.retry_after_s),
            reason=answer.reason.value,
        )
    old = service.assignments.get(agent_id)
    lease = _taken_back(service, agent_id)
    if lease is not None:
        await service.on_store(lease.release)
    service.hold(answer, agent_id)
    placed = Placed(
        agent_id,
        asked.model_id,
        0.0 if old is None or old.model_id != asked.model_id else old.score,
        asked.reason or "assigned by an operator",
        answer.lease_id,
        overridden_by=call.caller.name,
    )
    service.assignments[agent_id] = placed
    before = None if old is None else old.model_id
    service.note(
        call.caller.name, "override", agent_id, model=asked.model_id, before=before, reason=asked.reason
    )
    return json_reply(placed.to_dict())

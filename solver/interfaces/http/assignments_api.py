"""Endpoints of assignments that stand: the batches of ``auto-assign-all``, and what operators do by hand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation, ViolationKind
from solver.interfaces.http.access import Role
from solver.interfaces.http.answers import AssignmentsAnswer, AutoAssignAnswer, PlacedAgent
from solver.interfaces.http.decision_memory import Placed
from solver.interfaces.http.limits import checked_ttl
from solver.interfaces.http.problem_details import RequestRefused, retry_after
from solver.interfaces.http.reply import Reply, json_reply
from solver.interfaces.http.requests import AutoAssignRequest, OverrideRequest
from solver.load.lease import Lease, LeaseState
from solver.load.refusal import Refusal, RefusalReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from solver.interfaces.http.endpoint import Call, Endpoints
    from solver.interfaces.http.service import Service
    from solver.load.balance.balancer import LoadBalancer
    from solver.load.balance.decision import Reservation
    from solver.problem.agents import Agent
    from solver.problem.spec import Model
    from solver.solution.assignment import Assignment

_ROUTER = "/api/v1/model-router"


def add_assignments(endpoints: Endpoints) -> None:
    """Add the endpoints."""
    endpoints.add(
        "POST",
        f"{_ROUTER}/auto-assign-all",
        role=Role.ROUTE,
        body=AutoAssignRequest,
        answer=AutoAssignAnswer,
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
    endpoints.add(
        "GET",
        f"{_ROUTER}/assignments",
        role=Role.READ,
        answer=AssignmentsAnswer,
        summary="The assignments that stand",
    )(assignments)
    endpoints.add(
        "PUT",
        f"{_ROUTER}/assignments/{{agent_id}}",
        role=Role.OPERATE,
        body=OverrideRequest,
        answer=PlacedAgent,
        summary="Move an agent to a model by hand",
        example={"model_id": "own-large", "reason": "a customer asked for it"},
    )(override)


async def auto_assign_all(call: Call) -> Reply:
    """Assign a batch with the load strategy on one of the three routing strategies.

    With `enable_load_balancing` the live load counts and capacity is reserved; an agent that was assigned
    before gives its old place back first. Without it the batch is assigned to the stated capacity alone, and
    nothing is reserved. Without `models` the fleet of the service is used. Scores are those of the fleet's
    objective.
    """
    started = time.perf_counter()
    service, asked = call.service, call.body
    service.admit()
    checked_ttl(service.limits, asked.ttl_s)
    if len(asked.agents) > service.limits.batch_agents:
        raise RequestRefused(
            413, f"expected at most {service.limits.batch_agents:,} agents; /v1/assign takes more"
        )
    models = await _models_of(service, asked)
    deadline_ms = min(asked.deadline_ms or service.limits.deadline_ms, service.limits.longest_deadline_ms)
    blind = not asked.enable_load_balancing
    balancer = service.balancer(asked.load_strategy, asked.strategy, queue=asked.queue, blind=blind)
    before: dict[str, Any] = {"full": [], "avg_utilization": 0.0}
    if blind:
        chosen = await service.off_loop(
            lambda: balancer.select(asked.agents, models, deadline_ms=deadline_ms)
        )
        entries = [_placed(one) for one in chosen]
    else:
        before = await service.on_store(lambda: _figures(service, models))
        entries = await _reserve(service, balancer, asked, models, deadline_ms)
    return json_reply(
        {
            "assignments": [entry.to_dict() for entry in entries],
            "total_score": float(sum(entry.score for entry in entries if entry.model_id is not None)),
            "strategy_used": asked.strategy,
            "load_balancing_enabled": asked.enable_load_balancing,
            "models_filtered": before["full"],
            "avg_utilization": before["avg_utilization"],
            "computation_time_ms": 1000.0 * (time.perf_counter() - started),
        }
    )


async def _reserve(
    service: Service,
    balancer: LoadBalancer,
    asked: AutoAssignRequest,
    models: Sequence[Model],
    deadline_ms: float,
) -> list[Placed]:
    """Give the old places of these agents back and assign them anew; one batch at a time."""
    agents: Sequence[Agent] = asked.agents
    async with service.assigning:
        if len(service.assignments) + len(agents) > service.limits.assignments_kept:
            raise RequestRefused(429, "too many assignments stand", headers=retry_after(asked.ttl_s))
        if any(service.assignments.get(agent.id) is not None for agent in agents):
            # Whatever is wrong with the batch comes to light here, while the old places are still held.
            await service.off_loop(lambda: balancer.select(agents, models, deadline_ms=deadline_ms))
        old = [lease for agent in agents if (lease := _taken_back(service, agent.id)) is not None]
        await service.on_store(lambda: [lease.release() for lease in old])
        placed = await service.off_loop(
            lambda: balancer.assign_and_reserve(agents, models, deadline_ms=deadline_ms)
        )
        leases = _leases(placed)
        try:
            await service.on_store(lambda: [lease.renew(ttl_s=asked.ttl_s) for lease in leases])
        except BaseException:
            service.release_later(leases)  # the client is told of an error: it would never give them back
            raise
        entries = [_placed(one) for one in placed]
        for entry in entries:
            if entry.lease is not None:
                entry.lease.ttl_s = asked.ttl_s
                service.hold(entry.lease, entry.agent_id)
                service.assignments.add(entry)
    return entries


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
    placed = service.assignments.get(agent_id)
    if placed is None or placed.lease is None or placed.lease_id is None:
        return None
    service.assignments.ended(agent_id, placed.lease)
    held = service.held.pop(placed.lease_id)
    return None if held is None else placed.lease


def _placed(one: Assignment) -> Placed:
    """Return an assignment with its lease."""
    return Placed(one.agent_id, one.model_id, one.score, one.reason, getattr(one, "lease", None))


async def assignments(call: Call) -> Reply:
    """List the assignments of `auto-assign-all` whose leases are held, in the order they were made."""
    return json_reply({"assignments": call.service.assignments.to_list()})


async def override(call: Call) -> Reply:
    """Move an agent to a model by hand, whether or not it was assigned before.

    In one step: without room there the agent stays where it is. A lease that the agent holds goes on under its
    id.
    """
    service, asked, agent_id = call.service, call.body, call.path["agent_id"]
    service.admit()
    checked_ttl(service.limits, asked.ttl_s)
    if service.tracker.capacity(asked.model_id) is None:
        raise SpecError(
            Violation("model_id", "expected a known model", asked.model_id, kind=ViolationKind.UNKNOWN)
        )
    async with service.assigning:
        old = service.assignments.get(agent_id)
        before = None if old is None else old.to_dict()["model_id"]
        lease = await service.on_store(lambda: _moved(service, old, asked))
        if isinstance(lease, Refusal):
            status = 503 if lease.reason is RefusalReason.STORE_UNAVAILABLE else 429
            raise RequestRefused(
                status,
                f"{asked.model_id} has no room: {lease.reason.value}",
                headers=retry_after(1.0 if lease.retry_after_s is None else lease.retry_after_s),
                reason=lease.reason.value,
            )
        moved = old is not None and lease is old.lease
        score = old.score if old is not None and before == asked.model_id else 0.0
        reason = asked.reason or "assigned by an operator"
        placed = Placed(agent_id, asked.model_id, score, reason, lease, overridden_by=call.caller.name)
        held = service.held.get(old.lease_id) if moved and old is not None and old.lease_id else None
        if held is None:
            service.hold(lease, agent_id)
        else:
            placed.lease_id = old.lease_id if old is not None else None
            service.held.renew(held, service.tracker.clock.now() + asked.ttl_s)
        service.assignments.add(placed)
    service.journal.note(
        call.caller.name, "override", agent_id, model=asked.model_id, before=before, reason=asked.reason
    )
    return json_reply(placed.to_dict())


def _moved(service: Service, old: Placed | None, asked: OverrideRequest) -> Lease | Refusal:
    """Move the lease of an agent, or take one where it has none that is alive."""
    if old is not None and old.lease is not None:
        answer = service.tracker.move(old.lease, asked.model_id)
        if isinstance(answer, Refusal):
            return answer
        if answer.model == asked.model_id and answer.renew(ttl_s=asked.ttl_s) is not LeaseState.GONE:
            return answer
    return service.tracker.try_acquire(asked.model_id, ttl_s=asked.ttl_s)

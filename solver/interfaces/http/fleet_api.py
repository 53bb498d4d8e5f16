"""Endpoints about models: live load, capacity, stops, alerts, what-if batches, explanations and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.responses import StreamingResponse
from starlette.datastructures import QueryParams

from solver.errors import SpecError, Violation
from solver.interfaces.http.access import Role
from solver.interfaces.http.answers import (
    AlertsAnswer,
    AuditAnswer,
    CapacityAnswer,
    DecisionsAnswer,
    ExplainAnswer,
    ForgetAnswer,
    LoadAnswer,
    ModelCapacity,
    StopAnswer,
)
from solver.interfaces.http.problem_details import RequestRefused
from solver.interfaces.http.reply import Reply, json_reply
from solver.interfaces.http.requests import CapacityRequest, DecideRequest, DrainRequest
from solver.problem.spec import Capacity, Problem
from solver.problem.values import did_you_mean

if TYPE_CHECKING:
    from solver.interfaces.http.endpoint import Call, Endpoints
    from solver.interfaces.http.service import Service
    from solver.load.store.base import Limits

_LIMIT = {
    "name": "limit",
    "in": "query",
    "description": "How many decisions.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
}


def add_fleet(endpoints: Endpoints) -> None:
    """Add the endpoints."""
    add = endpoints.add
    add(
        "GET", "/v1/load", role=Role.READ, answer=LoadAnswer, summary="Live load of every model", tag="fleet"
    )(load)
    add(
        "GET",
        "/v1/capacity",
        role=Role.READ,
        answer=CapacityAnswer,
        summary="Capacity of every model",
        tag="fleet",
    )(capacity)
    add(
        "PUT",
        "/v1/capacity/{model_id:path}",
        role=Role.OPERATE,
        body=CapacityRequest,
        example={"max_concurrent": 12},
        answer=ModelCapacity,
        summary="Change the capacity of a model",
        tag="fleet",
    )(set_capacity)
    add(
        "POST",
        "/v1/models/{model_id:path}:drain",
        role=Role.OPERATE,
        body=DrainRequest,
        required=False,
        example={"reason": "maintenance"},
        answer=StopAnswer,
        summary="Keep new work away from a model",
        tag="fleet",
    )(drain)
    add(
        "POST",
        "/v1/models/{model_id:path}:undrain",
        role=Role.OPERATE,
        answer=StopAnswer,
        summary="Let new work in again",
        tag="fleet",
    )(undrain)
    add(
        "POST",
        "/v1/models/{model_id:path}:forget",
        role=Role.OPERATE,
        answer=ForgetAnswer,
        summary="Remove a model that is not of the fleet",
        tag="fleet",
    )(forget)
    _add_reports(endpoints)


def _add_reports(endpoints: Endpoints) -> None:
    """Add what tells how things went."""
    add = endpoints.add
    add(
        "GET",
        "/v1/alerts",
        role=Role.READ,
        answer=AlertsAnswer,
        summary="Alerts that stand, and the latest",
        tag="fleet",
    )(alerts)
    add("GET", "/v1/audit", role=Role.READ, answer=AuditAnswer, summary="What operators did", tag="fleet")(
        audit
    )
    add(
        "GET",
        "/v1/decisions",
        role=Role.READ,
        answer=DecisionsAnswer,
        summary="The latest decisions",
        query=[_LIMIT],
    )(decisions)
    add(
        "GET",
        "/v1/explain/{decision_id}",
        role=Role.READ,
        answer=ExplainAnswer,
        summary="Why an agent got its model",
    )(explain)
    add(
        "GET",
        "/v1/events",
        role=Role.READ,
        summary="Load, decisions and alerts as they happen",
        tag="fleet",
        produces="text/event-stream",
    )(events)


async def load(call: Call) -> Reply:
    """Return slots, queues, utilization, latencies of the last minute, prices and stops of every model."""
    return json_reply(await call.service.off_loop(call.service.load))


def _capacities(service: Service) -> list[dict[str, Any]]:
    models = []
    for model in service.tracker.snapshot().models:
        limits: Limits = service.tracker.store.limits(model)
        models.append(
            {
                "model": model,
                "max_concurrent": limits.max_concurrent,
                "max_queue": limits.max_queue,
                "target_utilization": service.tracker.target_of(model),
                "requests_per_minute": limits.requests,
                "tokens_per_minute": limits.tokens,
                "budget_usd": None if limits.budget_nano_usd is None else limits.budget_nano_usd / 1e9,
                "budget_period_s": limits.budget_period_s,
            }
        )
    return models


async def capacity(call: Call) -> Reply:
    """Return slots, queue places, rates and budgets of every model."""
    return json_reply({"models": await call.service.on_store(lambda: _capacities(call.service))})


def _known(service: Service, model: str) -> None:
    """Refuse a model that the tracker does not know."""
    models = service.tracker.snapshot().models
    if model not in models:
        raise RequestRefused(404, f"no model {model[:100]!r}{did_you_mean(model, models)}")


async def set_capacity(call: Call) -> Reply:
    """Change what a model can take, from now on. What is running keeps running; a fleet file stays as it is."""
    service, model, asked = call.service, call.path["model_id"], call.body

    def change() -> dict[str, Any]:
        _known(service, model)
        limits: Limits = service.tracker.store.limits(model)
        before = service.tracker.capacity(model) or Capacity(max_concurrent=limits.max_concurrent)
        given = asked.model_dump(exclude_unset=True)
        fields = before.model_dump() | {
            name: given[name]
            for name in ("max_concurrent", "max_queue", "target_utilization")
            if given.get(name) is not None
        }
        usd = None if limits.budget_nano_usd is None else limits.budget_nano_usd / 1e9
        service.tracker.set_capacity(
            model,
            Capacity(**fields),
            requests_per_minute=given.get("requests_per_minute", limits.requests),
            tokens_per_minute=given.get("tokens_per_minute", limits.tokens),
            budget_usd=given.get("budget_usd", usd),
            budget_period_s=given.get("budget_period_s", limits.budget_period_s),
        )
        return next(one for one in _capacities(service) if one["model"] == model)

    after = await service.on_store(change)
    service.journal.note(call.caller.name, "capacity", model, **asked.model_dump(exclude_unset=True))
    return json_reply(after)


async def drain(call: Call) -> Reply:
    """Stop a model in an operator's name. What runs there goes on; others' stops are not touched."""
    service, model, asked = call.service, call.path["model_id"], call.body

    def stop() -> None:
        _known(service, model)
        service.tracker.stop(model, "drain", reason=asked.reason, for_s=asked.for_s)

    await service.on_store(stop)
    service.journal.note(call.caller.name, "drain", model, reason=asked.reason)
    return json_reply({"model": model, "accepting": False})


async def undrain(call: Call) -> Reply:
    """Lift the drain of an operator. The model takes new work when no other stop is active."""
    service, model = call.service, call.path["model_id"]

    def resume() -> bool:
        _known(service, model)
        service.tracker.resume(model, "drain", name="")
        return not service.tracker.stops(model)

    accepting = await service.on_store(resume)
    service.journal.note(call.caller.name, "undrain", model)
    return json_reply({"model": model, "accepting": accepting})


async def forget(call: Call) -> Reply:
    """Remove a model with its load and leases. Models of the fleet are removed in the fleet file first."""
    service, model = call.service, call.path["model_id"]
    if service.fleet is not None and model in service.fleet.ids:
        raise RequestRefused(409, f"{model} is in the fleet; take it out of the fleet file first")

    def remove() -> None:
        _known(service, model)
        service.tracker.forget(model)

    await service.on_store(remove)
    service.journal.note(call.caller.name, "forget", model)
    return json_reply({"model": model, "forgotten": True})


async def alerts(call: Call) -> Reply:
    """Return the alerts that stand, and the latest that were raised or cleared, newest first."""
    journal = call.service.journal
    return json_reply({"standing": list(journal.standing.values()), "log": journal.alerts()[::-1]})


async def audit(call: Call) -> Reply:
    """Return what operators did through this service, newest first."""
    return json_reply({"audit": call.service.journal.audit()[::-1]})


async def decisions(call: Call) -> Reply:
    """Return the latest decisions, newest first; `limit` says how many, 100 by default."""
    text = QueryParams(call.query).get("limit", "100")
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= 1000):
        raise SpecError(Violation("limit", "expected a whole number from 1 to 1000", text))
    return json_reply({"decisions": call.service.decisions.latest(int(text))})


async def explain(call: Call) -> Reply:
    """Return a decision with the score of every model, term by term, and what each model lacks.

    Scores are those of the fleet as it is; the decision's own price, runner-up and margin are in `decision`.
    """
    service = call.service
    found = service.decisions.get(call.path["decision_id"])
    if found is None:
        raise RequestRefused(404, f"no decision {call.path['decision_id'][:100]!r}, or it is too long ago")
    decision, request = found
    document: dict[str, Any] = {"decision": decision, "candidates": None}
    if request is not None and service.fleet is not None:
        fleet, agent = service.fleet, DecideRequest.model_validate_json(request).agent
        assert agent is not None  # requests without one are not kept

        def candidates() -> list[dict[str, Any]]:
            from solver.solution.explain import explain as explain_plan
            from solver.solution.plan import finite
            from solver.solution.solving import solve

            problem = Problem(
                agents=[agent], models=fleet.models, objective=fleet.objective, task_types=fleet.task_types
            )
            plan = solve(problem, engine="greedy", deadline_ms=1000.0)
            return [
                finite(
                    {
                        "model": one.model_id,
                        "quality": one.quality,
                        "priority": one.priority,
                        "cost_usd": one.cost_usd,
                        "latency_s": one.latency_s,
                        "score": one.score,
                        "unmet": list(one.unmet),
                    }
                )
                for one in explain_plan(plan, agent.id).candidates
            ]

        document["candidates"] = await service.off_loop(candidates)
    return json_reply(document)


async def events(call: Call) -> StreamingResponse:
    """Stream server-sent events: `state` at first, then `load` and `decisions` once a second, `alert`, `audit`."""
    service = call.service
    service.admit()
    stream = service.journal.events.stream(service.state(await service.off_loop(service.load)))
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

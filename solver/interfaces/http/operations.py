"""What a client of the service can ask for, written once for the plain and the asynchronous client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from solver.problem.agents import Agent
from solver.problem.spec import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

_ROUTER = "/api/v1/model-router"


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """A decision of the service.

    Parameters
    ----------
    decision_id : str
        For :meth:`solver.Client.explain`.
    model, lease_id : str
        Who serves the agent, and the lease that holds the capacity.
    ttl_s : float
        Seconds until the lease expires unless renewed.
    score, price : float
        Of the pair, and what the capacity is worth to others.
    runner_up : str or None
        The next best model.
    margin : float or None
        By how much it was beaten.
    reason : str
        In words.
    """

    decision_id: str
    model: str
    lease_id: str
    ttl_s: float
    score: float
    price: float
    runner_up: str | None
    margin: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """A request that is still to be sent, and how its answer is read.

    Parameters
    ----------
    method, path : str
        As HTTP has them.
    body : dict or None
        As JSON; with one, a repetition is made harmless by a key.
    read : callable
        Makes the result of the answer's document.
    """

    method: str
    path: str
    body: dict[str, Any] | None
    read: Callable[[dict[str, Any]], T]


def decide(
    agent: Agent | Mapping[str, Any] | None = None,
    *,
    scores: Mapping[str, float] | None = None,
    tokens: int | None = None,
    tenant: str | None = None,
    ttl_s: float | None = None,
) -> Operation[Routed]:
    """Choose a model for one agent and reserve it. Waits and tries again while nothing has room."""
    body = _stated(tokens=tokens, tenant=tenant, ttl_s=ttl_s)
    if agent is not None:
        body["agent"] = _document(agent)
    if scores is not None:
        body["scores"] = dict(scores)
    return Operation("POST", "/v1/decide", body, _routed)


def release(
    lease: Routed | str,
    *,
    latency_ms: float | None = None,
    tokens: int | None = None,
    cost_usd: float | None = None,
    success: bool = True,
) -> Operation[str]:
    """Give capacity back and say how it went; return the outcome, ``"released"`` the first time."""
    body = _stated(latency_ms=latency_ms, tokens=tokens, cost_usd=cost_usd, success=success)
    return Operation("POST", f"{_lease(lease)}:release", body, lambda answer: str(answer["outcome"]))


def renew(lease: Routed | str, *, ttl_s: float = 30.0) -> Operation[str]:
    """Let a lease live ``ttl_s`` seconds from now; return its state."""
    return Operation("POST", f"{_lease(lease)}:renew", {"ttl_s": ttl_s}, lambda answer: str(answer["state"]))


def assign(
    problem: Problem | Mapping[str, Any],
    *,
    deadline_ms: float | None = None,
    commit: bool = False,
    ttl_s: float | None = None,
) -> Operation[dict[str, Any]]:
    """Solve a whole problem; a problem without models is about the fleet. With ``commit``, reserve it."""
    body = _stated(deadline_ms=deadline_ms, commit=commit, ttl_s=ttl_s) | {"problem": _document(problem)}
    return Operation("POST", "/v1/assign", body, _whole)


def auto_assign_all(
    agents: Sequence[Agent | Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]] | None = None,
    *,
    strategy: str = "optimal",
    enable_load_balancing: bool = True,
    ttl_s: float | None = None,
) -> Operation[dict[str, Any]]:
    """Assign agents at once, with their capacity reserved."""
    given = None if models is None else [dict(model) for model in models]
    body = _stated(
        strategy=strategy, enable_load_balancing=enable_load_balancing, ttl_s=ttl_s, models=given
    ) | {"agents": [_document(agent) for agent in agents]}
    return Operation("POST", f"{_ROUTER}/auto-assign-all", body, _whole)


def assignments() -> Operation[list[dict[str, Any]]]:
    """Return the assignments that stand, of ``auto_assign_all`` and by hand."""
    return Operation("GET", f"{_ROUTER}/assignments", None, lambda answer: list(answer["assignments"]))


def override(
    agent_id: str, model: str, *, reason: str = "", ttl_s: float | None = None
) -> Operation[dict[str, Any]]:
    """Move an agent to a model by hand; nothing changes where that has no room."""
    body = _stated(model_id=model, reason=reason, ttl_s=ttl_s)
    return Operation("PUT", f"{_ROUTER}/assignments/{quote(agent_id, safe='')}", body, _whole)


def load() -> Operation[dict[str, Any]]:
    """Return the live load of every model."""
    return Operation("GET", "/v1/load", None, _whole)


def alerts() -> Operation[dict[str, Any]]:
    """Return the alerts that stand, and the latest that were raised or cleared."""
    return Operation("GET", "/v1/alerts", None, _whole)


def explain(decision: Routed | str) -> Operation[dict[str, Any]]:
    """Return a decision with the score of every model."""
    name = decision if isinstance(decision, str) else decision.decision_id
    return Operation("GET", f"/v1/explain/{quote(name, safe='')}", None, _whole)


def set_capacity(
    model: str,
    *,
    max_concurrent: int | None = None,
    max_queue: int | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> Operation[dict[str, Any]]:
    """Change the capacity of a model; what is left out stays as it is."""
    body = _stated(
        max_concurrent=max_concurrent,
        max_queue=max_queue,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    return Operation("PUT", f"/v1/capacity/{quote(model)}", body, _whole)


def drain(model: str, *, reason: str = "") -> Operation[dict[str, Any]]:
    """Keep new work away from a model."""
    return Operation("POST", f"/v1/models/{quote(model)}:drain", {"reason": reason}, _whole)


def undrain(model: str) -> Operation[dict[str, Any]]:
    """Let new work in again."""
    return Operation("POST", f"/v1/models/{quote(model)}:undrain", {}, _whole)


def _stated(**fields: Any) -> dict[str, Any]:
    """Return the fields that are given."""
    return {name: value for name, value in fields.items() if value is not None}


def _document(value: Agent | Problem | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(value, Agent | Problem):
        return value.model_dump(mode="json", exclude_defaults=True)
    return dict(value)


def _lease(lease: Routed | str) -> str:
    return f"/v1/leases/{quote(lease if isinstance(lease, str) else lease.lease_id, safe='')}"


def _routed(document: dict[str, Any]) -> Routed:
    return Routed(**{name: document[name] for name in Routed.__slots__})


def _whole(document: dict[str, Any]) -> dict[str, Any]:
    return document

"""Typed clients of the HTTP service: plain and asynchronous, with retries that wait as long as they are told."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from solver.errors import MissingExtraError, SolverError
from solver.problem.agents import Agent
from solver.problem.spec import Problem

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("httpx", "service") from error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

__all__ = ["AsyncClient", "Client", "Routed", "ServiceError"]

_RETRIED = frozenset({429, 502, 503, 504})


class ServiceError(SolverError):
    """The service refused a request, or could not be reached after every retry.

    Attributes
    ----------
    status : int or None
        HTTP status; None where no answer came.
    detail : str
        What went wrong.
    problem : dict
        The problem details of the answer, with ``violations`` where rules are broken.
    retry_after_s : float or None
        When the same request may succeed.
    """

    def __init__(
        self, status: int | None, detail: str, problem: dict[str, Any], retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail if status is None else f"{status}: {detail}")
        self.status, self.detail, self.problem, self.retry_after_s = status, detail, problem, retry_after_s


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


class _Requests:
    """What both clients have in common: how requests are written, answers read, and retries timed."""

    def __init__(
        self,
        token: str | None,
        retries: int,
        longest_wait_s: float,
    ) -> None:
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._retries, self._longest_wait_s = retries, longest_wait_s

    def _key(self) -> dict[str, str]:
        """Return a header that makes a repeated request harmless: the service answers it once."""
        return {"Idempotency-Key": secrets.token_hex(16)}

    def _wait_s(self, attempt: int, answer: httpx.Response | None) -> float | None:
        """Return how long to wait before the next attempt; None: this was the last."""
        if answer is not None and answer.status_code not in _RETRIED:
            return None
        if attempt >= self._retries:
            return None
        told = None if answer is None else _retry_after_s(answer)
        if told is None:
            return float(min(0.1 * 2**attempt, 5.0) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        if told > self._longest_wait_s:
            return None
        return told * random.uniform(1.0, 1.1)  # noqa: S311 - so that those turned away do not come back at once

    @staticmethod
    def _document(answer: httpx.Response) -> dict[str, Any]:
        if answer.is_success:
            document: dict[str, Any] = answer.json()
            return document
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        detail = str(problem.get("detail", answer.reason_phrase))
        raise ServiceError(answer.status_code, detail, problem, _retry_after_s(answer))


def _retry_after_s(answer: httpx.Response) -> float | None:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _plain(value: Agent | Problem | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(value, Agent | Problem):
        return value.model_dump(mode="json", exclude_defaults=True)
    return dict(value)


def _decide(agent: Agent | Mapping[str, Any] | None, scores: Any, options: dict[str, Any]) -> dict[str, Any]:
    body = {key: value for key, value in options.items() if value is not None}
    if agent is not None:
        body["agent"] = _plain(agent)
    if scores is not None:
        body["scores"] = dict(scores)
    return body


def _batch(agents: Sequence[Agent | Mapping[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
    body = {key: value for key, value in options.items() if value is not None}
    body["agents"] = [_plain(agent) for agent in agents]
    return body


def _routed(document: dict[str, Any]) -> Routed:
    return Routed(**{name: document[name] for name in Routed.__slots__})


def _lease(lease: Routed | str) -> str:
    return quote(lease if isinstance(lease, str) else lease.lease_id, safe="")


_BATCH = "/api/v1/model-router/auto-assign-all"


class Client(_Requests):
    """A client of ``solver serve``.

    Requests that change something carry a key, so that a retry after a lost answer changes nothing twice.
    Status 429 and 503 are retried after the time the service names.

    Parameters
    ----------
    url : str
        Where the service is, such as ``http://localhost:8080``.
    token : str, optional
        Bearer token.
    timeout_s : float
        For each attempt, seconds.
    retries : int
        Attempts after the first.
    longest_wait_s : float
        A service that names a longer wait is not waited for.
    sleep : callable, optional
        Waits; for tests.

    Raises
    ------
    ServiceError
        From every method: what the service refused, and why.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 5,
        longest_wait_s: float = 30.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(token, retries, longest_wait_s)
        self._http = httpx.Client(base_url=url, timeout=timeout_s)
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decide(
        self,
        agent: Agent | Mapping[str, Any] | None = None,
        *,
        scores: Mapping[str, float] | None = None,
        tokens: int | None = None,
        tenant: str | None = None,
        ttl_s: float | None = None,
    ) -> Routed:
        """Choose a model for one agent and reserve it. Waits and tries again while nothing has room."""
        body = _decide(agent, scores, {"tokens": tokens, "tenant": tenant, "ttl_s": ttl_s})
        return _routed(self._request("POST", "/v1/decide", body))

    def release(
        self,
        lease: Routed | str,
        *,
        latency_ms: float | None = None,
        tokens: int | None = None,
        cost_usd: float | None = None,
        success: bool = True,
    ) -> str:
        """Give capacity back and say how it went; return the outcome, ``"released"`` the first time."""
        body = {"latency_ms": latency_ms, "tokens": tokens, "cost_usd": cost_usd, "success": success}
        answer = self._request("POST", f"/v1/leases/{_lease(lease)}:release", body)
        return str(answer["outcome"])

    def renew(self, lease: Routed | str, *, ttl_s: float = 30.0) -> str:
        """Let a lease live ``ttl_s`` seconds from now; return its state."""
        answer = self._request("POST", f"/v1/leases/{_lease(lease)}:renew", {"ttl_s": ttl_s})
        return str(answer["state"])

    def assign(
        self,
        problem: Problem | Mapping[str, Any],
        *,
        deadline_ms: float | None = None,
        commit: bool = False,
        ttl_s: float | None = None,
    ) -> dict[str, Any]:
        """Solve a whole problem; a problem without models is about the fleet. With ``commit``, reserve it."""
        body: dict[str, Any] = {"problem": _plain(problem), "deadline_ms": deadline_ms, "commit": commit}
        return self._request("POST", "/v1/assign", body | {"ttl_s": ttl_s})

    def auto_assign_all(
        self,
        agents: Sequence[Agent | Mapping[str, Any]],
        models: Sequence[Mapping[str, Any]] | None = None,
        *,
        strategy: str = "optimal",
        enable_load_balancing: bool = True,
    ) -> dict[str, Any]:
        """Assign agents at once, with their capacity reserved."""
        options = {"strategy": strategy, "enable_load_balancing": enable_load_balancing}
        given = None if models is None else [dict(model) for model in models]
        return self._request("POST", _BATCH, _batch(agents, options | {"models": given}))

    def load(self) -> dict[str, Any]:
        """Return the live load of every model."""
        return self._request("GET", "/v1/load")

    def explain(self, decision: Routed | str) -> dict[str, Any]:
        """Return a decision with the score of every model."""
        name = decision if isinstance(decision, str) else decision.decision_id
        return self._request("GET", f"/v1/explain/{quote(name, safe='')}")

    def drain(self, model: str, *, reason: str = "") -> dict[str, Any]:
        """Keep new work away from a model."""
        return self._request("POST", f"/v1/models/{quote(model)}:drain", {"reason": reason})

    def undrain(self, model: str) -> dict[str, Any]:
        """Let new work in again."""
        return self._request("POST", f"/v1/models/{quote(model)}:undrain", {})

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = self._headers if body is None else self._headers | self._key()
        for attempt in range(self._retries + 1):
            answer, lost = None, ""
            try:
                answer = self._http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                lost = f"{type(error).__name__}: {error}"
            wait_s = self._wait_s(attempt, answer)
            if wait_s is None:
                if answer is None:
                    raise ServiceError(None, f"the service cannot be reached: {lost}", {})
                return self._document(answer)
            self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")


class AsyncClient(_Requests):
    """The asynchronous client of ``solver serve``, for one event loop.

    Requests that change something carry a key, so that a retry after a lost answer changes nothing twice.
    Status 429 and 503 are retried after the time the service names.

    Parameters
    ----------
    url : str
        Where the service is, such as ``http://localhost:8080``.
    token : str, optional
        Bearer token.
    timeout_s : float
        For each attempt, seconds.
    retries : int
        Attempts after the first.
    longest_wait_s : float
        A service that names a longer wait is not waited for.
    sleep : callable, optional
        Waits; for tests.

    Raises
    ------
    ServiceError
        From every method: what the service refused, and why.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 5,
        longest_wait_s: float = 30.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        super().__init__(token, retries, longest_wait_s)
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_s)
        self._sleep = sleep

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def decide(
        self,
        agent: Agent | Mapping[str, Any] | None = None,
        *,
        scores: Mapping[str, float] | None = None,
        tokens: int | None = None,
        tenant: str | None = None,
        ttl_s: float | None = None,
    ) -> Routed:
        """Choose a model for one agent and reserve it. Waits and tries again while nothing has room."""
        body = _decide(agent, scores, {"tokens": tokens, "tenant": tenant, "ttl_s": ttl_s})
        return _routed(await self._request("POST", "/v1/decide", body))

    async def release(
        self,
        lease: Routed | str,
        *,
        latency_ms: float | None = None,
        tokens: int | None = None,
        cost_usd: float | None = None,
        success: bool = True,
    ) -> str:
        """Give capacity back and say how it went; return the outcome, ``"released"`` the first time."""
        body = {"latency_ms": latency_ms, "tokens": tokens, "cost_usd": cost_usd, "success": success}
        answer = await self._request("POST", f"/v1/leases/{_lease(lease)}:release", body)
        return str(answer["outcome"])

    async def renew(self, lease: Routed | str, *, ttl_s: float = 30.0) -> str:
        """Let a lease live ``ttl_s`` seconds from now; return its state."""
        answer = await self._request("POST", f"/v1/leases/{_lease(lease)}:renew", {"ttl_s": ttl_s})
        return str(answer["state"])

    async def assign(
        self,
        problem: Problem | Mapping[str, Any],
        *,
        deadline_ms: float | None = None,
        commit: bool = False,
        ttl_s: float | None = None,
    ) -> dict[str, Any]:
        """Solve a whole problem; a problem without models is about the fleet. With ``commit``, reserve it."""
        body: dict[str, Any] = {"problem": _plain(problem), "deadline_ms": deadline_ms, "commit": commit}
        return await self._request("POST", "/v1/assign", body | {"ttl_s": ttl_s})

    async def auto_assign_all(
        self,
        agents: Sequence[Agent | Mapping[str, Any]],
        models: Sequence[Mapping[str, Any]] | None = None,
        *,
        strategy: str = "optimal",
        enable_load_balancing: bool = True,
    ) -> dict[str, Any]:
        """Assign agents at once, with their capacity reserved."""
        options = {"strategy": strategy, "enable_load_balancing": enable_load_balancing}
        given = None if models is None else [dict(model) for model in models]
        return await self._request("POST", _BATCH, _batch(agents, options | {"models": given}))

    async def load(self) -> dict[str, Any]:
        """Return the live load of every model."""
        return await self._request("GET", "/v1/load")

    async def explain(self, decision: Routed | str) -> dict[str, Any]:
        """Return a decision with the score of every model."""
        name = decision if isinstance(decision, str) else decision.decision_id
        return await self._request("GET", f"/v1/explain/{quote(name, safe='')}")

    async def drain(self, model: str, *, reason: str = "") -> dict[str, Any]:
        """Keep new work away from a model."""
        return await self._request("POST", f"/v1/models/{quote(model)}:drain", {"reason": reason})

    async def undrain(self, model: str) -> dict[str, Any]:
        """Let new work in again."""
        return await self._request("POST", f"/v1/models/{quote(model)}:undrain", {})

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = self._headers if body is None else self._headers | self._key()
        for attempt in range(self._retries + 1):
            answer, lost = None, ""
            try:
                answer = await self._http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                lost = f"{type(error).__name__}: {error}"
            wait_s = self._wait_s(attempt, answer)
            if wait_s is None:
                if answer is None:
                    raise ServiceError(None, f"the service cannot be reached: {lost}", {})
                return self._document(answer)
            await self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

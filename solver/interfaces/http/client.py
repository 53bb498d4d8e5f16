"""Typed clients of the HTTP service: plain and asynchronous, with retries that wait as long as they are told."""

from __future__ import annotations

import asyncio
import inspect
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from solver.errors import MissingExtraError, SolverError
from solver.interfaces.http import operations
from solver.interfaces.http.operations import Operation, Routed

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("httpx", "service") from error

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["AsyncClient", "Client", "Routed", "ServiceError"]

P = ParamSpec("P")
T = TypeVar("T")
Http = TypeVar("Http")
Sleep = TypeVar("Sleep", bound=Callable[[float], object])

_RETRIED_STATUSES = frozenset({409, 429, 502, 503, 504})
"""Statuses after which a request is repeated; a 409 with Retry-After says that the first attempt still runs."""

_LONGEST_BACKOFF_S = 2.0
"""Longest pause between two attempts."""


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


class _Attempts:
    """One request until it is answered for good: what is sent each time, and how long to wait between.

    Parameters
    ----------
    client : _Settings
        How patient to be.
    operation : Operation
        What is asked.
    """

    def __init__(self, client: _Settings[Any, Any], operation: Operation[Any]) -> None:
        self._client = client
        self._number = 0
        self._waited_s = 0.0
        headers = dict(client.headers)
        if operation.body is not None:  # repeated, such a request is answered once
            headers["Idempotency-Key"] = secrets.token_hex(16)
        self.sent: dict[str, Any] = {
            "method": operation.method,
            "url": operation.path,
            "json": operation.body,
            "headers": headers,
        }

    def wait_s(self, answer: httpx.Response | None, lost: httpx.TransportError | None) -> float | None:
        """Return how long to wait before the next attempt; None: the answer is final.

        Raises
        ------
        ServiceError
            If the service cannot be reached, and has been tried for long enough.
        """
        client = self._client
        self._number += 1
        told = None if answer is None else _retry_after_s(answer)
        if answer is not None:
            if answer.status_code not in _RETRIED_STATUSES or (answer.status_code == 409 and told is None):
                return None
            if self._number > client.retries or (told is not None and told > client.longest_wait_s):
                return None
        elif self._number > client.retries and self._waited_s >= client.unreachable_s:
            raise ServiceError(None, f"the service cannot be reached: {type(lost).__name__}: {lost}", {})
        if told is None:
            # Half of it at random, so that clients that lost the same service do not come back at once.
            told = min(0.1 * 2.0 ** min(self._number - 1, 10), _LONGEST_BACKOFF_S)
            wait_s = told * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        else:
            wait_s = told * random.uniform(1.0, 1.1)  # noqa: S311 - likewise
        self._waited_s += wait_s
        return wait_s


class _Settings(Generic[Http, Sleep]):
    """What both clients are told, and the connections they keep."""

    _connect: Callable[..., Http]
    _default_sleep: Sleep

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 5,
        longest_wait_s: float = 30.0,
        unreachable_s: float = 20.0,
        sleep: Sleep | None = None,
    ) -> None:
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.retries, self.longest_wait_s, self.unreachable_s = retries, longest_wait_s, unreachable_s
        self._http: Http = self._connect(base_url=url, timeout=timeout_s)
        self._sleep = self._default_sleep if sleep is None else sleep


def _result(operation: Operation[T], answer: httpx.Response) -> T:
    if answer.is_success:
        return operation.read(answer.json())
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


def _describe(call: Callable[..., Any], make: Callable[..., Operation[Any]]) -> None:
    """Give a method the name, parameters and documentation of its operation."""
    update_wrapper(call, make)
    signature = inspect.signature(make)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    result = str(signature.return_annotation).removeprefix("Operation[").removesuffix("]")
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]  # as inspect reads it
        parameters=[own, *signature.parameters.values()], return_annotation=result
    )


def _plain(make: Callable[P, Operation[T]]) -> Callable[Concatenate[Client, P], T]:
    """Return the method of the plain client that carries an operation out."""

    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._send(make(*args, **kwargs))

    _describe(call, make)
    return call


def _asynchronous(
    make: Callable[P, Operation[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Return the method of the asynchronous client that carries an operation out."""

    async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._send(make(*args, **kwargs))

    _describe(call, make)
    return call


class Client(_Settings[httpx.Client, Callable[[float], object]]):
    """A client of ``solver serve``.

    Requests that change something carry a key, so that a retry after a lost answer changes nothing twice.
    Status 429 and 503 are retried after the time the service names; a service that cannot be reached, because
    it is being started again, is tried for a while.

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
    unreachable_s : float
        How long a service that gives no answer is waited for, seconds.
    sleep : callable, optional
        Waits; for tests.

    Raises
    ------
    ServiceError
        From every method: what the service refused, and why.
    """

    _connect = httpx.Client
    _default_sleep = staticmethod(time.sleep)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    decide = _plain(operations.decide)
    release = _plain(operations.release)
    renew = _plain(operations.renew)
    assign = _plain(operations.assign)
    auto_assign_all = _plain(operations.auto_assign_all)
    assignments = _plain(operations.assignments)
    override = _plain(operations.override)
    load = _plain(operations.load)
    alerts = _plain(operations.alerts)
    explain = _plain(operations.explain)
    set_capacity = _plain(operations.set_capacity)
    drain = _plain(operations.drain)
    undrain = _plain(operations.undrain)

    def _send(self, operation: Operation[T]) -> T:
        attempts = _Attempts(self, operation)
        while True:
            answer, lost = None, None
            try:
                answer = self._http.request(**attempts.sent)
            except httpx.TransportError as error:
                lost = error
            wait_s = attempts.wait_s(answer, lost)
            if answer is not None and wait_s is None:
                return _result(operation, answer)
            self._sleep(wait_s or 0.0)


class AsyncClient(_Settings[httpx.AsyncClient, Callable[[float], Awaitable[object]]]):
    """The asynchronous client of ``solver serve``, for one event loop: the methods of :class:`solver.Client`.

    Parameters
    ----------
    url, token, timeout_s, retries, longest_wait_s, unreachable_s
        As for :class:`solver.Client`.
    sleep : callable, optional
        Waits; for tests.

    Raises
    ------
    ServiceError
        From every method: what the service refused, and why.
    """

    _connect = httpx.AsyncClient
    _default_sleep = staticmethod(asyncio.sleep)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    decide = _asynchronous(operations.decide)
    release = _asynchronous(operations.release)
    renew = _asynchronous(operations.renew)
    assign = _asynchronous(operations.assign)
    auto_assign_all = _asynchronous(operations.auto_assign_all)
    assignments = _asynchronous(operations.assignments)
    override = _asynchronous(operations.override)
    load = _asynchronous(operations.load)
    alerts = _asynchronous(operations.alerts)
    explain = _asynchronous(operations.explain)
    set_capacity = _asynchronous(operations.set_capacity)
    drain = _asynchronous(operations.drain)
    undrain = _asynchronous(operations.undrain)

    async def _send(self, operation: Operation[T]) -> T:
        attempts = _Attempts(self, operation)
        while True:
            answer, lost = None, None
            try:
                answer = await self._http.request(**attempts.sent)
            except httpx.TransportError as error:
                lost = error
            wait_s = attempts.wait_s(answer, lost)
            if answer is not None and wait_s is None:
                return _result(operation, answer)
            await self._sleep(wait_s or 0.0)

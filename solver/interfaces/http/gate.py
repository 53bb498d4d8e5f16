"""What every request passes first: identity, origin, bounds of the body, security headers, one log line."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

from solver.interfaces.http.endpoint import Reply
from solver.interfaces.http.problem_details import MEDIA_TYPE, RequestRefused, refusal_of, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from solver.interfaces.http.access import Access
    from solver.interfaces.http.endpoint import Endpoint
    from solver.interfaces.http.limits import ServiceLimits

__all__ = ["BATCH_PATHS", "PUBLIC_PATHS", "Gate"]

PUBLIC_PATHS = frozenset({"/", "/healthz", "/readyz"})
"""Paths that hold no data and need no token; the page asks for one itself."""

BATCH_PATHS = frozenset({"/v1/assign", "/api/v1/model-router/auto-assign-all"})

_LOG = logging.getLogger("solver.http")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOCAL_HOSTS = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")
_PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_BODIED = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _PAGE_POLICY),
]
_NOT_STORED = (b"cache-control", b"no-store")


class Gate:
    """ASGI middleware around the whole service.

    Parameters
    ----------
    app : ASGI application
        What is behind it.
    access : Access
        Who may come in. Without tokens only requests to a loopback name are let in, so that a web page that
        points its own name at this machine gets nowhere.
    limits : ServiceLimits
        Bounds of bodies.
    observe : callable
        Called with (route, method, status, seconds) of every request.
    find : callable
        Returns the endpoint of a method and a path, with the parameters of the path, where it is to be answered
        without the web framework.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        limits: ServiceLimits,
        observe: Callable[[str, str, int, float], object],
        find: Callable[[str, str], tuple[Endpoint, dict[str, str]] | None],
    ) -> None:
        self._app, self._access, self._limits = app, access, limits
        self._observe, self._find = observe, find
        self._in_flight = 0
        self._prefix, self._numbers = secrets.token_hex(6), itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        wanted = headers.get("x-request-id")
        if wanted is None or not _REQUEST_ID.fullmatch(wanted):
            wanted = f"{self._prefix}-{next(self._numbers)}"
        request_id, path = wanted, scope["path"]
        state = scope.setdefault("state", {})
        state["request_id"], state["headers"] = request_id, headers
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = [*message.get("headers", ()), *_HEADERS, (b"x-request-id", request_id.encode())]
                if not path.startswith("/static/"):
                    given.append(_NOT_STORED)
                message["headers"] = given
            await send(message)

        held = 0
        try:
            self._check_origin(headers)
            if path not in PUBLIC_PATHS and not path.startswith("/static/"):
                state["caller"] = self._access.caller(headers.get("authorization"))
            if scope["method"] in _BODIED:
                held = self._reserved(path, headers)
                body = await self._body(path, headers, receive)
                state["body"] = body
            found = self._find(scope["method"], path)
            if found is not None:
                endpoint, parameters = found
                scope["route"] = endpoint
                reply = await endpoint.answer(scope, parameters)
                assert isinstance(reply, Reply)
                await _send(reply, answer)
            else:
                await self._app(scope, _replayed(body, receive) if "body" in state else receive, answer)
        except _Disconnected:
            status = status or 499
        except Exception as error:  # whatever it is, the client is told
            refused = refusal_of(error)
            if refused is None:
                _LOG.exception("request %s failed", request_id)
                refused = RequestRefused(500, "an unexpected error; the log has it under the request id")
            if status:
                raise  # the answer has begun: the connection is closed
            await refuse(refused, request_id, answer)
        finally:
            self._in_flight -= held
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self._observe(route, scope["method"], status, seconds)
            if _LOG.isEnabledFor(logging.INFO):
                _log_request(scope, request_id, route, status, seconds)

    def _check_origin(self, headers: dict[str, str]) -> None:
        """Refuse what another web site makes a browser send."""
        host = headers.get("host", "")
        if self._access.open and not _LOCAL_HOSTS.fullmatch(host):
            raise RequestRefused(403, "without tokens only requests to localhost are served")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RequestRefused(403, "requests of other origins are not served")
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            raise RequestRefused(403, "requests of other sites are not served")

    def _most(self, path: str) -> int:
        return self._limits.batch_body_bytes if path in BATCH_PATHS else self._limits.body_bytes

    def _reserved(self, path: str, headers: dict[str, str]) -> int:
        """Count a body's bytes before they come; return how many were counted."""
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise RequestRefused(415, f"bodies are taken as they are, not with encoding {encoding[:40]!r}")
        stated = headers.get("content-length")
        most = self._most(path)
        if stated is not None and (not stated.isascii() or not stated.isdigit() or int(stated[:18]) > most):
            raise RequestRefused(413, f"expected a body of at most {most:,} bytes")
        size = most if stated is None and "transfer-encoding" in headers else int(stated or 0)
        if size:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise RequestRefused(415, "expected a body with Content-Type: application/json")
        if self._in_flight + size > self._limits.bytes_in_flight:
            raise RequestRefused(429, "too many large requests at one time", headers=retry_after(1.0))
        self._in_flight += size
        return size

    async def _body(self, path: str, headers: dict[str, str], receive: Receive) -> bytes:
        """Read the whole body within its bounds of size and time."""
        most = self._most(path)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Disconnected
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise RequestRefused(413, f"expected a body of at most {most:,} bytes")
                    if part:
                        parts.append(part)
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise RequestRefused(
                408,
                f"the body did not arrive within {self._limits.body_s:g} s",
                headers={"Connection": "close"},
            ) from None


class _Disconnected(Exception):
    """The client went away before its request was complete."""


def _log_request(scope: Scope, request_id: str, route: str, status: int, seconds: float) -> None:
    caller = scope["state"].get("caller")
    _LOG.info(
        "%s %s %d",
        scope["method"],
        scope["path"],
        status,
        extra={
            "request_id": request_id,
            "route": route,
            "status": status,
            "duration_ms": round(1000.0 * seconds, 3),
            "caller": None if caller is None else caller.name,
        },
    )


async def _send(reply: Reply, send: Send) -> None:
    headers = [
        (b"content-type", reply.media_type.encode()),
        (b"content-length", b"%d" % len(reply.body)),
    ]
    headers += [(name.lower().encode(), value.encode()) for name, value in reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def refuse(refused: RequestRefused, request_id: str, send: Send) -> None:
    """Answer with problem details."""
    body = refused.body(request_id)
    await _send(Reply(refused.status, body, tuple(refused.headers.items()), MEDIA_TYPE), send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives the body once more, then what really comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again

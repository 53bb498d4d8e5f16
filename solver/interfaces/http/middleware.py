"""Middleware that every request passes: identity, origin, bounds of the body, security headers, one log line."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

from solver.interfaces.http.problem_details import RequestRefused, refusal_of, retry_after
from solver.interfaces.http.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from solver.interfaces.http.access import Access
    from solver.interfaces.http.endpoint import Endpoint
    from solver.interfaces.http.limits import ServiceLimits

PUBLIC_PATHS = frozenset({"/", "/healthz", "/readyz"})
"""Paths that hold no data and need no token; the page asks for one itself."""

BATCH_PATHS = frozenset({"/v1/assign", "/api/v1/model-router/auto-assign-all"})

_LOG = logging.getLogger("solver.http")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LOCAL_HOSTS = re.compile(rb"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")
_PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_BODIED = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_JSON = b"application/json"
_STORED_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _PAGE_POLICY),
]
_HEADERS = [*_STORED_HEADERS, (b"cache-control", b"no-store")]


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
        headers: dict[bytes, bytes] = dict(scope["headers"])
        path: str = scope["path"]
        if scope["method"] == "HEAD" and path != "/v1/events":
            scope = {**scope, "method": "GET"}  # the web server leaves the body out
        static = path.startswith("/static/")
        answer = _Answer(send, self._request_id(headers), stored=static)
        state = scope.setdefault("state", {})
        state["request_id"], state["headers"] = answer.request_id, headers
        held = 0
        try:
            self._check_origin(headers)
            if not static and path not in PUBLIC_PATHS:
                state["caller"] = self._access.caller(headers.get(b"authorization"))
            if scope["method"] in _BODIED:
                held = self._reserved(path, headers)
                state["body"] = await self._body(path, receive)
            found = self._find(scope["method"], path)
            if found is not None:
                endpoint, parameters = found
                scope["route"] = endpoint
                reply = await endpoint.answer(scope, parameters)
                assert isinstance(reply, Reply)
                await answer.send(reply)
            else:
                rest = _replayed(state["body"], receive) if "body" in state else receive
                await self._app(scope, rest, answer)
        except _Disconnected:
            answer.status = answer.status or state.get("status", 499)
        except Exception as error:  # whatever it is, the client is told
            refused = refusal_of(error)
            if refused is None:
                _LOG.exception("request %s failed", answer.request_id)
                refused = RequestRefused(500, "an unexpected error; the log has it under the request id")
            if answer.status:
                raise  # the answer has begun: the connection is closed
            await answer.send(refused.reply(answer.request_id))
        finally:
            self._in_flight -= held
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self._observe(route, scope["method"], answer.status, seconds)
            if _LOG.isEnabledFor(logging.INFO):
                _log_request(scope, answer.request_id, route, answer.status, seconds)

    def _request_id(self, headers: dict[bytes, bytes]) -> str:
        """Return the id that the client gave, or a new one."""
        given = headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode()
        return f"{self._prefix}-{next(self._numbers)}"

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Refuse what another web site makes a browser send."""
        host = headers.get(b"host", b"")
        if self._access.open and not _LOCAL_HOSTS.fullmatch(host):
            raise RequestRefused(403, "without tokens only requests to localhost are served")
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != host:
            raise RequestRefused(403, "requests of other origins are not served")
        if headers.get(b"sec-fetch-site") == b"cross-site" and headers.get(b"sec-fetch-mode") != b"navigate":
            raise RequestRefused(403, "requests of other sites are not served")

    def _most(self, path: str) -> int:
        return self._limits.batch_body_bytes if path in BATCH_PATHS else self._limits.body_bytes

    def _reserved(self, path: str, headers: dict[bytes, bytes]) -> int:
        """Count a body's bytes before they come; return how many were counted."""
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() != b"identity":
            shown = encoding[:40].decode("latin-1")
            raise RequestRefused(415, f"bodies are taken as they are, not with encoding {shown!r}")
        stated = headers.get(b"content-length")
        most = self._most(path)
        if stated is None:
            size = most if b"transfer-encoding" in headers else 0
        elif stated.isdigit() and len(stated) < 16 and int(stated) <= most:
            size = int(stated)
        else:
            raise RequestRefused(413, f"expected a body of at most {most:,} bytes")
        if size and not _is_json(headers.get(b"content-type", b"")):
            raise RequestRefused(415, "expected a body with Content-Type: application/json")
        if self._in_flight + size > self._limits.bytes_in_flight:
            raise RequestRefused(429, "too many large requests at one time", headers=retry_after(1.0))
        self._in_flight += size
        return size

    async def _body(self, path: str, receive: Receive) -> bytes:
        """Read the whole body. The time it may take is bounded by the connection."""
        most = self._most(path)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > most:
                raise RequestRefused(413, f"expected a body of at most {most:,} bytes")
            if not parts and not message.get("more_body", False):
                return part
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


class _Disconnected(Exception):
    """The client went away before its request was complete, or was too slow with it."""


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


class _Answer:
    """The answer to one request: what is common to all answers is added, and the status noted.

    Parameters
    ----------
    send : Send
        Where it goes.
    request_id : str
        Repeated in a header.
    stored : bool
        Whether browsers and proxies may keep it.

    Attributes
    ----------
    status : int
        0 as long as it has not begun.
    """

    __slots__ = ("_headers", "_send", "request_id", "status")

    def __init__(self, send: Send, request_id: str, *, stored: bool) -> None:
        self._send, self.request_id, self.status = send, request_id, 0
        self._headers = _STORED_HEADERS if stored else _HEADERS

    async def __call__(self, message: Message) -> None:
        """Send a message of the web framework."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = (b"x-request-id", self.request_id.encode())
            message["headers"] = [*message.get("headers", ()), *self._headers, own]
        await self._send(message)

    async def send(self, reply: Reply) -> None:
        """Send a whole answer."""
        self.status = reply.status
        headers = [
            (b"content-type", reply.media_type.encode()),
            (b"content-length", b"%d" % len(reply.body)),
            *self._headers,
            (b"x-request-id", self.request_id.encode()),
        ]
        headers += [(name.lower().encode(), value.encode()) for name, value in reply.headers]
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": reply.body})


def _is_json(content_type: bytes) -> bool:
    return content_type == _JSON or content_type.partition(b";")[0].strip().lower() == _JSON


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

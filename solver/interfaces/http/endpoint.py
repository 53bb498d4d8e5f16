"""How an endpoint is written: a role, a checked body, one function; and what every answer has in common."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from solver.errors import SpecError, Violation, ViolationKind
from solver.interfaces.http.access import ANYBODY, Caller, Role, require
from solver.interfaces.http.problem_details import MEDIA_TYPE, RequestRefused, refusal_of, retry_after
from solver.problem.values import violations_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from solver.interfaces.http.limits import ServiceLimits
    from solver.interfaces.http.service import Service
    from solver.problem.values import Frozen

__all__ = ["Call", "Endpoints", "Reply", "json_reply"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, known and checked.

    Parameters
    ----------
    service : Service
        What it is about.
    caller : Caller
        Who sent it.
    body : Frozen or None
        The checked body, of the endpoint's type.
    raw : bytes
        The body as it came.
    path : dict
        Parameters of the path.
    query : mapping
        Parameters of the query.
    """

    service: Service
    caller: Caller
    body: Any
    raw: bytes
    path: dict[str, Any]
    query: Any


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as bytes, which can be given again."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    media_type: str = "application/json"

    def response(self) -> Response:
        """Return it as the web framework has it."""
        return Response(self.body, self.status, dict(self.headers), self.media_type)


def json_reply(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """Return a document as JSON."""
    body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    return Reply(status, body, tuple((headers or {}).items()))


class RepeatedRequests:
    """Answers to requests with an ``Idempotency-Key``, given again when the same request is repeated.

    Parameters
    ----------
    limits : ServiceLimits
        How many are kept, and how long.
    """

    def __init__(self, limits: ServiceLimits) -> None:
        self._limits = limits
        self._kept: OrderedDict[tuple[str, ...], tuple[float, bytes, asyncio.Future[Reply]]] = OrderedDict()
        self._bytes = 0

    async def answer(
        self, key: tuple[str, ...], body: bytes, now_s: float, make: Callable[[], Awaitable[Reply]]
    ) -> Reply:
        """Return the answer of the first such request, or make it."""
        digest = hashlib.sha256(body).digest()
        self._drop_old(now_s)
        found = self._kept.get(key)
        if found is not None:
            if found[1] != digest:
                raise RequestRefused(422, "this Idempotency-Key was used for another request")
            if not found[2].done():
                raise RequestRefused(
                    409, "the first request with this key is still running", headers=retry_after(1)
                )
            first = found[2].result()
            return Reply(first.status, first.body, (*first.headers, ("Idempotency-Replayed", "true")))
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._kept[key] = (now_s, digest, future)
        try:
            reply = await make()
        except BaseException:
            self._kept.pop(key, None)
            future.cancel()
            raise
        future.set_result(reply)
        if reply.status == 429 or reply.status >= 500:  # trying again is what the client is asked to do
            self._kept.pop(key, None)
        else:
            self._bytes += len(reply.body)
        return reply

    def _drop_old(self, now_s: float) -> None:
        limits = self._limits
        while self._kept:
            key, (since_s, _, future) = next(iter(self._kept.items()))
            full = len(self._kept) >= limits.idempotency_kept or self._bytes > limits.idempotency_bytes
            if not future.done() or (now_s - since_s < limits.idempotency_s and not full):
                return
            del self._kept[key]
            if not future.cancelled():
                self._bytes -= len(future.result().body)


class Endpoints:
    """Collects the endpoints of one service.

    Parameters
    ----------
    service : Service
        What they are about.
    """

    def __init__(self, service: Service) -> None:
        self.router = APIRouter()
        self.schemas: dict[str, Any] = {}
        self._service = service
        self._repeated = RepeatedRequests(service.limits)

    def add(
        self,
        method: str,
        path: str,
        *,
        role: Role,
        summary: str,
        body: type[Frozen] | None = None,
        raw_body: dict[str, Any] | None = None,
        required: bool = True,
        example: Any = None,
        tag: str = "routing",
        produces: str = "application/json",
    ) -> Callable[[Callable[[Call], Awaitable[Reply | Response]]], None]:
        """Register a function for a method and a path."""

        def register(handle: Callable[[Call], Awaitable[Reply | Response]]) -> None:
            async def run(request: Request) -> Response:
                return await self._run(request, role, body, required, handle)

            run.__name__ = handle.__name__
            self.router.add_api_route(
                path,
                run,
                methods=[method],
                summary=summary,
                description=handle.__doc__,
                tags=[tag],
                response_class=Response,
                responses=_answers(produces, has_body=body is not None or raw_body is not None),
                openapi_extra=self._body_schema(body, raw_body, required, example),
            )

        return register

    async def _run(
        self,
        request: Request,
        role: Role,
        body: type[Frozen] | None,
        required: bool,
        handle: Callable[[Call], Awaitable[Reply | Response]],
    ) -> Response:
        state = request.scope["state"]
        caller: Caller = state.get("caller", ANYBODY)
        try:
            require(caller, role)
            raw: bytes = state.get("body", b"")
            checked = None if body is None else _checked(body, raw, required)
            call = Call(self._service, caller, checked, raw, request.path_params, request.query_params)
            key = request.headers.get("idempotency-key")
            if key is None or request.method == "GET":
                reply = await handle(call)
            else:
                reply = await self._once(key, request, caller, raw, handle, call)
        except Exception as error:
            refused = refusal_of(error)
            if refused is None:
                raise
            content = refused.body(state["request_id"])
            return Response(content, refused.status, refused.headers, MEDIA_TYPE)
        return reply.response() if isinstance(reply, Reply) else reply

    def _body_schema(
        self, body: type[Frozen] | None, raw_body: dict[str, Any] | None, required: bool, example: Any
    ) -> dict[str, Any]:
        """Return how OpenAPI describes a body; what it refers to is collected in ``schemas``."""
        schema = raw_body
        if body is not None:
            schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
            self.schemas |= schema.pop("$defs", {})
        if schema is None:
            return {}
        media: dict[str, Any] = {"schema": schema}
        if example is not None:
            media["example"] = example
        return {"requestBody": {"required": required, "content": {"application/json": media}}}

    async def _once(
        self,
        key: str,
        request: Request,
        caller: Caller,
        raw: bytes,
        handle: Callable[[Call], Awaitable[Reply | Response]],
        call: Call,
    ) -> Reply:
        if not 0 < len(key) <= 200:
            raise RequestRefused(400, "expected an Idempotency-Key of 1 to 200 characters")

        async def make() -> Reply:
            reply = await handle(call)
            assert isinstance(reply, Reply)
            return reply

        where = (caller.name, request.method, request.url.path, key)
        return await self._repeated.answer(where, raw, self._service.tracker.clock.now(), make)


def _checked(body: type[Frozen], raw: bytes, required: bool) -> Frozen:
    if not raw and not required:
        return body()
    if not raw:
        raise RequestRefused(
            422,
            "a body is required",
            violations=[Violation("", "expected a body", kind=ViolationKind.MISSING)],
        )
    try:
        return body.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise RequestRefused(400, f"the body is not JSON: {first['ctx']['error']}") from None
        raise SpecError(*violations_of(error, body)) from None


def _answers(produces: str, *, has_body: bool) -> dict[int | str, dict[str, Any]]:
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}}
    codes = {
        400: "Not JSON, or a header that is not right",
        401: "No bearer token, or an unknown one",
        403: "The role of the token is too small",
        404: "Nothing of that name",
        409: "Not in the state that this needs",
        422: "The request breaks a rule; `violations` lists which",
        429: "No room now; `Retry-After` says when to come again",
        503: "Not at present; `Retry-After` says when to come again",
    }
    if has_body:
        codes |= {408: "The body came too slowly", 413: "The body is too large", 415: "Not plain JSON"}
    answers: dict[int | str, dict[str, Any]] = {
        code: {"description": text} | problem for code, text in sorted(codes.items())
    }
    answers[200] = {"description": "Done", "content": {produces: {}}}
    return answers

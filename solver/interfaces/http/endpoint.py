"""How an endpoint is written: a role, a checked body, one function; and what every answer has in common."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.routing import compile_path

from solver.errors import SpecError, missing_value
from solver.interfaces.http.access import LOCAL_OPERATOR, Caller, Role, require
from solver.interfaces.http.answers import answer_schema
from solver.interfaces.http.idempotency import RepeatedRequests
from solver.interfaces.http.json_codec import refuse_repeated_fields
from solver.interfaces.http.problem_details import MEDIA_TYPE, RequestRefused, refusal_of
from solver.interfaces.http.reply import Reply
from solver.problem.values import violations_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.types import Scope

    from solver.interfaces.http.service import Service
    from solver.problem.values import Frozen

    Handler = Callable[["Call"], Awaitable["Reply | Response"]]

_PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request with the same key is carried out once; within the hour its answer is given again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
}
_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}}
_REFUSALS = {
    400: "Not JSON, or a header that is not right",
    401: "No bearer token, or an unknown one",
    403: "The role of the token is too small",
    404: "Nothing of that name",
    409: "Not in the state that this needs",
    422: "The request breaks a rule; `violations` lists which",
    429: "No room now; `Retry-After` says when to come again",
    503: "Not at present; `Retry-After` says when to come again",
}
_BODY_REFUSALS = {408: "The body came too slowly", 413: "The body is too large", 415: "Not plain JSON"}


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
    query : bytes
        The query as it came.
    """

    service: Service
    caller: Caller
    body: Any
    raw: bytes
    path: dict[str, Any]
    query: bytes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path.

    Parameters
    ----------
    service : Service
        What it is about.
    repeated : RepeatedRequests
        Answers to requests with a key.
    method, path : str
        The path with its parameters in braces.
    role : Role
        What the caller has to be allowed.
    body : type of Frozen or None
        What its body is checked against.
    required : bool
        Whether there has to be one.
    handle : callable
        Answers it.
    """

    service: Service
    repeated: RepeatedRequests
    method: str
    path: str
    role: Role
    body: type[Frozen] | None
    required: bool
    handle: Handler

    async def answer(self, scope: Scope, parameters: dict[str, Any]) -> Reply | Response:
        """Answer a request that the gate let in.

        Raises
        ------
        RequestRefused, SpecError, StoreDownError
            What is answered as problem details.
        """
        state = scope["state"]
        caller: Caller = state.get("caller", LOCAL_OPERATOR)
        require(caller, self.role)
        raw: bytes = state.get("body", b"")
        checked = None if self.body is None else _checked(self.body, raw, self.required)
        call = Call(self.service, caller, checked, raw, parameters, scope["query_string"])
        key: bytes | None = state["headers"].get(b"idempotency-key")
        if key is None or self.method == "GET":
            return await self.handle(call)
        if not 0 < len(key) <= 200:
            raise RequestRefused(400, "expected an Idempotency-Key of 1 to 200 characters")

        async def make() -> Reply:
            reply = await self.handle(call)
            assert isinstance(reply, Reply)
            return reply

        where = (caller.name, self.method, scope["path"], key.decode("latin-1"))
        return await self.repeated.answer(where, raw, self.service.tracker.clock.now(), make)


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
        self._repeated = RepeatedRequests(service.limits, service.shared_answers, service.off_loop)
        self._fixed: dict[tuple[str, str], Endpoint] = {}
        self._templates: list[tuple[re.Pattern[str], Endpoint]] = []

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
        answer: type[Any] | None = None,
        tag: str = "routing",
        produces: str = "application/json",
        direct: bool = False,
        public: bool = False,
        query: Sequence[dict[str, Any]] = (),
    ) -> Callable[[Handler], None]:
        """Register a function for a method and a path; ``direct`` ones are found without the web framework."""
        described = self._body_schema(body, raw_body, required, example)
        described["parameters"] = [*_path_parameters(path), *query]
        if method != "GET":
            described["parameters"].append(_IDEMPOTENCY_KEY)
        if public:
            described["security"] = []

        def register(handle: Handler) -> None:
            endpoint = Endpoint(self._service, self._repeated, method, path, role, body, required, handle)
            if direct and "{" in path:
                self._templates.append((compile_path(path)[0], endpoint))
            elif direct:
                self._fixed[method, path] = endpoint

            async def run(request: Request) -> Response:
                try:
                    reply = await endpoint.answer(request.scope, request.path_params)
                except Exception as error:
                    refused = refusal_of(error)
                    if refused is None:
                        raise
                    reply = refused.reply(request.scope["state"]["request_id"])
                return framework_response(reply) if isinstance(reply, Reply) else reply

            run.__name__ = handle.__name__
            self.router.add_api_route(
                path,
                run,
                methods=[method],
                summary=summary,
                description=handle.__doc__,
                tags=[tag],
                response_class=Response,
                responses=self._answers(answer, produces, has_body=body is not None or raw_body is not None),
                openapi_extra=described,
            )

        return register

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """Return the direct endpoint of a request with the parameters of its path; None: ask the framework."""
        fixed = self._fixed.get((method, path))
        if fixed is not None:
            return fixed, {}
        for pattern, endpoint in self._templates:
            if endpoint.method == method and (found := pattern.match(path)):
                return endpoint, found.groupdict()
        return None

    def _answers(
        self, answer: type[Any] | None, produces: str, *, has_body: bool
    ) -> dict[int | str, dict[str, Any]]:
        """Return how OpenAPI describes the answers; what they refer to is collected in ``schemas``."""
        codes = _REFUSALS | (_BODY_REFUSALS if has_body else {})
        answers: dict[int | str, dict[str, Any]] = {
            code: {"description": text} | _PROBLEM for code, text in sorted(codes.items())
        }
        schema: dict[str, Any] = {"type": "string"}
        if answer is not None:
            self.schemas[answer.__name__], parts = answer_schema(answer)
            self.schemas |= parts
            schema = {"$ref": f"#/components/schemas/{answer.__name__}"}
        answers[200] = {"description": "Done", "content": {produces: {"schema": schema}}}
        return answers

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


def framework_response(reply: Reply) -> Response:
    """Return an answer as the web framework has it."""
    return Response(reply.body, reply.status, dict(reply.headers), reply.media_type)


def _path_parameters(path: str) -> list[dict[str, Any]]:
    """Return how OpenAPI describes the parameters of a path."""
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(path)
    ]


def _checked(body: type[Frozen], raw: bytes, required: bool) -> Frozen:
    if not raw and not required:
        return body()
    if not raw:
        raise RequestRefused(
            422,
            "a body is required",
            violations=[missing_value("", "expected a body")],
        )
    try:
        checked = body.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise RequestRefused(400, f"the body is not JSON: {first['ctx']['error']}") from None
        raise SpecError(*violations_of(error, body)) from None
    refuse_repeated_fields(raw)
    return checked

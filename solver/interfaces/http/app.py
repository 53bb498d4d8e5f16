"""The ASGI application of a service."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from solver.errors import MissingExtraError

try:
    from fastapi import FastAPI, Request
    from fastapi.openapi.utils import get_openapi
    from fastapi.responses import Response
    from starlette.exceptions import HTTPException
    from starlette.staticfiles import StaticFiles
except ImportError as error:
    raise MissingExtraError("fastapi", "service") from error

from importlib.metadata import version
from pathlib import Path

from solver.interfaces.http.access import Access, Role
from solver.interfaces.http.answers import HealthAnswer, ReadyAnswer
from solver.interfaces.http.assignments_api import add_assignments
from solver.interfaces.http.batches_api import add_batches
from solver.interfaces.http.endpoint import Call, Endpoints, framework_response
from solver.interfaces.http.fleet_api import add_fleet
from solver.interfaces.http.middleware import Gate
from solver.interfaces.http.problem_details import RequestRefused
from solver.interfaces.http.reply import Reply, json_reply
from solver.interfaces.http.routing_api import add_routing
from solver.interfaces.http.service_metrics import ServiceMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp

    from solver.interfaces.http.service import Service

_PAGE = Path(__file__).parent / "page"
_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "RFC 9457, with the violations found.",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "violations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "rule": {"type": "string"},
                    "kind": {"type": "string"},
                    "value": {"type": ["string", "null"]},
                    "message": {"type": "string"},
                },
            },
        },
    },
}


def create_app(service: Service, access: Access | None = None) -> ASGIApp:
    """Return the application that serves a service.

    Parameters
    ----------
    service : Service
        What is behind it; started and stopped with the application.
    access : Access, optional
        Roles of callers; default: every caller on this machine is an operator.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="solver",
        version=version("batch-assignment-solver"),
        description="Decides which model serves which agent, under capacity limits, with a proof.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    metrics = ServiceMetrics(service)
    endpoints = Endpoints(service)
    add_routing(endpoints)
    add_assignments(endpoints)
    add_batches(endpoints)
    add_fleet(endpoints)
    _add_health(endpoints, metrics)
    app.include_router(endpoints.router)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(endpoints.schemas, ProblemDetails=_PROBLEM_SCHEMA)
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"bearer": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        refused = RequestRefused(error.status_code, str(error.detail), headers=dict(error.headers or {}))
        return framework_response(refused.reply(request.scope["state"]["request_id"]))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response((_PAGE / "index.html").read_bytes(), media_type="text/html; charset=utf-8")

    app.mount("/static", StaticFiles(directory=_PAGE), name="static")
    return Gate(
        app,
        access=access or Access(),
        limits=service.limits,
        observe=metrics.observe,
        find=endpoints.find,
    )


def _add_health(endpoints: Endpoints, metrics: ServiceMetrics) -> None:
    async def healthz(_: Call) -> Reply:
        """Say that the process answers."""
        return json_reply({"status": "ok"})

    async def readyz(call: Call) -> Reply:
        """Say whether to send work here: not while starting, nor while shutting down."""
        service = call.service
        if service.draining:
            raise RequestRefused(503, "the service is shutting down", headers={"Retry-After": "1"})
        if not service.ready:
            raise RequestRefused(503, "the service is starting", headers={"Retry-After": "1"})
        return json_reply(
            {"status": "ready", "fleet": 0 if service.fleet is None else len(service.fleet.models)}
        )

    async def scrape(call: Call) -> Reply:
        """Return metrics in the text format of Prometheus."""
        body = await call.service.on_store(metrics.text)
        return Reply(200, body, media_type=metrics.media_type)

    add = endpoints.add
    add(
        "GET", "/healthz", role=Role.READ, answer=HealthAnswer, summary="Liveness", tag="health", public=True
    )(healthz)
    add("GET", "/readyz", role=Role.READ, answer=ReadyAnswer, summary="Readiness", tag="health", public=True)(
        readyz
    )
    add(
        "GET",
        "/metrics",
        role=Role.READ,
        summary="Metrics for Prometheus",
        tag="health",
        produces="text/plain",
    )(scrape)

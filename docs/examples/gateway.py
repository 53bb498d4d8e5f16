"""A gateway for chat completions: ``UPSTREAM=http://127.0.0.1:8001/v1 uvicorn gateway:app``."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse

import solver

MODELS = [
    solver.Model(id="fast", capacity=solver.Capacity(max_concurrent=3), capabilities={"coding": 0.6}),
    solver.Model(id="slow", capacity=solver.Capacity(max_concurrent=2), capabilities={"coding": 0.9}),
]
router = solver.OptimalRouter(solver.LoadTracker(), MODELS, ttl_s=900.0)
upstream = httpx.AsyncClient(base_url=os.environ.get("UPSTREAM", "http://127.0.0.1:8001/v1"), timeout=600.0)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    with router:
        async with upstream:
            yield


app = FastAPI(lifespan=lifespan)


async def answer(decision: Any, body: dict[str, Any]) -> AsyncIterator[Any]:
    """Yield the head of the upstream's answer, then its body; the slot is given back however it ends."""
    call = {**body, "model": decision.model}
    async with decision, upstream.stream("POST", "chat/completions", json=call) as head:
        yield head
        async for chunk in head.aiter_bytes():
            yield chunk


@app.post("/v1/chat/completions")
async def complete(body: dict[str, Any]) -> Response:
    decision = await router.route_async(solver.Agent(id="request", task_type="coding"))
    if decision.refusal is not None:
        wait = str(max(1, round(decision.refusal.retry_after_s or 1)))
        return JSONResponse({"error": {"message": decision.reason}}, 429, {"Retry-After": wait})
    parts = answer(decision, body)
    try:
        head = await anext(parts)
    except httpx.HTTPError as error:
        return JSONResponse({"error": {"message": f"{decision.model}: {error!r}"}}, 502)
    return StreamingResponse(parts, head.status_code, media_type=head.headers.get("content-type"))

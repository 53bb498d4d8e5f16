"""Routers of LiteLLM's SDK with the plug-in, on a loopback upstream."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise the import tries the network
pytest.importorskip("litellm", reason="needs the extra [litellm]")

import litellm

from solver.interfaces.litellm import FleetOptions, install

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = [{"role": "user", "content": "hello"}]


def deployment(up: Any, name: str, group: str = "g", model: str = "fast", **extra: Any) -> dict[str, Any]:
    info = {"id": name, **extra.pop("info", {})}
    return {
        "model_name": group,
        "litellm_params": {"model": f"openai/{model}", "api_key": "none", "api_base": up.url, **extra},
        "model_info": info,
    }


@contextmanager
def routed(
    deployments: list[dict[str, Any]], options: FleetOptions | None = None, **settings: Any
) -> Iterator[tuple[Any, Any]]:
    router = litellm.Router(model_list=deployments, **{"num_retries": 0, **settings})
    strategy = install(router, options=options)
    try:
        yield router, strategy
    finally:
        strategy.close()


async def ask(router: Any, group: str = "g", **call: Any) -> Any:
    try:
        return await router.acompletion(model=group, messages=HELLO, **call)
    except Exception as error:  # noqa: BLE001 - LiteLLM raises many kinds; the tests look at them
        return error


def held(strategy: Any) -> int:
    return int(strategy.selector.tracker.snapshot().active.sum())


async def drained(strategy: Any, seconds: float = 30.0) -> int:
    """Return what is still held once LiteLLM's background work and the collector have run."""
    until = time.monotonic() + seconds
    while True:
        gc.collect()
        strategy.selector.ledger.drain()
        if held(strategy) == 0 or time.monotonic() > until:
            return held(strategy)
        await asyncio.sleep(0.02)

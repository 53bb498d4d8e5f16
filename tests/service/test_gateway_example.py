"""The gateway of the documentation, served by uvicorn, before a loopback upstream."""

from __future__ import annotations

import importlib.util
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn

from tests.upstream import Behaviour, Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "gateway.py"
BODY = {"messages": [{"role": "user", "content": "hello"}]}


class Gateway:
    """The example's module, and a client of it."""

    def __init__(self, module: Any, url: str) -> None:
        self.module = module
        self.client = httpx.Client(base_url=url, timeout=30)

    def ask(self, *, stream: bool = False) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json={**BODY, "stream": stream})

    def held(self) -> int:
        return int(self.module.router._tracker.snapshot().active.sum())

    def drained(self, seconds: float = 10.0) -> int:
        until, pause = time.monotonic() + seconds, threading.Event()
        while (held := self.held()) and time.monotonic() < until:
            pause.wait(0.02)
        return held


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(
        fast=Behaviour(latency_s=0.3, chunk_s=0.05), slow=Behaviour(latency_s=0.3, chunk_s=0.05)
    ) as up:
        yield up


@pytest.fixture
def gateway(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("UPSTREAM", upstream.url)
    spec = importlib.util.spec_from_file_location("gateway_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = uvicorn.Server(uvicorn.Config(module.app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    started, until = threading.Event(), time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        started.wait(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    served = Gateway(module, f"http://127.0.0.1:{port}")
    yield served
    served.client.close()
    server.should_exit = True
    thread.join(30)


def test_seven_at_once_get_the_five_slots_and_two_are_told_when_to_ask_again(
    gateway: Gateway, upstream: Upstream
) -> None:
    for stream in (False, True):
        with ThreadPoolExecutor(7) as pool:
            answers = list(pool.map(lambda _, stream=stream: gateway.ask(stream=stream), range(7)))
        assert sorted(one.status_code for one in answers) == [200] * 5 + [429] * 2
        refused = [one for one in answers if one.status_code == 429]
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
        good = [one for one in answers if one.status_code == 200]
        if stream:
            assert all(one.text.endswith("data: [DONE]\n\n") for one in good)
        else:
            assert {one.json()["model"] for one in good} == {"fast", "slow"}
        assert gateway.drained() == 0
    assert upstream.most == {"fast": 3, "slow": 2}


def test_streams_come_as_they_are_made_and_a_client_that_leaves_holds_nothing(
    gateway: Gateway, upstream: Upstream
) -> None:
    for behaviour in upstream.behaviours.values():
        behaviour.chunks, behaviour.chunk_s = 100, 0.1
    with gateway.client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert next(answer.iter_text()).startswith("data: ")
        assert gateway.held() == 1  # the rest is still to come
    assert gateway.drained() == 0


def test_an_upstream_that_fails_or_is_gone_holds_nothing(gateway: Gateway, upstream: Upstream) -> None:
    for name in ("fast", "slow"):
        upstream.behaviours[name].fail_first = 1
    assert gateway.ask().status_code == 500
    gateway.module.upstream.base_url = "http://127.0.0.1:1"
    assert gateway.ask().status_code == 502
    assert gateway.drained() == 0

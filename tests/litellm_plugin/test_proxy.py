"""LiteLLM's proxy, started from the documented YAML: exact slots, streams included, and a real Retry-After header.

Starting it takes up to half a minute and needs the proxy's own dependencies: set ``LITELLM_PROXY`` to its command.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.upstream import Behaviour, Upstream

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = os.environ.get("LITELLM_PROXY", "")
URL = "http://127.0.0.1:4123"
CONFIG = """
model_list:
  - model_name: chat
    litellm_params: {model: openai/fast, api_key: none, api_base: os.environ/UPSTREAM, max_parallel_requests: 3}
    model_info: {id: a}
  - model_name: chat
    litellm_params: {model: openai/slow, api_key: none, api_base: os.environ/UPSTREAM, max_parallel_requests: 2}
    model_info: {id: b}
litellm_settings:
  callbacks: ["solver.interfaces.litellm.proxy"]
"""


@pytest.mark.skipif(not COMMAND, reason="LITELLM_PROXY names no proxy command")
def test_a_proxy_routes_within_its_slots_and_says_when_to_ask_again(tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
    with Upstream(fast=Behaviour(latency_s=0.5), slow=Behaviour(latency_s=0.5)) as up:
        extra = {
            "UPSTREAM": up.url,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        command = [
            COMMAND,
            "--config",
            str(tmp_path / "config.yaml"),
            "--host",
            "127.0.0.1",
            "--port",
            "4123",
        ]
        process = subprocess.Popen(command, env={**os.environ, **extra})
        try:
            _wait_until_ready(httpx, process)
            for stream in (False, True):
                answers: list[Any] = []

                def ask(stream: bool, answers: list[Any]) -> None:
                    call = {**body, "stream": stream}
                    answers.append(httpx.post(f"{URL}/v1/chat/completions", json=call, timeout=30))

                threads = [threading.Thread(target=ask, args=(stream, answers)) for _ in range(7)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 2
                refused = [answer for answer in answers if answer.status_code == 429]
                assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            assert up.most == {"fast": 3, "slow": 2}
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_ready(httpx: Any, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    ready = threading.Event()
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{URL}/health/readiness", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            ready.wait(0.2)
    pytest.fail("the proxy did not become ready")

"""LiteLLM's proxy, started from YAML: exact slots, streams included, a real Retry-After header, and Redis between.

Skipped where the proxy's own dependencies are missing: ``make litellm`` makes an environment that has them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
pytest.importorskip("litellm", reason="needs the extra [litellm]")
httpx = pytest.importorskip("httpx")

from solver.errors import SpecError  # noqa: E402 - after the skip
from solver.interfaces.litellm.proxy_callback import options_of  # noqa: E402
from solver.load.store.redis import RedisStore  # noqa: E402
from solver.load.tracker import LoadTracker  # noqa: E402
from solver.problem.spec import Capacity  # noqa: E402
from tests.loopback import NO_TLS  # noqa: E402
from tests.redis_server import RedisServer, free_port  # noqa: E402
from tests.upstream import Behaviour, Upstream  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).with_name("litellm")
MISSING = [name for name in ("uvicorn", "apscheduler", "fastapi_sso") if not importlib.util.find_spec(name)]
needs_proxy = pytest.mark.skipif(
    not COMMAND.exists() or bool(MISSING), reason=f"LiteLLM's proxy cannot start here: {MISSING} missing"
)
SLOTS = {"large": 2, "small": 3}
UPSTREAM_OF = {"large": "gpt-4o", "small": "gpt-4o-mini"}
DOCUMENTED = Path(__file__).parents[2] / "docs" / "examples" / "litellm_proxy.yaml"
CONFIG = DOCUMENTED.read_text(encoding="utf-8").replace("ttl_s: 30", "ttl_s: 3")
KEY = "sk-of-the-test"
BODY = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}


class Proxy:
    """A proxy process on a free port."""

    def __init__(self, folder: Path, up: Upstream, **environment: str) -> None:
        (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [COMMAND, "--config", folder / "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
            env={
                **os.environ,
                "UPSTREAM": up.url,
                "LITELLM_MASTER_KEY": KEY,
                **environment,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait_until_ready(self) -> None:
        until, pause = time.monotonic() + 240, threading.Event()
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health/readiness", timeout=5, verify=NO_TLS).status_code == 200:
                    return
            except httpx.HTTPError:
                pause.wait(0.2)
        pytest.fail("the proxy did not become ready")

    def ask(self, *, stream: bool = False) -> Any:
        return httpx.post(
            f"{self.url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {KEY}"},
            json={**BODY, "stream": stream},
            timeout=30,
            verify=NO_TLS,
        )

    def ask_at_once(self, count: int, *, stream: bool = False) -> list[Any]:
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(self.ask(stream=stream))) for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@contextmanager
def started(folder: Path, up: Upstream, **environment: str) -> Iterator[Proxy]:
    proxy = Proxy(folder, up, **environment)
    try:
        proxy.wait_until_ready()
        yield proxy
    finally:
        proxy.kill()


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    server = RedisServer(folder)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


class Neighbour:
    """Another router over the same Redis, in this process: takes a slot, asks the upstream itself, gives it back."""

    def __init__(self, url: str, up: Upstream) -> None:
        self.tracker = LoadTracker(RedisStore(url, replicas=2))
        for model, slots in SLOTS.items():
            self.tracker.set_capacity(model, Capacity(max_concurrent=slots))
        self.up, self.served, self.stop = up, 0, threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(model,)) for model in SLOTS for _ in range(2)]

    def begin(self) -> None:
        for thread in self.threads:
            thread.start()

    def run(self, model: str) -> None:
        while not self.stop.is_set():
            lease = self.tracker.acquire(model, ttl_s=10.0)
            if lease is None:
                self.stop.wait(0.05)
                continue
            with lease:
                body = {**BODY, "model": UPSTREAM_OF[model]}
                httpx.post(f"{self.up.url}/chat/completions", json=body, timeout=30, verify=NO_TLS)
                self.served += 1

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


@needs_proxy
def test_a_proxy_shares_its_slots_over_redis_and_is_killed_and_restarted_under_load(tmp_path: Path) -> None:
    behaviours = {name: Behaviour(latency_s=0.5, chunk_s=0.01) for name in UPSTREAM_OF.values()}
    with running_redis(tmp_path) as url, Upstream(**behaviours) as up:
        shared = {"SOLVER_REDIS_URL": url, "SOLVER_REPLICAS": "2"}
        neighbour = Neighbour(url, up)
        with started(tmp_path, up, **shared) as proxy:
            before = up.served.copy()
            assert proxy.ask().status_code == 200
            assert up.served["gpt-4o"] == before["gpt-4o"] + 1  # by the scores of the configuration
            for stream in (False, True):
                answers = proxy.ask_at_once(7, stream=stream)
                assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 2
                refused = [answer for answer in answers if answer.status_code == 429]
                assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            neighbour.begin()
            try:
                callers = [threading.Thread(target=_ask_until_gone, args=(proxy,)) for _ in range(6)]
                for caller in callers:
                    caller.start()
                callers[0].join(1.0)  # the time the load needs to build up; nothing depends on its length
                proxy.kill()
                for caller in callers:
                    caller.join()
                with started(tmp_path, up, **shared) as again:
                    answers = again.ask_at_once(7)
                    assert {answer.status_code for answer in answers} <= {200, 429}
                    neighbour.end()
                    # what the killed one held has run out by now
                    codes = [answer.status_code for answer in again.ask_at_once(5)]
                    assert codes == [200] * 5
            finally:
                neighbour.end()
        assert neighbour.served > 0
        assert up.most == {UPSTREAM_OF[model]: slots for model, slots in SLOTS.items()}, (
            "more at once than there are slots, or never all of them"
        )


def _ask_until_gone(proxy: Proxy) -> None:
    try:
        while True:
            proxy.ask()
    except httpx.HTTPError:
        return


def test_options_of_the_configuration_are_checked() -> None:
    assert options_of(None).ttl_s == 60.0
    assert options_of({"ttl_s": 20, "latency_weight": 0.1}).ttl_s == 20
    with pytest.raises(SpecError, match=r"litellm_settings.solver_options.ttl: expected one of scores, "):
        options_of({"ttl": 20})
    with pytest.raises(SpecError, match=r"litellm_settings.solver_options.ttl_s: expected .*, got -1"):
        options_of({"ttl_s": -1})
    with pytest.raises(SpecError, match=r"litellm_settings.solver_options: expected a mapping, got \[1\]"):
        options_of([1])

"""Mixed load on the real service for many minutes: ``python -m benchmarks.soak_service --minutes 30``.

Decisions with their releases and renewals, batches with and without reservation, overrides, reads, scrapes and an open
event stream. Bar: 0 errors, nothing held at the end, memory flat once the bounded logs are full.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml

from tests.fuzz_service import resident_mb
from tests.http_service import running

ROUTER = "/api/v1/model-router"
DECIDERS = 8
LARGEST_GROWTH = 0.05  # of the memory after a third of the time


class Load:
    """What is sent, and what came of it."""

    def __init__(self, url: str, seconds: float, rate: float) -> None:
        self.url = url
        self.pause_s = DECIDERS / rate
        self.until = time.perf_counter() + seconds
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.decide_s: list[float] = []
        self.events = 0

    async def ask(self, client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
        answer = await client.request(method, path, json=body)
        self.seen[f"{answer.status_code}"] += 1
        if answer.status_code >= 500 or (answer.status_code >= 400 and answer.status_code != 429):
            self.wrong.append(f"{method} {path} {answer.status_code} {answer.text[:200]}")
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    async def decisions(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            turn = 0
            while time.perf_counter() < self.until:
                turn += 1
                agent = {"id": f"d{number}-{turn}", "task_type": "coding", "input_tokens": turn % 4000}
                begun = time.perf_counter()
                found = await self.ask(client, "POST", "/v1/decide", {"agent": agent})
                self.decide_s.append(time.perf_counter() - begun)
                await asyncio.sleep(self.pause_s)
                if "lease_id" not in found:
                    continue
                lease = f"/v1/leases/{found['lease_id']}"
                if turn % 10 == 0:
                    await self.ask(client, "POST", f"{lease}:renew", {"ttl_s": 20})
                if turn % 97:  # one in so many dies without a word: its lease expires
                    await self.ask(client, "POST", f"{lease}:release", {"latency_ms": 5.0, "tokens": 100})
                else:
                    await self.ask(client, "POST", f"{lease}:renew", {"ttl_s": 1})

    async def batches(self) -> None:
        rng = np.random.default_rng(0)
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            while time.perf_counter() < self.until:
                agents = [{"id": f"b{i}", "task_type": "math"} for i in range(20)]
                placed = await self.ask(client, "POST", f"{ROUTER}/auto-assign-all", {"agents": agents})
                await self.ask(client, "PUT", f"{ROUTER}/assignments/b0", {"model_id": "m1"})
                for one in placed["assignments"]:
                    await self.ask(client, "POST", f"/v1/leases/{one['lease_id']}:release")
                problem: dict[str, Any] = {
                    "agents": [{"id": f"a{i}"} for i in range(200)],
                    "models": [{"id": f"x{j}", "capacity": {"max_concurrent": 30}} for j in range(10)],
                    "scores": rng.random((200, 10)).round(3).tolist(),
                }
                await self.ask(client, "POST", "/v1/assign", {"problem": problem})
                done = await self.ask(
                    client, "POST", "/v1/assign", {"problem": {"agents": agents}, "commit": True, "ttl_s": 5}
                )
                for one in done["assignments"]:
                    await self.ask(client, "POST", f"/v1/leases/{one['lease_id']}:release")

    async def reads(self) -> None:
        paths = ("/v1/load", "/metrics", "/v1/alerts", "/v1/decisions", "/v1/capacity", "/healthz", "/")
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            while time.perf_counter() < self.until:
                for path in paths:
                    await self.ask(client, "GET", path)
                await asyncio.sleep(0.5)

    async def stream(self) -> None:
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=60) as client,
            client.stream("GET", "/v1/events") as lines,
        ):
            async for line in lines.aiter_lines():
                self.events += line.startswith("event:")
                if time.perf_counter() > self.until:
                    return


async def soak(url: str, pid: int, seconds: float, rate: float) -> int:
    load = Load(url, seconds, rate)
    work = [load.decisions(k) for k in range(DECIDERS)] + [load.batches(), load.reads(), load.stream()]
    tasks = [asyncio.create_task(one) for one in work]
    begun, memory = time.perf_counter(), []
    while not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=seconds / 12)
        memory.append(resident_mb(pid))
        print(
            f"{(time.perf_counter() - begun) / 60:5.1f} min  {memory[-1]:6.1f} MB  "
            f"{sum(load.seen.values()):,} requests",
            flush=True,
        )
    await asyncio.gather(*tasks)
    async with httpx.AsyncClient(base_url=url) as client:
        held = 1
        for _ in range(60):  # the leases of those who died expire
            models = (await client.get("/v1/load")).json()["models"]
            held = sum(one["active_requests"] for one in models)
            if not held:
                break
            await asyncio.sleep(0.5)
    settled = memory[len(memory) // 3 : -1]
    growth = settled[-1] / settled[0] - 1.0
    p50, p99 = 1000.0 * np.quantile(load.decide_s, [0.5, 0.99])
    print(f"answers {dict(load.seen)}, {load.events:,} events, decide p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(
        f"errors {len(load.wrong)}, slots held at the end {held}, memory {growth:+.1%} since a third of the time"
    )
    print("\n".join(load.wrong[:10]))
    return int(bool(load.wrong) or held > 0 or growth > LARGEST_GROWTH)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=math.inf, help="decisions a second at most")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.yaml"
        models = [
            {"id": f"m{j}", "capacity": {"max_concurrent": 40}, "capabilities": {"coding": 0.5 + j / 50}}
            for j in range(20)
        ]
        path.write_text(yaml.safe_dump(models))
        with running(Path(folder), "--fleet", str(path), tokens=False, fleet=False) as service:
            return asyncio.run(soak(service.url, service.process.pid, 60.0 * parsed.minutes, parsed.rate))


if __name__ == "__main__":
    sys.exit(main())

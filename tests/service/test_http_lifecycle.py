"""A service that ends while it is in use, in order and by force, and what its clients see of that."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

import httpx
import yaml

import solver
from solver import read_decisions
from solver.online.decision_records import DecisionRecord, ReleaseRecord
from tests.http_service import FLEET, TOKENS, running
from tests.loopback import NO_TLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.http_service import HttpService
    from tests.redis_server import RedisServer

SLOTS = {str(model["id"]): model["capacity"]["max_concurrent"] for model in FLEET}  # type: ignore[index]
WORK_S, TTL_S = 0.01, 3.0


def test_an_orderly_end_answers_what_runs_and_ends_streams(tmp_path: Path) -> None:
    rows = [[float((7 * i + 3 * j) % 101) for j in range(20)] for i in range(4000)]
    problem = {
        "agents": [{"id": f"a{i}"} for i in range(4000)],
        "models": [{"id": f"m{j}", "capacity": {"max_concurrent": 200}} for j in range(20)],
        "scores": rows,
    }

    async def during(url: str, end: Callable[[], None]) -> tuple[list[str], int, int]:
        headers = {"Authorization": f"Bearer {TOKENS['operate']}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, verify=NO_TLS) as client:
            async with client.stream("GET", "/v1/events") as stream:
                lines = stream.aiter_lines()
                assert await anext(lines) == "retry: 1000"
                solving = asyncio.create_task(client.post("/v1/assign", json={"problem": problem}))
                while not (await client.get("/metrics")).text.count("solver_batches_pending 1.0"):
                    assert not solving.done()
                lease = (await client.post("/v1/decide", json={"agent": {"id": "a"}})).json()["lease_id"]
                end()
                while (await client.get("/readyz")).status_code == 200:
                    pass
                refused = await client.post("/v1/decide", json={"agent": {"id": "b"}})
                assert "retry-after" in refused.headers
                answered = (await solving).status_code
                await client.post(f"/v1/leases/{lease}:release")
                rest = [line async for line in lines]  # to its end, without an error
            return rest, answered, refused.status_code

    with running(tmp_path) as service:
        rest, answered, refused = asyncio.run(
            during(service.url, lambda: service.process.send_signal(signal.SIGTERM))
        )
        assert service.process.wait(20) == 0
    assert (answered, refused) == (200, 503)
    assert rest
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


def in_fleet(client: httpx.Client) -> set[str]:
    """Return what decisions choose among; capacities of a new fleet are set before."""
    return {one["model"] for one in client.get("/v1/load").json()["models"] if one["in_fleet"]}


def test_decisions_are_noted_across_a_change_of_the_fleet(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    with running(tmp_path, "--decision-log", str(log)) as service, service.client() as client:
        first = client.post("/v1/decide", json={"agent": {"id": "first"}}).json()
        third = {"id": "third", "capacity": {"max_concurrent": 1}, "capabilities": {"general": 1.0}}
        (tmp_path / "fleet.yaml").write_text(yaml.safe_dump([*FLEET, third]))
        while "third" not in in_fleet(client):
            pass  # the file is looked at once a second
        second = client.post("/v1/decide", json={"agent": {"id": "second"}}).json()
        for lease in (first["lease_id"], second["lease_id"]):
            client.post(f"/v1/leases/{lease}:release", json={"latency_ms": 5})
        assert "solver_decision_log_dropped 0.0" in client.get("/metrics").text
    records = list(read_decisions(log))
    assert [
        (one.agent, one.chosen, len(one.scores)) for one in records if isinstance(one, DecisionRecord)
    ] == [
        ("first", first["model"], 2),
        ("second", second["model"], 3),
    ]
    released = [one.lease for one in records if isinstance(one, ReleaseRecord)]
    assert released == [first["lease_id"], second["lease_id"]]


def test_killed_under_load_it_is_found_again_and_nobody_is_admitted_twice(
    tmp_path: Path, own_server: RedisServer
) -> None:
    working = dict.fromkeys(SLOTS, 0)
    most = dict.fromkeys(SLOTS, 0)
    done = {"before": 0, "after": 0, "over": 0}

    async def client_of(url: str, phase: list[str], name: str) -> None:
        async with solver.AsyncClient(url, token=TOKENS["route"], retries=50, unreachable_s=60) as client:
            while phase[0] != "over":
                routed = await client.decide({"id": name}, ttl_s=TTL_S)
                working[routed.model] += 1
                most[routed.model] = max(most[routed.model], working[routed.model])
                await asyncio.sleep(WORK_S)  # stands for the work itself
                working[routed.model] -= 1
                await client.release(routed, latency_ms=1000 * WORK_S)
                done[phase[0]] += 1

    async def load(url: str, restart: AbstractContextManager[HttpService], kill: Callable[[], None]) -> None:
        phase = ["before"]
        clients = [asyncio.create_task(client_of(url, phase, f"c{k}")) for k in range(4)]
        while done["before"] < 100:
            await asyncio.sleep(0.01)
        kill()
        await asyncio.to_thread(stack.enter_context, restart)
        phase[0] = "after"
        while done["after"] < 100:
            await asyncio.sleep(0.01)
        phase[0] = "over"
        await asyncio.gather(*clients)
        headers = {"Authorization": f"Bearer {TOKENS['read']}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, verify=NO_TLS) as reader:
            while sum(one["active_requests"] for one in (await reader.get("/v1/load")).json()["models"]):
                await asyncio.sleep(0.05)  # leases of answers that were lost expire

    options = ("--redis", own_server.url, "--replica", "a")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running(tmp_path, *options))

        def kill() -> None:
            first.process.kill()
            first.process.wait()

        asyncio.run(load(first.url, running(tmp_path, *options, port=first.port), kill))
    assert most["large"] == SLOTS["large"]
    assert all(most[model] <= slots for model, slots in SLOTS.items())

"""What the HTTP service takes for a decision and a batch, on loopback. The bar of each is in its docstring."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import yaml

from benchmarks.conftest import SMOKE
from solver.interfaces.files.documents import read_document
from tests.http_service import HttpService, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

SECONDS = 1.0 if SMOKE else float(os.environ.get("SERVICE_SECONDS", "60"))
RATE = 100 if SMOKE else 1000
CONNECTIONS = 16


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    folder = tmp_path_factory.mktemp("service")
    models = [
        {"id": f"m{j}", "capacity": {"max_concurrent": 200}, "capabilities": {"coding": 0.5 + j / 50}}
        for j in range(20)
    ]
    path = folder / "twenty.yaml"
    path.write_text(yaml.safe_dump(models))
    assert len(read_document(path)) == 20
    with running(folder, "--fleet", str(path), tokens=False, fleet=False) as started:
        yield started


class Connection:
    """One connection that is kept: a client so light that it measures the service, not itself."""

    opened: ClassVar[list[Connection]] = []

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.opened.append(self)
        return self

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    @classmethod
    async def close_all(cls) -> None:
        for connection in cls.opened:
            await connection.close()
        cls.opened.clear()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        at = answer.lower().index(b"content-length: ") + 16
        size = int(answer[at : answer.index(b"\r", at)])
        return int(answer[9:12]), await self._reader.readexactly(size)

    async def decide_and_release(self) -> float:
        """Return the seconds of a decision; its lease is released after."""
        begun = time.perf_counter()
        status, body = await self.post("/v1/decide", b'{"agent":{"id":"a","task_type":"coding"}}')
        took = time.perf_counter() - begun
        assert status == 200, body
        status, _ = await self.post(f"/v1/leases/{json.loads(body)['lease_id']}:release", b'{"latency_ms":5}')
        assert status == 200
        return took


async def steady(port: int, rate: float, seconds: float, until: asyncio.Event | None = None) -> list[float]:
    """Decide and release at a rate; latencies count from when each request was due, so that waiting counts."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await Connection(port).open())
    took: list[float] = []

    async def one(due: float) -> None:
        connection = await free.get()
        late = time.perf_counter() - due
        took.append(late + await connection.decide_and_release())
        free.put_nowait(connection)

    gc.collect()  # the client's own collections, of all that pytest has loaded, take 50 ms of one core each
    gc.freeze()
    begun = time.perf_counter()
    open_tasks: set[asyncio.Task[None]] = (
        set()
    )  # tasks that have ended go: tens of thousands would stop the client
    for k in range(int(rate * seconds)):
        due = begun + k / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if until is not None and until.is_set():
            break
        task = asyncio.create_task(one(due))
        open_tasks.add(task)
        task.add_done_callback(open_tasks.discard)
    await asyncio.gather(*open_tasks)
    assert until is not None or len(took) == int(rate * seconds), "requests failed"
    return took


async def saturated(port: int, seconds: float) -> float:
    """Return decide-and-release pairs a second when every connection is always busy."""
    end, done = time.perf_counter() + seconds, 0

    async def loop(connection: Connection) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await connection.decide_and_release()
            done += 1

    await asyncio.gather(*[loop(await Connection(port).open()) for _ in range(CONNECTIONS)])
    return done / seconds


def cpu_s(pid: int) -> float:
    """Return the processor time of a process: what it needs, however busy the machine is."""
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started: those of prices and of batches."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def batch(n: int, m: int) -> bytes:
    rng = np.random.default_rng(0)
    problem = {
        "agents": [{"id": f"a{i}"} for i in range(n)],
        "models": [{"id": f"m{j}", "capacity": {"max_concurrent": n // m + 1}} for j in range(m)],
        "scores": rng.random((n, m)).round(4).tolist(),
    }
    return json.dumps({"problem": problem, "deadline_ms": 60_000}).encode()


async def warmed_up(port: int) -> float:
    """Make one decision; return its seconds."""
    connection = await Connection(port).open()
    try:
        return await connection.decide_and_release()
    finally:
        await Connection.close_all()


def told(benchmark: BenchmarkFixture, name: str, took: list[float]) -> None:
    p50, p99, most = 1000.0 * np.quantile(took, [0.5, 0.99, 1.0])
    benchmark.extra_info.update(p50_ms=p50, p99_ms=p99, max_ms=most, requests=len(took))
    print(f"\n{name}: {len(took):,} requests, p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {most:.2f} ms")


def once(benchmark: BenchmarkFixture, work: Any) -> Any:
    async def measured() -> Any:
        try:
            return await work()
        finally:
            await Connection.close_all()

    return benchmark.pedantic(lambda: asyncio.run(measured()), rounds=1, iterations=1)


def bench_decide_at_a_thousand_a_second(benchmark: BenchmarkFixture, service: HttpService) -> None:
    """Bar: p99 3 ms."""
    told(benchmark, "decide", once(benchmark, lambda: steady(service.port, RATE, SECONDS)))


def bench_decide_at_saturation(benchmark: BenchmarkFixture, service: HttpService) -> None:
    """Bar: 2,000 a second."""
    pid = service.process.pid
    once_s = asyncio.run(warmed_up(service.port))  # the process that computes prices has started
    before_s, beside_s = cpu_s(pid), sum(map(cpu_s, children(pid)))
    rate = once(benchmark, lambda: saturated(service.port, SECONDS / 2))
    pairs = rate * SECONDS / 2
    pair_us = 1e6 * (cpu_s(pid) - before_s) / pairs
    prices_us = 1e6 * (sum(map(cpu_s, children(pid))) - beside_s) / pairs
    benchmark.extra_info.update(
        pairs_per_second=rate, processor_us_per_pair=pair_us, prices_us_per_pair=prices_us
    )
    print(
        f"\nsaturation: {rate:,.0f} decisions with their release a second, {pair_us:.0f} µs of processor each, "
        f"and {prices_us:.0f} µs of prices beside them; {once_s * 1000:.1f} ms the first"
    )


@pytest.mark.parametrize(("n", "rounds"), [(1_000, 100)] if SMOKE is False else [(200, 2)])
def bench_assign(benchmark: BenchmarkFixture, service: HttpService, n: int, rounds: int) -> None:
    """Bar: 1,000 × 20 p99 60 ms."""
    assign(benchmark, service, n, rounds)


@pytest.mark.skipif(SMOKE, reason="large")
def bench_assign_ten_thousand(benchmark: BenchmarkFixture, service: HttpService) -> None:
    """Bar: 400 ms."""
    assign(benchmark, service, 10_000, 10)


def assign(benchmark: BenchmarkFixture, service: HttpService, n: int, rounds: int) -> None:
    body = batch(n, 20)

    async def work() -> list[float]:
        connection, took = await Connection(service.port).open(), []
        for _ in range(rounds):
            begun = time.perf_counter()
            status, answer = await connection.post("/v1/assign", body)
            took.append(time.perf_counter() - begun)
            assert status == 200, answer[:500]
        return took

    told(benchmark, f"assign {n:,} × 20", once(benchmark, work))


@pytest.mark.skipif(SMOKE, reason="large")
def bench_decide_while_a_large_batch_is_solved(benchmark: BenchmarkFixture, service: HttpService) -> None:
    """Bar: p99 20 ms."""
    body = batch(100_000, 20)

    async def work() -> list[float]:
        done = asyncio.Event()
        connection = await Connection(service.port).open()

        async def solve() -> None:
            status, answer = await connection.post("/v1/assign", body)
            assert status == 200, answer[:500]
            done.set()

        solving = asyncio.create_task(solve())
        took = await steady(service.port, 200, 60.0, until=done)
        await solving
        return took

    told(benchmark, "decide during 100,000 × 20", once(benchmark, work))

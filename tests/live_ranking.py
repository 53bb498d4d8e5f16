"""Policies on simulated servers and on real ones that sleep: ``python -m tests.live_ranking``.

A process of its own serves every model of a fleet over HTTP on loopback: it counts slots and queue places, sleeps as
long as a simulated server would take, and answers 429 beyond that. The same policies, unmodified, choose for the same
requests once in a replay and once live, where requests are sent when they arrive and everything happens in real time,
``--speed`` times as fast as in the trace. Kendall's rank correlation between the two orders of policies is printed for
mean latency, P95, served requests and quality. Exit code 1 when one of mean latency and quality is below 0.9.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import kendalltau

from solver.clock import ManualClock
from solver.interfaces.files.sources import Reading
from solver.interfaces.simulation.fleet_file import read_fleet
from solver.simulate.experiment import Setup, make_scene
from solver.simulate.policies.registry import make_policy
from solver.simulate.replay import replay
from solver.simulate.servers import Fleet
from solver.simulate.traffic_generators import generate_traffic

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from solver.simulate.replay import Policy
    from solver.simulate.scenario import Scene

POLICIES = (
    "weighted-optimal",
    "least-tokens",
    "route-balance",
    "round-robin",
    "blind-greedy",
    "constant:small",
)
FIGURES = ("mean latency s", "P95 latency s", "served", "quality")
HELD = ("mean latency s", "quality")
"""Figures whose order must agree: P95 of few requests and counts that tie say little."""

LEAST_TAU = 0.9
FLEET = Path(__file__).parents[1] / "docs" / "examples" / "simulated_fleet.yaml"


# -- servers


@dataclass
class _Server:
    """One model: what it is, and how many requests it runs and keeps waiting."""

    slots: int
    places: int
    first_token_s: float
    s_per_token: float
    slowdown: float
    speed: float

    def __post_init__(self) -> None:
        self.running = self.waiting = 0
        self.turn = asyncio.Semaphore(self.slots)

    async def serve(self, tokens: int) -> tuple[int, float, float]:
        """Return the status, the seconds the model has worked, and by how many it overslept, in the trace's time."""
        if self.running >= self.slots and self.waiting >= self.places:
            return 429, 0.0, 0.0
        self.waiting += 1
        async with self.turn:
            self.waiting -= 1
            fuller = self.slowdown * self.running / (self.slots - 1) if self.slots > 1 else 0.0
            self.running += 1
            began = perf_counter()
            work_s = (1.0 + fuller) * (self.first_token_s + tokens * self.s_per_token)
            await asyncio.sleep(work_s / self.speed)
            self.running -= 1
            worked_s = (perf_counter() - began) * self.speed
            return 200, worked_s, worked_s - work_s


def _serve(models: list[dict[str, Any]], pipe: Connection) -> None:
    """Serve until the pipe closes; says its port first."""
    asyncio.run(_serving(models, pipe))


async def _serving(models: list[dict[str, Any]], pipe: Connection) -> None:
    servers = [_Server(**model) for model in models]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        asked = json.loads(await reader.readexactly(length))
        status, worked_s, late_s = await servers[asked["model"]].serve(asked["max_tokens"])
        body = json.dumps({"worked_s": worked_s, "late_s": late_s}).encode()
        writer.write(
            f"HTTP/1.1 {status} -\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    async with server:
        pipe.send(server.sockets[0].getsockname()[1])
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), stop.set)
        await stop.wait()


# -- client


class LiveRun:
    """Requests of a scene sent to servers as they arrive, to the models that a policy chooses."""

    def __init__(self, scene: Scene, policy: Policy, clock: ManualClock, port: int, speed: float) -> None:
        self._scene, self._policy, self._clock = scene, policy, clock
        self._port, self._speed = port, speed
        self._began = perf_counter()
        n = len(scene.traffic)
        self.latency_s = np.full(n, np.nan)
        self.column = np.full(n, -1)
        self.late_s = np.full(n, np.nan)

    def _now(self) -> float:
        """Bring the policy's clock up to date."""
        self._clock.seconds = (perf_counter() - self._began) * self._speed
        return self._clock.seconds

    async def run(self) -> None:
        """Send every request when it arrives, and wait for all answers."""
        self._began = perf_counter()
        arrival = self._scene.traffic.arrival_s.tolist()
        calls, at = [], 0
        while at < len(arrival):
            await asyncio.sleep(max(0.0, (arrival[at] - self._now()) / self._speed))
            first = at
            while at < len(arrival) and arrival[at] == arrival[first]:
                at += 1
            self._now()
            chosen = self._policy.choose(range(first, at))
            calls += [
                asyncio.create_task(self._call(request, column))
                for request, column in zip(range(first, at), chosen, strict=True)
                if column >= 0
            ]
            self._policy.between_decisions()
        await asyncio.gather(*calls)
        self._policy.close()

    async def _call(self, request: int, column: int) -> None:
        arrival = float(self._scene.traffic.arrival_s[request])
        body = json.dumps(
            {"model": column, "max_tokens": int(self._scene.traffic.output_tokens[request])}
        ).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: loopback\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        status = int((await reader.readline()).split()[1])
        answer = json.loads((await reader.read()).split(b"\r\n\r\n")[1])
        writer.close()
        latency_s = self._now() - arrival
        if status != 200:
            self._policy.turned_away(request, column, status)
            return
        self.latency_s[request], self.column[request] = latency_s, column
        self.late_s[request] = answer["late_s"]
        self._policy.ended(request, column, latency_s, answer["worked_s"], success=True)


# -- comparison


def _figures(scene: Scene, latency_s: np.ndarray[Any, Any], column: np.ndarray[Any, Any]) -> dict[str, float]:
    rows = np.flatnonzero(~np.isnan(latency_s))
    quality = scene.quality.outcome[rows, column[rows]].sum() / len(scene.traffic)
    return {
        "mean latency s": float(latency_s[rows].mean()),
        "P95 latency s": float(np.percentile(latency_s[rows], 95)),
        "served": float(len(rows)),
        "quality": float(quality),
    }


def simulated(scene: Scene, name: str) -> dict[str, float]:
    """Return the figures of a policy in a replay."""
    clock = ManualClock()
    result = replay(scene, make_policy(name, scene, clock), clock)
    latency = np.where(result.outcome == 0, result.latency_s, np.nan)
    return _figures(scene, latency, result.column)


def live(scene: Scene, name: str, *, speed: float) -> dict[str, float]:
    """Return the figures of a policy in front of servers that sleep, and by how much they overslept in the mean."""
    fleet = scene.fleet
    models = [
        {
            "slots": int(fleet.slots[j]),
            "places": int(fleet.queue_places[j]),
            "first_token_s": float(fleet.first_token_s[j]),
            "s_per_token": float(fleet.s_per_token[j]),
            "slowdown": fleet.params.slowdown,
            "speed": speed,
        }
        for j in range(len(fleet))
    ]
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(models, there), daemon=True)
    process.start()
    try:
        port = here.recv()
        clock = ManualClock()
        run = LiveRun(scene, make_policy(name, scene, clock), clock, port, speed)
        asyncio.run(run.run())
    finally:
        here.send(None)
        process.join(10)
        process.kill()
    return _figures(scene, run.latency_s, run.column) | {"overslept s": float(np.nanmean(run.late_s))}


def correlations(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, float]:
    """Return Kendall's tau-b between simulated and live figures, by figure; 1 where all policies tie in both."""
    found = {}
    for figure in FIGURES:
        first, second = ([pair[k][figure] for pair in pairs] for k in (0, 1))
        tau = float(kendalltau(first, second).statistic)
        found[figure] = 1.0 if np.isnan(tau) and first == second else tau
    return found


def scene_of(requests: int, load: float, seed: int) -> Scene:
    """Return gamma traffic of coefficient of variation 2 on the fleet of the documentation."""
    fleet = Fleet(read_fleet(FLEET, Reading()))
    return make_scene(
        generate_traffic("gamma", requests, seed=seed), fleet, seed=seed, setup=Setup(load=load)
    )


def main() -> int:
    """Print both figures of every policy and the rank correlations; 1 when they are too low."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--speed", type=float, default=10.0, help="seconds of the trace in a real second")
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", default=",".join(POLICIES))
    args = parser.parse_args()
    scene = scene_of(args.requests, args.load, args.seed)
    names = args.policies.split(",")
    print(f"{args.requests} requests at {args.load:.0%} of capacity, live at {args.speed:g} times the speed")
    print(f"{'policy':20s}" + "".join(f"{figure:>22s}" for figure in FIGURES) + "   (replay / live)")
    pairs = []
    for name in names:
        pairs.append((simulated(scene, name), live(scene, name, speed=args.speed)))
        cells = [f"{pairs[-1][0][figure]:.2f} / {pairs[-1][1][figure]:.2f}" for figure in FIGURES]
        late = pairs[-1][1]["overslept s"]
        print(
            f"{name:20s}" + "".join(f"{cell:>22s}" for cell in cells) + f"   overslept {late:.2f} s",
            flush=True,
        )
    taus = correlations(pairs)
    print(f"{'Kendall tau':20s}" + "".join(f"{taus[figure]:>22.3f}" for figure in FIGURES))
    return int(any(taus[figure] < LEAST_TAU for figure in HELD))


if __name__ == "__main__":
    sys.exit(main())

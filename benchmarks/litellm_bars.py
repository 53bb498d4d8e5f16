"""The plug-in beside LiteLLM's own strategies, on one loopback upstream: ``python -m benchmarks.litellm_bars``.

Needs LiteLLM: run it with the interpreter of ``make litellm``'s environment. Each part can be run alone
(``--only bursts``): refusals at once, leaks, limits, response times in batches, and what a call costs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.upstream import Behaviour, Upstream

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise the import tries the network
warnings.simplefilter("ignore")  # of LiteLLM and what it imports

if TYPE_CHECKING:
    from collections.abc import Iterator

PEERS = ("simple-shuffle", "least-busy", "latency-based-routing", "usage-based-routing-v2")
OURS = "solver"
HELLO = [{"role": "user", "content": "hello"}]
MEAN_S = {"a": 0.3, "b": 0.45, "c": 0.75, "d": 1.2}
"""Mean service of four servers of different speed, seconds, for ``response_times``."""
SERVERS = 4
"""Requests that each of them serves at once; more wait there."""


def deployment(up: Upstream, name: str, model: str = "fast", **extra: Any) -> dict[str, Any]:
    return {
        "model_name": "g",
        "litellm_params": {"model": f"openai/{model}", "api_key": "none", "api_base": up.url, **extra},
        "model_info": {"id": name},
    }


@contextmanager
def routed(policy: str, fleet: list[dict[str, Any]], **options: Any) -> Iterator[tuple[Any, Any]]:
    """Return a router of LiteLLM with a policy, and the plug-in's strategy where it is ours."""
    import litellm

    from solver.interfaces.litellm import FleetOptions, install

    settings = {"num_retries": 0, "disable_cooldowns": True}
    if policy != OURS:
        yield litellm.Router(model_list=fleet, routing_strategy=policy, **settings), None
        return
    router = litellm.Router(model_list=fleet, **settings)
    strategy = install(router, options=FleetOptions(**options))
    try:
        yield router, strategy
    finally:
        strategy.close()


async def ask(router: Any, **call: Any) -> Any:
    try:
        return await router.acompletion(model="g", messages=HELLO, **call)
    except Exception as error:  # noqa: BLE001 - LiteLLM raises many kinds; here they count as refused
        return error


def at_once(rounds: int) -> None:
    """Twenty at once on four deployments of five slots."""
    for policy in (OURS, *PEERS):
        with Upstream(fast=Behaviour(latency_s=0.05)) as up:
            fleet = [deployment(up, f"d{j}", max_parallel_requests=5) for j in range(4)]

            async def main(router: Any) -> int:
                refused = 0
                for _ in range(rounds):
                    answers = await asyncio.gather(*(ask(router) for _ in range(20)))
                    refused += sum(isinstance(answer, Exception) for answer in answers)
                return refused

            with routed(policy, fleet) as (router, _):
                print(
                    f"20 at once on 4 x 5, {policy:24s}: {asyncio.run(main(router))} of {20 * rounds} refused"
                )


def leaks(count: int) -> None:
    """Streams that end in ways LiteLLM does not report; what is still held afterwards."""
    for end in ("dropped", "closed", "cancelled", "never read", "no-log"):
        with Upstream(fast=Behaviour(chunks=4, chunk_s=0.01)) as up:
            fleet = [deployment(up, "d0", max_parallel_requests=count)]

            async def one(router: Any, end: str) -> None:
                extra: Any = {"no-log": True} if end == "no-log" else {}
                stream = await router.acompletion(model="g", messages=HELLO, stream=True, **extra)
                if end == "never read":
                    return
                async for _ in stream:
                    if end in ("dropped", "closed"):
                        break
                    if end == "cancelled":
                        raise asyncio.CancelledError
                if end == "closed":
                    await stream.aclose()

            async def main(router: Any, strategy: Any, end: str) -> int:
                await asyncio.gather(*(one(router, end) for _ in range(count)), return_exceptions=True)
                until = time.monotonic() + 20.0
                while True:
                    gc.collect()
                    strategy.selector.ledger.drain()
                    held = int(strategy.selector.tracker.snapshot().active.sum())
                    if not held or time.monotonic() > until:
                        return held
                    await asyncio.sleep(0.05)

            with routed(OURS, fleet) as (router, strategy):
                print(f"{count} streams {end:10s}: {asyncio.run(main(router, strategy, end))} still held")


async def _thirty(policy: str, limited: dict[str, Any]) -> None:
    with routed(policy, [limited]) as (router, _):  # LiteLLM's budgets need a running loop
        await asyncio.gather(*(ask(router, max_tokens=8) for _ in range(30)))


def limits() -> None:
    """Thirty at once where ten are allowed: by requests, by tokens (10 each), by dollars (0.01 each)."""
    prices = {"input_cost_per_token": 0.001, "output_cost_per_token": 0.001}
    kinds: dict[str, dict[str, Any]] = {
        "rpm=10": {"rpm": 10},
        "tpm=100": {"tpm": 100},
        "max_budget=0.1": {"max_budget": 0.1, "budget_duration": "1h", **prices},
    }
    for name, limit in kinds.items():
        for policy in (OURS, *PEERS):
            with Upstream(fast=Behaviour(latency_s=0.05)) as up:
                asyncio.run(_thirty(policy, deployment(up, "d0", max_parallel_requests=1000, **limit)))
                print(f"{name:15s} {policy:24s}: {up.served['fast']} served of 30, 10 allowed", flush=True)


async def _batches(router: Any, load: float, seed: int, seconds: float) -> list[float]:
    """Return response times of Poisson batches of 8; the refused ask again until they are served."""
    rng = np.random.default_rng(seed)
    rate = load * sum(SERVERS / mean for mean in MEAN_S.values()) / 8.0
    times: list[float] = []

    async def one() -> None:
        started = time.perf_counter()
        while isinstance(await ask(router), Exception):
            await asyncio.sleep(0.05)
        times.append(time.perf_counter() - started)

    await asyncio.gather(*(ask(router) for _ in range(8)))  # LiteLLM's first calls load what it needs
    tasks: list[asyncio.Task[None]] = []
    begun, at = time.perf_counter(), 0.0
    while (at := at + float(rng.exponential(1.0 / rate))) < seconds:
        await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
        tasks += [asyncio.create_task(one()) for _ in range(8)]
    await asyncio.gather(*tasks)
    return times[len(times) // 5 :]


def response_times(seeds: int, seconds: float, loads: tuple[float, ...]) -> None:
    """Batches of 8 on four servers of different speed. Peers with and without LiteLLM's own limiter.

    Without it, requests wait at the servers; ours wait in the plug-in.
    """
    runs = [(OURS, True), *((peer, False) for peer in PEERS), ("least-busy", True)]
    for load in loads:
        found: dict[tuple[str, bool], np.ndarray] = {}
        for policy, capped in runs:
            figures = []
            for seed in range(seeds):
                behaviours = {
                    name: Behaviour(latency_s=mean, jitter=0.3, servers=SERVERS)
                    for name, mean in MEAN_S.items()
                }
                with Upstream(**behaviours) as up:
                    cap: Any = {"max_parallel_requests": SERVERS} if capped else {}
                    fleet = [deployment(up, name, name, **cap) for name in MEAN_S]
                    with routed(policy, fleet, queue=100) as (router, _):
                        took = np.array(asyncio.run(_batches(router, load, seed, seconds)))
                figures.append((took.mean(), np.quantile(took, 0.95)))
            found[policy, capped] = np.array(figures)
            mean, p95 = found[policy, capped].T
            shown = f"{policy}{' (capped)' if capped and policy != OURS else ''}"
            print(
                f"batches of 8 at {100 * load:.0f} %, {shown:26s}: mean {mean.mean():.3f} s, p95 {p95.mean():.3f} s "
                f"({', '.join(f'{value:.3f}' for value in p95)})",
                flush=True,
            )
        ours = found.pop((OURS, True))
        for column, what in enumerate(("mean", "p95")):
            best = min(found.values(), key=lambda each, column=column: float(each[:, column].mean()))  # type: ignore[misc]
            ratio = ours[:, column] / best[:, column] - 1.0
            half = 4.303 * ratio.std(ddof=1) / np.sqrt(seeds) if seeds == 3 else float("nan")
            print(
                f"  {what}: {100 * ratio.mean():+.1f} % against the best, 95 % interval +- {100 * half:.1f}"
            )


async def _mocked(router: Any, calls: int) -> list[float]:
    """Return milliseconds of processor time of each of some mocked calls."""
    millis = []
    for _ in range(calls):
        started = time.process_time()
        await router.acompletion(model="g", messages=HELLO, mock_response="hello")
        millis.append(1e3 * (time.process_time() - started))
    return millis


def overhead(calls: int) -> None:
    """Processor time of a whole mocked call, LiteLLM's own strategies beside ours in turns."""
    for count in (5, 50):
        took: dict[str, list[float]] = {}
        with Upstream() as up:
            fleet = [deployment(up, f"d{j}", max_parallel_requests=50) for j in range(count)]
            for _ in range(3):
                for policy in (OURS, *PEERS):
                    with routed(policy, fleet) as (router, _):
                        took.setdefault(policy, []).extend(asyncio.run(_mocked(router, calls)))
        for policy, millis in took.items():
            print(f"{count} deployments, {policy:24s}: {np.median(millis):.2f} ms of processor time a call")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["bursts", "leaks", "limits", "times", "overhead"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8])
    given = parser.parse_args()
    if given.only in (None, "bursts"):
        at_once(given.rounds)
    if given.only in (None, "leaks"):
        leaks(given.rounds)
    if given.only in (None, "limits"):
        limits()
    if given.only in (None, "times"):
        response_times(given.seeds, given.seconds, tuple(given.loads))
    if given.only in (None, "overhead"):
        overhead(100)

"""A tenant that sends ten times its share, and a herd that was refused at once.

``python -m benchmarks.fairness`` prints the mean and p95 waiting time of a well-behaved tenant beside the noisy
one, over what it has alone on its share of the slots (bar: 1.2), over the whole server alone, and with one queue
for all; then the part of 100 clients refused at once that is refused a second time when each asks again after
its own ``retry_after_s`` (bar: 0.2), for a rate, tokens, slots, and a pool. Simulated, on the tracker itself.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

import numpy as np

from solver.clock import ManualClock
from solver.load.lease import Demand, Lease, LeaseState, Refusal
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity

if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS = 10
SERVICE_S = 2.0
ARRIVALS = 4000


def waits(
    slots: int,
    quiet_rate: float,
    noisy_rate: float,
    *,
    named: bool = True,
    seed: int = 1,
    arrivals: int = ARRIVALS,
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the waiting times of the quiet tenant, seconds."""
    rng, clock = np.random.default_rng(seed), ManualClock(0.0)
    tracker = LoadTracker(clock=clock)
    tracker.set_capacity("m", Capacity(max_concurrent=slots, max_queue=200))
    order = itertools.count()
    events: list[tuple[float, int, str, Lease | None]] = []
    waiting: dict[str, tuple[float, str, Lease]] = {}
    waited: list[float] = []

    def start(lease: Lease, tenant: str, came_s: float) -> None:
        if tenant == "quiet":
            waited.append(clock.now() - came_s)
        ends_s = clock.now() + rng.exponential(SERVICE_S)
        heapq.heappush(events, (ends_s, next(order), "end", lease))

    def promoted(lease_id: str) -> None:
        came_s, tenant, lease = waiting.pop(lease_id)
        start(lease, tenant, came_s)

    tracker.on_promotion(promoted)
    for tenant, rate in (("quiet", quiet_rate), ("noisy", noisy_rate)):
        if rate:
            heapq.heappush(events, (rng.exponential(1.0 / rate), next(order), tenant, None))
    while len(waited) < arrivals:
        clock.seconds, _, kind, ended = heapq.heappop(events)
        if ended is not None:
            ended.release()
            continue
        rate = quiet_rate if kind == "quiet" else noisy_rate
        heapq.heappush(events, (clock.now() + rng.exponential(1.0 / rate), next(order), kind, None))
        lease = tracker.acquire("m", queue=True, ttl_s=1e6, tenant=kind if named else None)
        if lease is None:
            continue
        if lease.granted is LeaseState.RUNNING:
            start(lease, kind, clock.now())
        else:
            waiting[lease.lease_id] = (clock.now(), kind, lease)
    return np.array(waited[arrivals // 10 :])


def herd(prepare: Callable[[LoadTracker], None], demand: Demand, hold_s: float) -> float:
    """Return the part of 100 clients refused at once that is refused again after its own retry_after_s."""
    clock = ManualClock(1000.0)
    tracker = LoadTracker(clock=clock)
    prepare(tracker)
    order = itertools.count()
    events: list[tuple[float, int, Lease | None]] = []

    def run(lease: Lease) -> None:
        heapq.heappush(events, (clock.now() + hold_s, next(order), lease))

    while True:
        answer = tracker.try_acquire("m", demand)
        if isinstance(answer, Refusal):
            break
        run(answer)
    clock.advance(min(1.0, hold_s / 2))
    tracker.record("m", latency_ms=1000.0 * hold_s)
    for _ in range(100):
        answer = tracker.try_acquire("m", demand)
        if isinstance(answer, Refusal) and answer.retry_after_s is not None:
            heapq.heappush(events, (clock.now() + answer.retry_after_s, next(order), None))
    asked = again = 0
    while events:
        clock.seconds, _, ended = heapq.heappop(events)
        if ended is not None:
            ended.release()
            continue
        asked += 1
        answer = tracker.try_acquire("m", demand)
        if isinstance(answer, Lease):
            run(answer)
        else:
            again += 1
    return again / asked


def _slots(tracker: LoadTracker) -> None:
    tracker.set_capacity("m", Capacity(max_concurrent=8))


def _rate(tracker: LoadTracker) -> None:
    tracker.set_capacity("m", Capacity(max_concurrent=1000), requests_per_minute=20)


def _tokens(tracker: LoadTracker) -> None:
    tracker.set_capacity("m", Capacity(max_concurrent=1000), tokens_per_minute=10_000)


def _pool(tracker: LoadTracker) -> None:
    tracker.set_pool("quota", requests_per_minute=30)
    tracker.set_capacity("m", Capacity(max_concurrent=1000), pools=["quota"])


HERDS: dict[str, tuple[Callable[[LoadTracker], None], Demand, float]] = {
    "20 requests a minute": (_rate, Demand(), 0.5),
    "10,000 tokens a minute, 500 each": (_tokens, Demand(tokens=500), 0.5),
    "8 slots, 2 s each": (_slots, Demand(), 2.0),
    "30 requests a minute in a pool": (_pool, Demand(), 0.5),
}


def main() -> None:
    share = SLOTS / 2 / SERVICE_S  # requests a second that half of the slots serve
    heads = ("beside noisy", "alone, share", "ratio", "ratio p95", "alone, all", "no tenants")
    print(f"{'load of its share':20s}" + "".join(f"{head:>14s}" for head in heads))
    for load in (0.7, 0.8, 0.9):
        rate = load * share
        beside, alone = waits(SLOTS, rate, 10 * share), waits(SLOTS // 2, rate, 0.0)
        whole, mixed = waits(SLOTS, rate, 0.0), waits(SLOTS, rate, 10 * share, named=False)
        tail = np.percentile(beside, 95) / np.percentile(alone, 95)
        figures = (
            beside.mean(),
            alone.mean(),
            beside.mean() / alone.mean(),
            tail,
            whole.mean(),
            mixed.mean(),
        )
        print(f"{load:<20.0%}" + "".join(f"{figure:14.2f}" for figure in figures))
    for name, (prepare, demand, hold_s) in HERDS.items():
        print(f"{name:36s}refused a second time {herd(prepare, demand, hold_s):.0%}")


if __name__ == "__main__":
    main()

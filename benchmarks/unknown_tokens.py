"""Answers of unknown length under a limit on tokens: how much of it is used, and by how much it is overspent.

``python -m benchmarks.unknown_tokens`` prints, for several kinds of traffic with ``max_tokens`` 32,000 and more
demand than the limit allows, the tokens used in the busiest minute and in the mean over the limit, beside two
other ways: reserving ``max_tokens``, and reserving nothing. Simulated; requests last as long as their answers.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import numpy as np

from solver.clock import ManualClock
from solver.load.lease import Demand, Lease
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity

MAX_TOKENS = 32_000
SECONDS = 900.0
PROMPT = 100
TOKENS_PER_S = 50.0

Sampler = Callable[[np.random.Generator], int]
TRAFFIC: dict[str, tuple[int, Sampler]] = {
    "always 100 tokens": (100_000, lambda _: 100),
    "short, log-normal": (100_000, lambda rng: max(1, int(rng.lognormal(4.6, 0.8)))),
    "mixed, one in ten long": (
        200_000,
        lambda rng: int(rng.integers(1500, 4000)) if rng.random() < 0.1 else int(rng.integers(20, 200)),
    ),
    "heavy tail": (400_000, lambda rng: min(MAX_TOKENS, int(50 * (1 + rng.pareto(1.5))))),
}


def run(limit: int, sample: Sampler, reserve: str, seed: int) -> tuple[float, float, int]:
    """Return the mean and the highest use of the limit in a minute, and the largest request."""
    clock, rng = ManualClock(0.0), np.random.default_rng(seed)
    tracker = LoadTracker(clock=clock)
    tracker.set_capacity("m", Capacity(max_concurrent=10_000), tokens_per_minute=limit)
    order, used = itertools.count(), list[tuple[float, int]]()
    mean = PROMPT + float(np.mean([sample(rng) for _ in range(2000)]))
    step_s, largest = 60.0 * mean / limit / 1.5, 0  # half as much again as fits
    heap: list[tuple[float, int, Lease, int]] = []
    for k in range(int(SECONDS / step_s)):
        now = k * step_s
        while heap and heap[0][0] <= now:
            clock.seconds, _, ended, spent = heapq.heappop(heap)
            ended.release(tokens=spent)
        clock.seconds = now
        output = sample(rng)
        demand = {
            "learned": lambda: tracker.demand_for("m", input_tokens=PROMPT, max_tokens=MAX_TOKENS),
            "max_tokens": lambda: Demand(tokens=PROMPT + MAX_TOKENS, input_tokens=PROMPT),
            "nothing": lambda: Demand(tokens=PROMPT, input_tokens=PROMPT),
        }[reserve]()
        lease = tracker.acquire("m", demand, ttl_s=1e6)
        if lease is not None:
            largest = max(largest, PROMPT + output)
            used.append((now, PROMPT + output))
            heapq.heappush(heap, (now + output / TOKENS_PER_S, next(order), lease, PROMPT + output))
    times = np.array([at for at, _ in used])
    total = np.concatenate([[0], np.cumsum([tokens for _, tokens in used])])
    in_minute = [
        total[np.searchsorted(times, begin + 60.0)] - total[np.searchsorted(times, begin)]
        for begin in np.arange(120.0, SECONDS - 60.0, 1.0)
    ]
    return float(np.mean(in_minute)) / limit, float(max(in_minute)) / limit, largest


def main() -> None:
    print(f"{'traffic':26s}{'reserved':12s}{'used, mean':>12s}{'busiest minute':>16s}{'one request':>13s}")
    for name, (limit, sample) in TRAFFIC.items():
        for reserve in ("learned", "max_tokens", "nothing"):
            mean, most, largest = run(limit, sample, reserve, seed=1)
            print(f"{name:26s}{reserve:12s}{mean:12.1%}{most:16.1%}{largest / limit:13.1%}")


if __name__ == "__main__":
    main()

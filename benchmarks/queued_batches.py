"""Batches of 8 on four servers of different speed, in simulated time: ``python -m benchmarks.queued_batches``.

What ``litellm_bars --only times`` measures over a loopback server, without what the calls themselves cost: on a busy
machine that decides the outcome. Peers send every request on at once, and it waits at the server, first come first
served. Ours waits in the tracker's queue. Nothing is known of the servers beforehand.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

import solver
from benchmarks.litellm_bars import MEAN_S, SERVERS
from solver.clock import ManualClock
from solver.load.balance.prediction import CompletionPredictor

if TYPE_CHECKING:
    from solver.online.decision import Decision

BATCH = 8
LATENCY_WEIGHT = 0.05
T_95 = {3: 4.303, 5: 2.776, 10: 2.262}
"""Quantiles of Student's t for so many seeds."""


def arrivals(load: float, seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) seconds, Poisson batches, and (n, 4) service seconds, lognormal around the mean of each server."""
    rng = np.random.default_rng(seed)
    means = np.array(list(MEAN_S.values()))
    rate = load * (SERVERS / means).sum() / BATCH
    times = np.repeat(np.cumsum(rng.exponential(1.0 / rate, n // BATCH)), BATCH)
    return times, means * np.exp(0.3 * rng.standard_normal((len(times), len(means))) - 0.045)


def at_the_server(policy: str, load: float, seed: int, n: int) -> np.ndarray:
    """Return response times, seconds, of a policy that sends on at once."""
    times, service = arrivals(load, seed, n)
    m = service.shape[1]
    free = [[0.0] * SERVERS for _ in range(m)]
    running: list[list[float]] = [[] for _ in range(m)]
    took, rng = np.zeros(len(times)), np.random.default_rng(seed)
    for i, now in enumerate(times.tolist()):
        for line in running:
            while line and line[0] <= now:
                heapq.heappop(line)
        j = (
            int(np.argmin([len(line) for line in running]))
            if policy == "least-busy"
            else int(rng.integers(m))
        )
        ends = max(now, free[j][0]) + float(service[i, j])
        heapq.heapreplace(free[j], ends)
        heapq.heappush(running[j], ends)
        took[i] = ends - now
    return took


def in_the_queue(load: float, seed: int, n: int) -> np.ndarray:
    """Return response times, seconds, of ``OptimalRouter`` with queue places."""
    times, service = arrivals(load, seed, n)
    clock = ManualClock()
    tracker, predictor = solver.LoadTracker(clock=clock), CompletionPredictor(clock=clock)
    tracker.listen(predictor.observe)
    capacity = solver.Capacity(max_concurrent=SERVERS, max_queue=100)
    models = tuple(solver.Model(id=name, capacity=capacity) for name in MEAN_S)
    column = {name: j for j, name in enumerate(MEAN_S)}
    router = solver.OptimalRouter(
        tracker,
        models,
        background=False,
        queue=True,
        wait_cost_per_s=LATENCY_WEIGHT,
        ttl_s=1e9,
        predictor=predictor,
    )
    took = np.zeros(len(times))
    ends: list[tuple[float, int, int, float]] = []
    promoted: list[str] = []
    tracker.on_promotion(promoted.append)
    leases: dict[str, int] = {}
    decisions: dict[int, Decision] = {}

    def start(i: int, j: int, now: float) -> None:
        heapq.heappush(ends, (now + float(service[i, j]), i, j, now))

    def run_until(now: float) -> None:
        while ends and ends[0][0] <= now:
            at, i, _, begun = heapq.heappop(ends)
            clock.seconds = max(clock.seconds, at)
            took[i] = at - times[i]
            decisions.pop(i).release(latency_ms=1000.0 * (at - begun))
            while promoted:
                k = leases[promoted.pop(0)]
                start(k, column[str(decisions[k].model)], at)

    for first in range(0, len(times), BATCH):
        now = float(times[first])
        run_until(now)
        clock.seconds = max(clock.seconds, now)
        seconds = np.repeat(predictor.predict_ms(models, [10.0], [256.0]) / 1000.0, BATCH, axis=0)
        placed = router.route_many(scores=1.0 - LATENCY_WEIGHT * seconds, service_s=seconds)
        for i, decision in enumerate(placed, start=first):
            assert decision.lease is not None, decision.refusal
            decisions[i], leases[decision.lease.lease_id] = decision, i
            if decision.lease.granted.value == "running":
                start(i, column[str(decision.model)], now)
    run_until(np.inf)
    return took


def table(seeds: int = 5, n: int = 2400, loads: tuple[float, ...] = (0.5, 0.8)) -> None:
    for load in loads:
        figures: dict[str, np.ndarray] = {}
        for policy in ("solver", "least-busy", "simple-shuffle"):
            runs = []
            for seed in range(seeds):
                took = (
                    in_the_queue(load, seed, n)
                    if policy == "solver"
                    else at_the_server(policy, load, seed, n)
                )
                later = took[len(took) // 5 :]
                runs.append((later.mean(), np.quantile(later, 0.95)))
            figures[policy] = np.array(runs)
            mean, p95 = figures[policy].mean(axis=0)
            print(f"{100 * load:.0f} % {policy:15s} mean {mean:.3f} s, p95 {p95:.3f} s", flush=True)
        for k, what in enumerate(("mean", "p95")):
            ratio = figures["solver"][:, k] / figures["least-busy"][:, k] - 1.0
            half = T_95[seeds] * ratio.std(ddof=1) / np.sqrt(seeds)
            print(
                f"  {what}: {100 * ratio.mean():+.1f} % against least-busy, 95 % interval +- {100 * half:.1f}"
            )


if __name__ == "__main__":
    table()

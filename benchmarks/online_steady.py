"""Steady traffic on 24 models, nothing known beforehand: ``python -m benchmarks.online_steady``.

Scores in per cent of the fluid bound, which ignores randomness and therefore cannot be reached; beside greedy on the
same arrivals. Services take 5 s on average, with lognormal errors of 30 % of what was predicted.
"""

from __future__ import annotations

import argparse
import heapq
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

import solver
from benchmarks.online_data import UNSERVED, outcomes
from solver.clock import ManualClock
from solver.online.window_prices import window_prices

BURST = 3.0, 5.0
"""Times the mean rate, for so many seconds on average."""
CALM = 0.5, 20.0


class Case(NamedTuple):
    """One line of the table."""

    arrivals: str
    load: float
    policy: str = "router"
    slots: int = 12
    queue: int = 0
    wait_cost_per_s: float = 0.0
    noisy_scores: bool = False
    tokens_per_minute: bool = False
    bar: str = ""


CASES = (
    Case("poisson", 0.6, bar="91.5 %, 0 refused"),
    Case("poisson", 0.8, bar="91.5 %, 0 refused"),
    Case("poisson", 0.95, bar="91.5 %, 0 refused"),
    Case("poisson", 0.95, "greedy"),
    Case("poisson", 1.1, bar="91.5 %"),
    Case("poisson", 0.95, queue=4, wait_cost_per_s=0.05, bar="95 %, p99 wait <= 2.5 s"),
    Case("bursts", 0.95, bar="<= 10 % refused"),
    Case("bursts", 0.95, "greedy", bar="greedy 23 %"),
    Case("100 at once", 0.95, bar="joint +10 %"),
    Case("100 at once", 0.95, "one by one"),
    Case("poisson", 0.8, noisy_scores=True, tokens_per_minute=True, bar="better than greedy"),
    Case("poisson", 0.8, "greedy", noisy_scores=True, tokens_per_minute=True),
)


class Result(NamedTuple):
    """Of one run, after its warm-up."""

    score: float
    refused: float
    wait_p99_s: float
    bound: float


def arrival_times(rng: np.random.Generator, n: int, rate: float, kind: str) -> np.ndarray:
    """Return n times, seconds."""
    if kind == "poisson":
        return np.cumsum(rng.exponential(1.0 / rate, n))
    if kind == "100 at once":
        return np.repeat(np.cumsum(rng.exponential(100.0 / rate, -(-n // 100))), 100)[:n]
    times: list[float] = []
    now, burst, left = 0.0, False, float(rng.exponential(CALM[1]))
    while len(times) < n:
        step = float(rng.exponential(1.0 / (rate * (BURST if burst else CALM)[0])))
        if step > left:
            now, burst = now + left, not burst
            left = float(rng.exponential((BURST if burst else CALM)[1]))
        else:
            now, left = now + step, left - step
            times.append(now)
    return np.array(times)


def fluid_bound(slots: np.ndarray, rate: float) -> float:
    """Return a bound on the mean score by weak duality."""
    data = outcomes()
    n, start, bound = len(data.scores), None, np.inf
    for temperature in (0.05, 0.01, 0.002, 0.0005):
        found = window_prices(
            data.scores,
            weights=np.ones(n),
            unserved=np.full(n, UNSERVED),
            rates=slots / rate,
            of_models=(data.service_s,),
            start=start,
            temperature=temperature,
        )
        start = found.of_models[0]
        net = (data.scores - data.service_s * start).max(axis=1)
        bound = min(bound, float(np.maximum(net, UNSERVED).mean() + slots @ start / rate))
    return bound


def predicted(rng: np.random.Generator) -> np.ndarray:
    """Return scores as they can be known beforehand: means of model and source over half of the prompts."""
    data = outcomes()
    learn = rng.random(len(data.scores)) < 0.5
    table = np.empty_like(data.scores)
    for name in set(data.source.tolist()):
        of = data.source == name
        table[of] = data.scores[of & learn if (of & learn).any() else learn].mean(axis=0)
    return table


def run(job: tuple[Case, int, int]) -> Result:
    """Simulate one seed."""
    case, seed, n = job
    data, rng = outcomes(), np.random.default_rng(seed)
    m = data.scores.shape[1]
    slots = np.full(m, case.slots)
    rate = case.load * slots.sum() / float(data.service_s.mean())
    times = arrival_times(rng, n, rate, case.arrivals)
    rows = rng.integers(len(data.scores), size=n)
    noise = np.exp(0.3 * rng.standard_normal(n) - 0.045)
    known = predicted(rng) if case.noisy_scores else data.scores
    tpm = (
        int(0.7 * 60 * case.slots / data.service_s.mean() * data.tokens.mean())
        if case.tokens_per_minute
        else None
    )
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    models = [
        solver.Model(
            id=str(j),
            capacity=solver.Capacity(max_concurrent=case.slots, max_queue=case.queue),
            tokens_per_minute=tpm,
        )
        for j in range(m)
    ]
    router = solver.OptimalRouter(
        tracker,
        models,
        solver.Objective(unassigned_penalty=-UNSERVED),
        background=False,
        queue=case.queue > 0,
        wait_cost_per_s=case.wait_cost_per_s,
        ttl_s=1e6,
    )
    score, wait, refused = np.zeros(n), np.zeros(n), np.zeros(n, np.bool_)
    busy: list[tuple[float, int, int]] = []
    waiting: list[list[int]] = [[] for _ in range(m)]
    leases: dict[int, solver.Lease] = {}

    def depart(until: float) -> None:
        while busy and busy[0][0] <= until:
            at, t, j = heapq.heappop(busy)
            clock.seconds = max(clock.seconds, at)
            leases.pop(t).release()
            if waiting[j]:
                following = waiting[j].pop(0)
                wait[following] = at - times[following]
                heapq.heappush(
                    busy, (at + data.service_s[rows[following], j] * noise[following], following, j)
                )

    t = 0
    while t < n:
        depart(times[t])
        clock.seconds = max(clock.seconds, float(times[t]))
        end = t + 1
        while case.arrivals == "100 at once" and end < n and times[end] == times[t]:
            end += 1
        chosen = _decide(case, router, tracker, known, rows[t:end], metered=tpm is not None)
        for k, choice in zip(range(t, end), chosen, strict=True):
            if choice is None:
                score[k], refused[k] = UNSERVED, True
                continue
            j, lease = choice
            leases[k], score[k] = lease, data.scores[rows[k], j]
            if lease.granted.value == "queued":
                waiting[j].append(k)
            else:
                heapq.heappush(busy, (times[k] + data.service_s[rows[k], j] * noise[k], k, j))
        t = end
    warm = n // 6
    return Result(
        float(score[warm:].mean()),
        float(refused[warm:].mean()),
        float(np.quantile(wait[warm:], 0.99)),
        fluid_bound(slots, rate),
    )


def _decide(
    case: Case,
    router: solver.OptimalRouter,
    tracker: solver.LoadTracker,
    known: np.ndarray,
    rows: np.ndarray,
    *,
    metered: bool,
) -> list[tuple[int, solver.Lease] | None]:
    """Return (model, lease) of each agent that arrives now, None for the refused."""
    data = outcomes()
    if case.policy == "greedy":
        return [_greedy(tracker, known[i], int(data.tokens[i].mean()) if metered else 0) for i in rows]
    if case.policy == "router" and len(rows) > 1:
        decisions = router.route_many(scores=known[rows], service_s=data.service_s[rows])
    else:
        decisions = [
            router.route(
                scores=known[i],
                service_s=data.service_s[i],
                tokens=int(data.tokens[i].mean()) if metered else 0,
            )
            for i in rows
        ]
    return [
        (int(d.model), d.lease) if d.model is not None and d.lease is not None else None for d in decisions
    ]


def _greedy(tracker: solver.LoadTracker, scores: np.ndarray, tokens: int) -> tuple[int, solver.Lease] | None:
    from solver.load.lease import Demand

    for j in np.argsort(-scores).tolist():
        lease = tracker.acquire(str(j), Demand(tokens=tokens), ttl_s=1e6)
        if lease is not None:
            return j, lease
    return None


def table(seeds: int, n: int, cases: tuple[Case, ...] = CASES, processes: int = 2) -> None:
    """Print a line for each case."""
    print("arrivals      load policy      | % of fluid bound  (s.e.)  refused   p99 wait | bar")
    with ProcessPoolExecutor(processes) as pool:
        for case in cases:
            got = np.array(list(pool.map(run, [(case, seed, n) for seed in range(seeds)])))
            share = 100 * got[:, 0] / got[:, 3]
            what = (
                " tpm, predicted scores"
                if case.noisy_scores
                else f" {case.queue} places"
                if case.queue
                else ""
            )
            print(
                f"{case.arrivals:12s} {100 * case.load:4.0f} % {case.policy:11s} | {share.mean():8.2f} "
                f"({share.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else 0:.2f}) {100 * got[:, 1].mean():8.2f} % "
                f"{got[:, 2].mean():8.2f} s | {case.bar}{what}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--arrivals", type=int, default=6000)
    given = parser.parse_args()
    table(given.seeds, given.arrivals)

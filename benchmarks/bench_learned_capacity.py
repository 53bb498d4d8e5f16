"""How much of a clairvoyant's goodput adaptive limits recover on servers whose capacity changes unseen.

``python -m benchmarks.bench_learned_capacity [--seeds 3] [--draws 20]`` prints one line a scenario: goodput
(tokens a second in answers that keep the time per token and the time to first token) of each limit, over that
of a clairvoyant who sets the best constant limit the moment the server changes. The best constant limit is
found by a sweep: with an objective the smallest within 2 % of the highest throughput that keeps it, without
one the limit of greatest power. ``--draws`` adds servers drawn at random.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.limit_baselines import AIMD, Constant, Envoy, Fixed, Gradient2, Vegas
from benchmarks.llm_server import Run, Server, lengths, simulate
from solver.load.control.learned.learner import LearnedCapacity
from solver.load.control.learned.parameters import LearnParameters

if TYPE_CHECKING:
    from collections.abc import Callable

CHAT = lengths(4000, prompt=1100, output=210, seed=1)
SHORT = lengths(4000, prompt=350, output=210, spread=0.5, seed=2)
LONG = lengths(4000, prompt=3500, output=210, spread=0.4, seed=3)
TERSE = lengths(4000, prompt=1100, output=26, seed=4)
LONG_TERSE = lengths(4000, prompt=3500, output=40, spread=0.4, seed=5)
SEGMENT_S = 240.0


class Learned:
    """The learned limit behind the interface of the simulator."""

    def __init__(self, **parameters: Any) -> None:
        self.learned = LearnedCapacity(LearnParameters(**parameters))

    @property
    def limit(self) -> float:
        return self.learned.limit

    def admits(self, now: float, in_flight: int, prompt: int) -> bool:
        return self.learned.admits(now, prompt)

    def sent(self, now: float, prompt: int) -> Any:
        return self.learned.sent(now, prompt)

    def first(self, now: float, ticket: Any) -> None:
        self.learned.first_token(now, ticket)

    def ended(self, now: float, ticket: Any, output: int) -> None:
        self.learned.ended(now, ticket, output)

    def refused(self, now: float, in_flight: int, retry_after_s: float) -> None:
        self.learned.refused(now, self.learned.sent(now, 0), retry_after_s=retry_after_s)


@dataclass(frozen=True)
class Scenario:
    name: str
    server: dict[str, Any]
    segments: tuple[dict[str, Any], ...]
    slo_s: float | None = None
    traffic: tuple[list[tuple[int, int]], ...] = (CHAT, CHAT, CHAT)

    def settings(self, k: int) -> dict[str, Any]:
        merged = dict(self.server)
        for segment in self.segments[: k + 1]:
            merged |= segment
        return merged

    def run(self, controller: Any, seed: int) -> Run:
        return simulate(
            Server(**self.server, rng=np.random.default_rng(seed)),
            [controller],
            self.traffic[0],
            SEGMENT_S * len(self.segments),
            changes=[(k * SEGMENT_S, change) for k, change in enumerate(self.segments)],
            mixes=[(k * SEGMENT_S, traffic) for k, traffic in enumerate(self.traffic)],
            seed=seed,
        )


_EIGHT_SIXTEEN_FOUR: tuple[dict[str, Any], ...] = ({}, {"max_sequences": 16}, {"max_sequences": 4})
_SPEEDS: tuple[dict[str, Any], ...] = ({}, {"slow": 1.4}, {"slow": 0.8})
_DECODING = {"max_sequences": 256, "sequence_s": 0.0004}
_MEMORY = {"max_sequences": 256, "kv_blocks": 1900, "sequence_s": 0.00015}

SCENARIOS = (
    Scenario("slots 8-16-4", {"max_sequences": 8}, _EIGHT_SIXTEEN_FOUR),
    Scenario("decode objective", _DECODING, _SPEEDS, 0.045),
    Scenario("memory", _MEMORY, ({}, {}, {}), 0.06, (SHORT, LONG, SHORT)),
    Scenario("refusals 16-8-24", {"refuse_above": 16}, ({}, {"refuse_above": 8}, {"refuse_above": 24}), 0.06),
    Scenario("neighbour 0-16-4", {"max_sequences": 32}, ({}, {"busy": 16}, {"busy": 4}), 0.06),
    Scenario("prefill objective", _DECODING, _SPEEDS, 0.08, (TERSE,) * 3),
    Scenario("prefill slots 8-16-4", {"max_sequences": 8}, _EIGHT_SIXTEEN_FOUR, 0.08, (TERSE,) * 3),
    Scenario("prefill long", {}, ({}, {"token_s": 2e-5}, {"token_s": 6e-5}), 0.08, (LONG_TERSE,) * 3),
)


@dataclass(frozen=True)
class Figures:
    """Of requests finished in a steady state: tokens a second, and the tails that goodput is measured by."""

    limit: int
    throughput: float
    pace_p99_s: float
    first_p99_s: float
    per_token_s: float


def steady(settings: dict[str, Any], traffic: list[tuple[int, int]], limit: int) -> Figures:
    seconds = 180.0
    run = simulate(Server(**settings), [Constant(limit)], traffic, seconds, seed=11)
    done = [request for request in run.requests if request.sent_s > 30.0]
    pace = [(r.done_s - r.first_s) / (r.output - 1) for r in done if r.output >= 8] or [np.inf]
    first = [r.first_s - r.sent_s for r in done] or [np.inf]
    tokens = sum(r.output for r in done)
    spent = sum(r.done_s - r.sent_s for r in done)
    return Figures(
        limit,
        tokens / (seconds - 30.0),
        float(np.quantile(pace, 0.99)),
        float(np.quantile(first, 0.99)),
        spent / max(tokens, 1),
    )


def clairvoyant(
    settings: dict[str, Any], traffic: list[tuple[int, int]], slo_s: float | None, coarse: float = 1.12
) -> Figures:
    rows: list[Figures] = []
    limit, worse = 1, 0
    best_power = best_throughput = 0.0
    while limit <= 160 and worse < 3:
        rows.append(steady(settings, traffic, limit))
        power, throughput = rows[-1].throughput / rows[-1].per_token_s, rows[-1].throughput
        beyond = power < 0.7 * best_power and throughput < 1.01 * best_throughput
        beyond |= slo_s is not None and rows[-1].pace_p99_s > 1.3 * slo_s
        worse = worse + 1 if beyond else 0
        best_power, best_throughput = max(best_power, power), max(best_throughput, throughput)
        limit = max(limit + 1, int(limit * coarse))
    if slo_s is None:
        return max(rows, key=lambda row: row.throughput / row.per_token_s)
    kept = [row for row in rows if row.pace_p99_s <= slo_s] or rows[:1]
    most = max(row.throughput for row in kept)
    return next(row for row in kept if row.throughput >= 0.98 * most)


def goodput(scenario: Scenario, best: list[Figures], run: Run) -> float:
    """Return tokens in answers within bounds over the clairvoyant's tokens."""
    good = target = 0.0
    for k, figures in enumerate(best):
        begin, end = k * SEGMENT_S, (k + 1) * SEGMENT_S
        pace = max(
            1.05 * figures.pace_p99_s, 1.05 * scenario.slo_s if scenario.slo_s else 1.3 * figures.pace_p99_s
        )
        first = max(2.0 * figures.first_p99_s, 0.5)
        good += sum(
            r.output
            for r in run.requests
            if begin <= r.done_s < end
            and r.first_s - r.sent_s <= first
            and (r.output < 8 or (r.done_s - r.first_s) / (r.output - 1) <= pace)
        )
        target += 0.98 * figures.throughput * SEGMENT_S  # the bounds leave about 2 % of the clairvoyant's out
    return good / target


def settling_s(run: Run, best: list[Figures]) -> list[float]:
    """Return, per segment, seconds until the limit is near the best and stays there for most of 20 s."""
    result = []
    for k, figures in enumerate(best):
        low, high = min(0.8 * figures.limit, figures.limit - 1), max(1.25 * figures.limit, figures.limit + 1)
        inside = [
            low <= limits[0] <= high
            for second, limits, _ in run.trace
            if k * SEGMENT_S <= second < (k + 1) * SEGMENT_S
        ]
        settled = (
            t
            for t, ok in enumerate(inside)
            if ok and sum(inside[t : t + 20]) >= 0.8 * len(inside[t : t + 20])
        )
        result.append(float(next(settled, SEGMENT_S)))
    return result


def peers(best: Figures) -> dict[str, Callable[[], Fixed]]:
    return {
        "fixed": lambda: Constant(best.limit),
        "aimd": lambda: AIMD(1.5 * best.per_token_s),
        "vegas": Vegas,
        "gradient2": Gradient2,
        "envoy": Envoy,
    }


def report(scenario: Scenario, seeds: range, *, with_peers: bool = True) -> dict[str, float]:
    best = [
        clairvoyant(scenario.settings(k), scenario.traffic[k], scenario.slo_s)
        for k in range(len(scenario.segments))
    ]
    makers: dict[str, Callable[[], Any]] = {"learned": lambda: Learned(slo_s_per_token=scenario.slo_s)}
    if with_peers:
        makers |= peers(best[0])
    scores: dict[str, float] = {}
    settle, refusals, found = [], 0.0, []
    for name, make in makers.items():
        values = []
        for seed in seeds:
            run = scenario.run(make(), seed)
            values.append(goodput(scenario, best, run))
            if name == "learned":
                settle += settling_s(run, best)
                refusals += 1000.0 * run.refused / max(1, len(run.requests)) / len(seeds)
                found = [
                    statistics.median(
                        x[1][0] for x in run.trace[int(k * SEGMENT_S + 120) : int((k + 1) * SEGMENT_S)]
                    )
                    for k in range(len(best))
                ]
        scores[name] = statistics.fmean(values)
    line = "  ".join(f"{name} {value:.2f}" for name, value in scores.items())
    print(
        f"{scenario.name:22s} best {[figures.limit for figures in best]} found {found}  {line}  "
        f"settles {statistics.median(settle):.0f} s  {refusals:.0f} refusals in 1,000",
        flush=True,
    )
    return scores


def drawn(number: int) -> Scenario:
    """Return a server, a mix, and two changes at random."""
    rng = np.random.default_rng(1000 + number)

    def around(middle: float) -> float:
        return float(middle * 2.0 ** rng.uniform(-1, 1))

    slots = int(4 * 2.0 ** rng.uniform(0, 4))
    server = {
        "max_sequences": slots,
        "weights_s": around(0.009),
        "sequence_s": around(0.00025),
        "kv_token_s": around(6e-8),
        "token_s": around(4e-5),
    }
    factors = rng.choice([0.25, 0.5, 2.0], 2)
    second = max(2, int(slots * factors[0]))
    third = max(2, int(second * factors[1]))
    mix = lengths(
        4000, prompt=around(900), output=around(180), spread=float(rng.uniform(0.3, 1.0)), seed=number
    )
    changes: tuple[dict[str, Any], ...] = ({}, {"max_sequences": second}, {"max_sequences": third})
    return Scenario(f"drawn {number}", server, changes, None if number % 2 else 0.08, (mix,) * 3)


def cost_us() -> float:
    """Return microseconds of processor time that a request takes over all its events, windows included."""
    learned = LearnedCapacity(LearnParameters(high=64))
    flights: list[Any] = []
    now, count = 0.0, 20_000
    begin = time.process_time()
    for k in range(count):
        now += 0.01
        learned.admits(now, 900)
        flights.append(learned.sent(now, 900))
        if k >= 8:
            learned.first_token(now, flights[k - 4])
            learned.ended(now, flights[k - 8], 120)
    return (time.process_time() - begin) / count * 1e6


def idle_limit() -> float:
    """Return the largest limit at 5 % of the capacity of 16 slots: it should stay where it started."""
    server, controller = Server(max_sequences=16), Learned()
    run = simulate(server, [controller], CHAT, 600.0, rate=0.2, seed=3)
    return max(limits[0] for _, limits, _ in run.trace)


def replicas(count: int, seed: int = 1, every_s: float = 0.5) -> float:
    """Return the goodput of several routers that share what they see, over that of one."""
    scenario = SCENARIOS[0]
    best = [steady(scenario.settings(k), CHAT, limit) for k, limit in enumerate((8, 16, 4))]
    single = goodput(scenario, best, scenario.run(Learned(), seed))
    group = [Learned() for _ in range(count)]

    def share(now: float) -> None:
        sums = [controller.learned.sums(now) for controller in group]
        group[0].learned.merge_peer_sums(sums[1:], now)
        for i in range(1, count):
            group[i].learned.merge_peer_sums(sums[:i] + sums[i + 1 :], now)
            group[i].learned.follow(group[0].learned.export())

    class Together:
        """One of the group, admitting by the shared count, as a shared store does."""

        def __init__(self, own: Learned) -> None:
            self.own = own

        @property
        def limit(self) -> float:
            return group[0].limit

        def admits(self, now: float, in_flight: int, prompt: int) -> bool:
            total = sum(controller.learned.in_flight for controller in group)
            if total < group[0].limit:
                return True
            group[0].learned.held_back(now)
            return False

        def sent(self, now: float, prompt: int) -> Any:
            return self.own.sent(now, prompt)

        def first(self, now: float, ticket: Any) -> None:
            self.own.first(now, ticket)

        def ended(self, now: float, ticket: Any, output: int) -> None:
            self.own.ended(now, ticket, output)

        def refused(self, now: float, in_flight: int, retry_after_s: float) -> None:
            self.own.refused(now, in_flight, retry_after_s)

    run = simulate(
        Server(**scenario.server, rng=np.random.default_rng(seed)),
        [Together(controller) for controller in group],
        CHAT,
        SEGMENT_S * 3,
        changes=[(k * SEGMENT_S, change) for k, change in enumerate(scenario.segments)],
        seed=seed,
        share=share,
        share_every_s=every_s,
    )
    return goodput(scenario, best, run) / single


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="first of the seeds")
    parser.add_argument("--no-peers", action="store_true", help="only the learned limit")
    parser.add_argument("--draws", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first server drawn")
    parser.add_argument("--only", default="", help="part of the names of scenarios; '-' for none")
    arguments = parser.parse_args()
    seeds, with_peers = range(arguments.seed, arguments.seed + arguments.seeds), not arguments.no_peers
    for scenario in SCENARIOS:
        if arguments.only != "-" and arguments.only in scenario.name:
            report(scenario, seeds, with_peers=with_peers)
    draws = range(arguments.first, arguments.first + arguments.draws)
    scores = [report(drawn(k), range(1), with_peers=with_peers) for k in draws]
    if scores:
        own = [score["learned"] for score in scores]
        ahead = sum(score["learned"] > score.get("gradient2", math.inf) for score in scores)
        print(
            f"drawn: median {statistics.median(own):.2f}, worst {min(own):.2f}, ahead of gradient2 in {ahead}"
        )
    print(
        f"cost {cost_us():.1f} us a request; limit at 5 % load {idle_limit():.0f}; six replicas "
        f"{statistics.fmean(replicas(6, seed) for seed in range(1, 7)):.2f} of one"
    )


def bench_learned_capacity_cost(benchmark: Any) -> None:
    benchmark.pedantic(cost_us, rounds=1 if os.environ.get("BENCH_SMOKE") else 5)


if __name__ == "__main__":
    main()

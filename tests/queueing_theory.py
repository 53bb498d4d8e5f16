"""Waits of simulated servers against queueing theory: ``python -m tests.queueing_theory --requests 4000000``.

Each station is checked in two ways.

*Path by path.* The recursion of Kiefer and Wolfowitz (1955) gives the wait of every request from the same gaps and
service times. The replay must agree with it to a nanosecond per request: there is no sampling error in this
comparison, so a fault of the servers cannot hide in noise, and noise cannot look like a fault.

*On average.* The mean wait is compared with Erlang's C formula for M/M/c, with Pollaczek and Khinchine's for
M/G/1, with Crommelin's for M/D/c, and with Lee and Longton's approximation ``W(M/G/c) = (1 + cv²)/2 × W(M/M/c)``
elsewhere. A 95 % interval of the relative error is printed beside it, because a mean wait converges slowly: at
utilization 0.9 one needs millions of requests for a percent.

Exit code 1 when a path differs, or when a mean is further off than its bar. A mean whose interval is wider than its
bar is reported as undecided, with exit code 2: more requests are needed.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from solver import Capacity, Model
from solver.clock import ManualClock
from solver.simulate.policies.baselines import Constant
from solver.simulate.quality import Quality
from solver.simulate.replay import replay
from solver.simulate.scenario import Scene
from solver.simulate.servers import Fleet, ServerParams
from solver.simulate.traffic import Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT, APPROXIMATE = 0.02, 0.08
"""Largest relative error against an exact formula, and against Lee and Longton's with several servers, whose own
error is up to 5 % at these utilizations (Kimura 1994, table 2)."""

BATCHES = 40
"""Batches of consecutive requests, whose means are nearly independent; the first is cut as warm-up."""

MOST_REQUESTS = 1_000_000
"""Requests of one replay."""

PATH_TOLERANCE_S = 1e-6
"""Largest difference of one request's wait between replay and recursion, mean service times: sums of floats."""

TOKENS_PER_S = 1e6  # so many that a whole number of tokens is as good as any number


@dataclass(frozen=True)
class Station:
    """Poisson arrivals at servers with Gamma service times of mean 1."""

    servers: int
    utilization: float
    cv: float  # of service times

    @property
    def name(self) -> str:
        """Kendall's notation."""
        kind = {0.0: "D", 1.0: "M"}.get(self.cv, "G")
        return f"M/{kind}/{self.servers}, utilization {self.utilization:g}, cv {self.cv:g}"

    @property
    def formula(self) -> str:
        """Whose formula gives the expected wait."""
        if self.cv == 1.0:
            return "Erlang C"
        if self.servers == 1:
            return "Pollaczek"
        return "Crommelin" if self.cv == 0.0 else "Lee-Longton"

    @property
    def bar(self) -> float:
        """Largest relative error allowed."""
        return APPROXIMATE if self.formula == "Lee-Longton" else EXACT

    def expected_wait(self) -> float:
        """Return the mean wait, in mean service times."""
        offered = self.servers * self.utilization
        if self.formula == "Crommelin":
            return crommelin_wait(self.servers, offered)
        erlang = erlang_c(self.servers, offered) / (self.servers - offered)
        return 0.5 * (1.0 + self.cv**2) * erlang


STATIONS = (
    Station(1, 0.5, 1.0),
    Station(1, 0.8, 1.0),
    Station(4, 0.6, 1.0),
    Station(8, 0.8, 1.0),
    Station(50, 0.9, 1.0),
    Station(1, 0.7, 0.0),
    Station(1, 0.7, 2.0),
    Station(4, 0.7, 0.0),
    Station(4, 0.7, 2.0),
    Station(16, 0.85, 1.5),
)


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability of waiting in M/M/c (Erlang 1917)."""
    blocking = 1.0
    for k in range(1, servers + 1):
        blocking = offered * blocking / (k + offered * blocking)
    return blocking / (1.0 - offered / servers * (1.0 - blocking))


def crommelin_wait(servers: int, offered: float, states: int = 400) -> float:
    """Return the mean wait of M/D/c (Crommelin 1932), in service times.

    Whoever is in service now has left one service time later, and whoever arrives meanwhile is still there: numbers
    in the system one service time apart are a Markov chain, solved here on its first ``states`` states.
    """
    arrivals = stats.poisson(offered).pmf(np.arange(states))
    step = np.zeros((states, states))
    for k in range(states):
        left = max(k - servers, 0)
        step[k, left:] = arrivals[: states - left]
    step /= step.sum(axis=1, keepdims=True)
    equations = np.vstack([step.T - np.eye(states), np.ones(states)])
    chance, *_ = np.linalg.lstsq(equations, np.append(np.zeros(states), 1.0), rcond=None)
    queue = float((np.maximum(np.arange(states) - servers, 0) * chance).sum())
    return queue / offered


def service_times(rng: np.random.Generator, n: int, cv: float) -> NDArray[np.float64]:
    """Return service times of mean 1: Gamma, which is exponential at cv 1, or all equal."""
    if cv == 0.0:
        return np.ones(n)
    shape = 1.0 / cv**2
    return rng.gamma(shape, 1.0 / shape, n)


def recursion_waits(
    arrival: NDArray[np.float64], service: NDArray[np.float64], servers: int
) -> NDArray[np.float64]:
    """Return the wait of each request by the recursion of Kiefer and Wolfowitz: when the first server is free."""
    free = [0.0] * servers
    waits = np.empty(len(arrival))
    for i, (at, takes) in enumerate(zip(arrival.tolist(), service.tolist(), strict=True)):
        begin = max(at, free[0])
        heapq.heapreplace(free, begin + takes)
        waits[i] = begin - at
    return waits


def one_fast_server_waits(gaps: NDArray[np.float64], service: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return waits of the same requests at one server that works as fast as all together (Lindley 1952)."""
    walk = np.cumsum(np.concatenate([[0.0], service[:-1] - gaps[1:]]))
    waits: NDArray[np.float64] = walk - np.minimum.accumulate(walk)
    return waits


@dataclass(frozen=True)
class Sample:
    """One station simulated: mean wait with half of its 95 % interval, and the worst path difference."""

    wait: float
    half: float
    path_difference: float


def simulated(station: Station, n: int, seed: int) -> Sample:
    """Return the mean wait of n requests, corrected for what is known of their gaps and service times.

    Control variates (Lavenberg and Welch 1981): mean gap, mean service time, and the mean wait at one server that
    is ``servers`` times as fast have known expectations; their deviations explain most of the wait's. Coefficients
    are fitted over batches; Student's interval is that of the regression's constant. Long samples are made of
    independent replays of a million requests each, so that memory stays bounded.
    """
    replays = max(1, round(n / MOST_REQUESTS))
    parts = [_one_replay(station, n // replays, [seed, k]) for k in range(replays)]
    waits = np.concatenate([part[0] for part in parts])
    controls = np.concatenate([part[1] for part in parts])
    design = np.column_stack([np.ones(len(waits)), controls])
    solution, *_ = np.linalg.lstsq(design, waits, rcond=None)
    freedom = len(waits) - design.shape[1]
    variance = float(((waits - design @ solution) ** 2).sum()) / freedom
    error = math.sqrt(variance * float(np.linalg.inv(design.T @ design)[0, 0]))
    half = float(stats.t(freedom).ppf(0.975)) * error
    return Sample(float(solution[0]), half, max(part[2] for part in parts))


def _one_replay(
    station: Station, n: int, seed: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return mean waits and controls of each batch but the first, and the worst difference of a path."""
    rng = np.random.default_rng([*seed, station.servers, int(10 * station.cv)])
    rate = station.servers * station.utilization
    gaps = rng.exponential(1.0 / rate, n)
    tokens = np.rint(service_times(rng, n, station.cv) * TOKENS_PER_S).astype(np.int64)
    service = tokens / TOKENS_PER_S
    arrival = np.cumsum(gaps)
    wait = replay(_scene(station, arrival, tokens), Constant(0), ManualClock()).wait_s
    difference = float(np.abs(wait - recursion_waits(arrival, service, station.servers)).max())

    def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
        averages: NDArray[np.float64] = values[: n - n % BATCHES].reshape(BATCHES, -1).mean(axis=1)[1:]
        return averages

    controls = [means(gaps) * rate - 1.0]
    if station.cv:
        controls.append(means(service) - 1.0)
    if station.servers > 1:  # with one server it is the same wait
        fast = one_fast_server_waits(gaps, service / station.servers)
        pollaczek = 0.5 * station.utilization * (1.0 + station.cv**2) / (1.0 - station.utilization)
        controls.append(means(fast) - pollaczek / station.servers)
    return means(wait), np.column_stack(controls), difference


def _scene(station: Station, arrival: NDArray[np.float64], tokens: NDArray[np.int64]) -> Scene:
    n = len(arrival)
    flat = np.zeros((n, 1))
    model = Model(
        id="m",
        capacity=Capacity(max_concurrent=station.servers, max_queue=n),
        latency_s=0.0,
        output_tokens_per_second=TOKENS_PER_S,
    )
    return Scene(
        traffic=Traffic(
            name=station.name,
            arrival_s=arrival,
            input_tokens=np.ones(n, np.int64),
            output_tokens=tokens,
        ),
        fleet=Fleet([model], ServerParams(slowdown=0.0)),
        quality=Quality(outcome=flat, predicted=flat),
        uniform_draws=np.ones((n, 2)),
        seed=0,
    )


def main() -> int:
    """Print a line per station, and return 0, 1 for a fault, or 2 where more requests are needed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=4_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.requests < 10 * BATCHES:
        parser.error(f"--requests: expected at least {10 * BATCHES}")
    print(f"{args.requests:,} requests a station, seed {args.seed}")
    print(
        f"{'station':40s} {'formula':11s} {'theory':>8s} {'replay':>8s} {'error ± 95 %':>16s}   bar  same path"
    )
    faults = undecided = 0
    for station in STATIONS:
        expected, sample = station.expected_wait(), simulated(station, args.requests, args.seed)
        error, half = sample.wait / expected - 1.0, sample.half / expected
        same = sample.path_difference <= PATH_TOLERANCE_S
        if not same or not abs(error) - half <= station.bar:
            verdict, faults = "FAULT", faults + 1
        elif abs(error) <= station.bar and half <= station.bar:
            verdict = "ok"
        else:
            verdict, undecided = "undecided", undecided + 1
        print(
            f"{station.name:40s} {station.formula:11s} {expected:8.4f} {sample.wait:8.4f} "
            f"{error:+7.2%} ± {half:6.2%}  {station.bar:4.0%}  {sample.path_difference:.0e}  {verdict}",
            flush=True,
        )
    return 1 if faults else 2 if undecided else 0


if __name__ == "__main__":
    sys.exit(main())

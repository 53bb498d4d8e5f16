"""Mean waits of simulated servers against queueing theory: ``python -m tests.queueing_theory --requests 4000000``.

M/M/c against Erlang's C formula, which is exact; M/G/c against Lee and Longton's approximation
``W(M/G/c) = (1 + cv²)/2 × W(M/M/c)``, exact for one server. Exit code 1 when a wait is further off than its bar.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver import Capacity, Model
from solver.clock import ManualClock
from solver.simulate.policies.usual import Constant
from solver.simulate.quality import Quality
from solver.simulate.replay import Scene, replay
from solver.simulate.servers import Fleet, ServerParams
from solver.simulate.traffic import Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT, APPROXIMATE = 0.02, 0.08
"""Largest relative error against an exact formula, and against Lee and Longton's with several servers."""

TOKENS_PER_S = 1e6  # so many that a whole number of tokens is as good as any number


@dataclass(frozen=True)
class Station:
    servers: int
    utilization: float
    cv: float  # of service times

    @property
    def name(self) -> str:
        kind = {0.0: "D", 1.0: "M"}.get(self.cv, "G")
        return f"M/{kind}/{self.servers}, utilization {self.utilization:g}, cv {self.cv:g}"

    @property
    def is_exact(self) -> bool:
        return self.servers == 1 or self.cv == 1.0

    def expected_wait(self) -> float:
        """Return the mean wait, in mean service times."""
        offered = self.servers * self.utilization
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


def service_times(rng: np.random.Generator, n: int, cv: float) -> NDArray[np.float64]:
    """Return service times of mean 1: Gamma, which is exponential at cv 1, or all equal."""
    if cv == 0.0:
        return np.ones(n)
    shape = 1.0 / cv**2
    return rng.gamma(shape, 1.0 / shape, n)


def simulated_wait(station: Station, n: int, seed: int) -> float:
    """Return the mean wait of n requests, corrected for what their own arrivals and services were on average.

    Control variates (Lavenberg and Welch 1981): the sample's mean gap and mean service time have known
    expectations, and their deviations explain most of the wait's. Coefficients are fitted over 20 batches.
    """
    rng = np.random.default_rng([seed, station.servers])
    rate = station.servers * station.utilization
    gaps = rng.exponential(1.0 / rate, n)
    service = service_times(rng, n, station.cv)
    flat = np.zeros((n, 1))
    model = Model(
        id="m",
        capacity=Capacity(max_concurrent=station.servers, max_queue=n),
        latency_s=0.0,
        output_tokens_per_second=TOKENS_PER_S,
    )
    scene = Scene(
        traffic=Traffic(
            name=station.name,
            arrival_s=np.cumsum(gaps),
            input_tokens=np.ones(n, np.int64),
            output_tokens=np.rint(service * TOKENS_PER_S).astype(np.int64),
        ),
        fleet=Fleet([model], ServerParams(slowdown=0.0)),
        quality=Quality(outcome=flat, predicted=flat),
        luck=np.ones((n, 2)),
        seed=seed,
    )
    wait = replay(scene, Constant(0), ManualClock()).wait_s
    batches = 20
    used = n - n % batches

    def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
        averages: NDArray[np.float64] = values[:used].reshape(batches, -1).mean(axis=1)
        return averages

    known = np.column_stack([means(gaps) * rate - 1.0, means(service) - 1.0])
    if station.cv == 0.0:
        known = known[:, :1]
    waits = means(wait)
    slopes, *_ = np.linalg.lstsq(known - known.mean(axis=0), waits - waits.mean(), rcond=None)
    return float(waits.mean() - known.mean(axis=0) @ slopes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    worst = 0
    for station in STATIONS:
        expected, measured = station.expected_wait(), simulated_wait(station, args.requests, args.seed)
        error, bar = measured / expected - 1.0, EXACT if station.is_exact else APPROXIMATE
        kind = "exact" if station.is_exact else "Lee-Longton"
        sign = "ok" if abs(error) <= bar else "TOO FAR"
        print(
            f"{station.name:40s} {kind:12s} {expected:8.4f} {measured:8.4f} {error:+7.2%}  {sign}", flush=True
        )
        worst |= int(abs(error) > bar or math.isnan(error))
    return worst


if __name__ == "__main__":
    sys.exit(main())

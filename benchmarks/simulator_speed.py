"""What a replay takes, and decisions in it: ``python -m benchmarks.simulator_speed``.

For each policy requests a minute on one core (bar: 1,000,000 for the cheap ones), microseconds of the replay itself and
of the policy per request, and P50 and P99 of a decision (bar: P99 under 1 ms; 5 ms for 100 that arrive together).
Gamma traffic at 80 % of the capacity of ``docs/examples/simulated_fleet.yaml``; one replay each, by wall clock or, with
``--processor-time``, without what else the machine does. ``--only together`` leaves out all but the hundreds.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from solver.clock import ManualClock
from solver.interfaces.files.sources import Reading
from solver.interfaces.simulation.fleet_file import read_fleet
from solver.simulate.experiment import Setup, make_scene
from solver.simulate.policies.registry import make_policy
from solver.simulate.replay import Replay, replay
from solver.simulate.servers import Fleet
from solver.simulate.traffic import Traffic
from solver.simulate.traffic_generators import generate_traffic

if TYPE_CHECKING:
    from collections.abc import Callable

FLEET = Path(__file__).parents[1] / "docs" / "examples" / "simulated_fleet.yaml"
CHEAP = ("constant:small", "random", "round-robin", "power-of-two", "least-tokens")
OURS = ("route-balance", "weighted-greedy", "weighted-optimal", "optimal-router")
TOGETHER = ("weighted-greedy", "weighted-balanced", "weighted-optimal", "optimal-router")
BATCH = 100


def replayed(name: str, traffic: Traffic, timer: Callable[[], float]) -> Replay:
    """Return one replay of a policy at 80 % of capacity."""
    scene = make_scene(traffic, Fleet(read_fleet(FLEET, Reading())), seed=0, setup=Setup(load=0.8))
    clock = ManualClock()
    return replay(scene, make_policy(name, scene, clock), clock, timer=timer)


def in_batches(requests: int) -> Traffic:
    """Return requests of which each hundred arrives at one moment."""
    traffic = generate_traffic("poisson", requests, seed=0)
    moments = np.repeat(traffic.arrival_s[::BATCH] * BATCH, BATCH)[:requests]
    return Traffic(
        name="batches of 100",
        arrival_s=moments - moments[0],
        input_tokens=traffic.input_tokens,
        output_tokens=traffic.output_tokens,
    )


def print_single(requests: int, timer: Callable[[], float]) -> None:
    """Print what requests take that arrive one by one."""
    print(
        f"{'policy':20s}{'requests/min':>14s}{'replay µs':>11s}{'policy µs':>11s}{'P50 µs':>9s}{'P99 µs':>9s}"
    )
    for name in (*CHEAP, *OURS):
        n = requests if name in CHEAP else max(200, requests // 40)
        result = replayed(name, generate_traffic("gamma", n, seed=0), timer)
        own = 1e6 * (result.elapsed_s - result.policy_s) / n
        p50, p99 = np.percentile(result.decision_us, (50, 99))
        cells = f"{60 * n / result.elapsed_s:14,.0f}{own:11.1f}{1e6 * result.policy_s / n:11.1f}{p50:9.1f}{p99:9.1f}"
        print(f"{name:20s}{cells}", flush=True)


def print_together(requests: int, timer: Callable[[], float]) -> None:
    """Print what a hundred requests take that arrive at one moment."""
    print(f"{BATCH} requests at one moment: milliseconds of a decision, P50 and P99")
    for name in TOGETHER:
        result = replayed(name, in_batches(max(1000, requests // 20)), timer)
        p50, p99 = np.percentile(result.decision_us / 1000.0, (50, 99))
        print(f"{name:20s}{p50:8.2f}{p99:8.2f}", flush=True)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--requests", type=int, default=200_000, help="of cheap policies; the others have 1/40"
    )
    parser.add_argument("--processor-time", action="store_true", help="instead of the wall clock")
    parser.add_argument("--only", choices=("single", "together"), help="one of the two tables")
    args = parser.parse_args()
    timer = time.process_time if args.processor_time else time.perf_counter
    if args.only != "together":
        print_single(args.requests, timer)
    if args.only != "single":
        print_together(args.requests, timer)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a replay takes, and decisions in it: ``python -m benchmarks.simulator_speed``.

For each policy requests a minute on one core (bar: 1,000,000 for the cheap ones), microseconds of the replay itself and
of the policy per request, and P50 and P99 of a decision (bar: P99 under 1 ms; 5 ms for 100 that arrive together).
Gamma traffic at 80 % of the capacity of ``docs/examples/simulated_fleet.yaml``; wall clock, one replay each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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

FLEET = Path(__file__).parents[1] / "docs" / "examples" / "simulated_fleet.yaml"
CHEAP = ("constant:small", "random", "round-robin", "power-of-two", "least-tokens")
OURS = ("route-balance", "weighted-greedy", "weighted-optimal", "optimal-router")
TOGETHER = ("weighted-greedy", "weighted-balanced", "weighted-optimal", "optimal-router")
BATCH = 100


def replayed(name: str, traffic: Traffic) -> Replay:
    """Return one replay of a policy at 80 % of capacity."""
    scene = make_scene(traffic, Fleet(read_fleet(FLEET, Reading())), seed=0, setup=Setup(load=0.8))
    clock = ManualClock()
    return replay(scene, make_policy(name, scene, clock), clock)


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


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--requests", type=int, default=200_000, help="of cheap policies; the others have 1/40"
    )
    args = parser.parse_args()
    print(
        f"{'policy':20s}{'requests/min':>14s}{'replay µs':>11s}{'policy µs':>11s}{'P50 µs':>9s}{'P99 µs':>9s}"
    )
    for name in (*CHEAP, *OURS):
        n = args.requests if name in CHEAP else max(200, args.requests // 40)
        result = replayed(name, generate_traffic("gamma", n, seed=0))
        own = 1e6 * (result.elapsed_s - result.policy_s) / n
        p50, p99 = np.percentile(result.decision_us, (50, 99))
        cells = f"{60 * n / result.elapsed_s:14,.0f}{own:11.1f}{1e6 * result.policy_s / n:11.1f}{p50:9.1f}{p99:9.1f}"
        print(f"{name:20s}{cells}", flush=True)
    print(f"\n{BATCH} requests at one moment: milliseconds of a decision, P50 and P99")
    for name in TOGETHER:
        result = replayed(name, in_batches(max(1000, args.requests // 20)))
        p50, p99 = np.percentile(result.decision_us / 1000.0, (50, 99))
        print(f"{name:20s}{p50:8.2f}{p99:8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

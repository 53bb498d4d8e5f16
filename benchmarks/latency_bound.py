"""How low P99 can be where nothing tells of answer lengths: ``python -m benchmarks.latency_bound``.

Requests of generated traffic, whose answers do not depend on their prompts, on the models of
``docs/examples/simulated_fleet.yaml``. A fluid: arrivals come evenly, every model holds a constant number of requests
and is as slow as that number makes it, nobody waits. Over a grid of all ways to divide the load this prints the least
P99, with any quality and with no less than that of an even division, which least tokens in flight comes close to.
Randomness of arrivals adds to it. The last column compares with the P99 of least tokens in flight on client traffic
(``python -m benchmarks.routing_evidence``), the mean of five seeds.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from scipy.optimize import linprog

from benchmarks.routing_evidence import FLEET, LOADS, ROOT, replayed, traffic_kinds
from solver.interfaces.files.sources import Reading
from solver.interfaces.simulation.fleet_file import read_fleet
from solver.simulate.servers import Fleet
from solver.simulate.traffic_generators import generate_traffic

Array = np.ndarray


def divisions(fleet: Fleet, mean_s: Array, rate: float, points: int) -> tuple[Array, Array]:
    """Return requests held and requests a second of each model, (g, m), in all divisions of a grid.

    The last model takes what the others leave; divisions beyond its slots are left out.
    """
    slots, slow = fleet.slots.astype(np.float64), fleet.params.slowdown
    shares = np.array(list(itertools.product(np.linspace(0.0, 1.0, points), repeat=len(fleet) - 1)))
    held = np.concatenate([shares * slots[:-1], np.zeros((len(shares), 1))], axis=1)
    flow = held / (mean_s * slowdown(fleet, held))
    rest = (rate - flow.sum(axis=1)) * mean_s[-1]  # held = rest × (1 + slow × (held − 1) / (slots − 1))
    per = slow / (slots[-1] - 1.0)
    held[:, -1] = rest * (1.0 - per) / (1.0 - rest * per)
    fits = (rest >= 0.0) & (rest * per < 1.0) & (held[:, -1] <= slots[-1])
    held = held[fits]
    return held, held / (mean_s * slowdown(fleet, held))


def slowdown(fleet: Fleet, held: Array) -> Array:
    """Return how much longer service takes than on idle models."""
    return np.asarray(
        1.0 + fleet.params.slowdown * np.maximum(held - 1.0, 0.0) / np.maximum(fleet.slots - 1, 1)
    )


def p99_s(fleet: Fleet, answers: Array, held: Array, flow: Array) -> Array:
    """Return the 99th percentile of service times in each division, by bisection, (g,)."""
    slow, share = slowdown(fleet, held), flow / flow.sum(axis=1, keepdims=True)
    low, high = np.zeros(len(held)), np.full(len(held), 1e3)
    for _ in range(40):
        middle = 0.5 * (low + high)
        longest = (middle[:, None] / slow - fleet.first_token_s) / fleet.s_per_token
        beyond = 1.0 - np.searchsorted(answers, longest, side="right") / len(answers)
        above = (share * beyond).sum(axis=1) > 0.01
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return high


def best_quality(strength: Array, share: Array) -> float:
    """Return the highest mean capability with these shares of the models; task types are equally frequent."""
    types, m = strength.shape
    by_type, by_model = np.kron(np.eye(types), np.ones(m)), np.kron(np.ones(types), np.eye(m))
    found = linprog(
        -strength.ravel(),
        A_eq=np.vstack([by_type, by_model[:-1]]),
        b_eq=np.append(np.full(types, 1.0 / types), share[:-1]),
    )
    return -float(found.fun or 0.0)


def main() -> None:
    """Print a line for each load."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT / ".." / "shared" / "data")
    parser.add_argument("--points", type=int, default=17, help="of the grid, for each model")
    args = parser.parse_args()
    fleet = Fleet(read_fleet(FLEET, Reading()))
    clients = traffic_kinds(args.data, 2000).get("clients")
    answers = np.sort(generate_traffic("poisson", 50_000).output_tokens)
    mean_s = fleet.idle_service_s(answers).mean(axis=0)
    types = sorted({name for model in fleet.models for name in model.capabilities})
    strength = np.array([[model.capabilities.get(name, 0.0) for model in fleet.models] for name in types])
    for load in LOADS:
        rate = load * fleet.capacity_per_s(answers)
        held, flow = divisions(fleet, mean_s, rate, args.points)
        p99, share = p99_s(fleet, answers, held, flow), flow / flow.sum(axis=1, keepdims=True)
        even = int(np.ptp(held / fleet.slots, axis=1).argmin())
        least_quality = float((strength.mean(axis=0) * share[even]).sum())
        order = np.argsort(p99)
        equal = next(k for k in order if best_quality(strength, share[k]) >= least_quality)
        line = f"{load:.0%}: even {p99[even]:.1f} s, least {p99[order[0]]:.1f} s, at equal quality {p99[equal]:.1f} s"
        if clients is not None:
            runs = [replayed("clients", clients, load, "least-tokens", seed) for seed in range(5)]
            rival_s = float(np.mean([run["p99_latency_ms"] or 0.0 for run in runs])) / 1000.0
            line += (
                f", least tokens in the replay {rival_s:.1f} s: {100.0 * (p99[equal] / rival_s - 1.0):+.0f} %"
            )
        print(line, flush=True)


if __name__ == "__main__":
    main()

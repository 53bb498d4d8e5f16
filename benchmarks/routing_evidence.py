"""Routing policies on replayed traffic: ``python -m benchmarks.routing_evidence`` prints what "Does it work?" states.

Three kinds of traffic (the Azure trace of conversations, batches that arrive at one moment, clients of the ServeGen
table) at 60, 80 and 95 % of the capacity of ``docs/examples/simulated_fleet.yaml``, five seeds. For each, every policy
with P50, P99, utilization, served, overload failures and quality; then, paired by seed with 95 % Student intervals:

- ``optimal-router`` against load-blind routing of each kind: P99, served load, quality;
- each of our policies against the best rival: the policy among LiteLLM's strategies, least tokens in flight and the
  rule of RouteBalance with the lowest mean P99 among those that serve 99 % of what any serves.

Replays are kept as JSON Lines in ``--store``; what is there is not run again. LiteLLM lives in an environment of its
own (``make litellm``), so the table is made of two runs::

    .venv/litellm-*/bin/python -m benchmarks.routing_evidence --store evidence.jsonl --policies litellm
    python -m benchmarks.routing_evidence --store evidence.jsonl

``--requests 500 --seeds 2`` prints a rough table in a few minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.interfaces.files.sources import Reading
from solver.interfaces.simulation.fleet_file import read_fleet
from solver.interfaces.simulation.sources import TrafficOptions, traffic_source
from solver.interfaces.simulation.traces import TraceColumns
from solver.simulate.experiment import Setup, run_experiment
from solver.simulate.metrics import FIGURES, interval_of
from solver.simulate.policies.litellm_router import LITELLM_STRATEGIES
from solver.simulate.servers import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.simulate.traffic import Traffic

ROOT = Path(__file__).parents[1]
FLEET = ROOT / "docs" / "examples" / "simulated_fleet.yaml"
AZURE = "traces/azure_llm_2023_conv.csv"
CLIENTS = "servegen/client_rates.csv.gz"
LOADS = (0.6, 0.8, 0.95)
FAST = "optimal-router:latency_weight=12"
OURS = ("optimal-router", FAST, "weighted-optimal")
BLIND = ("blind-greedy", "blind-balanced", "blind-optimal")
RIVALS = ("least-tokens", "route-balance")
OTHERS = ("power-of-two", "round-robin", "random")
LITELLM = tuple(f"litellm:{name}" for name in LITELLM_STRATEGIES)
GROUPS = {"cheap": (*RIVALS, *OTHERS, *BLIND), "ours": OURS, "litellm": LITELLM}
LEAST_SERVED = 0.99
"""What a rival has to serve for its P99 to count, as a share of the most that any policy serves: who turns requests
away is fast."""

Key = tuple[str, float, str, int, int]


def traffic_kinds(data: Path, requests: int) -> dict[str, Callable[[int], Traffic]]:
    """Return what gives the traffic of a seed, for each kind whose file is there."""
    options = TrafficOptions(requests=requests, cv=4.0)
    named = {"azure": str(data / AZURE), "bursts": "bursts", "clients": str(data / CLIENTS)}
    kinds = {}
    for name, trace in named.items():
        if trace != "bursts" and not Path(trace).exists():
            print(f"{name}: skipped, {trace} is not there", file=sys.stderr)
            continue
        kinds[name] = traffic_source(trace, TraceColumns(), options, Reading())
    return kinds


def replayed(
    kind: str, traffic_of: Callable[[int], Traffic], load: float, policy: str, seed: int
) -> dict[str, float | None]:
    """Return the figures of one replay."""
    fleet = Fleet(read_fleet(FLEET, Reading()))
    [found] = run_experiment(traffic_of, fleet, [policy], seeds=1, first_seed=seed, setup=Setup(load=load))
    return {figure: found[figure]["mean"] for figure in FIGURES} | {"arrived": float(found["arrived"])}


def load_store(path: Path) -> dict[Key, dict[str, float | None]]:
    """Return the replays that have been run."""
    if not path.exists():
        return {}
    found: dict[Key, dict[str, float | None]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        kind, load, policy, seed, requests = record["key"]
        found[kind, load, policy, seed, requests] = record["figures"]
    return found


# -- tables


class Table:
    """Figures of one kind of traffic at one load, by policy and seed."""

    def __init__(self, records: dict[str, list[dict[str, float | None]]]) -> None:
        self.records = records

    def values(self, policy: str, figure: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return a figure of every seed, NaN where nobody was served."""
        return np.array([one[figure] for one in self.records[policy]], np.float64)

    def mean(self, policy: str, figure: str) -> float:
        """Return the mean over seeds."""
        return float(np.mean(self.values(policy, figure)))

    def best_rival(self) -> str | None:
        """Return the rival with the lowest P99 among those that serve nearly everybody."""
        most = max(self.mean(name, "served") for name in self.records)
        able = [
            name
            for name in (*LITELLM, *RIVALS)
            if name in self.records and self.mean(name, "served") >= LEAST_SERVED * most
        ]
        return min(able, key=lambda name: self.mean(name, "p99_latency_ms"), default=None)

    def ratio(self, policy: str, rival: str, figure: str) -> str:
        """Return by how much a figure differs, in percent with its interval, paired by seed."""
        change = interval_of(100.0 * (self.values(policy, figure) / self.values(rival, figure) - 1.0))
        return _with_half(change.mean, change.high, "{:+.0f} %")

    def difference(self, policy: str, rival: str, figure: str) -> str:
        """Return by how much a figure differs, with its interval, paired by seed."""
        change = interval_of(self.values(policy, figure) - self.values(rival, figure))
        return _with_half(change.mean, change.high, "{:+.2f}")


def _with_half(mean: float | None, high: float | None, form: str) -> str:
    if mean is None or high is None:
        return "-"
    return f"{form.format(mean)} ± {form.format(high - mean).lstrip('+')}"


def print_tables(title: str, table: Table) -> None:
    """Print every policy, then the comparisons."""
    print(f"\n{title}")
    print("| policy | P50 s | P99 s | utilization | served | overload failures | quality |")
    print("|---|---|---|---|---|---|---|")
    for name in table.records:
        p99 = interval_of(table.values(name, "p99_latency_ms") / 1000.0)
        quality = interval_of(table.values(name, "quality"))
        print(
            f"| {name} | {table.mean(name, 'p50_latency_ms') / 1000:.1f} "
            f"| {_with_half(p99.mean, p99.high, '{:.1f}')} | {table.mean(name, 'utilization'):.2f} "
            f"| {table.mean(name, 'served'):,.0f} | {table.mean(name, 'overload_failures'):,.0f} "
            f"| {_with_half(quality.mean, quality.high, '{:.2f}')} |"
        )
    rival = table.best_rival()
    pairs = [("optimal-router", name) for name in BLIND if name in table.records]
    if rival is not None:
        pairs += [(name, rival) for name in OURS]
    pairs = [(ours, other) for ours, other in pairs if ours in table.records]
    if pairs:
        print("\n| ours | against | P99 | served | quality, points |")
        print("|---|---|---|---|---|")
    for ours, other in pairs:
        best = " (best rival)" if other == rival else ""
        print(
            f"| {ours} | {other}{best} | {table.ratio(ours, other, 'p99_latency_ms')} "
            f"| {table.ratio(ours, other, 'served')} | {table.difference(ours, other, 'quality')} |",
            flush=True,
        )


def _policies(text: str) -> list[str]:
    names: list[str] = []
    for part in text.split(","):
        names += GROUPS.get(part, (part,))
    return names


def main() -> int:
    """Run what is missing, and print the tables of all that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT / ".." / "shared" / "data")
    parser.add_argument("--store", type=Path, default=Path("evidence.jsonl"))
    parser.add_argument("--traffic", default="azure,bursts,clients")
    parser.add_argument("--loads", default=",".join(map(str, LOADS)))
    parser.add_argument(
        "--policies", default="cheap,ours", help="names, or cheap, ours, litellm; none: tables only"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    args = parser.parse_args()
    kinds = {
        name: source
        for name, source in traffic_kinds(args.data, args.requests).items()
        if name in args.traffic.split(",")
    }
    loads = [float(part) for part in args.loads.split(",")]
    wanted = [] if args.policies == "none" else _policies(args.policies)
    store = load_store(args.store)
    runs: list[Key] = [
        (kind, load, policy, seed, args.requests)
        for seed in range(args.seeds)
        for policy in wanted
        for load in loads
        for kind in kinds
    ]
    for key in runs:
        if key in store:
            continue
        kind, load, policy, seed, _ = key
        store[key] = replayed(kind, kinds[kind], load, policy, seed)
        with args.store.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"key": key, "figures": store[key]}) + "\n")
    for kind in kinds:
        for load in loads:
            records = {
                policy: [store[kind, load, policy, seed, args.requests] for seed in range(args.seeds)]
                for policy in (*OURS, *RIVALS, *LITELLM, *OTHERS, *BLIND)
                if all((kind, load, policy, seed, args.requests) in store for seed in range(args.seeds))
            }
            if records:
                print_tables(
                    f"{kind}, {args.requests:,} requests at {load:.0%}, {args.seeds} seeds", Table(records)
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())

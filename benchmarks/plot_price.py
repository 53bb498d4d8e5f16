"""Time against the number of agents, ours and the peers': writes docs/explanation/price-engine.svg and .json.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.plot_price [--long]
``--long`` adds a million agents of plain flow (a minute, 6 GB) and four million of ours.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import numpy as np

import solver
from benchmarks.bench_price import cpu_ms, highs_lp, pot_emd
from solver.interfaces.bench.peers import PEERS
from solver.problem.generate import generate_scores

MODELS = 50
TARGET = Path(__file__).parents[1] / "docs" / "explanation" / "price-engine"
SIZES = (300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


def measure(long: bool) -> dict[str, dict[int, float]]:
    runs = {
        "solver.assign": (solver.assign, 4_000_000 if long else 1_000_000),
        "OR-Tools min-cost flow": (PEERS["OR-Tools flow"].solve, 1_000_000 if long else 100_000),
        "POT emd": (pot_emd, 30_000),
        "HiGHS LP": (highs_lp, 3_000),
        "scipy linear_sum_assignment": (PEERS["scipy LSA"].solve, 3_000),
    }
    times: dict[str, dict[int, float]] = {name: {} for name in runs}
    for n in (*SIZES, 4_000_000) if long else SIZES:
        repeat = 3 if n <= 30_000 else 1
        instances = [generate_scores(n, MODELS, seed=seed) for seed in range(repeat)]
        for name, (run, most) in runs.items():
            if n <= most:
                taken = [cpu_ms(lambda run=run, i=i: run(*i)) for i in instances]  # type: ignore[misc]
                times[name][n] = float(np.median(taken))
                print(f"{n:>9,} {name:28s} {times[name][n]:10.1f} ms", flush=True)
    return times


def draw(times: dict[str, dict[int, float]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "price-engine"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, points in times.items():
        ours = name == "solver.assign"
        axes.loglog(
            list(points),
            list(points.values()),
            "o-",
            label=name,
            linewidth=2.5 if ours else 1.2,
            markersize=4,
        )
    axes.set(
        xlabel="agents", ylabel="processor time of one thread, ms", title=f"{MODELS} models, 80 % filled"
    )
    axes.grid(which="major", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(TARGET.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    solver.warm_up()
    measured = measure("--long" in sys.argv)
    record = {"machine": platform.processor() or platform.machine(), "models": MODELS, "ms": measured}
    TARGET.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    draw(measured)

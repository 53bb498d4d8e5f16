"""Time and memory of batches in files against the number of agents: writes docs/how-to/large-batches.svg and .json.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.plot_scale [--most 100000000]

Each size is streamed by one process, and up to ten million agents solved in memory, too, each in a process of its own.
Times are processor time, which other work on the machine changes little. ``--most 0`` draws what was measured before.
The largest size needs 9 GB of disk and some minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench_scale import batch_of, generate, in_memory, measured, streamed

MODELS = 20
SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000)
MOST_IN_MEMORY = 10_000_000
TARGET = Path(__file__).parents[1] / "docs" / "how-to" / "large-batches"
STREAMED, IN_MEMORY = "files, streamed", "read whole, solver.assign"

Points = dict[str, dict[str, dict[str, float]]]
"""By the way a batch is solved, and the number of agents: processor time in seconds, and peak memory in megabytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="Where the temporary folder goes.")
    asked = parser.parse_args()
    stored = TARGET.with_suffix(".json")
    points: Points = json.loads(stored.read_text())["points"] if stored.exists() else {}
    for agents in SIZES:
        if agents <= asked.most:
            measure(agents, points, asked.folder)
    document = {"machine": platform.processor() or platform.machine(), "models": MODELS, "points": points}
    stored.write_text(json.dumps(document, indent=1) + "\n")
    draw(points)


def measure(agents: int, points: Points, folder: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        generate(Path(name) / "batch", agents, MODELS, "binary")
        batch = batch_of(Path(name) / "batch", agents, MODELS, "binary")
        runs: dict[str, Any] = {STREAMED: partial(streamed, batch, name, 0)}
        if agents <= MOST_IN_MEMORY:
            runs[IN_MEMORY] = partial(in_memory, batch, "binary")
        for way, run in runs.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                _, wall, seconds, peak = pool.apply(measured, (run,))
            points.setdefault(way, {})[str(agents)] = {"seconds": round(seconds, 3), "mb": round(peak)}
            print(
                f"{agents:>11,} {way:26} {seconds:7.2f} s ({wall:.1f} s of wall time) {peak:6.0f} MB",
                flush=True,
            )


def draw(points: Points) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {
        "svg.hashsalt": "large-batches",
        "svg.fonttype": "none",
    }  # texts stay texts: a small file
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, figsize=(7, 6), sharex=True, layout="constrained")
    for way, values in points.items():
        sizes = sorted(map(int, values))
        for axes, field in ((above, "seconds"), (below, "mb")):
            axes.loglog(sizes, [values[str(n)][field] for n in sizes], "o-", label=way)
    below.loglog(SIZES, [4e-6 * n * MODELS for n in SIZES], ":", color="grey", label="scores alone, float32")
    above.set_ylabel("processor time, s")
    below.set_ylabel("peak memory, MB")
    below.set_xlabel(f"agents ({MODELS} models)")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(TARGET.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()

"""Generalized assignments of the sizes that the literature finds hard, written for ``solver bench --gap``.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.larger_gap FOLDER, then
``solver bench --gap FOLDER --deadlines 100,1000 --no-peers``. Types A and B with 200 agents, types C, D and E with 200
to 1,600, 36 in all, as many and as large as those of Yagiura, Ibaraki and Glover (2004) that are not in the usual
collection of 81. Optimal costs are not known: ``best_known.csv`` holds the lower bound that a long run
certifies, so that gaps to it are upper limits of the true ones; the cost which that run found is in its last column.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np

import solver
from solver.interfaces.files.gap_format import format_gap
from solver.problem.generate import GAP_TYPES, generate_gap

SIZES = (
    (5, 200),
    (10, 200),
    (20, 200),
    (20, 400),
    (40, 400),
    (30, 900),
    (60, 900),
    (20, 1600),
    (40, 1600),
    (80, 1600),
)
"""Models and agents; the first three of every type, the others of C, D and E alone."""
EASY = ("A", "B")


def reference(
    cost: np.typing.NDArray[np.int64],
    use: np.typing.NDArray[np.int64],
    capacity: np.typing.NDArray[np.int64],
    seconds: float,
) -> tuple[float, float]:
    """Return the lower bound, whole as all costs are, and the cost of a long run."""
    found = solver.assign(
        cost.T,
        capacity,
        demand=use.T,
        unassigned_penalty=np.inf,
        sense="minimize",
        deadline_ms=1e3 * seconds,
        threads=1,
    )
    return float(math.ceil(found.bound - 1e-6)), found.objective


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of every run for a lower bound (default 10)"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / "best_known.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["instance", "models", "agents", "best_known_cost", "cost_found"])
        for kind in GAP_TYPES:
            for m, n in SIZES[:3] if kind in EASY else SIZES:
                name = f"{kind.lower()}{m:02}{n}"
                made = generate_gap(kind, m, n, seed=options.seed)
                (options.folder / name).write_text(format_gap(*made))
                bound, cost = reference(*made, options.seconds)
                table.writerow([name, m, n, f"{bound:.0f}", f"{cost:.0f}"])
                print(f"{name}: {cost:.0f}, at least {bound:.0f}: {cost / bound - 1:.4%}", flush=True)


if __name__ == "__main__":
    main()

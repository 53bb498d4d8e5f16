"""How the answer improves with time, ours and the peers': writes docs/explanation/lagrangian-engine.svg and .json.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.plot_gap [--draw]
Takes two minutes; ``--draw`` only draws what was recorded before.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import solver
from benchmarks.bench_gap import hard
from solver.clock import Deadline
from solver.interfaces.bench.peers import gap_by_cpsat, gap_by_highs
from solver.problem.build import build_instance
from solver.solution.solving import solve_instance

if TYPE_CHECKING:
    from solver.problem.instance import Instance

TARGET = Path(__file__).parents[1] / "docs" / "explanation" / "lagrangian-engine"
MODELS, AGENTS = 40, 400
LONGEST_S = 10.0
LIMITS_S = (0.1, 0.3, 1.0, 3.0, 10.0)  # the peers are run anew with each

Curve = list[tuple[float, float]]
"""Seconds, and the gap to the bound of the linear relaxation, ascending in time."""


def measure(instance: Instance) -> dict[str, Curve]:
    solution = solve_instance(instance, deadline=Deadline.after(1e3 * LONGEST_S), engine="lagrangian")
    bound = solution.progress[0][2] if solution.progress else solution.bound

    def gap(objective: float) -> float:
        return (bound - objective) / abs(bound)

    ours: Curve = []
    for elapsed_ms, objective, _ in solution.progress:
        if not ours or gap(objective) < ours[-1][1]:
            ours.append((elapsed_ms / 1e3, gap(objective)))
    curves = {"solver": ours}
    assert instance.demand is not None
    given = np.asarray(instance.score), instance.demand[:, :, 0], instance.capacity[:, 0]
    for name, solve in (("CP-SAT", gap_by_cpsat), ("HiGHS", gap_by_highs)):
        curves[name] = []
        for limit_s in LIMITS_S:
            started = time.perf_counter()
            found = solve(*given, limit_s)
            elapsed_s = time.perf_counter() - started
            if found is not None:
                curves[name].append((elapsed_s, gap(found)))
            print(f"{name:8s} {limit_s:5.1f} s: {elapsed_s:6.2f} s, {found}", flush=True)
    return curves


def draw(record: dict[str, dict[str, Curve]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lagrangian-engine"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(record), figsize=(9, 3.6), sharey=True, layout="constrained")
    for panel, (kind, curves) in zip(axes, record.items(), strict=True):
        for name, points in curves.items():
            seconds, gaps = ([point[k] for point in points] for k in (0, 1))
            if name == "solver":
                seconds, gaps = [*seconds, LONGEST_S], [*gaps, gaps[-1]]
                panel.step(seconds, 100 * np.array(gaps), where="post", label=name, linewidth=2.5)
            else:
                panel.plot(seconds, 100 * np.array(gaps), "o-", label=name, linewidth=1.2, markersize=4)
        panel.set(
            xscale="log", yscale="log", xlim=(0.01, 1.6 * LONGEST_S), xlabel="seconds", title=f"type {kind}"
        )
        panel.grid(which="major", alpha=0.3)
    axes[0].set_ylabel("above the bound, %")
    axes[-1].legend(frameon=False)
    figure.savefig(TARGET.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    path = TARGET.with_suffix(".json")
    recorded: dict[str, Any]
    if "--draw" in sys.argv:
        recorded = json.loads(path.read_text())
    else:
        solver.warm_up()
        curves = {
            kind.upper(): measure(build_instance(**hard(kind, MODELS, AGENTS, seed=0))) for kind in "cde"
        }
        recorded = {
            "machine": platform.processor() or platform.machine(),
            "models": MODELS,
            "agents": AGENTS,
            "curves": curves,
        }
        path.write_text(json.dumps(recorded, indent=1) + "\n")
    draw(recorded["curves"])

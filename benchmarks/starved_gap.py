"""Still feasible when the machine is busy? Public calls at a short deadline while other processes take the processor.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.starved_gap [FOLDER] [options]
FOLDER holds instances in the OR-Library's format with a ``best_known.csv``; generated ones are run in any case. Two
busy processes are started for every processor this one may use, unless ``--busy`` says otherwise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import solver
from benchmarks.bench_gap import hard
from solver.clock import Deadline
from solver.engines.lagrangian.interior_point import relax
from solver.engines.standard_form import build_form
from solver.interfaces.bench.gap_benchmark import read_best_known
from solver.interfaces.files.gap_format import read_gap
from solver.problem.build import build_instance
from solver.problem.compile import compile_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from solver.problem.instance import Instance

SIZES = ((20, 200), (40, 400), (60, 900), (80, 1600))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One call: what it found, against which value, and how long it took."""

    name: str
    engine: str
    gap: float  # to the best known cost or the LP bound; inf without an answer
    elapsed_ms: float


def spin() -> None:
    """Take a processor, forever."""
    value = 1
    while True:
        value = value * 3 % 1000003


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep ``count`` processes spinning meanwhile."""
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.terminate()
            other.join()


def instances(folder: Path | None, seeds: int, names: str) -> Iterator[tuple[str, Instance, float]]:
    """Yield name, instance and best known cost of the files, then of generated instances, with their LP bound."""
    if folder is not None:
        for name, best in read_best_known(folder / "best_known.csv").items():
            if names in name:
                yield name, compile_problem(read_gap(folder / name)), best
    for seed in range(seeds):
        for m, n in SIZES:
            for kind in "cde":
                name = f"{kind}{m}x{n}-{seed}"
                if names in name:
                    instance = build_instance(**hard(kind, m, n, 100 + seed))
                    form = build_form(instance, leave=False)
                    relaxation = relax(form, deadline=Deadline.after(None), rng=np.random.default_rng(0))
                    yield name, instance, relaxation.bound - form.offset


def measure(name: str, instance: Instance, best: float, *, deadline_ms: float, engine: str) -> Run:
    """Call :func:`solver.assign` once, as anyone would."""
    given: dict[str, Any] = {} if instance.demand is None else {"demand": instance.demand}
    started = time.perf_counter()
    solution = solver.assign(
        instance.score,
        instance.capacity,
        **given,
        unassigned_penalty=np.inf,
        deadline_ms=deadline_ms,
        engine=engine,
    )
    elapsed_ms = (time.perf_counter() - started) * 1e3
    gap = solution.objective / best - 1 if np.isfinite(solution.objective) else np.inf
    return Run(name=name, engine=solution.engine, gap=gap, elapsed_ms=elapsed_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--deadline-ms", type=float, default=100.0)
    parser.add_argument("--busy", type=int, default=2 * len(os.sched_getaffinity(0)))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seeds", type=int, default=2, help="generated instances of each type and size")
    parser.add_argument("--only", default="", help="instances whose name contains this")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    solver.warm_up()
    everything = list(instances(options.folder, options.seeds, options.only))
    with busy(options.busy):
        time.sleep(0.5)
        runs = [measure(*one, deadline_ms=options.deadline_ms, engine=options.engine) for one in everything]
    for run in runs:
        late = run.elapsed_ms > 1.1 * options.deadline_ms
        if options.verbose or late or not np.isfinite(run.gap):
            print(f"{run.name:14s} {run.engine:11s} gap {run.gap:8.3%}  {run.elapsed_ms:7.1f} ms")
    answered = [run.gap for run in runs if np.isfinite(run.gap)]
    overshoot = max(run.elapsed_ms for run in runs) / options.deadline_ms - 1
    print(
        f"{options.busy} busy processes, {options.deadline_ms:g} ms: feasible {len(answered)}/{len(runs)}, "
        f"mean gap {np.mean(answered):.3%}, worst gap {max(answered):.2%}, largest overshoot {overshoot:+.1%}"
    )


if __name__ == "__main__":
    main()

"""Batches in files: time, memory and objective of streaming, of Ray workers, and of the same batch in memory.

    python -m benchmarks.bench_scale --agents 10000000 --models 20
    python -m benchmarks.bench_scale --agents 10000000 --models 20 --workers 2 --no-memory
    python -m benchmarks.bench_scale --agents 10000000 --workers 1 2 --no-memory --no-verify
    python -m benchmarks.bench_scale --agents 100000000 --no-memory

With workers it prints the bytes between them and the driver, pickled, and of each worker the peak memory and the
processor time, of the passes that find prices by themselves (the driver's own steps in between included) and of
writing. Two numbers of workers are compared: by wall time, which says something on an idle machine only, and by
processor time, all of the first over that of the busiest worker of the second. The start of workers is no part of it.
Generates Parquet in a temporary folder (about 4 bytes a score), deleted afterwards. Not part of the test suite.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import pickle
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import solver
from solver.scale import LargeBatch, ScoreColumns, solve_files, verify_plan

_ROWS_A_FILE, _ROWS_A_GROUP = 1_000_000, 125_000
_FILL = 0.9  # agents per slot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agents", type=int, default=2_000_000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0], help="Ray actors; 0: this process alone."
    )
    parser.add_argument("--layout", choices=("binary", "list", "wide"), default="binary")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--verify", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--folder", type=Path, default=None, help="Where the temporary folder goes.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        began = time.perf_counter()
        generate(Path(folder) / "batch", asked.agents, asked.models, asked.layout)
        size = sum(path.stat().st_size for path in (Path(folder) / "batch").iterdir())
        print(f"generated {asked.agents:,} × {asked.models}, {size / 1e9:.2f} GB, {asked.layout}")
        print(f"  in {time.perf_counter() - began:.1f} s")
        batch = batch_of(Path(folder) / "batch", asked.agents, asked.models, asked.layout)
        runs: dict[str, Any] = {
            f"stream {workers}": partial(streamed, batch, folder, workers) for workers in asked.workers
        }
        if asked.verify:
            runs["verify"] = partial(verified, folder)
        if asked.memory:
            runs["memory"] = partial(in_memory, batch, asked.layout)
        phases = []
        for name, run in runs.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                (objective, gap, *more), wall, cpu, peak = pool.apply(measured, (run,))
            line = f"{name:8} {wall:7.1f} s wall {cpu:7.1f} s of this process's CPU {peak:7.0f} MB peak"
            print(f"{line}  objective {objective!r} gap {gap:.1e}", flush=True)
            phases += more
        if len(asked.workers) == 2:
            compare(*phases)


def compare(one: dict[str, Phase], other: dict[str, Phase]) -> None:
    """Print what a second number of workers gains over a first."""
    for name, phase in one.items():
        wall, busy = phase.wall / other[name].wall, sum(phase.seconds) / max(other[name].seconds)
        print(
            f"{name}: {wall:.2f} times as fast by wall time, {busy:.2f} by processor time of the busiest worker"
        )


def measured(run: Any) -> tuple[Any, float, float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    found = run()
    return found, time.perf_counter() - began, time.process_time() - cpu, peak_mb()


def generate(folder: Path, agents: int, models: int, layout: str, *, rows_a_file: int = _ROWS_A_FILE) -> None:
    """Write scores that drift along the files, as batches collected over days do."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    quality, drift = generator.random(models) * 0.3, generator.random(models) * 0.2
    for number, first in enumerate(range(0, agents, rows_a_file)):
        count = min(rows_a_file, agents - first)
        score = generator.random((count, models), dtype=np.float32)
        score += (quality + drift * first / agents).astype(np.float32)
        ids = pa.array(np.arange(first, first + count)).cast(pa.string())
        columns: dict[str, Any] = {"agent": ids}
        if layout == "wide":
            columns |= {f"m{j}": score[:, j] for j in range(models)}
        elif layout == "list":
            columns["score"] = pa.FixedSizeListArray.from_arrays(pa.array(score.ravel()), models)
        else:
            columns["score"] = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(4 * models), count, [None, pa.py_buffer(score)]
            )
        path = folder / f"part-{number:05d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=_ROWS_A_GROUP, use_dictionary=False)
    os.sync()  # or else the job measured shares the disk with what is still to be written


def batch_of(folder: Path, agents: int, models: int, layout: str) -> LargeBatch:
    names = tuple(f"m{j}" for j in range(models))
    slots = -(-int(agents / _FILL) // models)
    columns = ScoreColumns(models=names, scores=None if layout == "wide" else "score")
    return LargeBatch(files=[str(folder)], columns=columns, capacity=[slots] * models)


def streamed(batch: LargeBatch, folder: str, workers: int) -> tuple[float, float, dict[str, Phase]]:
    steps: list[tuple[float, str]] = []
    options: dict[str, Any] = {"report": lambda text: steps.append((time.perf_counter(), text))}
    wire = Wire()
    if workers:
        options["fleet"] = partial(counted_fleet, wire, workers)
    manifest = solve_files(batch, Path(folder) / "plan", **options)
    steps.append((time.perf_counter(), ""))
    stages = [step for step in steps if " read, about " not in step[1]]
    for (start, text), (end, _) in itertools.pairwise(stages):
        print(f"  {end - start:6.1f} s {text}", flush=True)
    if workers:
        size = sum(path.stat().st_size for path in Path(batch.files[0]).iterdir())
        peaks = ", ".join(f"{peak:.0f}" for peak in wire.peaks)
        print(
            f"  {wire.calls} calls, {wire.up / 1e6:.2f} MB from workers and {wire.down / 1e6:.2f} MB to them,"
            f" {(wire.up + wire.down) / size:.3%} of the files; peak memory of workers {peaks} MB"
        )
        for name, phase in wire.phases.items():
            seconds = ", ".join(f"{one:.2f}" for one in phase.seconds)
            print(f"  {name}: {phase.wall:.2f} s of wall time, processor time of workers {seconds} s")
    assert manifest is not None
    return manifest.certificate.objective, manifest.certificate.gap, wire.phases


@dataclass
class Phase:
    """How long a part of a job took."""

    wall: float
    seconds: list[float]
    """Processor time of each worker."""


@dataclass
class Wire:
    """What went between workers and driver."""

    calls: int = 0
    up: int = 0
    down: int = 0
    peaks: list[float] = field(default_factory=list)
    phases: dict[str, Phase] = field(default_factory=dict)


def counted_fleet(wire: Wire, workers: int, *arguments: Any) -> Any:
    """Return actors of Ray, whose messages are counted."""
    from solver.scale.ray_workers import RayFleet

    class Counted(RayFleet):
        def __init__(self) -> None:
            super().__init__(*arguments, workers=workers)
            self._processes = self._ray.get([actor.process.remote() for actor in self.actors])
            self._begin()

        def _begin(self) -> None:
            self._seconds, self._began = (
                [processor_seconds(one) for one in self._processes],
                time.perf_counter(),
            )

        def _end(self, phase: str) -> None:
            wall, before = time.perf_counter() - self._began, self._seconds
            self._begin()
            spent = [now - then for now, then in zip(self._seconds, before, strict=True)]
            wire.phases[phase] = Phase(wall, spent)

        def run(self, method: str, *arguments: Any, each: Any = None) -> list[Any]:
            if method.startswith("finish"):
                self._end("passes")
            found = super().run(method, *arguments, each=each)
            if method.startswith("finish"):
                self._end("writing")
            wire.calls += 1
            wire.down += len(self.actors) * len(pickle.dumps(arguments)) + len(pickle.dumps(each))
            wire.up += sum(len(pickle.dumps(one)) for one in found)
            return found

        def close(self) -> None:
            wire.peaks += map(peak_mb, self._processes)
            super().close()

    return Counted()


def peak_mb(process: int | str = "self") -> float:
    """Return the largest resident memory of a process since it began its program, in megabytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def processor_seconds(process: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def verified(folder: str) -> tuple[float, float]:
    found = verify_plan(Path(folder) / "plan")
    assert found.feasible, found.violations
    return found.certificate.objective, found.certificate.gap


def in_memory(batch: LargeBatch, layout: str) -> tuple[float, float]:
    models = len(batch.capacity)
    parts = []
    for path in sorted(Path(batch.files[0]).iterdir()):
        table = pq.read_table(path)
        if layout == "wide":
            parts.append(np.stack([table.column(f"m{j}").to_numpy() for j in range(models)], axis=1))
            continue
        for chunk in table.column("score").chunks:
            flat = (
                chunk.flatten().to_numpy() if layout == "list" else np.frombuffer(chunk.buffers()[1], "<f4")
            )
            parts.append(flat.reshape(-1, models))
    found = solver.assign(np.concatenate(parts), np.array(batch.capacity))
    return float(found.objective), float(found.gap)


if __name__ == "__main__":
    main()

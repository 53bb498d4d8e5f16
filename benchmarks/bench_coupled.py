"""Batches in files with two token resources and a budget: gap, time and memory at several budgets.

    python -m benchmarks.bench_coupled --agents 5000000 --models 20
    python -m benchmarks.bench_coupled --agents 5000000 --models 20 --workers 2 --kinds linear --shares 0.8

The budget is a share of what the best models of all agents would cost, once linear in the tokens that capacities limit,
once in a column of its own. Every case is solved twice and both plans compared. Generates Parquet in a temporary
folder, deleted afterwards. Not part of the test suite.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench_scale import Wire, counted_fleet, peak_mb
from solver.scale import BatchBudget, BatchResource, LargeBatch, ScoreColumns, solve_files

_ROWS_A_FILE, _ROWS_A_GROUP = 1_000_000, 125_000
_FILL = 0.9  # tokens of all agents over those of all models
_TOKENS = ("input_tokens", "output_tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agents", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0, help="Ray actors; 0: this process alone.")
    parser.add_argument("--kinds", default="linear,independent")
    parser.add_argument("--shares", default="0.6,0.8,0.95")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="Where the temporary folder goes.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        generate(Path(folder) / "batch", asked.agents, asked.models)
        print(f"{asked.agents:,} × {asked.models}, two token resources and a budget")
        for kind in asked.kinds.split(","):
            for share in map(float, asked.shares.split(",")):
                batch = batch_of(Path(folder) / "batch", asked.models, kind, share)
                run = partial(solved, batch, folder, asked.workers)
                found = []
                for _ in range(asked.runs):
                    with multiprocessing.get_context("spawn").Pool(1) as pool:
                        found.append(pool.apply(run))
                gap, served, use, wall, peak, _ = found[0]
                same = all(one[-1] == found[0][-1] for one in found)
                print(
                    f"{kind:12} {share:4.0%} gap {gap:.1e}  served {served:,}  budget used {use:.3%}"
                    f"  {wall:5.1f} s {peak:5.0f} MB  {'same plan' if same else 'PLANS DIFFER'}",
                    flush=True,
                )


def solved(batch: LargeBatch, folder: str, workers: int) -> tuple[float, int, float, float, float, Any]:
    options: dict[str, Any] = {}
    wire = Wire()
    if workers:
        options["fleet"] = partial(counted_fleet, wire, workers)
    began = time.perf_counter()
    manifest = solve_files(batch, Path(folder) / "plan", **options)
    wall = time.perf_counter() - began
    if workers:
        print(f"  {wire.calls} calls, {(wire.up + wire.down) / 1e6:.2f} MB; workers' peaks {wire.peaks} MB")
    assert manifest is not None
    found = manifest.certificate
    assert not found.violations, found.violations
    _, used, bound = found.usage[-1]
    peak = peak_mb()
    checks = [one.crc32 for one in manifest.files]
    return found.gap, found.served, used / bound, wall, peak, (checks, manifest.prices)


def generate(folder: Path, agents: int, models: int) -> None:
    """Write scores that drift along the files, tokens that vary as those of requests do, and money apart from them."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    quality, drift = generator.random(models) * 0.3, generator.random(models) * 0.2
    for number, first in enumerate(range(0, agents, _ROWS_A_FILE)):
        count = min(_ROWS_A_FILE, agents - first)
        score = generator.random((count, models), dtype=np.float32)
        score += (quality + drift * first / agents).astype(np.float32)
        flat = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * models), count, [None, pa.py_buffer(score)])
        columns: dict[str, Any] = {"agent": pa.array(np.arange(first, first + count)), "score": flat}
        for name, size, spread in (
            ("input_tokens", 6.5, 1.0),
            ("output_tokens", 5.5, 1.0),
            ("money", 0.0, 0.7),
        ):
            columns[name] = generator.lognormal(size, spread, count).astype(np.float32)
        path = folder / f"part-{number:05d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=_ROWS_A_GROUP, use_dictionary=False)


def batch_of(folder: Path, models: int, kind: str, share: float) -> LargeBatch:
    generator = np.random.default_rng(5)
    price = generator.random(models) * 3 + 0.2
    rates = (
        {"money": price} if kind == "independent" else {_TOKENS[0]: price * 1e-6, _TOKENS[1]: price * 4e-6}
    )
    total, spend = np.zeros(2), 0.0
    for path in sorted(folder.iterdir()):
        table = pq.read_table(path)
        flat = np.frombuffer(table.column("score").combine_chunks().buffers()[1], "<f4")
        best = flat.reshape(-1, models).argmax(axis=1)
        total += [table.column(name).to_numpy().sum(dtype=np.float64) for name in _TOKENS]
        spend += sum(float(table.column(name).to_numpy() @ some[best]) for name, some in rates.items())
    capacity = total[:, None] / models / _FILL * (0.6 + 0.8 * generator.random((2, models)))
    return LargeBatch(
        files=[str(folder)],
        columns=ScoreColumns(models=tuple(f"m{j}" for j in range(models)), scores="score"),
        capacity=[np.inf] * models,
        unassigned_penalty=0.0,
        resources=[
            BatchResource(name=name, capacity=units.tolist())
            for name, units in zip(_TOKENS, capacity, strict=True)
        ],
        budgets=[
            BatchBudget(
                name="usd", amount=share * spend, rates={name: some.tolist() for name, some in rates.items()}
            )
        ],
    )


if __name__ == "__main__":
    main()

"""Actors of a real local cluster give the plan that one process gives, also when they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from solver.errors import SpecError
from solver.scale import BatchBudget, BatchResource, LargeBatch, solve_files
from solver.scale.pieces import Piece, ScoreColumns
from solver.scale.sample_plan import SampleBudget
from solver.scale.workers import shared_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from solver.scale.manifest import Manifest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

if find_spec("ray") is None:  # not imported here: the fleet does that, told to keep to the loopback interface
    pytest.skip("needs ray", allow_module_level=True)

SMALL = SampleBudget(whole=0, few_arcs=2_000)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of this machine alone, which the jobs of this module find running."""
    from solver.scale.ray_workers import start_local

    ray = start_local(2)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> LargeBatch:
    folder = tmp_path_factory.mktemp("batch")
    scores = np.random.default_rng(0).random((9000, 6), dtype=np.float32)
    scores[:, 4] = scores[:, 1]  # equal models share their agents over all pieces
    for k, rows in enumerate(np.array_split(np.arange(9000), 3)):
        columns = {f"m{j}": scores[rows, j] for j in range(6)}
        pq.write_table(
            pa.table({"agent": rows, "weight": rows % 97 + 1, **columns}), folder / f"part-{k}.parquet"
        )
    columns_of = ScoreColumns(models=tuple(f"m{j}" for j in range(6)))
    return LargeBatch(files=[str(folder)], columns=columns_of, capacity=[1500] * 5 + [1400])


@pytest.fixture(scope="module")
def expected(batch: LargeBatch, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    found = solve_files(batch, tmp_path_factory.mktemp("one"), budget=SMALL)
    assert found is not None
    return found


def test_two_workers_give_the_same_files(
    cluster: Any, batch: LargeBatch, expected: Manifest, tmp_path: Path
) -> None:
    from solver.scale.ray_workers import RayFleet

    found = solve_files(batch, tmp_path, fleet=partial(RayFleet, workers=2), budget=SMALL)
    assert found == expected
    assert cluster.is_initialized(), "a cluster that the job did not start is left running"
    assert all(node["NodeManagerAddress"].startswith("127.") for node in cluster.nodes()), (
        "a cluster of this machine alone keeps to the loopback interface"
    )


def killed_once_in(cluster: Any, methods: tuple[str, ...], killed: list[int]) -> Any:
    """Return a fleet of which a worker is killed, once each, while it carries out some passes."""
    from solver.scale.ray_workers import RayFleet

    left = list(methods)

    class Struck(RayFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            if method in left:
                left.remove(method)
                process = cluster.get(self.actors[len(killed) % 2].process.remote())
                os.kill(process, signal.SIGKILL)
                killed.append(process)
            return super().run(method, *arguments, each=each)

    return partial(Struck, workers=2)


def test_floors_and_counts_give_the_same_files(cluster: Any, batch: LargeBatch, tmp_path: Path) -> None:
    counted = replace(
        batch,
        columns=replace(batch.columns, count="weight"),
        capacity=[160_000] * 6,
        min_load=[120_000, 0, 0, 0, 0, 0],
    )
    alone = solve_files(counted, tmp_path / "alone", budget=SMALL)
    killed: list[int] = []
    fleet = killed_once_in(cluster, ("gather_units", "finish_units"), killed)
    found = solve_files(counted, tmp_path / "ray", fleet=fleet, budget=SMALL)
    assert len(killed) == 2
    assert found is not None
    assert found == alone
    assert found.certificate.optimal
    assert found.certificate.units is not None
    assert found.prices[0] < 0, "the floor binds, so one more slot of it costs"


def test_resources_and_budgets_give_the_same_files_when_workers_are_killed(
    cluster: Any, batch: LargeBatch, tmp_path: Path
) -> None:
    asked = replace(
        batch,
        unassigned_penalty=0.0,
        resources=[BatchResource(name="weight", capacity=[60_000.0] * 6)],
        budgets=[
            BatchBudget(name="usd", amount=15_000.0, rates={"weight": [0.01 * (j + 1) for j in range(6)]})
        ],
    )
    alone = solve_files(asked, tmp_path / "alone")
    killed: list[int] = []
    fleet = killed_once_in(cluster, ("hold", "respond", "finish_paying"), killed)
    found = solve_files(asked, tmp_path / "ray", fleet=fleet)
    assert len(killed) == 3
    assert found is not None
    assert found == alone
    assert found.certificate.violations == ()
    assert found.certificate.gap < 5e-4


def test_a_worker_killed_in_each_pass_changes_nothing(
    cluster: Any, batch: LargeBatch, expected: Manifest, tmp_path: Path
) -> None:
    killed: list[int] = []
    fleet = killed_once_in(cluster, ("survey", "reduce", "finish"), killed)
    assert solve_files(batch, tmp_path, fleet=fleet, budget=SMALL) == expected
    assert len(killed) == 3


def test_faults_of_workers_and_clusters_are_named(cluster: Any, batch: LargeBatch, tmp_path: Path) -> None:
    from solver.scale.ray_workers import RayFleet

    with pytest.raises(SpecError, match=r"workers: expected at most the cluster's 2 CPUs, got 3"):
        solve_files(batch, tmp_path / "plan", fleet=partial(RayFleet, workers=3))
    broken = tmp_path / "broken.parquet"
    score = np.ones(2000)
    score[1999] = np.nan
    pq.write_table(pa.table({"agent": np.arange(2000), "m0": score}), broken)
    asked = LargeBatch(files=[str(broken)], columns=ScoreColumns(models=("m0",)), capacity=[2000])
    with pytest.raises(SpecError, match=r"broken.parquet: row 2000: score of m0"):
        solve_files(asked, tmp_path / "plan", fleet=partial(RayFleet, workers=2))
    assert not (tmp_path / "plan").exists()


def test_more_workers_than_pieces() -> None:
    pieces = [
        Piece(number=k, path="a", groups=(k,), first=10 * k, row=10 * k, rows=10, fingerprint="")
        for k in range(2)
    ]
    assert [[piece.number for piece in part] for part in shared_out(pieces, 5)] == [[0], [1]]


def test_repeated_ids_are_found_over_workers(cluster: Any, tmp_path: Path) -> None:
    for k in range(3):
        ids = np.arange(k * 50, k * 50 + 50)
        ids[7] = 7
        table = pa.table({"agent": ids, "m": np.ones(50, np.float32)})
        pq.write_table(table, tmp_path / f"{k}.parquet")
    batch = LargeBatch(files=[str(tmp_path)], columns=ScoreColumns(models=("m",)), capacity=[500])
    from solver.scale.ray_workers import RayFleet

    with pytest.raises(SpecError) as caught:
        solve_files(batch, tmp_path / "plan", fleet=partial(RayFleet, workers=2), unique_ids=True)
    assert len(caught.value.violations) == 2
    assert not (tmp_path / "plan" / "manifest.json").exists()


def test_passes_of_a_worker_import_no_pandas(tmp_path: Path) -> None:
    """Which takes a quarter of a second and fifty megabytes of every worker, and nothing of it is used."""
    assert find_spec("pandas") is not None
    scores = np.random.default_rng(0).random((50, 2))
    pq.write_table(
        pa.table({"agent": np.arange(50), "a": scores[:, 0], "b": scores[:, 1]}), tmp_path / "x.parquet"
    )
    program = """
import sys
from solver.scale import LargeBatch, ScoreColumns, solve_files
batch = LargeBatch(files=[sys.argv[1]], columns=ScoreColumns(models=("a", "b")), capacity=[30, 15])
print(solve_files(batch, sys.argv[2]).certificate.served, "pandas" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "x.parquet"), str(tmp_path / "plan")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["45", "False"]

"""Files that change, break off or hold nothing while a job is at work: named, and nothing published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from solver.errors import SpecError
from solver.scale import BatchBudget, BatchResource, LargeBatch, ScoreColumns, solve_files, verify_plan
from solver.scale.local_workers import LocalFleet
from solver.scale.sample_plan import SampleBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MODELS = ("m0", "m1", "m2", "m3")
SMALL = SampleBudget(whole=0, few_arcs=2_000)  # so that small instances take the way of large ones


def table(first: int, count: int, seed: int = 0) -> Any:
    generator = np.random.default_rng((seed, first))
    score = generator.random((count, len(MODELS)), dtype=np.float32)
    columns = {name: score[:, j] for j, name in enumerate(MODELS)}
    tokens = generator.integers(1, 500, count)
    return pa.table({"agent": np.arange(first, first + count), "tokens": tokens, **columns})


def written(folder: Path, files: int = 3, count: int = 2500) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"part-{k}.parquet" for k in range(files)]
    for k, path in enumerate(paths):
        plain = {"compression": "none", "use_dictionary": False}
        pq.write_table(table(k * count, count), path, row_group_size=600, **plain)
    return paths


def batch_of(paths: list[Path], kind: str) -> LargeBatch:
    columns = ScoreColumns(models=MODELS)
    files = [str(path) for path in paths]
    if kind == "slots":
        return LargeBatch(files=files, columns=columns, capacity=[2000] * 4)
    rates = {"tokens": [0.001, 0.002, 0.003, 0.004]}
    return LargeBatch(
        files=files,
        columns=columns,
        capacity=[np.inf] * 4,
        unassigned_penalty=0.0,
        resources=[BatchResource(name="tokens", capacity=[500_000.0] * 4)],
        budgets=[BatchBudget(name="usd", amount=4000.0, rates=rates)],
    )


def rewritten(path: Path) -> None:
    pq.write_table(table(2500, 2500, seed=1), path, row_group_size=600)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def removed(path: Path) -> None:
    path.unlink()


def damaged(path: Path) -> None:
    """Overwrite data, not the footer: it looks the same from afar."""
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    path.write_bytes(data)


def overwritten(path: Path) -> None:
    """Change a few numbers of an uncompressed file: no other size, no other footer, and it can be read."""
    data = path.read_bytes()
    column = pq.read_table(path).column(MODELS[1]).chunk(0).to_numpy()
    at = data.index(column[:50].tobytes())
    path.write_bytes(data[:at] + column[50:100].tobytes() + data[at + 200 :])


PASSES = {"slots": ["survey", "reduce", "finish"], "coupled": ["paying_facts", "hold", "finish_paying"]}


@pytest.mark.parametrize("fault", [rewritten, truncated, removed, damaged])
@pytest.mark.parametrize(("kind", "struck"), [(kind, one) for kind, names in PASSES.items() for one in names])
def test_a_file_that_changes_during_a_job_ends_it(
    tmp_path: Path, kind: str, struck: str, fault: Callable[[Path], None]
) -> None:
    paths = written(tmp_path / "batch")
    struck_in: list[str] = []

    class Struck(LocalFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            if method == struck and not struck_in:
                struck_in.append(method)
                fault(paths[1])
            return super().run(method, *arguments, each=each)

    with pytest.raises(SpecError, match=r"part-1\.parquet"):
        solve_files(batch_of(paths, kind), tmp_path / "plan", fleet=Struck, budget=SMALL)
    assert struck_in
    assert not (tmp_path / "plan" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("kind", "struck"), [(kind, one) for kind, names in PASSES.items() for one in names[1:]]
)
def test_numbers_that_change_behind_an_equal_footer_end_a_job(tmp_path: Path, kind: str, struck: str) -> None:
    paths = written(tmp_path / "batch")
    before = paths[1].read_bytes()

    class Struck(LocalFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            if method == struck and paths[1].read_bytes() == before:
                overwritten(paths[1])
            return super().run(method, *arguments, each=each)

    with pytest.raises(SpecError, match=r"part-1\.parquet: expected the file as it was when the job began"):
        solve_files(batch_of(paths, kind), tmp_path / "plan", fleet=Struck, budget=SMALL)
    assert not (tmp_path / "plan" / "manifest.json").exists()
    paths[1].write_bytes(before)
    assert solve_files(batch_of(paths, kind), tmp_path / "plan", budget=SMALL) is not None
    overwritten(paths[1])
    with pytest.raises(
        SpecError, match=r"part-1\.parquet: expected the file as it was when the plan was made"
    ):
        verify_plan(tmp_path / "plan")


def test_numbers_that_change_before_a_job_is_resumed_end_it(tmp_path: Path) -> None:
    paths = written(tmp_path / "batch")

    class Struck(LocalFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            if method == "finish":
                raise KeyboardInterrupt
            return super().run(method, *arguments, each=each)

    with pytest.raises(KeyboardInterrupt):
        solve_files(batch_of(paths, "slots"), tmp_path / "plan", fleet=Struck, budget=SMALL)
    overwritten(paths[1])
    with pytest.raises(SpecError, match=r"part-1\.parquet: expected the file as it was when the job began"):
        solve_files(batch_of(paths, "slots"), tmp_path / "plan", budget=SMALL, resume=True)


@pytest.mark.parametrize("kind", PASSES)
def test_empty_row_groups_and_files_are_part_of_no_plan(tmp_path: Path, kind: str) -> None:
    (tmp_path / "batch").mkdir()
    paths = [tmp_path / "batch" / f"part-{k}.parquet" for k in range(3)]
    for k, counts in enumerate(((900, 0, 700), (0,), (0, 800, 0))):
        with pq.ParquetWriter(paths[k], table(0, 1).schema) as writer:
            for count in counts:
                writer.write_table(table(1000 * k, count))
    manifest = solve_files(batch_of(paths, kind), tmp_path / "plan", budget=SMALL)
    assert manifest is not None
    assert manifest.certificate.agents == 2400
    assert len(manifest.files) == 2
    assert verify_plan(tmp_path / "plan").feasible


def test_files_without_agents_are_refused(tmp_path: Path) -> None:
    pq.write_table(table(0, 0), tmp_path / "none.parquet")
    with pytest.raises(SpecError, match=r"none.parquet: expected at least one agent"):
        solve_files(batch_of([tmp_path / "none.parquet"], "slots"), tmp_path / "plan")

"""Plans in files equal those in memory, and a broken input is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from solver.errors import SpecError
from solver.scale import LargeBatch, solve_files, verify_plan
from solver.scale.local_workers import LocalFleet
from solver.scale.pieces import ScoreColumns
from solver.scale.sample_plan import SampleBudget

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SMALL = SampleBudget(whole=0, few_arcs=2_000)  # so that small instances take the way of large ones
SAME = 1e-12


def names(m: int) -> tuple[str, ...]:
    return tuple(f"model-{j}" for j in range(m))


def write(
    folder: Path,
    scores: NDArray[Any],
    *,
    files: int = 3,
    group: int = 1000,
    columns: dict[str, NDArray[Any]] | None = None,
) -> list[str]:
    """Write scores as Parquet, a model a column, forbidden pairs as nulls."""
    folder.mkdir(exist_ok=True)
    paths = []
    for k, rows in enumerate(np.array_split(np.arange(len(scores)), files)):
        table = {"agent": pa.array([f"a{i}" for i in rows])}
        for j, name in enumerate(names(scores.shape[1])):
            column = scores[rows, j]
            table[name] = pa.array(column, mask=np.isinf(column))
        for name, values in (columns or {}).items():
            table[name] = pa.array(values[rows])
        paths.append(str(folder / f"part-{k}.parquet"))
        pq.write_table(pa.table(table), paths[-1], row_group_size=group)
    return paths


def batch_of(paths: list[str], capacity: Any, **options: Any) -> LargeBatch:
    outer = {
        name: options.pop(name) for name in ("unassigned_penalty", "load_cost", "min_load") if name in options
    }
    columns = ScoreColumns(models=names(len(capacity)), **options)
    return LargeBatch(files=paths, columns=columns, capacity=[int(c) for c in capacity], **outer)


def drawn(n: int, m: int, seed: int, kind: Any = np.float32) -> NDArray[Any]:
    generator = np.random.default_rng(seed)
    return (generator.random((n, m)) + 0.3 * generator.random(m)).astype(kind)


def choices(folder: Path, m: int) -> NDArray[np.int64]:
    table = pq.read_table(sorted(folder.glob("assignments-*.parquet")))
    assert table.column("agent").to_pylist() == [f"a{i}" for i in range(table.num_rows)]
    place = {name: j for j, name in enumerate(names(m))} | {None: -1}
    return np.array([place[one] for one in table.column("model").to_pylist()])


def check(tmp_path: Path, scores: NDArray[Any], capacity: Any, **options: Any) -> None:
    """Solve in files and in memory, and compare objective, proof, loads and files."""
    columns: dict[str, NDArray[Any]] = {}
    in_files: dict[str, Any] = {
        name: options[name] for name in ("unassigned_penalty", "load_cost", "min_load") if name in options
    }
    for name in ("priority", "unassigned_penalty"):
        if name in options and np.ndim(options[name]):
            columns[name] = options[name]
            in_files.pop(name, None)
            in_files["priority" if name == "priority" else "penalty"] = name
    if "load_cost" in in_files:
        in_files["load_cost"] = [list(row) for row in in_files["load_cost"]]
    if "sense" in options:
        in_files["sense"] = options["sense"]
    group = options.pop("group", 1000)
    paths = write(tmp_path / "batch", scores, columns=columns, group=group)
    expected = solver.assign(scores, capacity, **options)
    manifest = solve_files(batch_of(paths, capacity, **in_files), tmp_path / "plan", budget=SMALL)
    assert manifest is not None
    found = manifest.certificate
    scale = max(1.0, abs(expected.objective))
    assert abs(found.objective - expected.objective) <= SAME * scale
    assert found.optimal
    assert found.violations == ()
    chosen = choices(tmp_path / "plan", len(capacity))
    assert (np.bincount(chosen[chosen >= 0], minlength=len(capacity)) == found.load).all()
    assert found.served == (np.asarray(expected.choice) >= 0).sum()
    checked = verify_plan(tmp_path / "plan")
    assert checked.feasible
    assert checked.certificate == found


def test_ample_slots(tmp_path: Path) -> None:
    check(tmp_path, drawn(6000, 8, 0), np.full(8, 900))


def test_exactly_as_many_slots_as_agents(tmp_path: Path) -> None:
    check(tmp_path, drawn(6000, 8, 1), np.full(8, 750))


def test_too_few_slots(tmp_path: Path) -> None:
    check(tmp_path, drawn(6000, 8, 2), np.full(8, 600))


def test_barely_too_few_slots(tmp_path: Path) -> None:
    check(tmp_path, drawn(6000, 8, 3), np.append(np.full(7, 750), 743))


def test_forbidden_pairs(tmp_path: Path) -> None:
    scores = drawn(6000, 8, 4)
    scores[np.random.default_rng(0).random(scores.shape) < 0.6] = -np.inf
    check(tmp_path, scores, np.full(8, 700))


def test_a_model_of_three_slots_and_a_closed_one(tmp_path: Path) -> None:
    check(tmp_path, drawn(6000, 8, 5), np.array([3, 0, 900, 900, 1200, 1200, 1200, 1200]))


def test_equal_columns(tmp_path: Path) -> None:
    scores = drawn(6000, 8, 6)
    scores[:, 5] = scores[:, 2]
    scores[:, 7] = scores[:, 2]
    check(tmp_path, scores, np.full(8, 700))
    check(tmp_path, scores, np.full(8, 800))


def test_all_scores_equal(tmp_path: Path) -> None:
    check(tmp_path, np.ones((6000, 5)), np.full(5, 1300))


FLOORS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "binding": (np.full(8, 1500), [0, 900, 0, 0, 1000, 0, 800, 0], {}),
    "too few slots": (np.full(8, 600), [0, 0, 600, 550, 0, 0, 0, 600], {}),
    "exactly enough": (np.full(8, 750), np.full(8, 750), {}),
    "all by floors": (np.full(8, 3000), np.full(8, 750), {}),
    "penalty": (np.full(8, 1500), [0, 900, 0, 0, 1000, 0, 800, 0], {"unassigned_penalty": 0.1}),
    "everyone": (np.full(8, 1500), [0, 900, 0, 0, 1000, 0, 800, 0], {"unassigned_penalty": np.inf}),
    "costs": (np.full(8, 1500), [0, 900, 0, 0, 1000, 0, 800, 0], {"sense": "minimize"}),
    "costs of load": (
        np.full(8, 1500), [0, 900, 0, 0, 1000, 0, 800, 0],
        {"load_cost": np.sort(np.random.default_rng(3).random((8, 3)), axis=1)},
    ),
    "priorities": (
        np.full(8, 600), [0, 0, 600, 500, 0, 0, 0, 600],
        {"priority": np.random.default_rng(1).integers(1, 4, 6000).astype(float)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOORS)
@pytest.mark.parametrize("masked", [False, True])
def test_floors(tmp_path: Path, name: str, masked: bool) -> None:
    capacity, floor, options = FLOORS[name]
    scores = drawn(6000, 8, 11)
    if masked:
        forbidden = np.inf if options.get("sense") == "minimize" else -np.inf
        scores[:, 1:][np.random.default_rng(2).random((6000, 7)) < 0.3] = forbidden
        scores[:, 3] = scores[:, 2]
    check(tmp_path, scores, capacity, min_load=list(floor), **options)


def test_floors_that_cannot_be_reached_are_infeasible(tmp_path: Path) -> None:
    scores = drawn(6000, 4, 12)
    scores[500:, 1] = -np.inf
    paths = write(tmp_path / "batch", scores)
    batch = batch_of(paths, np.full(4, 3000), min_load=[0, 501, 0, 0])
    assert solve_files(batch, tmp_path / "plan", budget=SMALL) is None
    assert solve_files(replace(batch, min_load=[0, 500, 0, 0]), tmp_path / "plan", budget=SMALL) is not None
    with pytest.raises(SpecError, match=r"min_load\[1\]: expected a whole number from 0 to its 3000 slots"):
        solve_files(replace(batch, min_load=[0, 3001, 0, 0]), tmp_path / "plan")


def test_few_levels(tmp_path: Path) -> None:
    check(tmp_path, np.floor(5 * drawn(6000, 8, 7, np.float64)), np.full(8, 800))


def test_penalties_of_agents_and_priorities(tmp_path: Path) -> None:
    generator = np.random.default_rng(8)
    penalty = generator.random(6000) * 0.5
    penalty[::97] = np.inf
    priority = generator.integers(1, 4, 6000).astype(float)
    scores = drawn(6000, 8, 8) - 0.4
    check(tmp_path, scores, np.full(8, 700), unassigned_penalty=penalty, priority=priority)
    check(tmp_path, -scores, np.full(8, 900), unassigned_penalty=0.1, sense="minimize")


def test_higher_priorities_are_served_first(tmp_path: Path) -> None:
    priority = np.random.default_rng(9).integers(-1, 3, 6000).astype(float)
    check(tmp_path, drawn(6000, 8, 9), np.full(8, 500), priority=priority)


def test_load_costs(tmp_path: Path) -> None:
    cost = np.array([[0.0, 0.1 * j, 0.3] for j in range(3)] * 3)[:8]
    check(tmp_path, drawn(6000, 8, 10), np.full(8, 900), load_cost=cost)


def test_files_sorted_by_tenant_with_a_row_group_each(tmp_path: Path) -> None:
    scores = drawn(6000, 8, 11)
    scores += np.repeat(np.random.default_rng(0).random((12, 8)), 500, axis=0).astype(np.float32)
    check(tmp_path, scores, np.full(8, 750), group=500)


def test_an_infeasible_batch_writes_nothing(tmp_path: Path) -> None:
    paths = write(tmp_path / "batch", drawn(2000, 4, 0))
    batch = batch_of(paths, np.full(4, 400), unassigned_penalty=np.inf)
    assert solve_files(batch, tmp_path / "plan") is None
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize("kind", ["list", "fixed", "binary"])
def test_scores_in_one_column(tmp_path: Path, kind: str) -> None:
    scores = drawn(3000, 6, 12)
    value = {
        "list": lambda: pa.array(list(scores), pa.list_(pa.float32())),
        "fixed": lambda: pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 6),
        "binary": lambda: pa.array([row.tobytes() for row in scores], pa.binary(24)),
    }[kind]()
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.table({"agent": np.arange(3000), "s": value}), path, row_group_size=700)
    manifest = solve_files(
        batch_of([str(path)], np.full(6, 520), scores="s"), tmp_path / "plan", budget=SMALL
    )
    assert manifest is not None
    expected = solver.assign(scores, np.full(6, 520)).objective
    assert manifest.certificate.objective == pytest.approx(expected, rel=SAME)
    assert verify_plan(tmp_path / "plan").feasible


def test_a_nan_in_the_last_row_group_is_named(tmp_path: Path) -> None:
    scores = drawn(3000, 4, 0)
    scores[2999, 2] = np.nan
    paths = write(tmp_path / "batch", scores)
    with pytest.raises(SpecError, match=r"part-2.parquet: row 1000: score of model-2: .*got nan"):
        solve_files(batch_of(paths, np.full(4, 900)), tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_a_truncated_file_and_a_missing_column_are_named(tmp_path: Path) -> None:
    paths = write(tmp_path / "batch", drawn(3000, 4, 0))
    data = (tmp_path / "batch" / "part-1.parquet").read_bytes()
    (tmp_path / "batch" / "part-1.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(SpecError, match=r"part-1.parquet: not a readable Parquet file"):
        solve_files(batch_of(paths, np.full(4, 900)), tmp_path / "plan")
    with pytest.raises(SpecError, match=r"model-4: expected one such column"):
        solve_files(batch_of(paths[:1], np.full(5, 900)), tmp_path / "plan")


def test_verification_sees_what_is_wrong(tmp_path: Path) -> None:
    paths = write(tmp_path / "batch", drawn(3000, 4, 0))
    plan = tmp_path / "plan"
    assert solve_files(batch_of(paths, np.full(4, 760)), plan) is not None
    file = plan / "assignments-000001.parquet"
    table = pq.read_table(file)
    good = file.read_bytes()
    pq.write_table(table.set_column(1, "model", pa.array(["model-0"] * len(table))), file)
    found = verify_plan(plan)
    assert any("load" in line for line in found.violations)
    assert any("not the one" in line for line in found.violations)
    pq.write_table(table.take(np.arange(len(table))[::-1]), file)
    assert any("ids differ" in line for line in verify_plan(plan).violations)
    file.write_bytes(good)
    assert verify_plan(plan).feasible
    document = json.loads((plan / "manifest.json").read_text())
    document["certificate"]["objective"] += 1e-3
    (plan / "manifest.json").write_text(json.dumps(document))
    assert any("the manifest says" in line for line in verify_plan(plan).violations)
    write(tmp_path / "batch", drawn(3000, 4, 1))
    with pytest.raises(SpecError, match="has changed since"):
        verify_plan(plan)
    (plan / "manifest.json").unlink()
    with pytest.raises(SpecError, match="manifest of a complete plan"):
        verify_plan(plan)


def test_a_rerun_writes_the_same_files(tmp_path: Path) -> None:
    paths = write(tmp_path / "batch", drawn(5000, 6, 0))
    batch = batch_of(paths, np.full(6, 850))
    first = solve_files(batch, tmp_path / "plan", budget=SMALL)
    again = solve_files(batch, tmp_path / "plan", budget=SMALL)
    assert first == again
    other = solve_files(replace(batch, files=paths[:1]), tmp_path / "plan", budget=SMALL)
    assert other is not None
    assert len(list((tmp_path / "plan").glob("assignments-*"))) == 1


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from solver.interfaces.cli import main

    write(tmp_path / "batch", drawn(3000, 4, 0))
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "\n".join(f"- {{id: {name}, capacity: {{max_concurrent: 760}}}}" for name in names(4)) + "\n"
    )
    scores = str(tmp_path / "batch" / "*.parquet")
    plan = str(tmp_path / "plan")
    arguments = ["solve", "--scores", scores, "--models", str(fleet), "--output", plan, "--stream", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["optimal"]
    assert main(["verify", plan, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == found["objective"]
    assert main(["solve", "--scores", scores, "--stream", "--output", plan]) == 2
    assert "--models" in capsys.readouterr().err


def killed_while_writing(batch: LargeBatch, plan: str, moment: str, after: int) -> None:
    """Solve a batch in a process that ends, without any cleaning up, at a moment when so many files are written."""
    module: Any = import_module(f"solver.scale.{'job' if moment == 'write_manifest' else 'written_pieces'}")
    usual = getattr(module, moment)
    written: list[int] = []

    def last(*arguments: Any) -> Any:
        if len(written) == after:
            if moment == "_note_finished":  # as late as can be: noted, and the file has no name yet
                usual(*arguments)
            os._exit(9)
        written.append(1)
        return usual(*arguments)

    setattr(module, moment, last)
    solve_files(batch, plan, budget=SMALL)


@pytest.mark.parametrize(
    ("moment", "after"),
    [("write_piece", 0), ("write_piece", 2), ("_note_finished", 1), ("write_manifest", 0)],
    ids=["before", "between", "within", "after"],
)
def test_a_killed_job_goes_on_where_it_was(tmp_path: Path, moment: str, after: int) -> None:
    batch = batch_of(write(tmp_path / "batch", drawn(6000, 6, 0)), np.full(6, 1000))
    expected = solve_files(batch, tmp_path / "whole", budget=SMALL)
    plan = tmp_path / "plan"
    process = multiprocessing.get_context("spawn").Process(
        target=killed_while_writing, args=(batch, str(plan), moment, after)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (plan / "manifest.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in plan.glob("assignments-*.parquet")}
    assert len(before) == (3 if moment == "write_manifest" else after)
    assert solve_files(batch, plan, resume=True, budget=SMALL) == expected
    assert {name: (plan / name).stat().st_mtime_ns for name in before} == before, "nothing is written twice"
    assert sorted(path.name for path in plan.iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


def test_another_request_does_not_resume(tmp_path: Path) -> None:
    paths = write(tmp_path / "batch", drawn(3000, 4, 0))
    plan = tmp_path / "plan"
    process = multiprocessing.get_context("spawn").Process(
        target=killed_while_writing, args=(batch_of(paths, np.full(4, 800)), str(plan), "write_piece", 1)
    )
    process.start()
    process.join()
    with pytest.raises(SpecError, match="the interrupted job had"):
        solve_files(batch_of(paths, np.full(4, 801)), plan, resume=True, budget=SMALL)
    assert solve_files(batch_of(paths, np.full(4, 801)), plan, budget=SMALL) is not None
    assert verify_plan(plan).feasible


def test_a_full_disk_is_named_and_publishes_nothing(tmp_path: Path) -> None:
    batch = batch_of(write(tmp_path / "batch", drawn(6000, 4, 0)), np.full(4, 1600))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))  # files end there, as on a full disk
    try:
        with pytest.raises(SpecError, match="cannot be written"):
            solve_files(batch, tmp_path / "plan", budget=SampleBudget())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "plan" / "manifest.json").exists()
    assert not list((tmp_path / "plan").glob("*.unfinished"))
    assert solve_files(batch, tmp_path / "plan") is not None


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_read(tmp_path: Path) -> None:
    stages: list[str] = []
    batch = batch_of([str(tmp_path / "not-there.parquet")], np.full(4, 800))
    with pytest.raises(SpecError, match=r"/proc/plan: cannot be written"):
        solve_files(batch, "/proc/plan", report=stages.append)
    assert stages == []


def test_workers_and_driver_exchange_sums(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counted(LocalFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            found = super().run(method, *arguments, each=each)
            sizes.append(len(pickle.dumps((arguments, each))) + len(pickle.dumps(found)))
            return found

    batch = batch_of(write(tmp_path / "batch", drawn(300_000, 6, 0), group=10_000), np.full(6, 57_000))
    found = solve_files(batch, tmp_path / "plan", fleet=Counted)
    assert found is not None
    assert found.certificate.optimal
    assert sum(sizes) < 500_000  # most of it are the scores of small samples; the files hold 7,200,000 bytes


@pytest.mark.parametrize(
    "capacity",
    [[37_000] * 6, [3, 49_990, 50_000, 0, 49_999, 49_999]],
    ids=["plenty", "a model of three slots, a closed one, and nine slots too few"],
)
def test_a_sample_that_is_read_instead_of_kept(tmp_path: Path, capacity: list[int]) -> None:
    """Where kept samples would leave too many agents contested, a part of the agents is looked at first."""
    scores = drawn(200_000, 6, 13)
    paths = write(tmp_path / "batch", scores, group=10_000)
    methods, largest = [], []

    class Watched(LocalFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            found = super().run(method, *arguments, each=each)
            strided = method == "reduce" and arguments[0].stride
            methods.append(f"{method} of one in {strided}" if strided else method)
            if method not in ("survey", "gather_slots"):  # the scores of small samples, and the last box
                largest.append(len(pickle.dumps(found)))
            return found

    few = replace(SMALL, contested=1.0, numbers=100_000)
    found = solve_files(batch_of(paths, capacity), tmp_path / "plan", fleet=Watched, budget=few)
    assert found is not None
    assert "reduce of one in 8" in methods
    assert ("standing" in methods) == (3 in capacity)
    assert max(largest) < 5_000, "no answer grows with the agents"
    expected = solver.assign(scores, capacity)
    assert found.certificate.objective == pytest.approx(expected.objective, rel=SAME)
    assert found.certificate.optimal

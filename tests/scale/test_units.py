"""Rows that stand for several agents, and agents that need several models: plans in files equal those in memory."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

import solver
from solver.errors import SpecError
from solver.interfaces.cli import app
from solver.scale import BatchBudget, LargeBatch, ScoreColumns, solve_files, verify_plan
from solver.scale.local_workers import LocalFleet
from solver.scale.sample_plan import SampleBudget

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SMALL = SampleBudget(whole=0, few_arcs=0)  # so that small instances take the way of large ones
SAME = 1e-12


def written(folder: Path, scores: NDArray[Any], columns: dict[str, NDArray[Any]], group: int) -> None:
    folder.mkdir()
    for k, rows in enumerate(np.array_split(np.arange(len(scores)), 3)):
        table = {"agent": pa.array([f"a{i}" for i in rows])}
        for j in range(scores.shape[1]):
            table[f"m{j}"] = pa.array(scores[rows, j], mask=np.isinf(scores[rows, j]))
        table |= {name: pa.array(values[rows]) for name, values in columns.items()}
        pq.write_table(pa.table(table), folder / f"part-{k}.parquet", row_group_size=group)


def check(tmp_path: Path, scores: NDArray[Any], capacity: Any, *, group: int = 300, **options: Any) -> None:
    """Solve in files and in memory, and compare status, objective, proof, loads and files."""
    columns = {
        name: np.asarray(value) for name, value in options.items() if name in ("copies", "count", "priority")
    }
    penalty = options.get("unassigned_penalty")
    if penalty is not None and np.ndim(penalty):
        columns["penalty"] = penalty
    written(tmp_path / "batch", scores, columns, group)
    m = scores.shape[1]
    named: dict[str, Any] = {name: name for name in columns}
    batch = LargeBatch(
        files=[str(tmp_path / "batch")],
        columns=ScoreColumns(
            models=tuple(f"m{j}" for j in range(m)), sense=options.get("sense", "maximize"), **named
        ),
        capacity=[int(slots) for slots in capacity],
        unassigned_penalty=None if penalty is None or np.ndim(penalty) else penalty,
        load_cost=[list(row) for row in options.get("load_cost", ())],
        min_load=list(options.get("min_load", ())),
    )
    expected = solver.assign(scores, capacity, **options)
    found = solve_files(batch, tmp_path / "plan", budget=SMALL)
    if found is None:
        assert expected.status.value == "infeasible"
        return
    assert expected.status.value != "infeasible"
    certificate = found.certificate
    assert certificate.violations == ()
    assert certificate.optimal
    assert abs(certificate.objective - expected.objective) <= SAME * max(1.0, abs(expected.objective))
    count, copies = (
        columns.get("count", np.ones(len(scores), int)),
        columns.get("copies", np.ones(len(scores), int)),
    )
    assert certificate.units is not None
    assert certificate.units[1] == (count * copies).sum()
    assert certificate.agents == len(scores)
    table = pq.read_table(sorted((tmp_path / "plan").glob("assignments-*.parquet")))
    assert table.column("agent").to_pylist() == [f"a{i}" for i in range(len(scores))]
    flow = np.zeros(scores.shape, int)
    models = table.column("model").to_pylist()
    units = table.column("units").to_pylist() if "count" in columns else [[1] * len(row) for row in models]
    for i, (names, amounts) in enumerate(zip(models, units, strict=True)):
        assert len(set(names)) == len(names)
        flow[i, [int(name[1:]) for name in names]] = amounts
    assert (flow <= count[:, None]).all()
    assert (flow.sum(axis=1) <= count * copies).all()
    assert tuple(flow.sum(axis=0)) == certificate.load
    assert certificate.units[0] == flow.sum() == expected.load.sum()
    checked = verify_plan(tmp_path / "plan")
    assert checked.violations == ()
    assert checked.certificate == certificate


def drawn(n: int, m: int, seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    return (generator.random((n, m)) + 0.3 * generator.random(m)).astype(np.float32)


CASES: dict[str, dict[str, Any]] = {
    "ample": {"fill": 0.8},
    "exactly enough": {"fill": 1.0},
    "too few": {"fill": 1.2},
    "barely too few": {"fill": 1.0005},
    "masks": {"fill": 0.9, "masked": 0.5},
    "masks and too few": {"fill": 1.1, "masked": 0.5},
    "penalty": {"fill": 0.9, "unassigned_penalty": -0.6},
    "everyone": {"fill": 0.7, "unassigned_penalty": np.inf},
    "own penalties": {"fill": 0.9, "penalties": True},
    "priorities": {"fill": 1.3, "priorities": True},
    "costs": {"fill": 0.9, "sense": "minimize"},
    "floors": {"fill": 0.6, "floors": 0.9},
    "costs of load": {"fill": 0.8, "costs_of_load": True},
    "few levels": {"fill": 0.95, "levels": 4},
    "equal models": {"fill": 0.95, "twins": True},
    "closed": {"fill": 0.95, "closed": True},
    "all equal": {"fill": 0.95, "levels": 0},
}


def case_of(
    name: str, kind: str, n: int = 2000, m: int = 6
) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    asked = dict(CASES[name])
    generator = np.random.default_rng(sum(map(ord, name + kind)))
    scores = drawn(n, m, len(name))
    options: dict[str, Any] = {}
    if kind != "copies":
        options["count"] = generator.integers(1, 60, n)
    if kind != "count":
        options["copies"] = generator.integers(1, 4, n)
    if asked.get("levels") is not None:
        scores = np.floor(asked["levels"] * scores).astype(np.float64)
    if "twins" in asked:
        scores[:, 4] = scores[:, 1]
    units = int((options.get("count", 1) * options.get("copies", 1) * np.ones(n, int)).sum())
    share = generator.random(m) + 1.0
    capacity = np.floor(share / share.sum() * units / asked["fill"]).astype(int)
    capacity[0] += round(units / asked["fill"]) - capacity.sum()
    if "closed" in asked:
        capacity[2] = 0
    if "floors" in asked:
        options["min_load"] = np.where(np.arange(m) % 3 == 1, np.floor(capacity * asked["floors"]), 0).astype(
            int
        )
    if "costs_of_load" in asked:
        options["load_cost"] = np.sort(generator.random((m, 3)) * 0.2, axis=1)
    if "penalties" in asked:
        penalty = generator.random(n) * 0.4 - 0.2
        penalty = np.abs(penalty)
        penalty[::97] = np.inf
        options["unassigned_penalty"] = penalty
        scores = scores - np.float32(0.6)
    elif "unassigned_penalty" in asked:
        options["unassigned_penalty"] = abs(asked["unassigned_penalty"])
        if asked["unassigned_penalty"] < 0:
            scores = scores - np.float32(1.2)
    if "priorities" in asked:
        options["priority"] = generator.integers(1, 4, n).astype(float)
    if "sense" in asked:
        options["sense"] = asked["sense"]
    if "masked" in asked:
        scores[generator.random(scores.shape) < asked["masked"]] = -np.inf
    return scores, capacity, options


@pytest.mark.parametrize("kind", ["count", "both"])
@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_as_good_as_in_memory(tmp_path: Path, name: str, kind: str) -> None:
    scores, capacity, options = case_of(name, kind)
    check(tmp_path, scores, capacity, **options)


@pytest.mark.parametrize("name", ["exactly enough", "masks and too few", "own penalties"])
def test_agents_that_need_several_models(tmp_path: Path, name: str) -> None:
    scores, capacity, options = case_of(name, "copies")
    check(tmp_path, scores, capacity, **options)


def test_a_unit_that_is_none_is_named(tmp_path: Path) -> None:
    for k, (count, rule) in enumerate(((0, "got 0"), (2.5, "got 2.5"), (np.nan, "got nan"))):
        counts = np.ones(600) * 3.0
        counts[450] = count
        written(tmp_path / f"batch{k}", drawn(600, 3, 0), {"count": counts}, 100)
        columns = ScoreColumns(models=("m0", "m1", "m2"), count="count")
        batch = LargeBatch(files=[str(tmp_path / f"batch{k}")], columns=columns, capacity=[900] * 3)
        with pytest.raises(
            SpecError, match=rf"part-2.parquet: row 51: count: expected a whole number >= 1, {rule}"
        ):
            solve_files(batch, tmp_path / "plan")


def test_the_command_line_reads_counts_beside_scores(tmp_path: Path) -> None:
    scores, capacity, options = case_of("ample", "both")
    written(tmp_path / "batch", scores, options, 300)
    fleet = [{"id": f"m{j}", "capacity": {"max_concurrent": int(slots)}} for j, slots in enumerate(capacity)]
    (tmp_path / "fleet.json").write_text(json.dumps({"models": fleet}))
    given = [
        "--scores",
        str(tmp_path / "batch"),
        "--models",
        str(tmp_path / "fleet.json"),
        "--stream",
        "--json",
    ]
    command = ["solve", *given, "--output", str(tmp_path / "plan")]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, SpecError)
    assert "--count-column: expected count, or --ignore-column count" in str(refused.exception)
    units = ["--count-column", "count", "--copies-column", "copies"]
    done = CliRunner().invoke(app, [*command, *units], catch_exceptions=False)
    assert done.exit_code == 0
    expected = solver.assign(scores, capacity, **options)
    assert json.loads(done.stdout)["objective"] == pytest.approx(expected.objective, rel=SAME)


def test_resources_are_refused_beside_counts(tmp_path: Path) -> None:
    written(tmp_path / "batch", drawn(300, 2, 0), {"count": np.ones(300, int)}, 100)
    batch = LargeBatch(
        files=[str(tmp_path / "batch")],
        columns=ScoreColumns(models=("m0", "m1"), count="count"),
        capacity=[200] * 2,
        budgets=[BatchBudget(name="usd", amount=1.0, per_agent=[1.0, 1.0])],
    )
    with pytest.raises(SpecError, match="count: expected none beside resources or budgets"):
        solve_files(batch, tmp_path / "plan")


@pytest.mark.parametrize("kind", ["count", "both"])
def test_a_killed_job_goes_on_where_it_was(tmp_path: Path, kind: str) -> None:
    scores, capacity, options = case_of("too few", kind)
    written(tmp_path / "batch", scores, options, 300)
    columns = ScoreColumns(
        models=tuple(f"m{j}" for j in range(6)), count="count", copies="copies" if kind == "both" else None
    )
    batch = LargeBatch(files=[str(tmp_path / "batch")], columns=columns, capacity=capacity.tolist())
    expected = solve_files(batch, tmp_path / "whole", budget=SMALL)

    class Struck(LocalFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            if method == "finish_units" and each:  # as one that dies after the first of its pieces
                super().run(method, *arguments, each=dict(list(each.items())[:1]))
                raise KeyboardInterrupt
            return super().run(method, *arguments, each=each)

    with pytest.raises(KeyboardInterrupt):
        solve_files(batch, tmp_path / "plan", budget=SMALL, fleet=Struck)
    before = {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "plan").glob("assignments-*.parquet")
    }
    assert len(before) == 1
    assert solve_files(batch, tmp_path / "plan", budget=SMALL, resume=True) == expected
    assert {name: (tmp_path / "plan" / name).stat().st_mtime_ns for name in before} == before


def test_rows_that_are_alike_are_classes(tmp_path: Path) -> None:
    """Scores of few levels: what comes to the driver does not grow with the agents, and every agent has one model."""
    scores = np.floor(4 * drawn(60_000, 5, 3)).astype(np.float32)
    written(tmp_path / "batch", scores, {}, 20_000)
    columns = ScoreColumns(models=tuple(f"m{j}" for j in range(5)))
    batch = LargeBatch(files=[str(tmp_path / "batch")], columns=columns, capacity=[12_500] * 5)
    sizes: list[int] = []

    class Counted(LocalFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            found = super().run(method, *arguments, each=each)
            sizes.append(len(pickle.dumps((arguments, each))) + len(pickle.dumps(found)))
            return found

    found = solve_files(batch, tmp_path / "plan", fleet=Counted)
    assert found is not None
    assert found.certificate.optimal
    expected = solver.assign(scores, [12_500] * 5)
    assert found.certificate.objective == pytest.approx(expected.objective, rel=SAME)
    assert found.certificate.units is None
    assert verify_plan(tmp_path / "plan").certificate == found.certificate
    assert sum(sizes[1:]) < 300_000  # the first answer holds the scores of small samples

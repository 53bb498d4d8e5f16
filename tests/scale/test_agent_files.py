"""Files of agents instead of scores: the plan is the one that the command line makes of the same table in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

import solver
from solver.interfaces.cli import app
from solver.scale import ComputedScores, LargeBatch, ScoreColumns, solve_files, verify_plan
from solver.scale.sample_plan import SampleBudget

if TYPE_CHECKING:
    from pathlib import Path

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SMALL = SampleBudget(whole=0, few_arcs=500)  # so that small instances take the way of large ones
FLEET = [
    {
        "id": f"m{j}",
        "capabilities": {"coding": 0.5 + 0.1 * j, "math": 0.9 - 0.15 * j, "general": 0.6},
        "context_tokens": 20_000 * (j + 1),
        "usd_per_million_input_tokens": 0.5 * (j + 1),
        "usd_per_million_output_tokens": 2.0 * (j + 1),
        "latency_s": 0.3 + 0.2 * j,
        "output_tokens_per_second": 80 - 10 * j,
        "region": ("eu", "us")[j % 2],
        "capacity": {"max_concurrent": 10, "slots": 90 + 40 * j},
    }
    for j in range(4)
]
MODELS = [solver.Model(**one) for one in FLEET]


def agents(n: int = 600, seed: int = 0, **fixed: Any) -> dict[str, list[Any]]:
    """Return columns of agents of every kind that scores follow from."""
    generator = np.random.default_rng(seed)
    table: dict[str, list[Any]] = {
        "id": [f"a{i}" for i in range(n)],
        "task_type": [("coding", "math", None)[k] for k in generator.integers(3, size=n)],
        "required_capabilities": [
            [["coding"], ["coding", "math"], None][k] for k in generator.integers(3, size=n)
        ],
        "allowed_regions": [[["eu"], ["eu", "us"], None, None][k] for k in generator.integers(4, size=n)],
        "min_context_tokens": generator.integers(0, 70_000, n).tolist(),
        "input_tokens": generator.integers(0, 9_000, n).tolist(),
        "output_tokens": [None if k % 7 == 0 else int(k) for k in generator.integers(1, 2_000, n)],
        "priority": generator.choice([1.0, 2.0], n).tolist(),
        "min_score": [None if k < 0.9 else 20.0 for k in generator.random(n)],
    }
    table.update({name: [value] * n for name, value in fixed.items()})
    return table


def in_files(folder: Path, table: dict[str, list[Any]], **kinds: Any) -> list[str]:
    whole = pa.table({name: pa.array(values, kinds.get(name)) for name, values in table.items()})
    half = whole.num_rows // 2
    pq.write_table(whole.slice(0, half), folder / "a.parquet", row_group_size=100)
    pq.write_table(whole.slice(half), folder / "b.parquet", row_group_size=70)
    return [str(folder / "a.parquet"), str(folder / "b.parquet")]


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"cost_weight": 300.0, "latency_weight": 2.0},
        {"unassigned_penalty": 40.0, "min_score": 30.0},
    ],
    ids=["capability", "cost and latency", "penalty"],
)
def test_the_plan_is_that_of_the_problem_in_memory(tmp_path: Path, objective: dict[str, Any]) -> None:
    table = agents()
    rows = [
        {name: values[i] for name, values in table.items() if values[i] is not None}
        for i in range(len(table["id"]))
    ]
    wanted = solver.Objective(**objective)
    plan = solver.solve(solver.Problem(agents=rows, models=MODELS, objective=wanted))
    computed = ComputedScores.of(MODELS, [name for name in table if name != "id"], objective=wanted)
    batch = LargeBatch(
        files=in_files(tmp_path, table),
        columns=ScoreColumns.of_agents(computed),
        capacity=[model.capacity.batch_slots for model in MODELS],
        unassigned_penalty=wanted.unassigned_penalty,
    )
    manifest = solve_files(batch, tmp_path / "plan", budget=SMALL)
    assert manifest is not None
    assert manifest.certificate.optimal
    assert manifest.certificate.objective == pytest.approx(plan.solution.objective, rel=1e-12)
    assert manifest.certificate.served == int((plan.solution.choice >= 0).sum())
    assert verify_plan(tmp_path / "plan").feasible


@pytest.mark.parametrize("names", [("count",), ("copies",), ("count", "copies")])
def test_rows_that_take_several_slots(tmp_path: Path, names: tuple[str, ...]) -> None:
    generator = np.random.default_rng(3)
    table = agents(500)
    for name in names:
        table[name] = generator.integers(1, 4, 500).tolist()
        table[name][7] = None
    rows = [{name: v[i] for name, v in table.items() if v[i] is not None} for i in range(500)]
    fleet = [
        {**one, "capacity": {"max_concurrent": 10, "slots": 500 + 100 * k}} for k, one in enumerate(FLEET)
    ]
    models = [solver.Model(**one) for one in fleet]
    plan = solver.solve(solver.Problem(agents=rows, models=models))
    (tmp_path / "batch").mkdir()
    in_files(tmp_path / "batch", table)
    (tmp_path / "fleet.json").write_text(json.dumps({"models": fleet}))
    options = ["--agents", str(tmp_path / "batch"), "--models", str(tmp_path / "fleet.json")]
    done = CliRunner().invoke(
        app, ["solve", *options, "--output", str(tmp_path / "plan"), "--stream"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "rows with all their units" in done.output
    assert plan.solution.unit_flow is not None
    checked = verify_plan(tmp_path / "plan")
    assert checked.feasible
    assert checked.certificate.objective == pytest.approx(plan.solution.objective, rel=1e-12)
    assert checked.certificate.units is not None
    assert checked.certificate.units[0] == plan.solution.unit_flow.units.sum()


def test_penalties_of_agents_are_read(tmp_path: Path) -> None:
    table = agents(300, unassigned_penalty=30.0)
    table["unassigned_penalty"][::3] = [None] * 100
    rows = [{name: v[i] for name, v in table.items() if v[i] is not None} for i in range(300)]
    wanted = solver.Objective(unassigned_penalty=55.0)
    plan = solver.solve(solver.Problem(agents=rows, models=MODELS, objective=wanted))
    computed = ComputedScores.of(MODELS, [name for name in table if name != "id"], objective=wanted)
    batch = LargeBatch(
        files=in_files(tmp_path, table),
        columns=ScoreColumns.of_agents(computed),
        capacity=[model.capacity.batch_slots for model in MODELS],
        unassigned_penalty=55.0,
    )
    manifest = solve_files(batch, tmp_path / "plan", budget=SMALL)
    assert manifest is not None
    assert manifest.certificate.objective == pytest.approx(plan.solution.objective, rel=1e-12)


def test_the_command_line_agrees_with_itself(tmp_path: Path) -> None:
    (tmp_path / "batch").mkdir()
    in_files(tmp_path / "batch", agents(), task_type=pa.dictionary(pa.int8(), pa.string()))
    pq.write_table(pa.table(agents()), tmp_path / "whole.parquet")
    (tmp_path / "fleet.json").write_text(json.dumps({"models": FLEET}))
    fleet = ["--models", str(tmp_path / "fleet.json"), "--json"]

    def solved(*options: str) -> Any:
        done = CliRunner().invoke(app, ["solve", *options, *fleet], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    streamed = solved(
        "--agents", str(tmp_path / "batch" / "*.parquet"), "--output", str(tmp_path / "plan"), "--stream"
    )
    at_once = solved("--agents", str(tmp_path / "whole.parquet"))
    assert streamed["objective"] == pytest.approx(at_once["objective"], rel=1e-12)
    assert streamed["optimal"]


def test_resources_and_a_budget_at_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "batch").mkdir()
    table = agents()
    count = len(table["id"])
    table |= {
        "resources.gpu": np.random.default_rng(0).random(count).tolist(),
        "input_tokens": (np.arange(count) % 700 + 1).tolist(),
    }
    in_files(tmp_path / "batch", table, task_type=pa.dictionary(pa.int8(), pa.string()))
    prices = {"usd_per_million_input_tokens": 1.0, "usd_per_million_output_tokens": 4.0}
    fleet = [
        {**model, **prices, "resources": {"gpu": 0.4 * count, "input_tokens": 150 * count}} for model in FLEET
    ]
    for model, factor in zip(fleet, range(1, 99), strict=False):
        model["usd_per_million_input_tokens"] = 1.0 * factor
    (tmp_path / "fleet.json").write_text(json.dumps({"models": fleet}))
    options = ["--agents", str(tmp_path / "batch"), "--models", str(tmp_path / "fleet.json")]
    command = ["solve", *options, "--output", str(tmp_path / "plan"), "--stream", "--budget-usd", "50"]
    done = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    used = {name: (taken, bound) for name, taken, bound in found["usage"]}
    assert used["budget_usd"][1] == 50
    assert all(taken <= bound * (1 + 1e-9) for taken, bound in used.values())
    assert found["gap"] < 0.02
    shown = CliRunner().invoke(app, ["verify", str(tmp_path / "plan")], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "budget_usd" in shown.output or "bounds that are used less" in shown.output
    unpriced = [{**model, "resources": {"gpu": 9.0}, **dict.fromkeys(prices)} for model in fleet]
    (tmp_path / "fleet.json").write_text(json.dumps({"models": unpriced}))
    refused = CliRunner().invoke(app, command)
    assert "usd_per_million_input_tokens: required beside --budget-usd" in str(refused.exception)


@pytest.mark.parametrize("objective", [{"sense": "minimize"}, {"quality": "given"}])
def test_an_objective_that_files_of_agents_cannot_have_is_refused(objective: dict[str, Any]) -> None:
    with pytest.raises(solver.SpecError, match="objective"):
        ComputedScores.of(MODELS, ["task_type"], objective=solver.Objective(**objective))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"priority": [0.0]}, r"b.parquet: row 1: priority: expected a finite number > 0, got 0"),
        ({"task_type": [5]}, r"b.parquet: row 1: task_type: expected text"),
        ({"output_tokens": [-3]}, r"b.parquet: row 1: output_tokens: expected a whole number"),
        ({"copies": [0]}, r"b.parquet: row 1: copies: expected a whole number"),
        ({"resources.gpu": [2]}, r"a.parquet: resources.gpu: expected a resource that some model has"),
        ({"prioriti": [2]}, r"a.parquet: prioriti: expected a field of agents, or to be ignored"),
        ({"unassigned_penalty": [None]}, r"a.parquet: row \d+: unassigned_penalty: required for every agent"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_row(
    tmp_path: Path, change: dict[str, list[Any]], message: str
) -> None:
    fine: dict[str, list[Any]] = {"id": ["x"], "priority": [1.0], "task_type": ["math"], "output_tokens": [5]}
    good = {"copies": 2, "resources.gpu": 1, "prioriti": 1, "unassigned_penalty": None, "task_type": 5}
    extra = {name: [good[name]] for name in change if name in good}
    (tmp_path / "batch").mkdir()
    kinds = {"unassigned_penalty": pa.float64()}
    for name, table in (("a", {**fine, **extra}), ("b", {**fine, "id": ["y"], **change})):
        part = pa.table({field: pa.array(values, kinds.get(field)) for field, values in table.items()})
        pq.write_table(part, tmp_path / "batch" / f"{name}.parquet")
    if "task_type" in change:
        pq.write_table(pa.table(fine), tmp_path / "batch" / "a.parquet")
    (tmp_path / "fleet.json").write_text(json.dumps({"models": FLEET}))
    options = ["--agents", str(tmp_path / "batch"), "--models", str(tmp_path / "fleet.json")]
    done = CliRunner().invoke(app, ["solve", *options, "--output", str(tmp_path / "plan"), "--stream"])
    assert isinstance(done.exception, solver.SpecError)
    with pytest.raises(solver.SpecError, match=message):
        raise done.exception


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--agents", "x.parquet"], "--models: required beside --agents and --stream"),
        (["--agents", "x.parquet", "--scores", "y.parquet", "--slots", "3"], "either --scores or --agents"),
        (["--slots", "3"], "either --scores or --agents"),
        (
            ["--scores", "x.parquet", "--slots", "3", "--deadline-ms", "5"],
            "--deadline-ms: not beside --stream",
        ),
        (
            ["--scores", "x.parquet", "--slots", "3", "--budget-usd", "5"],
            "--models: required beside --budget-usd",
        ),
        (["--agents", "x.parquet", "--models", "f", "--sense", "minimize"], "--sense: not beside --stream"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["solve", *options, "--output", str(tmp_path / "plan"), "--stream"])
    assert isinstance(done.exception, solver.SpecError)
    assert message in str(done.exception)

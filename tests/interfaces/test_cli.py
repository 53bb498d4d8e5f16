from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from solver.interfaces.cli import main

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "data" / "demo.yaml")


def run(*arguments: str) -> int:
    return main(list(arguments))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(
        "agents: [{id: a}, {id: b}, {id: c}]\n"
        "models: [{id: x, capacity: {max_concurrent: 2}}, {id: y, capacity: {max_concurrent: 1}}]\n"
        "scores: [[9, 6], [8, 2], [7, 3]]\n"
    )
    return path


def test_the_demo_is_optimal_and_its_files_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("solve", DEMO, "--output", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "OPTIMAL" in printed
    assert "0.0000%" in printed
    assert "bottlenecks" in printed
    summary = json.loads((tmp_path / "assignments.summary.json").read_text())
    assert summary["status"] == "optimal"
    assert summary["gap"] <= 1e-9
    assert summary["assigned"] == summary["agents"] == 2000
    assert run("verify", DEMO, str(tmp_path / "assignments.csv"), "--json") == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["feasible"]
    assert checked["objective"] == pytest.approx(summary["objective"], rel=1e-12)


def test_json_is_for_scripts_and_quiet_is_silent(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("solve", str(small), "--json") == 0
    assert json.loads(capsys.readouterr().out)["objective"] == 21.0
    assert run("solve", str(small), "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_what_is_written_can_be_verified(small: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"plan{suffix}"
    assert run("solve", str(small), "-o", str(output), "-q") == 0
    assert run("verify", str(small), str(output), "-q") == 0


def test_verify_finds_what_is_broken(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("agent,model\na,y\nb,y\nc,x\n")
    assert run("verify", str(small), str(wrong)) == 3
    printed = capsys.readouterr().out
    assert "BROKEN" in printed
    assert "y: load 2 exceeds its capacity of 1" in printed
    worse = tmp_path / "worse.csv"
    worse.write_text("agent,model\na,x\nb,y\nc,x\n")
    assert run("verify", str(small), str(worse), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["objective"], found["bound"]) == (18.0, 21.0)


def test_verify_lists_unknown_ids(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("agent,model\nq,x\na,zz\n")
    assert run("verify", str(small), str(wrong)) == 2
    printed = capsys.readouterr().err
    assert "agent: not in the problem, got 'q'" in printed
    assert "model of a: not in the problem, got 'zz'" in printed


def test_explain(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "a", str(small)) == 0
    printed = capsys.readouterr().out
    assert "a → y" in printed
    assert "2nd" in printed
    assert run("explain", "zebra", str(small)) == 2


def test_generate_then_solve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", str(tmp_path / "batch"), "--agents", "50", "--models", "4") == 0
    assert run("solve", str(tmp_path / "batch" / "problem.yaml"), "-q") == 0
    gap = tmp_path / "c0515.txt"
    assert run("generate", str(gap), "--gap", "c", "--agents", "15", "--models", "5") == 0
    capsys.readouterr()
    assert run("solve", "--gap-file", str(gap), "--json") == 0
    assert json.loads(capsys.readouterr().out)["unassigned"] == {}
    assert run("generate", str(gap), "--gap", "Z") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve"], "PROBLEM: expected a problem file"),
        (["solve", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["solve", DEMO, "--scores", "x.csv"], "one of the three"),
        (["solve", DEMO, "--deadline-ms", "0"], "deadline_ms: expected a number > 0, got 0.0"),
        (["solve", DEMO, "--engine", "magic"], "engine: expected auto, greedy"),
        (["solve", DEMO, "--threads", "0"], "threads: expected a whole number >= 1, got 0"),
        (["solve", DEMO, "--output", "/nowhere/plan.csv"], "no such folder: /nowhere"),
        (["solve", DEMO, "--output", "plan.xls"], "expected one of .csv, .json, .parquet"),
        (["solve", DEMO, "--no-such-option"], "No such option"),
        (["sovle"], "No such command"),
    ],
)
def test_mistakes_exit_with_2_and_say_what_is_wrong(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_infeasible_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tight.yaml"
    path.write_text(
        "agents: [{id: a}, {id: b}]\nmodels: [{id: x, capacity: {max_concurrent: 1}}]\n"
        "objective: {unassigned_penalty: .inf}\n"
    )
    assert run("solve", str(path)) == 3
    assert "INFEASIBLE" in capsys.readouterr().out


def test_a_deadline_without_a_full_assignment_exits_with_4(tmp_path: Path) -> None:
    assert run("generate", str(tmp_path), "--agents", "20000", "--models", "20", "--tightness", "1.2") == 0
    code = run("solve", str(tmp_path / "problem.yaml"), "-q", "--deadline-ms", "0.01")
    assert code == 4


def test_the_real_table_of_outcomes_equals_scipy(capsys: pytest.CaptureFixture[str]) -> None:
    table = ROOT.parent / "shared" / "data" / "alpaca_eval" / "outcomes.csv"
    if not table.exists():
        pytest.skip("the AlpacaEval table is not beside this checkout")
    import numpy as np
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    options = ["--agent-column", "prompt_id", "--score-column", "win_prob", "--slots", "38"]
    assert run("solve", "--scores", str(table), *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    wide = pd.read_csv(table).pivot_table(index="prompt_id", columns="model", values="win_prob").to_numpy()
    replicated = np.repeat(wide, 38, axis=1)
    rows, columns = linear_sum_assignment(replicated, maximize=True)
    assert found["status"] == "optimal"
    assert found["objective"] == pytest.approx(replicated[rows, columns].sum(), rel=1e-9)


def test_ctrl_c_leaves_no_half_file(tmp_path: Path) -> None:
    assert run("generate", str(tmp_path), "--agents", "100000", "--models", "20") == 0
    output = tmp_path / "out"
    output.mkdir()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "solver.interfaces.entry",
            "solve",
            str(tmp_path / "problem.yaml"),
            "-o",
            str(output),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    assert _is_reading(process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert list(output.iterdir()) == []


def _is_reading(process: subprocess.Popen[bytes]) -> bool:
    """Wait until the process is reading its tables: the libraries it has loaded say so."""
    while process.poll() is None:
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists() and "pandas/_libs/parsers" in maps.read_text():
            return True
    return False


def test_import_is_light() -> None:
    code = (
        "import sys, solver; print(sorted({'pandas', 'scipy', 'ortools', 'rich', 'yaml'} & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert printed.stdout.strip() == "[]"


def test_faulty_fields_do_not_hide_what_else_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "agents: [{id: a, task_type: codding}, {id: b, priority: -1}]\n"
        "models: [{id: x, capacity: {max_concurrent: 1}}]\n"
    )
    assert run("solve", str(path)) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "agents[1].priority: expected > 0, got -1" in printed
    assert "agents[0].task_type: expected a known task type, got 'codding'; did you mean 'coding'?" in printed


def test_a_missing_output_folder_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("solve", DEMO, "--output", "nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err

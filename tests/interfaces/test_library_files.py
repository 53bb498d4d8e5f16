"""Files of the OR-Library as they are published, fleets as tables, and plans that others wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from solver.interfaces.cli import main

if TYPE_CHECKING:
    from pathlib import Path

FIRST = "2 3\n1 2 3\n3 2 1\n1 1 1\n1 1 1\n2 2\n"
SECOND = "2 3\n4 5 6\n6 5 4\n1 1 1\n1 1 1\n2 2\n"


def objective(folder: Path, capsys: pytest.CaptureFixture[str], text: str, *options: str) -> float:
    (folder / "g.txt").write_text(text)
    assert main(["solve", str(folder / "g.txt"), "--json", *options]) == 0
    return float(json.loads(capsys.readouterr().out)["objective"])


@pytest.mark.parametrize("optimum", ["", "4\n"])
def test_several_sets_with_and_without_their_optima(
    tmp_path: Path, optimum: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"2\n{FIRST}{optimum}{SECOND}{optimum}"
    assert objective(tmp_path, capsys, text, "--set", "1") == 4
    assert objective(tmp_path, capsys, text, "--set", "2") == 13
    assert objective(tmp_path, capsys, text, "--set", "2", "--sense", "maximize") == 17
    assert main(["solve", str(tmp_path / "g.txt")]) == 2
    assert "expected one problem set, got 2; --set 1 to --set 2 picks one" in capsys.readouterr().err
    assert main(["solve", str(tmp_path / "g.txt"), "--set", "3"]) == 2
    assert "set: expected a number from 1 to 2, got 3" in capsys.readouterr().err


def test_a_single_set_with_its_number_or_its_optimum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in (FIRST, f"1\n{FIRST}", f"{FIRST}4\n", f"1\n{FIRST}4\n"):
        assert objective(tmp_path, capsys, text) == 4


def test_the_assignment_format_dense_and_sparse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost = [[7, 2, 9], [4, 3, 8], [5, 6, 1]]
    dense = "3\n" + "\n".join(" ".join(map(str, row)) for row in cost) + "\n"
    assert objective(tmp_path, capsys, dense) == 2 + 4 + 1
    assert objective(tmp_path, capsys, dense, "--sense", "maximize") == 7 + 8 + 6
    pairs = "3\n" + "".join(f"{i + 1} {j + 1} {cost[i][j]}\n" for i in range(3) for j in range(3) if i != j)
    assert objective(tmp_path, capsys, pairs) == 2 + 8 + 5


def test_a_fleet_as_a_table_is_the_fleet_in_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("id,task_type\na,general\nb,general\nc,coding\n")
    (tmp_path / "f.yaml").write_text(
        "- {id: x, capacity: {max_concurrent: 5, slots: 2}, capabilities: {general: 0.5}, supports_tools: true}\n"
        "- {id: y, capacity: {max_concurrent: 1}, capabilities: {coding: 1, general: 0.25}, region: eu}\n"
    )
    (tmp_path / "f.csv").write_text(
        "name;max_concurrent;slots;capabilities.general;capabilities.coding;supports_tools;region\n"
        "x;5;2;0,5;;yes;\ny;1;;0,25;1;no;eu\n"
    )
    (tmp_path / "p.yaml").write_text("agents: a.csv\nmodels: {path: f.csv, columns: {id: name}}\n")
    results = []
    tables = ["--agents", str(tmp_path / "a.csv"), "--models", str(tmp_path / "f.yaml")]
    for arguments in (tables, [str(tmp_path / "p.yaml")]):
        assert main(["solve", *arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        results.append((found["objective"], found["models"]))
    assert results[0] == results[1]
    (tmp_path / "f.csv").write_text("id,max_concurrent,slot\nx,-5,1\n")
    assert main(["solve", "--agents", str(tmp_path / "a.csv"), "--models", str(tmp_path / "f.csv")]) == 2
    assert "f.csv:1: models.slot: unknown field; did you mean 'slots'?" in capsys.readouterr().err
    (tmp_path / "f.csv").write_text("id,max_concurrent,supports_tools\nx,-5,\ny,1,perhaps\n")
    assert main(["solve", "--agents", str(tmp_path / "a.csv"), "--models", str(tmp_path / "f.csv")]) == 2
    assert "f.csv:3: supports_tools: expected true or false, got 'perhaps'" in capsys.readouterr().err


SCORES = "who,which,worth\nAnn Lee,x,5\nAnn Lee,y,1\nBob,x,4\nBob,y,3\nCy,y,2\n"


def test_verify_takes_what_solve_takes_and_plans_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.csv").write_text(SCORES)
    source = [
        "--scores", str(tmp_path / "s.csv"), "--agent-column", "who", "--model-column", "which",
        "--score-column", "worth", "--slots", "1",
    ]  # fmt: skip
    (tmp_path / "theirs.csv").write_text("Student;Course\n Ann Lee ;x\nBob;y\nCy;unassigned\n")
    columns = ["--plan-agent-column", "Student", "--plan-model-column", "Course"]
    assert main(["verify", *source, str(tmp_path / "theirs.csv"), *columns, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["objective"], found["bound"], found["assigned"], found["agents"]) == (8, 8, 2, 3)
    assert "note: blanks around 1 ids of the plan are dropped" in captured.err
    assert "stands for no model" in captured.err
    (tmp_path / "partial.csv").write_text("agent,model\nBob,x\n")
    assert main(["verify", *source, str(tmp_path / "partial.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == 4
    (tmp_path / "full.csv").write_text("agent,model\nBob,x\nAnn Lee,x\n")
    assert main(["verify", *source, str(tmp_path / "full.csv")]) == 3
    assert "x: load 2 exceeds its capacity of 1" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".csv", ".json", ".parquet"])
def test_plans_with_several_models_an_agent_come_back(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text(
        "agents: [{id: a, copies: 2}, {id: b, count: 3}, {id: c}]\n"
        "models: [{id: x, capacity: {max_concurrent: 3}}, {id: y, capacity: {max_concurrent: 3}}]\n"
        "scores: [[3, 2], [1, 2], [5, 1]]\n"
    )
    plan = tmp_path / f"plan{ending}"
    assert main(["solve", str(tmp_path / "p.yaml"), "-o", str(plan), "--json"]) == 0
    solved = json.loads(capsys.readouterr().out)
    assert main(["verify", str(tmp_path / "p.yaml"), str(plan), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["objective"] == pytest.approx(solved["objective"])
    assert found["assigned"] == 3


def test_options_of_a_table_stand_in_a_problem_file(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes("agent;model;score\nJörg;x;0,5\nAnn;x;0,25\n".encode("cp1252"))
    (tmp_path / "p.yaml").write_text(
        "scores: {path: s.csv, encoding: cp1252, decimal: ',', separator: semicolon}\n"
        "models: {from_scores: true, capacity: {max_concurrent: 1}}\n"
    )
    assert main(["solve", str(tmp_path / "p.yaml"), "-q", "-o", str(tmp_path / "o.json")]) == 0
    rows = json.loads((tmp_path / "o.json").read_text())["assignments"]
    assert [(row["agent"], row["model"], row["score"]) for row in rows] == [
        ("Jörg", "x", 0.5),
        ("Ann", None, 0.0),
    ]

"""Reading problems: every form gives the same problem, and every bad input its own line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import yaml

from solver.errors import SpecError
from solver.interfaces.files.problem_file import read_parts, read_problem
from solver.interfaces.files.results import write_columns
from solver.interfaces.generate import agent_columns, write_fleet, write_problem
from solver.problem.compile import compile_problem
from solver.problem.generate import generate_problem

if TYPE_CHECKING:
    from solver.problem.spec import Problem

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared/data"

FLEET = """\
- {id: x, capacity: {max_concurrent: 3}, capabilities: {coding: 0.5}}
- {id: y, capacity: {max_concurrent: 1}}
"""
ONE = "{id: x, capacity: {max_concurrent: 1}}"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        folder.joinpath(name.replace("__", ".")).write_text(text, encoding="utf-8")


def complaints(path: Path) -> list[str]:
    """What is wrong with a problem file, without the folder in front."""
    with pytest.raises(SpecError) as caught:
        read_problem(path)
    return [line.replace(f"{path.parent}/", "") for line in caught.value.violations]


def problem_of(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "p.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def small() -> Problem:
    return generate_problem(50, 5, seed=3)


def same(first: Problem, second: Problem) -> None:
    assert first.agents == second.agents
    assert first.models == second.models
    assert first.objective == second.objective


@pytest.mark.parametrize("table", ["csv", "parquet"])
def test_a_problem_survives_its_files(tmp_path: Path, table: str) -> None:
    if table == "parquet":
        pytest.importorskip("pyarrow")
    problem = small().model_copy(
        update={"objective": small().objective.model_copy(update={"unassigned_penalty": np.inf})}
    )
    main = write_problem(problem, tmp_path / "new", table=table)[0]
    same(read_problem(main), problem)


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_problem_with_all_in_one_file(tmp_path: Path, ending: str) -> None:
    problem = small()
    plain = problem.model_dump(mode="json", exclude_defaults=True)
    path = tmp_path / f"all.{ending}"
    path.write_text(json.dumps(plain) if ending == "json" else yaml.safe_dump(plain))
    same(read_problem(path), problem)


@pytest.mark.parametrize("ending", ["jsonl", "json", "yaml", "csv", "tsv", "parquet"])
def test_agents_in_every_kind_of_file(tmp_path: Path, ending: str) -> None:
    problem = small()
    write_fleet(problem.models, tmp_path / "fleet.yaml")
    path = tmp_path / f"agents.{ending}"
    rows = [agent.model_dump(mode="json", exclude_defaults=True) for agent in problem.agents]
    if ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif ending == "json":
        path.write_text(json.dumps({"agents": rows}))
    elif ending == "yaml":
        path.write_text(yaml.safe_dump(rows))
    elif ending == "parquet":
        pytest.importorskip("pyarrow")
        pd.DataFrame(rows).to_parquet(path)  # capability lists stay lists
    elif ending == "tsv":
        pd.DataFrame(agent_columns(problem.agents)).to_csv(path, sep="\t", index=False)
    else:
        write_columns(path, agent_columns(problem.agents))
    same(read_parts(agents=path, models=tmp_path / "fleet.yaml"), problem)


def test_columns_can_be_renamed_and_skipped(tmp_path: Path) -> None:
    write(tmp_path, f__yaml=FLEET, a__csv='task,prompt,n\n1,hello,5\n2,"a\nb",\n')
    agents = {"path": str(tmp_path / "a.csv"), "columns": {"id": "task", "input_tokens": "n"}}
    for ignored in (["prompt"], "all"):
        problem = read_parts(agents=agents | {"ignore_columns": ignored}, models=tmp_path / "f.yaml")
        assert problem.agents.ids.tolist() == ["1", "2"]
        assert problem.agents.input_tokens.tolist() == [5, 0]
    with pytest.raises(SpecError, match=r"a\.csv:1: agents\.prompt: unknown field"):
        read_parts(agents=agents, models=tmp_path / "f.yaml")
    with pytest.raises(SpecError, match="no column 'taks'; did you mean 'task'"):
        read_parts(agents=agents | {"columns": {"id": "taks"}}, models=tmp_path / "f.yaml")


def test_text_that_looks_like_something_else_stays_text(tmp_path: Path) -> None:
    write(tmp_path, f__yaml=FLEET, a__csv="id,tenant\nNA,null\n007,1\ntrue,nan\n")
    agents = read_parts(agents=tmp_path / "a.csv", models=tmp_path / "f.yaml").agents
    assert agents.ids.tolist() == ["NA", "007", "true"]
    assert [agent.tenant for agent in agents] == ["null", "1", "nan"]


def test_scores_as_long_and_wide_tables(tmp_path: Path) -> None:
    write(
        tmp_path,
        long__csv="who,which,value,chars\nb,x,1,9\na,y,2.5,9\na,x,-3,9\n",
        wide__csv="who,y,x\nb,,1\na,2.5,-3\n",
    )
    options = {"agent": "who", "model": "which", "score": "value"}
    long = read_parts(scores={"path": str(tmp_path / "long.csv")} | options, slots=1)
    wide = read_parts(scores={"path": str(tmp_path / "wide.csv"), "agent": "who", "layout": "wide"}, slots=1)
    assert long.agents.ids.tolist() == wide.agents.ids.tolist() == ["b", "a"]
    assert long.model_ids == ("x", "y")
    assert np.asarray(compile_problem(long).score).tolist() == [[1, -np.inf], [-3, 2.5]]
    assert np.asarray(compile_problem(wide).score).tolist() == [[-np.inf, 1], [2.5, -3]]


def test_bundled_data() -> None:
    demo = read_problem(ROOT / "data/demo.yaml")
    assert (len(demo.agents), len(demo.models)) == (2000, 13)
    worked = compile_problem(read_problem(ROOT / "data/worked_example.yaml")).score
    assert worked[0, 0] == pytest.approx(58.0)
    assert worked[1, 1] == pytest.approx(95.0)
    assert worked[2, 1] == pytest.approx(100.0)
    assert compile_problem(read_problem(ROOT / "data/worked_scores.yaml")).score[3].tolist() == [
        50,
        45,
        -np.inf,
    ]


def test_or_library_format() -> None:
    problem = read_problem(ROOT / "data/worked_gap.txt")
    instance = compile_problem(problem)
    assert instance.score[1].tolist() == [-15, -12, -14]
    assert instance.demand is not None
    assert instance.demand[3, :, 0].tolist() == [9, 6, 7]
    assert instance.capacity[:, 0].tolist() == [14, 12, 13]
    assert instance.penalty is not None
    assert np.isinf(instance.penalty).all()


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
def test_real_tables() -> None:
    options = {"agent": "prompt_id", "model": "model", "score": "win_prob"}
    problem = read_parts(scores={"path": str(SHARED / "alpaca_eval/outcomes.csv")} | options, slots=38)
    assert (len(problem.agents), len(problem.models)) == (805, 24)
    assert np.isfinite(compile_problem(problem).score).all()
    assert len(read_problem(SHARED / "gap/gap12-4").agents) == 60


BAD_DOCUMENTS: dict[str, tuple[str, str]] = {
    "broken YAML": ("agents: [\nmodels: }", "p.yaml:2: broken YAML"),
    "key twice": (
        "agents: []\nmodels: []\nagents: []\n",
        "p.yaml:3: broken YAML: key 'agents' is given twice",
    ),
    "control character": ("a: \x01", "p.yaml:1: broken YAML"),
    "not a mapping": ("- 1", "p.yaml:1: expected a mapping with the fields of a problem, got [1]"),
    "empty": ("", "p.yaml:1: expected a mapping with the fields of a problem, got None"),
    "unknown field": (
        "agents: [{id: a}]\nmodles: []\n",
        "p.yaml:2: modles: unknown field; did you mean 'models'?",
    ),
    "unknown field below": (
        "agents: [{id: a}]\nmodels:\n- id: x\n  capacity:\n    max_concurent: 1\n",
        "p.yaml:5: models[0].capacity.max_concurent: unknown field; did you mean 'max_concurrent'?",
    ),
    "no agents": (
        "agents: []\nmodels: [{id: x, capacity: {max_concurrent: 1}}]",
        "p.yaml:1: agents: expected at least one agent, got none",
    ),
    "agents missing": (
        "models: [{id: x, capacity: {max_concurrent: 1}}]",
        "p.yaml:1: agents: required, but missing",
    ),
    "no models": ("agents: [{id: a}]\nmodels: []", "p.yaml:2: models: expected at least one model, got none"),
    "models missing": ("agents: [{id: a}]", "models: required, but missing"),
    "duplicate agents": (
        "models: [{id: x, capacity: {max_concurrent: 1}}]\nagents:\n- id: a\n- id: a\n",
        "p.yaml:4: agents[1].id: expected unique ids, got 'a' again, first at agents[0]",
    ),
    "duplicate models": (
        "agents: [{id: a}]\nmodels:\n- " + ONE + "\n- " + ONE + "\n",
        "p.yaml:4: models[1].id: expected unique ids, got 'x' again, first at models[0]",
    ),
    "negative capacity": (
        "agents: [{id: a}]\nmodels: [{id: x, capacity: {max_concurrent: -1}}]",
        "max_concurrent: expected >= 0, got -1",
    ),
    "fractional capacity": (
        "agents: [{id: a}]\nmodels: [{id: x, capacity: {max_concurrent: 1.5}}]",
        "max_concurrent: expected a whole number, got 1.5",
    ),
    "huge capacity": (
        "agents: [{id: a}]\nmodels: [{id: x, capacity: {max_concurrent: 1.0e+300}}]",
        "max_concurrent: expected <= 9007199254740992",
    ),
    "text for capacity": (
        "agents: [{id: a}]\nmodels: [{id: x, capacity: {max_concurrent: '3'}}]",
        "max_concurrent: expected a whole number, got '3'",
    ),
    "load weight": (
        "agents: [{id: a}]\nmodels: [{id: x, capacity: {max_concurrent: 1}}]\nobjective: {load_weight: 1.1}",
        "p.yaml:3: objective.load_weight: expected <= 1, got 1.1",
    ),
    "unknown model in scores": (
        "agents: [{id: a}]\nmodels: [{id: large, capacity: {max_concurrent: 1}}]\n"
        "scores: [{agent: a, model: lagre, score: 1}]",
        "p.yaml:3: scores[0].model: expected the id of one of the models, got 'lagre'; did you mean 'large'?",
    ),
    "unknown agent in scores": (
        "agents: [{id: a}]\nmodels: [" + ONE + "]\nscores: [{agent: b, model: x, score: 1}]",
        "p.yaml:3: scores[0].agent: expected the id of one of the agents, got 'b'",
    ),
    "NaN score": (
        "agents: [{id: a}]\nmodels: [{id: x, capacity: {max_concurrent: 1}}]\nscores:\n- [.nan]",
        "p.yaml:4: scores[0, 0]: expected a finite number, or null to forbid the pair, got nan",
    ),
    "infinite score": (
        "agents: [{id: a}]\nmodels: [" + ONE + "]\nscores:\n- {agent: a, model: x, score: .inf}",
        "p.yaml:4: scores[0].score: expected a finite number, got inf",
    ),
    "matrix shape": (
        "agents: [{id: a}]\nmodels: [{id: x, capacity: {max_concurrent: 1}}]\nscores: [[1, 2]]",
        "p.yaml:3: scores: expected shape (1, 1), agents by models, got shape (1, 2)",
    ),
    "ragged matrix": (
        "agents: [{id: a}, {id: b}]\nmodels: [{id: x, capacity: {max_concurrent: 1}}]\nscores: [[1, 2], [1]]",
        "p.yaml:3: scores: expected a rectangular matrix of numbers",
    ),
    "unknown task type": (
        "agents: [{id: a, task_type: codng}]\nmodels: [{id: x, capacity: {max_concurrent: 1}}]",
        "p.yaml:1: agents[0].task_type: expected a known task type, got 'codng'; did you mean 'coding'?",
    ),
    "unknown allowed model": (
        "agents: [{id: a, allowed_models: [xx]}]\nmodels: [{id: xxx, capacity: {max_concurrent: 1}}]",
        "agents[0].allowed_models: expected the id of a model, got 'xx'; did you mean 'xxx'?",
    ),
    "missing table": (
        "agents: nope.csv\nmodels: [{id: x, capacity: {max_concurrent: 1}}]",
        "nope.csv: no such file",
    ),
    "unknown ending": (
        "agents: a.xyz\nmodels: [{id: x, capacity: {max_concurrent: 1}}]",
        "a.xyz: expected one of .yaml",
    ),
    "models from no scores": (
        "agents: [{id: a}]\nmodels: {from_scores: true, capacity: {max_concurrent: 1}}",
        "models.from_scores: expected scores that name their models, got none",
    ),
    "unknown table option": (
        "agents: {path: a.csv, colums: {}}\nmodels: []",
        "agents.colums: unknown field; did you mean 'columns'?",
    ),
    "score layout": (
        "scores: {path: s.csv, layout: tall}\nmodels: []",
        "scores.layout: expected 'long', 'wide' or 'ranked', got 'tall'",
    ),
}


@pytest.mark.parametrize("case", BAD_DOCUMENTS)
def test_a_bad_document_gets_its_own_line(tmp_path: Path, case: str) -> None:
    text, expected = BAD_DOCUMENTS[case]
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    assert any(expected in line for line in complaints(path)), complaints(path)


BAD_AGENTS: dict[str, tuple[str, str]] = {
    "too many fields": ("id,tenant\na,b\nc,d,e\n", "a.csv:3: broken CSV: expected 2 fields, got 3"),
    "too many fields at once": ("id,tenant\na,b,c\nc,d,e\n", "a.csv:2: broken CSV: expected 2 fields, got 3"),
    "too few fields": ("id,tenant\na,b\nc\n", "a.csv:3: broken CSV: expected 2 fields, got 1"),
    "open quote": ('id,tenant\na,"b\nc,d\n', "a.csv:3: broken CSV"),
    "empty file": ("", "a.csv:1: expected a header line"),
    "column twice": ("id,id\na,b\n", "a.csv:1: column 'id' is given twice"),
    "no ids": ("tenant\nb\n", "a.csv:1: agents.id: required, but missing"),
    "no rows": ("id\n", "a.csv:1: agents: expected at least one agent, got none"),
    "unknown column": ("id,tennant\na,b\n", "a.csv:1: agents.tennant: unknown field; did you mean 'tenant'?"),
    "blank id": ("id,tenant\na,b\n,c\n", "a.csv:3: id: required, but missing"),
    "repeated id": ("id\na\nb\na\n", "a.csv:4: id: expected unique ids, got 'a' again"),
    "no number": ("id,priority\na,1\nb,high\n", "a.csv:3: priority: expected a number, got 'high'"),
    "NaN": ("id,priority\na,1\nb,nan\n", "a.csv:3: priority: expected a number, got 'nan'"),
    "infinity": ("id,priority\na,1\nb,inf\n", "a.csv:3: priority: expected a finite number > 0, got inf"),
    "zero priority": ("id,priority\na,0\n", "a.csv:2: priority: expected a finite number > 0, got 0"),
    "negative tokens": (
        "id,input_tokens\na,-5\n",
        "a.csv:2: input_tokens: expected a whole number from 0 to 2**53, got -5",
    ),
    "fractional tokens": (
        "id,input_tokens\na,1\n\nb,2.5\n",
        "a.csv:4: input_tokens: expected a whole number from 0 to 2**53, got 2.5",
    ),
    "no flag": (
        "id,requires_tools\na,maybe\n",
        "a.csv:2: requires_tools: expected true or false, got 'maybe'",
    ),
    "empty name": ("id,allowed_models\na,x;;y\n", "a.csv:2: allowed_models: expected a list of names"),
    "unknown task type": (
        "id,task_type\na,\nb,maths\n",
        "a.csv:3: task_type: expected a known task type, got 'maths'; did you mean 'math'?",
    ),
}


@pytest.mark.parametrize("case", BAD_AGENTS)
def test_a_bad_table_gets_its_own_line(tmp_path: Path, case: str) -> None:
    text, expected = BAD_AGENTS[case]
    write(tmp_path, a__csv=text, f__yaml=FLEET)
    path = problem_of(tmp_path, {"agents": "a.csv", "models": "f.yaml"})
    assert any(line.startswith(expected) for line in complaints(path)), complaints(path)


BAD_SCORES: dict[str, tuple[str, str]] = {
    "NaN": ("agent,model,score\na,x,1\na,y,nan\n", "s.csv:3: score: expected a number, got 'nan'"),
    "infinity": (
        "agent,model,score\na,x,1\na,y,-inf\n",
        "s.csv:3: score: expected a finite number, got -inf",
    ),
    "blank": ("agent,model,score\na,x,1\na,,2\n,x,3\n", "s.csv:4: agent: required, but missing"),
    "blank score": ("agent,model,score\na,x,\na,y,2\n", "s.csv:2: score: required, but missing"),
    "pair twice": (
        "agent,model,score\na,x,1\na,y,2\na,x,3\n",
        "s.csv:4: expected one score a pair, got agent 'a', model 'x' again",
    ),
    "no column": ("agent,modle,score\na,x,1\n", "s.csv:1: no column 'model'; did you mean 'modle'?"),
    "unknown agent": (
        "agent,model,score\nq,x,1\n",
        "s.csv:2: agent: expected the id of one of the agents, got 'q'",
    ),
    "unknown model": (
        "agent,model,score\na,z,1\n",
        "s.csv:2: model: expected the id of one of the models, got 'z'",
    ),
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_a_bad_score_table_gets_its_own_line(tmp_path: Path, case: str) -> None:
    text, expected = BAD_SCORES[case]
    write(tmp_path, s__csv=text, f__yaml=FLEET)
    path = problem_of(tmp_path, {"agents": [{"id": "a"}], "models": "f.yaml", "scores": "s.csv"})
    assert any(line.startswith(expected) for line in complaints(path)), complaints(path)


def test_every_error_of_all_files_is_listed_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        a__csv="id,priority,requires_tools\na,x,1\na,-1,2\n",
        f__yaml="- id: x\n  capacity:\n    max_concurrent: 1.5\n- id: y\n  capacity: {}\n  pirce: 3\n",
        s__csv="agent,model,score\na,x,inf\n",
        p__yaml="agents: a.csv\nmodels: f.yaml\nscores: s.csv\nobjective:\n  load_weight: 2\ncolour: red\n",
    )
    assert sorted(complaints(tmp_path / "p.yaml")) == [
        "a.csv:2: priority: expected a number, got 'x'",
        "a.csv:3: id: expected unique ids, got 'a' again, first at agents[0]",
        "a.csv:3: priority: expected a finite number > 0, got -1",
        "a.csv:3: requires_tools: expected true or false, got 2",
        "f.yaml:3: models[0].capacity.max_concurrent: expected a whole number, got 1.5",
        "f.yaml:5: models[1].capacity.max_concurrent: required, but missing",
        "f.yaml:6: models[1].pirce: unknown field",
        "p.yaml:5: objective.load_weight: expected <= 1, got 2",
        "p.yaml:6: colour: unknown field",
        "s.csv:2: score: expected a finite number, got inf",
    ]


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    write(tmp_path, f__yaml=FLEET, a__csv="id,priority\n" + "".join(f"a{i},-1\n" for i in range(1000)))
    lines = complaints(problem_of(tmp_path, {"agents": "a.csv", "models": "f.yaml"}))
    assert len(lines) == 21
    assert "980 more rows with a bad priority" in lines[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"agents": [', "p.json:1: broken JSON at column 13"),
        ('{"agents": [],\n "agents": []}', "p.json:2: broken JSON: key 'agents' is given twice"),
        ("[" * 100_000, "p.json:1: broken JSON: nested more than 32 levels deep"),
    ],
)
def test_broken_json(tmp_path: Path, text: str, expected: str) -> None:
    write(tmp_path, p__json=text)
    assert any(expected in line for line in complaints(tmp_path / "p.json"))


def test_broken_json_lines(tmp_path: Path) -> None:
    write(tmp_path, f__yaml=FLEET, a__jsonl='{"id": "a"}\n\n{"id": }\n7\n{"id": "b", "priority": NaN}\n')
    path = problem_of(tmp_path, {"agents": "a.jsonl", "models": "f.yaml"})
    lines = complaints(path)
    assert lines[0].startswith("a.jsonl:3: broken JSON at column 8")
    assert lines[1] == "a.jsonl:4: expected an object, got int"
    write(
        tmp_path,
        a__jsonl='{"id": "a"}\n\n{"id": "b", "priority": NaN}\n{"id": 1.5}\n{"id": "c", "priority": true}\n',
    )
    assert complaints(path) == [
        "a.jsonl:4: id: expected text, got 1.5",
        "a.jsonl:5: priority: expected a number, got True",
        "a.jsonl:3: priority: expected a finite number > 0, got nan",
    ]


def test_broken_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path, f__yaml=FLEET, a__parquet="id,priority\n")
    path = problem_of(tmp_path, {"agents": "a.parquet", "models": "f.yaml"})
    assert complaints(path)[0].startswith("a.parquet: not a readable Parquet file")
    pd.DataFrame({"id": ["a", "b"], "priority": [1.0, -1.0]}).to_parquet(tmp_path / "a.parquet")
    assert complaints(path) == ["a.parquet row 2: priority: expected a finite number > 0, got -1"]


def test_unreadable_files(tmp_path: Path) -> None:
    assert complaints(tmp_path / "p.yaml") == ["p.yaml: no such file"]
    assert complaints(tmp_path / "p.csv")[0].startswith("p.csv: expected a problem file")
    (tmp_path / "d.yaml").mkdir()
    assert complaints(tmp_path / "d.yaml") == ["d.yaml: expected a file, got a folder"]
    (tmp_path / "e.yaml").write_bytes(b"agents:\n- id: caf\xe9\n")
    assert complaints(tmp_path / "e.yaml") == [
        "e.yaml:2: expected UTF-8 text, got byte 0xe9; "
        "with --encoding cp1252 (Windows) or latin-1 it reads '- id: café'"
    ]
    (tmp_path / "a.csv").write_bytes(b"id\nok\n\xff\n")
    write(tmp_path, f__yaml=FLEET)
    path = problem_of(tmp_path, {"agents": "a.csv", "models": "f.yaml"})
    assert complaints(path)[0].startswith("a.csv:3: expected UTF-8 text, got byte 0xff")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected the numbers of models and agents, got 0 numbers"),
        ("2 x", "g.txt:1: expected finite numbers only, got 'x'"),
        ("2 2\n1 nan", "g.txt:2: expected finite numbers only, got 'nan'"),
        ("0 2", "expected at least 1 of models, got 0"),
        ("2 1.5", "expected at least 1 of agents, got 1.5"),
        (
            "1 2 1 1 1 1",
            "g.txt:1: expected 7 numbers for 1 models and 2 agents, as line 1 says, got 6; the file ends here",
        ),
        ("1 2 1 1 1 1 2.5", "capacity of model 1: expected a whole number from 0 to 2**53, got 2.5"),
        ("1 2 1 1 1 1 -1", "capacity of model 1: expected a whole number from 0 to 2**53, got -1"),
        ("1 2 1 1 1 -1 9", "resource use: expected >= 0, got -1"),
    ],
)
def test_broken_or_library_files(tmp_path: Path, text: str, expected: str) -> None:
    write(tmp_path, g__txt=text)
    assert any(expected in line for line in complaints(tmp_path / "g.txt"))


def test_zero_capacity_is_a_problem_like_any_other(tmp_path: Path) -> None:
    path = problem_of(
        tmp_path, {"agents": [{"id": "a"}], "models": [{"id": "x", "capacity": {"max_concurrent": 0}}]}
    )
    assert compile_problem(read_problem(path)).slots.tolist() == [0]


def test_missing_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    write(tmp_path, f__yaml=FLEET, a__parquet="")
    path = problem_of(tmp_path, {"agents": "a.parquet", "models": "f.yaml"})
    with pytest.raises(ImportError, match=r"batch-assignment-solver\[parquet\]"):
        read_problem(path)

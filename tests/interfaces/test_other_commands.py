"""What commands besides ``solve`` say about files that are broken, empty or of another kind."""

# ruff: noqa: E501 - a table of cases, one a line
from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from solver.interfaces.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCORES = "agent,model,score\na,x,1\nb,x,2\nc,x,3\n"
FLEET = "models: [{id: m, capacity: {max_concurrent: 2}, capabilities: {general: 1}}]\n"
SIMULATE = ("simulate", "--requests", "20", "--seeds", "1", "--policies", "random")


def _parquet(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


def _workbook_with_a_chart_alone(path: Path) -> None:
    book = openpyxl.Workbook()
    book.create_chartsheet("chart")
    book.save(path)


def _workbook_with_a_far_cell(path: Path) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active["XFD1048576"] = "x"
    book.save(path)


WRONG: dict[str, tuple[str, str | Callable[[Path], None], tuple[str, ...], str]] = {
    "one column": ("e.csv", "id\na\n", ("evaluate", "e.csv"), "e.csv:1: id: expected a column per model"),
    "agent twice": ("e.csv", "agent,x,y\na,1,2\na,3,4\n", ("evaluate", "e.csv"), "e.csv:3: agent: expected each agent once, got 'a' again"),
    "agent missing": ("e.csv", "agent,x,y\n,1,2\n", ("evaluate", "e.csv"), "e.csv:2: agent: expected an id, got None"),
    "too few": ("e.csv", "agent,x\na,1\n", ("evaluate", "e.csv"), "e.csv: scores: expected at least 3 agents"),
    "huge number": ("e.csv", f"agent,model,score\na,x,{'9' * 400}\n", ("evaluate", "e.csv"), "e.csv:2: score: expected a finite number"),
    "no groups": ("g.jsonl", "\n\n", ("evaluate", "s.csv", "--groups", "g.jsonl"), "g.jsonl:1: expected the task type of every agent, got none"),
    "codes": ("e.parquet", lambda path: _parquet(path, agent=pa.array(["a", "b"]).dictionary_encode(), model=["x", "x"], score=[1.0, 2.0]), ("evaluate", "e.parquet"), "e.parquet: scores: expected at least 3 agents"),
    "chart": ("c.xlsx", _workbook_with_a_chart_alone, ("verify", "p.yaml", "c.xlsx"), "c.xlsx: not a readable Excel workbook"),
    "far cell": ("c.xlsx", _workbook_with_a_far_cell, ("verify", "p.yaml", "c.xlsx"), "c.xlsx row 1048576: no column 'agent'"),
    "scores of nothing": ("n.json", "null", ("solve", "--scores", "n.json", "--slots", "1"), "n.json:1: scores: expected a matrix"),
    "option of a table": ("q.yaml", "agents: {path: a.csv, encoding: klingon}\n" + FLEET, ("solve", "q.yaml"), "q.yaml:1: agents.encoding: expected the name of an encoding"),
    "nameless key": ("q.yaml", '"": 1\n' + FLEET, ("solve", "q.yaml"), "q.yaml:1: unknown field"),
    "fleet of a simulation": ("f.yaml", "models: !!map [a]\n", (*SIMULATE, "--fleet", "f.yaml"), "f.yaml:1: broken YAML"),
    "table named by a document": ("q.yaml", "agents: no.csv\n" + FLEET, ("solve", "q.yaml"), "q.yaml:1 names it"),
    "trace nested too deeply": ("t.jsonl", "[" * 100_000 + "\n", (*SIMULATE, "--fleet", "p2.yaml", "--trace", "t.jsonl"), "t.jsonl:1: broken JSON: nested more than 32 levels deep"),
    "trace of many columns": ("t.csv", ",".join(f"c{i}" for i in range(20_000)) + "\n" + "1," * 19_999 + "1\n", (*SIMULATE, "--fleet", "p2.yaml", "--trace", "t.csv"), "t.csv:1: no column found for time"),
    "event that is a list": ("d.jsonl", '{"event": []}\n', ("explain", "a", "--decision", "d.jsonl"), "d.jsonl:1: expected a record with the event"),
    "output in a circle": ("q.yaml", "agents: [{id: a}]\n" + FLEET, ("solve", "q.yaml", "-o", "loop.csv"), "loop.csv: cannot be written: Too many levels of symbolic links"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_the_file_and_the_place_are_named(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, content, arguments, expected = WRONG[name]
    (tmp_path / "s.csv").write_text(SCORES)
    (tmp_path / "p.yaml").write_text("agents: [{id: a}]\n" + FLEET)
    (tmp_path / "p2.yaml").write_text(FLEET.replace("}]", ", latency_s: 1, output_tokens_per_second: 10}]"))
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    if isinstance(content, str):
        (tmp_path / file).write_text(content)
    else:
        content(tmp_path / file)
    with contextlib.chdir(tmp_path):
        begin = time.process_time()
        assert main(arguments) == 2
        assert time.process_time() - begin < 5.0
    errors = capsys.readouterr().err
    assert expected in errors
    assert max(map(len, errors.splitlines())) < 600


@pytest.mark.parametrize("ending", ["yaml", "json", "jsonl", "csv"])
def test_twenty_thousand_unknown_keys_are_counted_at_once(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"unknown_{i}" for i in range(20_000)]
    fields = ",\n".join(f'"{name}": 1' for name in names)
    text = {
        "yaml": f"agents: [{{id: a}}]\n{FLEET}" + "".join(f"{name}: 1\n" for name in names),
        "json": '{"agents": [{"id": "a"}], "models": [{"id": "m", "capacity": {"max_concurrent": 1}}],\n'
        + fields
        + "}",
        "jsonl": '{"id": "a", ' + fields.replace("\n", "") + "}\n",
        "csv": f"id,{','.join(names)}\na,{','.join('1' for _ in names)}\n",
    }[ending]
    (tmp_path / "fleet.yaml").write_text(FLEET)
    path = tmp_path / f"k.{ending}"
    path.write_text(text)
    tables = ending in {"jsonl", "csv"}
    arguments = ["--agents", str(path), "--models", str(tmp_path / "fleet.yaml")] if tables else [str(path)]
    begin = time.process_time()
    assert main(["solve", *arguments]) == 2
    assert time.process_time() - begin < 3.0  # half a second, and one for CSV, where nothing else runs
    errors = capsys.readouterr().err.splitlines()
    assert "unknown field" in errors[0]
    assert len(errors) == 21
    assert "more of the kind" in errors[20]

"""The boundary around readers: mistakes, hostile files and odd values end in a line that says what to do."""

# ruff: noqa: E501 - tables of cases, one a line
from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from solver.interfaces.cli import main

ROOT = Path(__file__).parents[2]
FLEET = "models: [{id: m, capacity: {max_concurrent: 2}, capabilities: {general: 1}}]\n"
AGENTS = "agents: [{id: a, task_type: general}]\n"
COMMAND = [sys.executable, "-m", "solver.interfaces.entry"]


def errors_of(capsys: pytest.CaptureFixture[str], folder: Path) -> list[str]:
    """What standard error says, without the folder in front."""
    return capsys.readouterr().err.replace(f"{folder}/", "").splitlines()


MISTAKES: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "a path that does not exist": (
        {"scores.csv": "agent,model,score\na,x,1\n"}, ("--scores", "score.csv", "--slots", "1"),
        "error: score.csv: no such file; did you mean 'scores.csv'?",
    ),
    "a column of another name": (
        {"s.csv": "agent,modle,score\na,x,1\n"}, ("--scores", "s.csv", "--slots", "1"),
        "error: s.csv:1: no column 'model'; did you mean 'modle'? (--model-column names another)",
    ),
    "a cell that is no number": (
        {"s.csv": "agent,model,score\na,x,1\nb,x,n/a\n"}, ("--scores", "s.csv", "--slots", "1"),
        "error: s.csv:3: score: expected a number, got 'n/a'; leave the cell empty where there is no value",
    ),
    "no word about capacity": (
        {"s.csv": "agent,model,score\na,x,1\n"}, ("--scores", "s.csv"),
        "error: --slots: required beside --scores without --models: how many agents each model takes",
    ),
    "a misspelt field": (
        {"p.yaml": AGENTS + FLEET.replace("max_concurrent", "max_concurent")}, ("p.yaml",),
        "error: p.yaml:2: models[0].capacity.max_concurent: unknown field; did you mean 'max_concurrent'?",
    ),
    "a table where a problem file is expected": (
        {"s.csv": "agent,model,score\na,x,1\n"}, ("s.csv",),
        "a table is read with its fleet, as --agents or --scores",
    ),
    "the same id twice": (
        {"a.csv": "id\na\nb\na\n", "p.yaml": "agents: a.csv\n" + FLEET}, ("p.yaml",),
        "error: a.csv:4: id: expected unique ids, got 'a' again",
    ),
    "a negative capacity": (
        {"p.yaml": AGENTS + FLEET.replace("2", "-2")}, ("p.yaml",),
        "error: p.yaml:2: models[0].capacity.max_concurrent: expected >= 0, got -2",
    ),
    "tabs in YAML": (
        {"p.yaml": "agents:\n\t- {id: a}\n"}, ("p.yaml",), "error: p.yaml:2: broken YAML: found character",
    ),
    "an engine that does not exist": (
        {"p.yaml": AGENTS + FLEET}, ("p.yaml", "--engine", "simplex"), "error: engine: expected auto, greedy",
    ),
}  # fmt: skip
"""The ten commonest mistakes: each message alone is enough to mend it."""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_common_mistake_is_named_with_its_remedy(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files, arguments, expected = MISTAKES[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    with contextlib.chdir(tmp_path):
        assert main(["solve", *arguments]) == 2
    errors = errors_of(capsys, tmp_path)
    assert any(expected in line for line in errors), errors


FOLLOWED = {
    "a missing file of scores": ("scores: no.csv\n" + FLEET, ["p: no such file"]),
    "a cell of scores": ("scores: s.csv\n" + FLEET, ["s.csv:2: score: expected a number, got 'x'"]),
    "models of faulty scores": (
        "scores: s.csv\nmodels: {from_scores: true, capacity: {max_concurrent: 1}}\n",
        ["s.csv:2: score: expected a number, got 'x'"],
    ),
    "a missing fleet": (
        "agents: [{id: a}]\nmodels: no.yaml\n",
        ["no.yaml: no such file; did you mean 'p.yaml'?; p.yaml:2 names it"],
    ),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_one_mistake_is_one_error(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.csv").write_text("agent,model,score\na,m,x\n")
    text, expected = FOLLOWED[name]
    (tmp_path / "p.yaml").write_text(text)
    assert main(["solve", str(tmp_path / "p.yaml")]) == 2
    errors = errors_of(capsys, tmp_path)
    assert len(errors) == len(expected), errors
    if name != "a missing file of scores":
        assert errors == [f"error: {line}" for line in expected]


def test_an_agent_without_id_and_another_fault_are_two_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text("agents: [{task_type: general, priority: -1}]\n" + FLEET)
    assert main(["solve", str(tmp_path / "p.yaml")]) == 2
    assert errors_of(capsys, tmp_path) == [
        "error: p.yaml:1: agents[0].id: required, but missing",
        "error: p.yaml:1: agents[0].priority: expected > 0, got -1",
    ]


def bomb(levels: int) -> str:
    lines = ["z0: &z0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"z{k}: &z{k} [{','.join([f'*z{k - 1}'] * 10)}]" for k in range(1, levels)]
    return "\n".join(lines) + "\n" + AGENTS + FLEET


HOSTILE = {
    "alias bomb": ("p.yaml", bomb(9), "aliases repeat values too often"),
    "alias bomb of scores": ("p.yaml", bomb(9) + "scores: *z8\n", "aliases repeat values too often"),
    "self-reference": ("p.yaml", AGENTS + FLEET + "scores: &s [*s, *s]\n", "p.yaml:3: broken YAML: a value that contains"),
    "mapping in itself": ("p.yaml", "a: &a {b: *a}\n", "a value that contains itself"),
    "nesting": ("p.yaml", "agents: " + "[" * 100 + "]" * 100 + "\n", "nested more than 32 levels deep"),
    "deep nesting": ("p.yaml", "- " * 100_000, "nested more than 32 levels deep"),
    "deep JSON": ("p.json", "[" * 1_000_000, "nested more than 32 levels deep"),
    "tag of a boolean": ("p.yaml", "agents: !!bool abc\n", "p.yaml:1: broken YAML: expected a value of '!!bool'"),
    "tag of a mapping": ("p.yaml", "agents: !!map [a]\n", "p.yaml:1: broken YAML: a list cannot have the tag"),
    "tag of Python": ("p.yaml", "a: !!python/object/apply:os.system [ls]\n", "broken YAML"),
    "many digits": ("p.yaml", "agents: " + "9" * 5000, "p.yaml:1: broken YAML: expected a number of at most"),
    "many digits in JSON": ("p.json", '{"agents":\n' + "9" * 5000 + "}", "p.json:2: broken JSON: a number of more"),
    "huge number": ("p.yaml", AGENTS + FLEET + f"scores: [[{'9' * 4000}]]\n", "p.yaml:3: scores"),
    "huge demand": ("p.yaml", AGENTS + FLEET + f"demand: [{'9' * 400}]\n", "p.yaml:3: demand"),
    "huge unknown field": ("p.json", json.dumps({"x" * 100_000: 1, "agents": []}), "unknown field"),
    "huge value": ("p.yaml", "agents: '" + "x" * 1_000_000 + "'\n" + FLEET, "p.yaml:1: agents.path: expected the path of a file"),
    "NUL in a path": ("p.json", '{"agents": "a\\u0000.csv", "models": []}', "expected the path of a file, which holds no NUL"),
    "a name of 300 characters": ("p.yaml", "agents: " + "n" * 300 + ".csv\n" + FLEET, "File name too long"),
    "half a character": ("p.json", '{"agents": [{"id": "\\ud800"}], "models": []}', "half a surrogate pair"),
    "a list of scores in a table's place": ("p.yaml", AGENTS + FLEET + "scores: {path: [1]}\n", "p.yaml:3: scores.path"),
    "a gzip bomb": ("p.yaml.gz", "", "times when decompressed"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, text, expected = HOSTILE[name]
    data = gzip.compress(b"\0" * 100_000_000) if name == "a gzip bomb" else text.encode()
    (tmp_path / file).write_bytes(data)
    begin = time.process_time()
    assert main(["solve", str(tmp_path / file)]) == 2
    assert time.process_time() - begin < 1.0
    errors = errors_of(capsys, tmp_path)
    assert any(expected in line for line in errors), errors
    assert max(map(len, errors)) < 600


def test_what_is_no_regular_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "lost.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(20_000_000_000)
    expected = {
        "pipe.csv": "expected a file, got a pipe",
        "loop.csv": "symbolic links that lead in a circle",
        "lost.csv": "a symbolic link to a file that does not exist",
        "folder.csv": "expected a file, got a folder",
        "large.csv": "expected at most 1,000 MB, got 20,000 MB; --max-file-mb raises the limit",
    }
    for name, words in expected.items():
        assert main(["solve", "--scores", str(tmp_path / name), "--slots", "1"]) == 2
        assert words in capsys.readouterr().err
    assert main(["solve", "/dev/zero"]) == 2
    assert "got a device" in capsys.readouterr().err


def test_hostile_files_take_little_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(bomb(9))
    code = (
        "from pathlib import Path; from solver.interfaces.cli import main; "
        f"code = main(['solve', {str(tmp_path / 'bomb.yaml')!r}]); "
        "status = Path('/proc/self/status').read_text(); print(code, status.split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    exit_code, kilobytes = map(int, done.stdout.split())
    assert exit_code == 2
    assert kilobytes < 200_000


def test_a_limit_can_be_raised_and_lowered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.yaml").write_text(AGENTS + FLEET + "#" * 20_000)
    assert main(["solve", str(tmp_path / "p.yaml"), "-q"]) == 0
    assert main(["solve", str(tmp_path / "p.yaml"), "--max-file-mb", "0.01"]) == 2
    assert "--max-file-mb raises the limit" in capsys.readouterr().err


SILENT = {
    "sexagesimal": ("models: [{id: m, capacity: {max_concurrent: 1:30}}]\n", "expected a whole number, got '1:30'"),
    "octal": ("models: [{id: m, capacity: {max_concurrent: 010}}]\n", "expected a whole number, got '010'"),
    "hexadecimal": ("models: [{id: m, capacity: {max_concurrent: 0x10}}]\n", "expected a whole number, got '0x10'"),
    "underscores": ("models: [{id: m, capacity: {max_concurrent: 1_000}}]\n", "expected a whole number, got '1_000'"),
    "yes": ("models: [{id: m, capacity: {max_concurrent: 1}, supports_tools: yes}]\n", "expected true or false, got 'yes'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_numbers_with_two_readings_are_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = SILENT[name]
    (tmp_path / "p.yaml").write_text(AGENTS + text)
    assert main(["solve", str(tmp_path / "p.yaml")]) == 2
    assert expected in capsys.readouterr().err


def test_ids_keep_their_text(tmp_path: Path) -> None:
    ids = ["007", "2024-01-31", "1:30", "no", "0x1F", "1_000", "1e3x", "on"]
    (tmp_path / "p.yaml").write_text(f"agents: [{', '.join(f'{{id: {one}}}' for one in ids)}]\n" + FLEET)
    output = tmp_path / "o.json"
    assert main(["solve", str(tmp_path / "p.yaml"), "-q", "-o", str(output)]) == 0
    assert [row["agent"] for row in json.loads(output.read_text())["assignments"]] == ids


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("p.yaml", "--slots", "3"), "--slots: only beside --scores"),
        (("p.yaml", "--agent-column", "x"), "--agent-column: only beside --scores"),
        (("p.yaml", "--set", "2"), "set: only for files of the OR-Library"),
        (("p.yaml", "-o", "a.csv"), "expected another file than those read"),
        (("p.yaml", "-o", "link.csv"), "expected another file than those read"),
        (("--scores", "s.csv", "--slots", "-1"), "--slots: expected a number >= 0, got -1"),
        (("--agents", "a.csv"), "--models: required beside --agents"),
        (("--scores", "s.csv", "--slots", "1", "--layout", "long", "--ignore-column", "x"), "only for the layout 'wide'"),
    ],
)  # fmt: skip
def test_nothing_is_ignored_in_silence(
    tmp_path: Path, arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text("agents: a.csv\n" + FLEET)
    (tmp_path / "a.csv").write_text("id\na\n")
    (tmp_path / "s.csv").write_text("agent,model,score\na,x,1\n")
    (tmp_path / "link.csv").symlink_to("a.csv")
    with contextlib.chdir(tmp_path):
        assert main(["solve", *arguments]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "a.csv").read_text() == "id\na\n"


def test_a_fault_of_the_program_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text(AGENTS + FLEET)
    monkeypatch.setattr("solver.interfaces.cli.baselines", lambda _: 1 // 0)
    assert main(["solve", str(tmp_path / "p.yaml")]) == 1
    errors = capsys.readouterr().err
    assert "error: unexpected ZeroDivisionError" in errors
    assert "Traceback" not in errors
    monkeypatch.setenv("SOLVER_TRACEBACK", "1")
    assert main(["solve", str(tmp_path / "p.yaml")]) == 1
    assert "Traceback" in capsys.readouterr().err


def run_in(folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | dict(options.pop("env", {}))  # type: ignore[call-overload]
    return subprocess.run([*COMMAND, *arguments], cwd=folder, env=environment, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_streams_that_are_closed_full_or_narrow(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(AGENTS + FLEET)
    with Path("/dev/full").open("wb") as full:
        done = run_in(tmp_path, "solve", "p.yaml", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (
        1,
        b"error: standard output cannot be written: No space left on device\n",
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = run_in(tmp_path, "solve", "p.yaml", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    done = run_in(tmp_path, "solve", "p.yaml", preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    narrow = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run_in(tmp_path, "solve", "p.yaml", env=narrow, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"1 agent x 1 model" in done.stdout
    assert b"######......  50%" in done.stdout


def test_text_of_files_reaches_the_terminal_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        "[/INST]",
        "[red]x",
        "[link=http://evil]gpt[/link]",
        "a:pile_of_poo:b",
        "名前",
        "x\x1b[31mRED\x07",
        "\u202eevil",
    ]
    models = [{"id": name, "capacity": {"max_concurrent": 1}, "resources": {name: 1}} for name in names]
    agents = [{"id": f"{name} a", "resources": {name: 1}} for name in names]
    limits = [{"kind": "quota", "name": name, "at_most_agents": 7} for name in names]
    problem = {"agents": agents, "models": models, "limits": limits}
    (tmp_path / "p.json").write_text(json.dumps(problem))
    assert main(["solve", str(tmp_path / "p.json")]) == 0
    out = capsys.readouterr().out
    assert main(["explain", "[red]x a", str(tmp_path / "p.json")]) == 0
    out += capsys.readouterr().out
    for shown in [*names[:5], r"x\x1b[31mRED\x07", r"\u202eevil"]:
        assert shown in out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\u202e" not in out
    columns = [line for line in out.splitlines() if "░" in line or "█" in line]
    from rich.cells import cell_len

    ends = {cell_len(line[: line.index("%")]) for line in columns[: len(names)]}
    assert len(ends) == 1, columns


def test_formulas_are_neutralised_on_request_only(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "agents: [{id: '=1+1'}, {id: '-x'}, {id: a}]\n" + FLEET.replace("2", "3")
    )
    output = tmp_path / "o.csv"
    assert main(["solve", str(tmp_path / "p.yaml"), "-q", "-o", str(output)]) == 0
    assert [line.split(",")[0] for line in output.read_text().splitlines()] == ["agent", "=1+1", "-x", "a"]
    assert main(["solve", str(tmp_path / "p.yaml"), "-q", "-o", str(output), "--excel-safe"]) == 0
    assert [line.split(",")[0] for line in output.read_text().splitlines()] == ["agent", "'=1+1", "'-x", "a"]


def test_a_file_that_is_replaced_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(AGENTS + FLEET)
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.touch()
    real.chmod(0o604)
    link.symlink_to(real)
    assert main(["solve", str(tmp_path / "p.yaml"), "-q", "-o", str(link)]) == 0
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o604
    assert real.read_text().startswith("agent,")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "agents: {a: {task_type: general}}",
            "agents: expected a list of agents, each with its id as a field",
        ),
        ("scores: {a: {m: 1}}", "scores: expected a matrix, a list of {agent, model, score}"),
        ("scores: {pth: s.csv}", "scores.pth: unknown field; did you mean 'path'?"),
        ("scores: [[1.0e+308]]", "p.yaml:3: scores[0, 0]: expected at most 1e+100 in size"),
        ("demand: [1.0e+200]", "p.yaml:3: demand[0]: expected at most 1e+100 in size"),
        ("objective: {unassigned_penalty: 1.0e+200}", "p.yaml:3: unassigned_penalty[0]: expected at most"),
        ("agents: [{id: a, copies: 100000000000}]", "p.yaml:1: copies: expected at most 100,000,000 each"),
    ],
)
def test_values_that_come_up_late_name_their_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    parts = {"agents": "[{id: a}]", "models": "[{id: m, capacity: {max_concurrent: 2}}]"}
    name, _, value = text.partition(": ")
    parts[name] = value
    (tmp_path / "p.yaml").write_text("".join(f"{part}: {given}\n" for part, given in parts.items()))
    assert main(["solve", str(tmp_path / "p.yaml")]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_a_mapping_of_ids_is_a_plan_and_its_faults_name_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem, plan = tmp_path / "p.yaml", tmp_path / "plan.json"
    problem.write_text("agents: [{id: a}, {id: b}]\nmodels: [{id: m, capacity: {max_concurrent: 2}}]\n")
    plan.write_text('{"a": "m", "b": null}')
    assert main(["verify", str(problem), str(plan)]) == 0
    assert "1 of 2 agents assigned" in capsys.readouterr().out
    plan.write_text('{"a": "m", "zz": "m"}')
    assert main(["verify", str(problem), str(plan)]) == 2
    assert f"{plan.name}: agent: not in the problem, got 'zz'" in capsys.readouterr().err.replace("\n", "")


def test_pipes_and_standard_input_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem, pipe = tmp_path / "p.yaml", tmp_path / "pipe.csv"
    problem.write_text("agents: [{id: a}]\nmodels: [{id: m, capacity: {max_concurrent: 2}}]\n")
    os.mkfifo(pipe)
    assert main(["solve", str(problem), "-o", str(pipe)]) == 2
    assert pipe.is_fifo()
    assert main(["solve", "-"]) == 2
    errors = capsys.readouterr().err
    assert "expected a file, got a pipe or a device" in errors
    assert "standard input is not read" in errors


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"solver \d+(\.\w+)+\s*", capsys.readouterr().out)

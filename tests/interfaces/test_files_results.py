"""Results are written whole or not at all, and read back as they were."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solver.errors import MissingExtraError, SpecError
from solver.interfaces.files.assignments import read_assignments
from solver.interfaces.files.results import check_output, write_results, write_text

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS: dict[str, Any] = {
    "agent": np.array(["a", "b,;\"'", "ü\n"], dtype=object),
    "model": np.array(["x", None, "7"], dtype=object),
    "score": np.array([1.5, np.nan, -np.inf]),
    "reason": ["", "capacity full", ""],
}
EXPECTED = {"a": "x", "b,;\"'": None, "ü\n": "7"}


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_assignments_come_back_and_a_summary_lies_beside_them(tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out.{ending}"
    summary = {"status": "optimal", "gap": np.float64(0.0), "bound": np.inf, "prices": np.arange(2.0)}
    written = write_results(path, COLUMNS, summary=summary)
    assert written == [path, tmp_path / "out.summary.json"]
    assert read_assignments(path) == EXPECTED
    assert json.loads(written[1].read_text()) == {
        "status": "optimal",
        "gap": 0.0,
        "bound": None,
        "prices": [0, 1],
    }
    assert sorted(tmp_path.iterdir()) == sorted(written)


def test_files_can_be_read_by_others_as_usual(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = write_text(tmp_path / "out.txt", "hello")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("ending", ["csv", "json"])
def test_what_is_interrupted_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any, ending: str
) -> None:
    path = tmp_path / f"out.{ending}"
    write_results(path, COLUMNS, summary={"run": 1})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(_: Any) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    expected = KeyboardInterrupt if failure is KeyboardInterrupt else SpecError
    with pytest.raises(expected):
        write_results(path, {"agent": ["new"], "model": ["new"]}, summary={"run": 2})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_summary_that_cannot_be_written_leaves_no_assignments(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such folder"):
        write_results(tmp_path / "out.csv", COLUMNS, summary={}, summary_path=tmp_path / "no/s.json")
    assert list(tmp_path.iterdir()) == []


def test_bad_outputs_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for path, rule in (
        ("no/out.csv", "no such folder"),
        ("file/out.csv", "expected a folder, got a file"),
        ("folder.csv", "expected the name of a file, got a folder"),
        ("out.xlsx", r"expected one of .csv, .json, .parquet, got '.xlsx'"),
        ("out", "got 'no ending'"),
    ):
        with pytest.raises(SpecError, match=rule):
            check_output(tmp_path / path)


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):  # permissions do not bind the superuser
        monkeypatch.setattr(os, "access", lambda *_: False)
    try:
        with pytest.raises(SpecError, match="folder cannot be written to"):
            check_output(tmp_path / "out.csv")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "agent,modle\na,x\n", "no column 'model'; did you mean 'modle'?"),
        ("a.csv", "agent,model\na,x\na,y\n", "a.csv:3: agent: expected one row an agent, got 'a' again"),
        ("a.csv", "agent,model\n,x\n", "a.csv:2: agent: expected an id, got None"),
        ("a.json", "{}", "expected a list of assignments"),
        ("a.json", '[{"agent": "a", "model": 1.5}]', "assignments[0]: model: expected an id, got 1.5"),
        ("a.xyz", "", "expected a table"),
    ],
)
def test_a_bad_assignment_file(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError) as caught:
        read_assignments(tmp_path / name)
    assert expected in str(caught.value)


def test_no_assignments_at_all(tmp_path: Path) -> None:
    for ending in ("csv", "json"):
        path = write_results(tmp_path / f"out.{ending}", {"agent": [], "model": []})[0]
        assert read_assignments(path) == {}


def test_missing_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"\[parquet\]"):
        write_results(tmp_path / "out.parquet", COLUMNS)
    assert list(tmp_path.iterdir()) == []


IDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=6)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(choices=st.dictionaries(IDS, st.none() | IDS, max_size=5), ending=st.sampled_from(["csv", "json"]))
def test_any_ids_come_back(tmp_path: Path, choices: dict[str, str | None], ending: str) -> None:
    path = tmp_path / f"out.{ending}"
    write_results(path, {"agent": list(choices), "model": list(choices.values())})
    assert read_assignments(path) == choices

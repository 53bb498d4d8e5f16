"""Agents that occur twice in files are found, exactly and wherever they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from solver.errors import SpecError
from solver.scale.local_workers import LocalFleet
from solver.scale.pieces import ScoreColumns, pieces_of
from solver.scale.unique_ids import UniqueIdsParams, check_unique_ids, id_hashes

if TYPE_CHECKING:
    from pathlib import Path

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(folder: Path, parts: list[Any], kind: Any = None) -> list[str]:
    paths = []
    for k, ids in enumerate(parts):
        table = pa.table({"agent": pa.array(ids, kind), "x": np.ones(len(ids), np.float32)})
        paths.append(str(folder / f"{k}.parquet"))
        pq.write_table(table, paths[-1], row_group_size=7)
    return paths


def check(folder: Path, parts: list[Any], kind: Any = None, part: int = 8_000_000) -> None:
    columns = ScoreColumns(models=("x",))
    pieces = pieces_of(write(folder, parts, kind), columns)
    fleet = LocalFleet(pieces, columns, np.zeros(1, bool))
    try:
        check_unique_ids(fleet, pieces, "agent", str(folder / "plan"), UniqueIdsParams(part=part))
    finally:
        assert not list((folder / "plan").iterdir()), "no scratch is left"


NAMES = [f"a{i}" for i in range(500)]


@pytest.mark.parametrize("part", [8_000_000, 37])
@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "int64", "uint8", "dictionary"])
def test_ids_of_any_type(tmp_path: Path, kind: str, part: int) -> None:
    kinds = {
        "string": pa.string(),
        "large_string": pa.large_string(),
        "binary": pa.binary(),
        "int64": pa.int64(),
    }
    kinds |= {"uint8": pa.uint8(), "dictionary": pa.dictionary(pa.int32(), pa.string())}
    numbers = kind in ("int64", "uint8")
    ids: list[Any] = list(range(200)) if numbers else NAMES[:200]
    check(tmp_path, [ids[:90], ids[90:]], kinds[kind], part)
    with pytest.raises(SpecError) as caught:
        check(tmp_path, [ids[:90], [*ids[90:], ids[17]]], kinds[kind], part)
    (found,) = caught.value.violations
    assert "1.parquet: row 111: agent: expected every agent once" in found
    assert "again, first at" in found
    assert "0.parquet: row 18" in found


def test_texts_that_are_alike_are_not_the_same(tmp_path: Path) -> None:
    check(tmp_path, [["", "a", "aa", "ab", "ba"], ["a ", " a", "A", "ä", "a\0", "\0a", "aaa"]], None, 2)


def test_many_repetitions_are_cut_short(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        check(tmp_path, [["same"] * 60, ["same"] * 5])
    assert len(caught.value.violations) == 5


def test_equal_hashes_of_different_ids_are_no_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "solver.scale.unique_ids.id_hashes"
    monkeypatch.setattr(module, lambda ids, seed: np.zeros(len(ids), np.uint64))
    check(tmp_path, [NAMES[:20], NAMES[20:40]])
    with pytest.raises(SpecError, match="'a3' again"):
        check(tmp_path, [NAMES[:20], ["a3"]])


def test_a_missing_id_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="row 2: agent: required, but missing"):
        check(tmp_path, [["a", None]], pa.string())


def test_hashes_depend_on_text_alone() -> None:
    long = pa.array(["", "a", "bc", "déf", "a" * 300], pa.large_string())
    assert (id_hashes(long, 3)[1:] == id_hashes(long.slice(1), 3)).all()
    assert len(np.unique(id_hashes(pa.array(NAMES, pa.large_string()), 3))) == len(NAMES)

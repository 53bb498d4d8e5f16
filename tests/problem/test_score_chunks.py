"""Scores as tables, lists, mapped files and chunks: the same answer as from one array, or an error that says where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pa = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")

SCORES = np.random.default_rng(0).random((900, 4), np.float32)
CAPACITY = [300, 200, 150, 100]
COLUMNS = {f"m{j}": SCORES[:, j] for j in range(4)}
LISTS = pa.FixedSizeListArray.from_arrays(pa.array(SCORES.ravel()), 4)

SOURCES: dict[str, Callable[[], Any]] = {
    "table": lambda: pa.table(COLUMNS),
    "record batch": lambda: pa.record_batch(COLUMNS),
    "record batches": lambda: iter(pa.table(COLUMNS).to_batches(max_chunksize=70)),
    "list of tables": lambda: [pa.table(COLUMNS).slice(0, 10), pa.table(COLUMNS).slice(10)],
    "lists of fixed size": lambda: LISTS,
    "part of lists of fixed size": lambda: pa.chunked_array([LISTS[:1], LISTS[1:]]),
    "lists": lambda: LISTS.cast(pa.list_(pa.float32())),
    "arrays of rows": lambda: (SCORES[at : at + 7] for at in range(0, 900, 7)),
    "with an empty chunk": lambda: iter([SCORES[:0], SCORES]),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("sense", ["maximize", "minimize"])
def test_every_layout_gives_the_answer_of_one_array(source: Callable[[], Any], sense: str) -> None:
    expected = solver.assign(SCORES, CAPACITY, sense=sense)
    found = solver.assign(source(), CAPACITY, sense=sense)
    assert found.objective == expected.objective
    assert found.prices.tolist() == expected.prices.tolist()


def test_a_mapped_file_is_read_where_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", SCORES)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    assert solver.assign(mapped, CAPACITY).objective == solver.assign(SCORES, CAPACITY).objective


def test_chunks_of_two_precisions_become_the_wider_one() -> None:
    mixed = iter([SCORES[:100], SCORES[100:].astype(np.float64)])
    assert solver.assign(mixed, CAPACITY).objective == pytest.approx(
        solver.assign(SCORES, CAPACITY).objective
    )


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "scores: expected at least one chunk of rows, got none"),
        ([SCORES, SCORES[:, :3]], r"scores.chunks\[1\]: expected shape \(rows, 4\), got shape \(900, 3\)"),
        ([SCORES, SCORES[0]], r"scores.chunks\[1\]: expected shape \(rows, 4\), got shape \(4,\)"),
        ([np.array([["a", "b"]])], r"scores.chunks\[0\]: expected real numbers, got text"),
        ([SCORES[:0]], "scores: expected at least one agent"),
        ([SCORES, np.full((2, 4), np.nan)], r"scores\[900, 0\]: expected a finite number or -inf, got nan"),
    ],
)
def test_an_unfit_chunk_is_named(chunks: list[Any], message: str) -> None:
    with pytest.raises(solver.SpecError, match=message):
        solver.assign(iter(chunks), CAPACITY)


@pytest.mark.parametrize("lists", [[[1.0, 2.0], [3.0]], [[1.0, 2.0], None], [[1.0, None], [3.0, 4.0]]])
def test_lists_that_are_no_table_are_refused(lists: list[Any]) -> None:
    with pytest.raises(solver.SpecError, match="scores"):
        solver.assign(pa.array(lists), [1, 1])

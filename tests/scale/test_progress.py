"""Long jobs say how far they are: stage, share of the files, time left."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from solver.clock import ManualClock
from solver.interfaces.terminal import LoggedSteps
from solver.scale import LargeBatch, ScoreColumns, solve_files
from solver.scale.local_workers import LocalFleet
from solver.scale.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def test_a_pass_says_share_size_and_time_left() -> None:
    clock, lines = ManualClock(), list[str]()
    progress = Progress(lines.append, 1000, 2_500_000, clock=clock)
    progress.stage("writing 3 files")
    progress.begin()
    progress.read(100)  # too early to say anything
    clock.advance(10.0)
    progress.read(250)
    progress.read(260)
    clock.advance(290.0)
    progress.read(300)
    progress.read(2000)
    assert lines == [
        "writing 3 files",
        "writing 3 files: 25% of 2.5 MB read, about 30 s left",
        "writing 3 files: 30% of 2.5 MB read, about 12 min left",
    ]


def test_a_job_reports_what_its_passes_read(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((100_000, 3), dtype=np.float32)
    columns = {f"m{j}": scores[:, j] for j in range(3)}
    pq.write_table(pa.table({"agent": np.arange(100_000), **columns}), tmp_path / "a.parquet")
    read: list[int] = []

    class Noting(Progress):
        def read(self, rows: int) -> None:
            read.append(rows)

    class Watched(LocalFleet):
        def run(self, method: str, *arguments: Any, each: Mapping[int, Any] | None = None) -> list[Any]:
            self.watch = Noting(lines.append, 1, 1)
            return super().run(method, *arguments, each=each)

    lines: list[str] = []
    batch = LargeBatch(
        files=[str(tmp_path / "a.parquet")],
        columns=ScoreColumns(models=("m0", "m1", "m2")),
        capacity=[40_000] * 3,
    )
    assert solve_files(batch, tmp_path / "plan", report=lines.append, fleet=Watched) is not None
    stages = [line for line in lines if ": " not in line]
    assert stages == [
        "reading footers",
        "surveying 100,000 agents in 1 pieces",
        "finding prices",
        "writing 1 files",
    ]
    assert read.count(100_000) >= 2, "at least a first look and a last pass"
    assert all(0 < rows <= 100_000 for rows in read)


def shown(quiet: bool, terminal: bool) -> str:
    clock, out = ManualClock(), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80)
    with LoggedSteps(console, "reading", quiet=quiet, clock=clock) as step:
        step("surveying")
        clock.advance(4.0)
        step("surveying: 10% of 9 GB read, about 36 s left")
        clock.advance(8.0)
        step("surveying: 30% of 9 GB read, about 28 s left")
        step("writing")
    return out.getvalue()


def test_logs_have_lines_and_terminals_a_line_that_changes() -> None:
    assert shown(quiet=False, terminal=False).splitlines() == [
        "    0.0 s  surveying",
        "   12.0 s  surveying: 30% of 9 GB read, about 28 s left",
        "   12.0 s  writing",
    ]
    assert shown(quiet=True, terminal=False) == ""
    assert shown(quiet=True, terminal=True) == ""
    assert "12.0 s" not in shown(quiet=False, terminal=True)

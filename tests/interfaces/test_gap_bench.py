"""The table of gaps to best known costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import solver
from solver.interfaces.bench.gap_benchmark import gap_results, read_best_known
from solver.interfaces.files.gap_format import format_gap

if TYPE_CHECKING:
    from pathlib import Path


def test_ours_and_the_peers_find_the_optimum_of_a_small_instance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cost, use = rng.integers(10, 50, (3, 8)), rng.integers(5, 15, (3, 8))
    capacity = np.full(3, 40)
    (tmp_path / "small").write_text(format_gap(cost, use, capacity))
    best = -solver.assign(
        -cost.T, capacity, demand=use.T, unassigned_penalty=np.inf, engine="cpsat"
    ).objective
    (tmp_path / "best_known.csv").write_text(f"instance,best_known_cost\nsmall,{best}\n")
    results = list(gap_results(tmp_path, deadlines_ms=[2_000]))
    assert [result.solver for result in results] == ["solver", "cp-sat", "highs"]
    assert [result.gap for result in results] == [0.0, 0.0, 0.0]
    assert results[0].certified_gap == 0.0


def test_a_table_without_costs_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "best_known.csv"
    table.write_text("instance,cost\nsmall,3\n")
    with pytest.raises(solver.SpecError, match=r"best_known.csv:2: expected columns instance and best_known"):
        read_best_known(table)

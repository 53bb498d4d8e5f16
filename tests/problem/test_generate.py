"""Generated instances: the same for the same seed, and of the shape their families promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from solver.errors import SpecError
from solver.interfaces.files.problem_file import read_problem
from solver.interfaces.files.results import write_columns
from solver.interfaces.generate import agent_columns, write_gap, write_problem
from solver.problem.compile import compile_problem
from solver.problem.generate import (
    GAP_TYPES,
    GapType,
    generate_agents,
    generate_fleet,
    generate_gap,
    generate_problem,
)

DATA = Path(__file__).parents[2] / "data"


def test_the_bundled_batch_is_what_its_command_makes(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "agents.csv", agent_columns(generate_agents(2000, seed=7)))
    assert path.read_bytes() == (DATA / "demo_agents.csv").read_bytes()


@pytest.mark.parametrize(("n", "m", "tightness"), [(1, 1, 1.0), (300, 7, 0.9), (100, 30, 1.5)])
def test_problems_have_the_size_and_slots_asked_for(n: int, m: int, tightness: float) -> None:
    problem = generate_problem(n, m, tightness=tightness, seed=4)
    assert (len(problem.agents), len(problem.models)) == (n, m)
    assert sum(model.capacity.batch_slots for model in problem.models) == np.ceil(n / tightness)
    again = generate_problem(n, m, tightness=tightness, seed=4)
    assert np.array_equal(compile_problem(problem).score, compile_problem(again).score)
    if n > 1:
        other = generate_problem(n, m, tightness=tightness, seed=5)
        assert not np.array_equal(compile_problem(problem).score, compile_problem(other).score)
        assert np.isfinite(compile_problem(problem).score).any(axis=1).all()


@pytest.mark.parametrize("kind", GAP_TYPES)
def test_gap_families(kind: GapType, tmp_path: Path) -> None:
    m, n = 10, 2000
    cost, use, capacity = generate_gap(kind, m, n, seed=1)
    assert cost.shape == use.shape == (m, n)
    if kind in "ABC":
        assert (use.min(), use.max(), cost.min(), cost.max()) == (5, 25, 10, 50)
    if kind == "D":
        assert (use.min(), use.max()) == (1, 100)
        assert set(np.unique(cost + use)) == set(range(101, 122))
    if kind == "E":
        assert use.min() == 1
        assert use.mean() == pytest.approx(10.5, rel=0.05)
        assert (cost <= 1000 / use).all()
        assert np.corrcoef(use.ravel(), cost.ravel())[0, 1] < -0.3
    if kind in "CDE":
        assert capacity.tolist() == np.floor(0.8 * use.sum(axis=1) / m).astype(int).tolist()
    if kind == "B":
        easier = generate_gap("A", m, n, seed=1)[2]
        assert capacity.mean() == pytest.approx(0.7 * easier.mean(), rel=0.05)
    small = compile_problem(read_problem(write_gap(kind, 3, 20, tmp_path / "gap.txt", seed=2)))
    cost, use, capacity = generate_gap(kind, 3, 20, seed=2)
    assert np.array_equal(small.score, -cost.T)
    assert small.demand is not None
    assert np.array_equal(small.demand[:, :, 0], use.T)
    assert small.capacity[:, 0].tolist() == capacity.tolist()


def test_arguments_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="agents: expected at least 1, got 0"):
        generate_agents(0)
    with pytest.raises(SpecError, match="models: expected at least 1, got 0"):
        generate_fleet(0, slots=1)
    with pytest.raises(SpecError, match="slots: expected >= 0, got -1"):
        generate_fleet(1, slots=-1)
    with pytest.raises(SpecError, match="tightness"):
        generate_problem(1, 1, tightness=0.0)
    with pytest.raises(SpecError, match="kind: expected one of A, B, C, D, E, got 'F'"):
        generate_gap("F", 1, 1)  # type: ignore[arg-type]  # what a user may type
    with pytest.raises(SpecError, match="table: expected csv or parquet, got 'xls'"):
        write_problem(generate_problem(2, 2), tmp_path, table="xls")

"""How long a batch takes before and after the engines: read, validate, score, compile, write.

The memory of the million-agent job is that of a fresh process: its peak resident size.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.conftest import SMOKE
from solver.interfaces.files.problem_file import read_problem
from solver.interfaces.generate import write_problem
from solver.problem.compile import compile_problem, pair_scorer
from solver.problem.generate import generate_problem

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = ((1_000, 10),) if SMOKE else ((1_000, 10), (10_000, 20), (100_000, 50))
MILLION = 20_000 if SMOKE else 1_000_000
ROUNDS = 1 if SMOKE else 5

_JOB = """
import json, resource, sys, time
started = time.perf_counter()
from solver.interfaces.cli import main
code = main(["solve", sys.argv[1], "--output", sys.argv[2], "--quiet"])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / 1024
print(json.dumps({"code": code, "seconds": time.perf_counter() - started, "gibibytes": peak}))
"""


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def bench_scoring(benchmark: BenchmarkFixture, size: tuple[int, int]) -> None:
    problem = generate_problem(*size)
    benchmark.group = "scoring"
    scores = benchmark.pedantic(lambda: pair_scorer(problem).matrix(), rounds=ROUNDS)
    assert scores.shape == size


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def bench_compile(benchmark: BenchmarkFixture, size: tuple[int, int]) -> None:
    problem = generate_problem(*size)
    benchmark.group = "compile"
    instance = benchmark.pedantic(compile_problem, (problem,), rounds=ROUNDS)
    assert instance.n == size[0]


def job(problem: Path, output: Path) -> dict[str, float]:
    """Solve a file in a process of its own and return its exit code, wall clock and peak memory."""
    ran = subprocess.run(
        [sys.executable, "-c", _JOB, str(problem), str(output)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    measured: dict[str, float] = json.loads(ran.stdout)
    print(f"\n{problem.name}: {measured}")
    assert measured["code"] == 0
    return measured


def bench_ten_thousand_agents_as_json(tmp_path: Path) -> None:
    """Read, validate, score, solve and write within 1.5 seconds, process start included."""
    asked = generate_problem(1_000 if SMOKE else 10_000, 20)
    path = tmp_path / "batch.json"
    path.write_text(json.dumps(asked.model_dump(mode="json", exclude_defaults=True)))
    assert read_problem(path) == asked
    measured = job(path, tmp_path / "plan.json")
    assert SMOKE or measured["seconds"] < 1.5


def bench_a_million_agents_as_parquet(tmp_path: Path) -> None:
    """Read, score by capabilities, solve and write within 15 seconds and 4 GB, process start included."""
    path = write_problem(generate_problem(MILLION, 20), tmp_path, table="parquet")[0]
    measured = job(path, tmp_path / "plan.parquet")
    assert SMOKE or measured["seconds"] < 15
    assert SMOKE or measured["gibibytes"] < 4

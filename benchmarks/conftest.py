"""What every benchmark shares: the ladder, cut to its smallest rungs for a smoke run (``BENCH_SMOKE=1``)."""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest

import solver
from solver.interfaces.bench.size_benchmark import LADDER

SMOKE = bool(os.environ.get("BENCH_SMOKE"))
RUNGS = tuple(rung for rung in LADDER if not SMOKE or rung[0] <= 1_000)


@pytest.fixture(scope="session", autouse=True)
def warm() -> None:
    """Import every engine before anything is timed."""
    solver.warm_up()


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Record the versions a figure depends on."""
    from importlib.metadata import version

    machine_info["versions"] = {name: version(name) for name in ("numpy", "scipy", "ortools", "pandas")}
    machine_info["python"] = platform.python_version()

"""What ``import solver`` and the first small call take with the compiled kernels and without, in turn.

Run: python -m pytest benchmarks/bench_import.py -s -o addopts="--import-mode=importlib" --benchmark-disable
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.conftest import SMOKE
from solver.engines import kernels

RUNS = 2 if SMOKE else 25
TOLERANCE = 1.02
"""Ratio up to which two medians are equal."""

CODE = {
    "import solver": "import solver",
    "kernels loaded": "from solver.engines import kernels; kernels.available()",
    "first call": "import solver; solver.assign([[2, 1]], [1, 1])",
}


def processor_ms(code: str, *, pure: bool) -> float:
    """Return the processor time of a fresh interpreter in which the code runs."""
    environment = {key: value for key, value in os.environ.items() if key != "SOLVER_PURE"}
    environment |= {"SOLVER_PURE": "1"} if pure else {}
    timed = (
        f"import time; started = time.process_time(); {code}; print(1e3 * (time.process_time() - started))"
    )
    done = subprocess.run(
        [sys.executable, "-c", timed], env=environment, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


@pytest.mark.skipif(not kernels.available(), reason="the compiled kernels were not built")
@pytest.mark.parametrize("name", CODE)
def bench_import(name: str) -> None:
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(RUNS):
        for pure, kept in times.items():
            kept.append(processor_ms(CODE[name], pure=pure))
    plain, compiled = float(np.median(times[True])), float(np.median(times[False]))
    print(f"{name}: numpy {plain:.1f} ms, with kernels {compiled:.1f} ms")
    if not SMOKE and name == "import solver":
        assert compiled <= TOLERANCE * plain

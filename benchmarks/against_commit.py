"""Times of ``solver.assign`` on random slots, in turns with the code of another commit.

Run: python -m benchmarks.against_commit d676108^

The other commit is checked out into a temporary work tree and runs in a process of its own, as this one does; the two
are asked one call each in turn, since times of a shared machine drift. ``d676108^`` is the commit before the first
kernels.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SIZES = ((100, 5), (1_000, 10), (2_000, 20), (5_000, 20), (1_000, 100), (10_000, 50))
LARGE = ((100_000, 50, "float32"), (1_000_000, 50, "float32"), (1_000_000, 50, "float64"))
WORKER = """
import sys, time
import numpy as np
import solver
solver.warm_up()
for line in sys.stdin:
    n, m, dtype, calls = line.split()
    n, m = int(n), int(m)
    scores = np.random.default_rng(0).random((n, m)).astype(dtype)
    slots = np.full(m, -(-11 * n // (10 * m)))
    solver.assign(scores, slots, threads=1)
    print("ready", flush=True)
    for _ in range(int(calls)):
        sys.stdin.readline()
        started = time.perf_counter()
        solution = solver.assign(scores, slots, threads=1)
        print(time.perf_counter() - started, solution.objective, flush=True)
"""
"""Reads a size, then a line for every call, and answers with seconds and objective. It must run on any commit."""


@contextlib.contextmanager
def work_tree(commit: str) -> Iterator[Path]:
    """Check a commit out beside this one for a while."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(path), commit], cwd=ROOT, check=True)
        try:
            hook = path / "hatch_build.py"
            if hook.exists():
                target = str(path / "solver" / "engines" / "kernels")
                subprocess.run([sys.executable, str(hook), target], cwd=path, check=False)
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(path)], cwd=ROOT, check=True)


def start(tree: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env=environment,
        cwd=tree,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def ask(worker: subprocess.Popen[str], line: str) -> str:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(line + "\n")
    worker.stdin.flush()
    return worker.stdout.readline()


def compare(before: subprocess.Popen[str], after: subprocess.Popen[str], size: str, calls: int) -> None:
    for worker in (before, after):
        assert ask(worker, f"{size} {calls}").strip() == "ready"
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(calls):
        found = []
        for worker, kept in zip((before, after), times, strict=True):
            seconds, objective = map(float, ask(worker, "").split())
            kept.append(seconds * 1e3)
            found.append(objective)
        assert abs(found[0] - found[1]) <= 1e-9 * abs(found[0])
    old, new = (sorted(kept)[calls // 2] for kept in times)
    print(f"{size:>22} {old:10.3f} → {new:9.3f} ms  {old / new:5.2f}×", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument(
        "--large", action="store_true", help="a hundred thousand and a million agents, instead"
    )
    options = parser.parse_args()
    sizes = (
        [f"{n} {m} {dtype}" for n, m, dtype in LARGE]
        if options.large
        else [f"{n} {m} float64" for n, m in SIZES]
    )
    with work_tree(options.commit) as tree:
        before, after = start(tree), start(ROOT)
        try:
            for size in sizes:
                compare(before, after, size, 9 if options.large else 201)
        finally:
            for worker in (before, after):
                worker.terminate()
                worker.wait()


if __name__ == "__main__":
    main()

"""No slower than another commit: the ladder of sizes and families of instances, this checkout and another in turns.

    python -m benchmarks.against_commit COMMIT [--sizes 100x5,1000x10] [--large] [--families FILE] [--rounds 5]

``d676108^`` is the commit before the first kernels.

The other commit is checked out into a temporary worktree and runs in a process of its own, with the same interpreter
and packages and with its kernels compiled if it has any. Both processes solve the same arrays by turns, on processor
time, a first call of each uncounted; the table gives the medians and their ratio, and objectives must agree. FILE is a
Python file with ``ALL``, names of families, and ``gen(name, n, m, seed)``, which returns scores, slots and penalties of
staying out or None.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.generate import generate_scores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
SIZES = "100x5,1000x10,2000x20,5000x20,1000x100,10000x20,10000x50,100000x50"
LARGE = "100000x50:float32,1000000x50:float32,1000000x50"
SLOWER = 1.03
"""Ratio beyond which this checkout counts as slower."""

_AGREEMENT = 1e-7
"""Relative difference of objectives that whole-number engines of old commits may leave."""

_COMPILE = """
import hatch_build, pathlib
root = pathlib.Path.cwd()
hatch_build.compile_kernels(root, root / hatch_build.KERNELS)
"""

_WORKER = """
import json, sys, time
import numpy as np
import solver
if hasattr(solver, "warm_up"):
    solver.warm_up()
print(json.dumps(solver.__file__), flush=True)
for line in sys.stdin:
    case = np.load(json.loads(line))
    options = {"unassigned_penalty": case["penalty"]} if "penalty" in case else {}
    scores, slots = case["scores"], case["slots"]
    times = []
    while not times or (sum(times) < 0.03 and len(times) < 200):  # caches are warm for the median of small ones
        started = time.process_time()
        solution = solver.assign(scores, slots, **options)
        times.append(time.process_time() - started)
    print(json.dumps([float(np.median(times)) * 1e3, solution.objective, solution.status.value]), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One instance: a name, (n, m) scores, (m,) slots, and (n,) penalties or None."""

    name: str
    scores: NDArray[Any]
    slots: NDArray[np.int64]
    penalty: NDArray[np.float64] | None = None


class Checkout:
    """A process that solves with the package of one checkout."""

    def __init__(self, root: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=environment,
        )
        found = Path(self._answer())
        if root.resolve() not in found.resolve().parents:
            raise RuntimeError(f"expected the package of {root}, got {found}")

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the checkout's process ended with {self._process.wait()}")
        return json.loads(line)

    def solve(self, path: Path) -> tuple[float, float, str]:
        """Return processor milliseconds, objective and status."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(str(path)) + "\n")
        self._process.stdin.flush()
        spent_ms, objective, status = self._answer()
        return spent_ms, objective, status

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@contextlib.contextmanager
def other_checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out beside this one, with its kernels, for as long as it is needed."""
    root = folder / "other"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(root), commit], check=True)
    try:
        if (root / "hatch_build.py").is_file():
            subprocess.run([sys.executable, "-c", _COMPILE], cwd=root, check=True)
        yield root
    finally:
        subprocess.run([*git, "remove", "--force", str(root)], check=True)


def cases(sizes: str, families: Path | None, agents: int, models: int) -> Iterator[Case]:
    """Yield the ladder, and every family at one size."""
    for size in filter(None, sizes.split(",")):
        shape, _, dtype = size.partition(":")
        n, m = map(int, shape.split("x"))
        scores, slots = generate_scores(n, m, seed=0)
        yield Case(f"{n:,} x {m} {dtype}", scores.astype(dtype or np.float64), slots)
    if families is None:
        return
    sys.path.insert(0, str(families.parent))  # for what the file imports
    spec = importlib.util.spec_from_file_location(families.stem, families)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in module.ALL:
        scores, slots, leave = module.gen(name, agents, models, 0)
        penalty = None if leave is None else -np.broadcast_to(np.asarray(leave, np.float64), (agents,))
        yield Case(name, scores, slots, penalty)


def compare(case: Case, mine: Checkout, other: Checkout, rounds: int, folder: Path) -> tuple[float, bool]:
    """Print a line; return the ratio of the medians, and whether both found the same."""
    path = folder / "case.npz"
    if case.penalty is None:
        np.savez(path, scores=case.scores, slots=case.slots)
    else:
        np.savez(path, scores=case.scores, slots=case.slots, penalty=case.penalty)
    spent_ms: dict[Checkout, list[float]] = {mine: [], other: []}
    answers = {checkout: checkout.solve(path) for checkout in spent_ms}
    for number in range(rounds):
        for checkout in (mine, other) if number % 2 else (other, mine):
            answers[checkout] = checkout.solve(path)
            spent_ms[checkout].append(answers[checkout][0])
    ours, theirs = (float(np.median(spent_ms[checkout])) for checkout in (mine, other))
    (_, found, status), (_, expected, before) = answers[mine], answers[other]
    agrees = status == before and abs(found - expected) <= _AGREEMENT * max(1.0, abs(expected))
    word = "slower" if ours > SLOWER * theirs else ""
    sys.stdout.write(
        f"{case.name:<28} {ours:10.2f} ms  other {theirs:10.2f} ms  ratio {ours / theirs:5.2f} {word:<6} "
        f"{status}{'' if agrees else f', DIFFERS: {found} and {expected}, {before}'}\n"
    )
    sys.stdout.flush()
    return ours / theirs, agrees


def main(argv: list[str] | None = None) -> int:
    """Print the table; the exit code says whether nothing was slower and all objectives agreed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit")
    parser.add_argument(
        "--sizes", default=SIZES, help="agents x models, by commas; empty for none; 1000x10:float32"
    )
    parser.add_argument(
        "--large", action="store_true", help="a hundred thousand and a million agents, instead"
    )
    parser.add_argument("--families", type=Path, default=None)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name, other_checkout(given.commit, Path(name)) as root:
        mine, other = Checkout(ROOT), Checkout(root)
        try:
            found = [
                compare(case, mine, other, given.rounds, Path(name))
                for case in cases(
                    LARGE if given.large else given.sizes, given.families, given.agents, given.models
                )
            ]
        finally:
            mine.close()
            other.close()
    ratios = np.array([ratio for ratio, _ in found])
    slower = int((ratios > SLOWER).sum())
    sys.stdout.write(
        f"{len(found)} instances; geometric mean of the ratios {np.exp(np.log(ratios).mean()):.2f}, "
        f"worst {ratios.max():.2f}; slower by more than {SLOWER - 1:.0%}: {slower}\n"
    )
    return 0 if not slower and all(agrees for _, agrees in found) else 1


if __name__ == "__main__":
    sys.exit(main())

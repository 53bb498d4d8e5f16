"""Random instances of all kinds, solved with and without the compiled kernels: status, objective and prices agree.

Run: python -m tests.kernel_equality --count 100000 --seed 0
"""

from __future__ import annotations

import argparse
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

import solver
from solver.engines.kernels import library

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def numpy_only() -> Iterator[None]:
    """Switch the kernels off for a while."""
    load = library.load
    library.load = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        library.load = load


def random_arguments(seed: int) -> dict[str, Any]:
    """Return arguments of ``solver.assign``: everything that the compiled transport takes, in both precisions.

    Ties, masks, closed models, every penalty and priorities; in half of the seeds also floors, copies, counts or slots
    that cost by load.
    """
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 60)), int(rng.integers(1, 9))
    if seed % 20 == 0:  # large enough for start prices from a sample
        n = int(rng.integers(200, 1_500))
    scores: Any = (
        lambda: rng.uniform(size=(n, m)),
        lambda: rng.integers(0, 4, (n, m)).astype(float),
        lambda: rng.normal(size=(n, 1)) * rng.normal(size=(1, m)),
        lambda: rng.uniform(-50, 50, (n, m)),
        lambda: np.repeat(rng.uniform(size=(n, 1)), m, axis=1),
    )[int(rng.integers(5))]()
    spread = float(np.ptp(scores))
    if rng.random() < 0.4:
        scores[rng.random((n, m)) < rng.choice([0.1, 0.3, 0.8])] = -np.inf
    if rng.random() < 0.3:
        scores = scores.astype(np.float32)
    penalty = (None, float(rng.uniform(0, 2)), np.inf, rng.uniform(0, 60, n))[int(rng.integers(4))]
    priority = None if rng.random() < 0.6 else rng.integers(0, 4, n)
    given = {"scores": scores, "unassigned_penalty": penalty, "priority": priority}
    units = n
    if rng.random() < 0.5:
        units = _make_network(rng, given, n, m, spread)
    if rng.random() < 0.1:  # just enough
        given["capacity"] = np.bincount(rng.integers(0, m, units), minlength=m)
    else:
        given["capacity"] = rng.integers(0, max(2, 2 * units // m + 1), m)
    if "min_load" in given:
        given["min_load"] = np.minimum(given["min_load"], given["capacity"])
    return given


def _make_network(rng: np.random.Generator, given: dict[str, Any], n: int, m: int, spread: float) -> int:
    """Add some of floors, copies, counts and load costs; return how many units there are to serve."""
    units = np.ones(n, np.int64)
    if rng.random() < 0.3:
        given["copies"] = rng.integers(1, min(m, 4) + 1, n)
        units *= given["copies"]
    if rng.random() < 0.3:
        given["count"] = rng.integers(1, 30, n)
        units *= given["count"]
    total = int(units.sum())
    if rng.random() < 0.5:
        given["min_load"] = rng.integers(0, total // (2 * m) + 2, m) * (rng.random(m) < 0.6)
    if rng.random() < 0.5:
        cost = np.sort(rng.uniform(0, 0.7 * spread, (m, int(rng.integers(1, 5)))), axis=1)
        given["load_cost"] = np.rint(cost) if rng.random() < 0.3 else cost
    return total


def difference(seed: int) -> str | None:
    """Return how the two answers differ, or None."""
    arguments = random_arguments(seed)
    compiled = solver.assign(**arguments)
    with numpy_only():
        plain = solver.assign(**arguments)
    if compiled.status is not plain.status:
        return f"seed {seed}: status {compiled.status} against {plain.status}"
    if plain.status is solver.Status.INFEASIBLE:
        return None
    if not np.isclose(compiled.objective, plain.objective, rtol=1e-9, atol=1e-9):
        return f"seed {seed}: objective {compiled.objective} against {plain.objective}"
    # With a finite penalty, serving an agent may be worth exactly as much as leaving it.
    served_first = arguments["unassigned_penalty"] is None
    if served_first and compiled.load.sum() != plain.load.sum():
        return f"seed {seed}: served {compiled.load.sum()} against {plain.load.sum()}"
    scale = max(1.0, float(np.abs(plain.multipliers).max(initial=0.0)))
    # Flow rounds scores to whole numbers: what its certificate leaves open, its prices may be off by, per model.
    rounding = max(0.0, plain.bound - plain.objective) * len(plain.prices)
    if not np.allclose(compiled.multipliers, plain.multipliers, rtol=0, atol=1e-9 * scale + rounding):
        return f"seed {seed}: prices {compiled.multipliers.ravel()} against {plain.multipliers.ravel()}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = [line for seed in range(options.seed, options.seed + options.count) if (line := difference(seed))]
    print("\n".join(found[:20]))
    print(f"{options.count} instances, {len(found)} differ")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()

"""Random batches in files against the same batches in memory.

python -m tests.fuzz_files --seed 0 --count 200
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import solver
from solver.scale.sample_plan import SampleBudget
from solver.solution.solution import Status
from tests.scale import test_files, test_units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    asked = parser.parse_args()
    compared = 0
    for seed in range(asked.seed, asked.seed + asked.count):
        generator = np.random.default_rng(seed)
        scores, capacity, options = drawn(generator)
        plan = solver.assign(scores, capacity, **options)
        units = "count" in options or "copies" in options
        if plan.status is Status.INFEASIBLE and not units:
            continue
        whole, contested = int(generator.choice([0, 1_000_000])), float(generator.choice([1.0, 40_000.0]))
        small = SampleBudget(whole=whole, few_arcs=500, contested=contested)
        test_files.SMALL = test_units.SMALL = small
        with tempfile.TemporaryDirectory() as folder:
            try:
                (test_units if units else test_files).check(Path(folder), scores, capacity, **options)
            except Exception as error:
                error.add_note(f"seed {seed}: {scores.shape}, {sorted(options)}")
                raise
        compared += 1
    print(f"{compared} of {asked.count} batches compared, all equal; the others are infeasible")


def drawn(generator: np.random.Generator) -> tuple[Any, Any, dict[str, Any]]:
    """Return scores, slots and options: ties, forbidden pairs, equal columns, penalties, units, floors, load costs."""
    n, m = int(generator.choice([1, 5, 40, 300, 1500, 4000])), int(generator.integers(1, 9))
    scores: Any = (generator.random((n, m)) + 0.3 * generator.random(m)).astype(np.float32)
    if generator.random() < 0.3:
        scores = np.floor(scores * generator.integers(1, 6)).astype(np.float64)
    if generator.random() < 0.3:
        scores[generator.random((n, m)) < 0.5] = -np.inf
    if m > 2 and generator.random() < 0.3:
        scores[:, 2] = scores[:, 0]
    capacity = generator.multinomial(int(n * generator.choice([0.6, 0.99, 1.0, 1.3])) + 1, np.ones(m) / m)
    options: dict[str, Any] = {}
    if generator.random() < 0.4:
        options["priority"] = generator.integers(1, 4, n).astype(float)
    kind = generator.random()
    if kind < 0.4:
        penalty = generator.random(n)
        penalty[generator.random(n) < 0.01] = np.inf
        options["unassigned_penalty"] = penalty if kind < 0.2 else float(generator.random())
    if generator.random() < 0.4:
        if generator.random() < 0.7:
            options["count"] = generator.integers(1, generator.choice([3, 50, 5000]), n)
        if generator.random() < 0.7 or "count" not in options:
            options["copies"] = generator.integers(1, 4, n)
        taken = options.get("count", 1) * options.get("copies", 1) * np.ones(n)
        capacity = np.floor(capacity * taken.mean()).astype(int)
        if generator.random() < 0.2:
            options["sense"] = "minimize"
            scores = -scores
        elif generator.random() < 0.3:
            options["min_load"] = np.floor(capacity * generator.choice([0.0, 0.5, 0.9], m)).astype(int)
    if generator.random() < 0.2:
        options["load_cost"] = np.array([[0.0, 0.1, 0.2]] * m)
    return scores, capacity, options


if __name__ == "__main__":
    main()

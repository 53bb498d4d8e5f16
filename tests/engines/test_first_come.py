from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from solver.problem.build import build_instance
from solver.problem.instance import UNASSIGNED
from solver.solution.first_come import first_come

if TYPE_CHECKING:
    from numpy.typing import NDArray


def one_by_one(scores: NDArray[np.float64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    room = slots.copy()
    choice = np.full(len(scores), UNASSIGNED)
    for i, row in enumerate(scores):
        open_scores = np.where(room > 0, row, -np.inf)
        if np.isfinite(open_scores).any():
            choice[i] = open_scores.argmax()
            room[choice[i]] -= 1
    return choice


@pytest.mark.parametrize("seed", range(60))
def test_it_is_what_serving_in_order_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 80)), int(rng.integers(1, 9))
    scores = rng.integers(0, 4, (n, m)).astype(float) if seed % 2 else rng.random((n, m))
    scores[rng.random((n, m)) < 0.3 * (seed % 3)] = -np.inf
    slots = rng.integers(0, max(2, 2 * n // m), m)
    assert np.array_equal(first_come(build_instance(scores, slots)), one_by_one(scores, slots))

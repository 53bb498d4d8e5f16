"""What one more slot changes, signed, when serving as many as possible comes first: equal to solving again."""

from __future__ import annotations

import numpy as np
import pytest

import solver


def test_a_slot_that_serves_one_more_at_a_loss() -> None:
    scores = np.array([[7.0, 3.0], [3.0, 9.0], [2.0, -np.inf]])
    solution = solver.assign(scores, [1, 1])
    assert solution.slot_changes is not None
    assert solution.serves_more is not None
    assert solution.objective == 16
    assert solution.prices.tolist()[1] == 0
    assert solution.slot_changes.tolist()[1] == -2
    assert solution.serves_more.tolist() == [True, True]
    more = solver.assign(scores, [1, 2])
    assert more.objective == 14
    assert not len(more.unassigned)


@pytest.mark.parametrize("sense", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(25))
def test_changes_equal_solving_again(seed: int, sense: str) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 9)), int(rng.integers(1, 5))
    scores = rng.normal(size=(n, m)) * 5
    scores[rng.random((n, m)) < 0.3] = np.inf if sense == "minimize" else -np.inf
    slots = rng.integers(0, 3, m)
    priority = rng.integers(1, 4, n) if seed % 2 else None
    copies = rng.integers(1, 3, n) if seed % 5 == 0 else None
    penalty = 2.0 if seed % 3 == 0 else None

    def answer(capacity: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> solver.Solution:
        return solver.assign(
            scores, capacity, priority=priority, copies=copies, unassigned_penalty=penalty, sense=sense
        )

    base = answer(slots)
    assert base.slot_changes is not None
    assert base.serves_more is not None
    for j in range(m):
        raised = slots.copy()
        raised[j] += 1
        more = answer(raised)
        assert more.objective - base.objective == pytest.approx(base.slot_changes[j], abs=1e-7)
        if penalty is None:
            assert bool(base.serves_more[j]) == (more.load.sum() > base.load.sum())

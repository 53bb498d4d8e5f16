"""The straight way for small plain batches says what the long way says, and leaves everything unusual to it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import solver
from solver.clock import Deadline, ManualClock
from solver.engines import kernels
from solver.engines.base import Claim
from solver.engines.certificate import certify, full_service_proof, verification
from solver.engines.portfolio import call
from solver.problem.build import build_instance
from solver.solution.plain_slots import plain_solution
from solver.solution.solving import solve_instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")
NO_LIMIT = Deadline.after(None)


def batch(seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return scores of many kinds, and slots that have room for everyone, often just so."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 80)), int(rng.integers(1, 9))
    if seed % 7 == 0:  # more agents than a byte holds, and a pass of several blocks
        n = int(rng.integers(300, 30_000))
    if seed % 11 == 0:  # many models
        n, m = int(rng.integers(1, 80)), int(rng.integers(150, 1_500))
    scores: NDArray[Any] = (
        lambda: rng.uniform(size=(n, m)),
        lambda: rng.integers(-3, 3, (n, m)).astype(float),
        lambda: rng.normal(size=(n, 1)) * rng.normal(size=(1, m)),
        lambda: rng.uniform(-1e12, 1e12, (n, m)),
        lambda: np.zeros((n, m)),
    )[seed % 5]()
    capacity = np.bincount(rng.integers(0, m, n), minlength=m) + rng.integers(0, 3, m) * (seed % 2)
    kind = (np.int64, np.int32, np.uint8 if capacity.max() < 256 else np.uint64, np.float64)[seed // 5 % 4]
    return scores.astype(np.float32 if seed % 3 == 0 else np.float64), capacity.astype(kind)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_straight_way_says_what_the_long_way_says(seed: int) -> None:
    scores, capacity = batch(seed)
    instance = build_instance(scores, capacity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "_proven_at_once", lambda *_: None)
        patch.setattr(call, "is_answered_at_once", lambda *_: False)
        long = solve_instance(instance, deadline=NO_LIMIT)
    straight = plain_solution(scores, capacity, NO_LIMIT)
    assert (
        straight is not None or scores.shape[1] > 100
    )  # where every slot of many models is taken, the long way
    for short in (
        straight or long,
        plain_solution(scores, capacity, Deadline.after(60_000)) or long,
        solve_instance(instance, deadline=NO_LIMIT),
        solver.assign(scores, capacity),
    ):
        for field in fields(solver.Solution):
            mine, theirs = getattr(short, field.name), getattr(long, field.name)
            if field.name == "elapsed_ms":
                assert mine >= 0
            elif field.name in ("objective", "bound"):
                assert mine == pytest.approx(theirs, rel=1e-12, abs=1e-12)
            elif isinstance(theirs, np.ndarray):
                np.testing.assert_array_equal(mine, theirs, strict=True, err_msg=field.name)
            else:
                assert mine == theirs, field.name
        assert short.gap <= 1e-9


@pytest.mark.parametrize(
    ("scores", "capacity"),
    [
        ([[1.0]], np.ones(1)),
        (np.ones((2, 2)), [1, 1]),
        (np.ones((2, 2)), np.ones(3)),
        (np.ones((2, 2)), np.ones((2, 1))),
        (np.ones((2, 2)), np.array([1.5, 1.0])),
        (np.ones((2, 2)), np.array([-1, 4])),
        (np.ones((2, 2)), np.array([np.nan, 4.0])),
        (np.ones((2, 2)), np.array([np.inf, 4.0])),
        (np.ones((2, 2)), np.array([2**54, 1])),
        (np.ones((2, 2)), np.array([True, True])),
        (np.ones((2, 2)), np.array(["1", "1"])),
        (np.ones((3, 2)), np.array([1, 1])),
        (np.ones((2, 0)), np.ones(0)),
        (np.ones((0, 2)), np.ones(2)),
        (np.ones(2), np.ones(2)),
        (np.ones((2, 2), int), np.array([1, 1])),
        (np.ones((2, 2), ">f8"), np.array([1, 1])),
        (np.ones((2, 3)).T, np.array([1, 2])),
        (np.array([[1.0, np.nan], [1, 1]]), np.array([1, 1])),
        (np.array([[1.0, np.inf], [1, 1]]), np.array([1, 1])),
        (np.array([[1.0, -np.inf], [1, 1]]), np.array([1, 1])),
        (np.array([[1.0, 1e90], [1, 1]]), np.array([1, 1])),
        (np.array([[1.0, 3e38], [1, 1]], np.float32), np.array([1, 1])),
        (np.ma.masked_array(np.ones((2, 2)), [[True, False], [False, False]]), np.array([1, 1])),
        (np.ones((2, 2)), np.ma.masked_array([1, 1], [True, False])),
        (np.ones((300_000, 1)), np.array([300_000])),
        (np.ones((200, 200)), np.ones(200)),
    ],
)
def test_what_is_unusual_is_left_to_the_long_way(scores: Any, capacity: Any) -> None:
    assert plain_solution(scores, capacity, NO_LIMIT) is None


def test_the_kernel_may_not_use_up_a_deadline() -> None:
    scores, capacity = batch(1)
    assert plain_solution(scores, capacity, Deadline(0.0, 0.001, ManualClock())) is None
    assert plain_solution(scores, capacity, Deadline(0.0, 1.0, ManualClock())) is not None


def test_wrong_claims_prove_nothing() -> None:
    scores, capacity = np.array([[5.0, 1.0], [4.0, 2.0], [9.0, 3.0]]), np.array([2, 2])
    best, prices = np.array([0, 1, 0]), np.array([2.0, 0.0])
    proof = full_service_proof(scores, capacity, best, prices)
    assert proof is not None
    assert (proof.objective, proof.slack, proof.load.tolist()) == (16.0, 0.0, [2.0, 1.0])
    for choice, price in (
        (np.array([0, 0, 0]), prices),
        (np.array([0, 1, 1]), prices),
        (np.array([0, 1, -1]), prices),
        (np.array([0, 1, 2]), prices),
        (np.array([0, 1, 2**62]), prices),
        (np.array([0, 1]), prices),
        (np.array([0.0, 1.0, 0.0]), prices),
        (best, np.array([0.0, 0.0])),
        (best, np.array([2.0, 1.0])),
        (best, np.array([2.0, -1.0])),
        (best, np.array([2.0, np.nan])),
        (best, np.array([np.nan, 0.0])),
        (best, np.array([2.0, np.inf])),
        (best, np.array([np.inf, 0.0])),
    ):
        assert full_service_proof(scores, capacity, choice, price) is None
        instance = build_instance(scores, capacity)
        claim = Claim(choice=choice, prices=price[:, None])
        assert not certify(instance, claim).optimal

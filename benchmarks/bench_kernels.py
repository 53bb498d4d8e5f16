"""What the compiled kernels bring through ``solver.assign``, certificate and prices included: alternating with numpy.

Run with ``-s`` to see the tables. ``BENCH_LONG=1`` adds the large rungs.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from solver.engines import kernels
from solver.engines.kernels import library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

SMOKE = os.environ.get("BENCH_SMOKE") == "1"
LONG = os.environ.get("BENCH_LONG") == "1"
SMALL = ((100, 5), (100, 20), (200, 50), (1_000, 10), (2_000, 20), (1_000, 100), (5_000, 20))
SIZES = SMALL[:1] if SMOKE else (*SMALL, (10_000, 50), (20_000, 50))
BARS = {
    (100, 5): 2.0,
    (10_000, 50): 2.0,
    (1_000, 10): 4.0,
    (2_000, 20): 4.0,
    (5_000, 20): 4.0,
    (1_000, 100): 8.0,
}
"""Least speed-up on random scores."""

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the compiled kernels were not built")


@contextmanager
def numpy_only() -> Iterator[None]:
    """Switch the kernels off."""
    load = library.load
    library.load = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        library.load = load


def kinds(n: int, m: int, seed: int) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.int64], Any]]:
    """Yield name, scores, slots and penalty of the eight kinds."""
    rng = np.random.default_rng(seed)
    uniform = rng.uniform(size=(n, m))
    ample = np.full(m, -(-11 * n // (10 * m)))
    short = np.maximum(1, ample * 4 // 5)
    weight = rng.lognormal(size=m)
    skewed = np.maximum(1, (1.1 * n * weight / weight.sum()).astype(np.int64))
    skewed[0] += max(0, n - int(skewed.sum()))
    tight = np.full(m, n // m)
    tight[: n % m] += 1
    yield "random", uniform, ample, None
    yield "few levels", rng.integers(0, 5, (n, m)).astype(float), ample, None
    yield "tight", uniform, tight, None
    yield "skewed slots", uniform, skewed, None
    yield "correlated", rng.uniform(size=(n, 1)) * rng.uniform(size=(1, m)), ample, None
    yield "may leave", uniform, short, 0.3
    yield "short", uniform, short, None
    yield "masked", np.where(rng.random((n, m)) < 0.3, -np.inf, uniform), ample, None


def alternate(
    first: Callable[[], object], second: Callable[[], object], seconds: float
) -> tuple[float, float]:
    """Return the medians of alternating calls, in milliseconds."""
    times: tuple[list[float], list[float]] = ([], [])
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(times[0]) < 3:
        for call, kept in zip((first, second), times, strict=True):
            started = time.perf_counter()
            call()
            kept.append(time.perf_counter() - started)
    return float(np.median(times[0])) * 1e3, float(np.median(times[1])) * 1e3


@pytest.mark.parametrize(("n", "m"), SIZES, ids=str)
def bench_small_instances(n: int, m: int) -> None:
    """Every kind: never slower than 0.95 times numpy; the bars on random scores."""
    solver.warm_up()
    for name, scores, slots, penalty in kinds(n, m, 0):

        def call(scores: Any = scores, slots: Any = slots, penalty: Any = penalty) -> solver.Solution:
            return solver.assign(scores, slots, unassigned_penalty=penalty)

        def plain(call: Any = call) -> solver.Solution:
            with numpy_only():
                return call()  # type: ignore[no-any-return]

        assert call().objective == pytest.approx(plain().objective, rel=1e-9)
        before, after = alternate(plain, call, 0.05 if SMOKE else 0.4)
        print(f"{n:>7,} × {m:<4} {name:13} {before:9.3f} → {after:8.3f} ms  {before / after:5.2f}×")
        if not SMOKE:
            assert before / after >= 0.95
            assert name != "random" or before / after >= BARS.get((n, m), 1.0)


@pytest.mark.parametrize("kind", ["floors", "copies", "counts", "load costs"])
@pytest.mark.parametrize(
    ("n", "m"), SIZES[:1] if SMOKE else ((100, 5), (1_000, 10), (5_000, 20), (20_000, 50)), ids=str
)
def bench_networks(n: int, m: int, kind: str) -> None:
    """What makes slots a network: never slower than numpy and a flow."""
    solver.warm_up()
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(n, m))
    room = -(-11 * n // (10 * m))
    cases: dict[str, tuple[NDArray[np.int64], dict[str, Any]]] = {
        "floors": (np.full(m, room), {"min_load": np.full(m, n // (2 * m))}),
        "copies": (np.full(m, 2 * room), {"copies": 2}),
        "counts": (np.full(m, 3 * room), {"count": rng.integers(1, 6, n)}),
        "load costs": (np.full(m, 2 * room), {"load_cost": np.array([0.0, 0.1, 0.3])}),
    }
    slots, given = cases[kind]

    def call() -> solver.Solution:
        return solver.assign(scores, slots, **given)

    def plain() -> solver.Solution:
        with numpy_only():
            return call()

    assert call().objective == pytest.approx(plain().objective, rel=1e-9)
    before, after = alternate(plain, call, 0.05 if SMOKE else 0.4)
    print(f"{n:>7,} × {m:<4} {kind:13} {before:9.3f} → {after:8.3f} ms  {before / after:5.2f}×")
    assert SMOKE or before / after >= 1.0


@pytest.mark.skipif(not LONG, reason="BENCH_LONG=1")
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("n", [100_000, 1_000_000])
def bench_passes(n: int, dtype: type) -> None:
    """Large instances, where full passes are the time."""
    solver.warm_up()
    scores: NDArray[Any] = np.random.default_rng(0).random((n, 50)).astype(dtype)
    slots = np.full(50, n * 11 // 500)

    def call() -> solver.Solution:
        return solver.assign(scores, slots, threads=1)

    def plain() -> solver.Solution:
        with numpy_only():
            return call()

    before, after = alternate(plain, call, 3.0)
    print(f"{n:>9,} × 50 {np.dtype(dtype).name} {before:8.1f} → {after:8.1f} ms  {before / after:5.2f}×")
    assert before / after >= (1.4 if n == 100_000 else 2.2 if dtype is np.float32 else 1.8)

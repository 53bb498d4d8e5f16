"""Hostile arguments for the functions of ``solver.engines.kernels``: wrong types, shapes, strides and values.

Run: python -m tests.fuzz_kernels --count 100000 --seed 0

A call may answer anything or refuse with an error of Python's; it must not read or write outside its arrays, nor run
for ever. ``make sanitize`` runs a share of this under the address and undefined-behaviour sanitizers, which end the
process.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines import kernels
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

REFUSALS = (ValueError, TypeError, IndexError, OverflowError, MemoryError, AttributeError, Warning)
"""What a caller may be told; warnings of numpy about conversions where these are errors."""

LONGEST_S = 2.0
"""Of one call, on arrays of a few thousand entries."""

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, 2.0**53, 1e-9])
WHOLE = np.array([0, 1, -1, 2, 3, 7, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**40])


def real(rng: Generator, *shape: int) -> Any:
    """Return a real array, sometimes with special values, of another type, shape, stride or byte order."""
    made: Any = rng.uniform(-1, 1, shape) if rng.random() < 0.5 else rng.integers(0, 4, shape).astype(float)
    if rng.random() < 0.4:
        made = np.where(rng.random(shape) < rng.random(), rng.choice(SPECIAL, shape), made)
    with np.errstate(all="ignore"):
        return twisted(rng, made, (np.float32, np.float16, np.int64, np.complex128, np.bool_, object, ">f8"))


def whole(rng: Generator, most: int, *shape: int) -> Any:
    """Return a whole array below ``most``, sometimes anything else."""
    made: Any = rng.integers(0, max(1, most), shape)
    if rng.random() < 0.4:
        made = np.where(rng.random(shape) < rng.random(), rng.choice(WHOLE, shape), made)
    with np.errstate(all="ignore"):
        return twisted(rng, made, (np.int32, np.int8, np.float64, np.uint64, np.bool_, object, ">i8"))


def twisted(rng: Generator, made: Any, types: tuple[Any, ...]) -> Any:
    """Return an array as it is in most cases, otherwise of another kind."""
    kind = int(rng.integers(14))
    if kind == 0:
        return made.astype(types[int(rng.integers(len(types)))])
    if kind == 1:
        return np.asfortranarray(made)
    if kind == 2:
        return np.repeat(made, 2, axis=-1)[..., ::2]
    if kind == 3:
        return made[..., ::-1]
    if kind == 4:
        return made[..., :-1]
    if kind == 5:
        return np.broadcast_to(made[..., :1], made.shape)
    if kind == 6:
        return made.ravel() if rng.random() < 0.5 else made[None]
    if kind == 7:
        made = made.copy()
        made.flags.writeable = False
    return made


def sizes(rng: Generator) -> tuple[int, int]:
    """Return rows and columns: small, none, or a few hundred."""
    most = (4, 12, 200)[int(rng.integers(3))]
    return int(rng.integers(0, most)), int(rng.integers(0, most // 2 + 2))


def transport(rng: Generator) -> None:
    n, m = sizes(rng)

    def maybe(make: Callable[[], Any], chance: float = 0.3) -> Any:
        return make() if rng.random() < chance else None

    tiers = int(rng.integers(0, 4))
    supplied = kernels.Supplied(
        floor=maybe(lambda: whole(rng, 3, m)),
        tier_cost=maybe(lambda: np.sort(real(rng, m, tiers), axis=-1)),
        tier_end=maybe(lambda: whole(rng, 6, m, tiers)),
        width=maybe(lambda: whole(rng, 4, n)),
        copies=maybe(lambda: whole(rng, 4, n)),
    )
    kernels.transport(
        real(rng, n, m),
        maybe(lambda: real(rng, n), 0.6),
        whole(rng, 2 * n // max(m, 1) + 2, m),
        supplied=supplied,
        bounded=bool(rng.random() < 0.5),
        until_s=time.monotonic() + 0.2,
    )


def match(rng: Generator) -> None:
    n, m = sizes(rng)
    value: Any = real(rng, n, m)
    if rng.random() < 0.5:
        first = np.sort(whole(rng, n * m + 1, n + 1)) if rng.random() < 0.3 else np.arange(n + 1) * m
        pairs = int(first[-1]) if len(first) and abs(int(first[-1])) < 10**5 else n * m
        value = CompressedScores(real(rng, max(pairs, 0)), whole(rng, m, max(pairs, 0)), first, m)
    outside = real(rng, n) if rng.random() < 0.5 else None
    kernels.match(value, outside, whole(rng, 4, m), until_s=time.monotonic() + 0.2)


def part(rng: Generator, n: int) -> slice:
    """Return a slice of the rows, sometimes beyond them."""
    low, high = sorted(int(at) for at in rng.integers(0, n + 1, 2))
    if rng.random() < 0.2:
        low, high = (int(at) for at in rng.integers(-n - 2, 2 * n + 2, 2))
    return slice(low, high)


def reduce_rows(rng: Generator) -> None:
    n, m = sizes(rng)
    among = whole(rng, n, int(rng.integers(0, n + 1))) if rng.random() < 0.4 else None
    count = n if among is None else among.shape[-1]
    kernels.reduce_rows(
        real(rng, n, m),
        among=among,
        outside=real(rng, count) if rng.random() < 0.5 else None,
        low=real(rng, m),
        side=np.abs(np.nan_to_num(np.asarray(rng.uniform(size=m)))),
        rows=part(rng, count),
        choice=whole(rng, m, count),
    )


def best_models(rng: Generator) -> None:
    n, m = sizes(rng)
    kernels.best_models(real(rng, n, m), real(rng, m), part(rng, n), whole(rng, m, n), real(rng, n))


def knapsacks(rng: Generator) -> None:
    n, m = sizes(rng)
    largest = int(rng.integers(-1, 60))
    with np.errstate(all="ignore"):
        loss, weight = (np.asarray(whole(rng, most, m, n)).astype(np.int32) for most in (50, 9))
    kernel = kernels.KnapsackKernel(loss, weight, largest)
    open_ = twisted(rng, rng.random((m, n)) < 0.8, (np.int64, np.uint8))
    multiplier = np.asarray(whole(rng, 80, n)).astype(np.int32)
    for call in (kernel.solve, kernel.forced):
        call(whole(rng, largest + 1, m), open_, multiplier)


def single(rng: Generator, *shape: int) -> Any:
    """Return a float32 array, often with special values, seldom of another type or shape."""
    if rng.random() < 0.03:
        return real(rng, *shape)
    made = rng.uniform(-1, 1, shape)
    if rng.random() < 0.3:
        made = np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), made)
    with np.errstate(all="ignore"):
        return made.astype(np.float32)


def chains(rng: Generator) -> None:
    """Moves from an assignment that is listed as it should be, or from one that contradicts itself."""
    n, columns = sizes(rng)
    r, k = int(rng.integers(0, 3)), int(rng.integers(0, 6))
    models = columns - (1 if rng.random() < 0.4 else 0)
    odd = rng.random() < 0.3
    kernel = kernels.Chains(
        exact_loss=single(rng, columns, n).astype(np.float64),
        models=int(rng.choice(WHOLE)) if odd and rng.random() < 0.3 else models,
        demand=single(rng, r, n + 1, columns),
        near=whole(rng, columns, n + 1, k) if odd else rng.integers(0, max(1, columns), (n + 1, k)),
        near_demand=single(rng, r, n + 1, k),
        price=single(rng, r, columns),
        room=single(rng, r, columns),
        noise=single(rng, int(rng.integers(0, 60))),
        improvement=float(rng.choice(SPECIAL)) if odd else -1e-4,
        seed=int(rng.choice(WHOLE)),
    )
    column = rng.integers(0, max(1, columns), n + 1)
    listed = [np.flatnonzero(column[:n] == j) if j != models else np.arange(0) for j in range(columns)]
    size = np.array([len(one) for one in listed], np.int64)
    members = np.full((columns, int(size.max(initial=0)) + int(rng.integers(0, 5))), n)
    for j, one in enumerate(listed):
        members[j, : len(one)] = one
    if odd and column.size and members.size:
        for array in (column, size, members):
            array.ravel()[rng.integers(array.size)] = rng.choice(WHOLE)
    arrays = {
        "loss": single(rng, n + 1, columns),
        "near_loss": single(rng, n + 1, k),
        "near_key": single(rng, n + 1, k),
        "penalty": single(rng, r, columns),
        "use": single(rng, r, columns),
        "column": twisted(rng, column, (np.int32,)) if odd else column,
        "members": twisted(rng, members, (np.int32,)) if odd else members,
        "size": twisted(rng, size, (np.int32,)) if odd else size,
    }
    width, depth = int(rng.integers(-1 if odd else 1, 50)), int(rng.integers(-1 if odd else 1, 11))
    kernel.find(arrays, width=width, depth=depth)
    kernel.improve(
        arrays,
        width=width,
        depth=depth,
        crossed=bool(rng.random() < 0.5),
        local=float(rng.choice(SPECIAL)),
        tolerance=1e-9,
        until_s=time.monotonic() + 0.1 if rng.random() < 0.95 else float("nan"),
    )
    kernel.find(arrays, width=width, depth=depth)


def occupancy_costs(rng: Generator) -> None:
    n, m = sizes(rng)
    kernels.occupancy_costs(
        real(rng, n, m),
        real(rng, n, m),
        weights=real(rng, n),
        unserved=real(rng, n),
        mean_s=real(rng, m),
        mean_price=real(rng, m),
        arrivals_per_s=real(rng, m),
        servers=whole(rng, 6, m) + (rng.random() < 0.8),
        full=np.minimum(whole(rng, 9, m), 1_000) + (rng.random() < 0.8),  # a number per state is allocated
        wait_cost_per_s=float(rng.choice(SPECIAL)),
        rounds=int(rng.integers(-1, 5)),
        displaced=bool(rng.random() < 0.5),
    )


def smoothed_shares(rng: Generator) -> None:
    n, m = sizes(rng)
    kernels.smoothed_shares(real(rng, n, m), real(rng, n), float(rng.choice(SPECIAL)))


def negative_gram(rng: Generator) -> None:
    n, k = sizes(rng)
    kernels.negative_gram(real(rng, n, k), real(rng, n), least_share=float(rng.choice(SPECIAL)))


KERNELS: tuple[Callable[[Generator], None], ...] = (
    *(transport, match, reduce_rows, best_models, knapsacks),
    *(chains, occupancy_costs, smoothed_shares, negative_gram),
)


def fault(seed: int) -> str | None:
    """Return what was wrong with one call, or None."""
    rng = np.random.default_rng(seed)
    kernel = KERNELS[seed % len(KERNELS)]
    started = time.process_time()
    with contextlib.suppress(*REFUSALS):
        kernel(rng)
    took = time.process_time() - started
    return f"seed {seed}: {kernel.__name__} took {took:.1f} s" if took > LONGEST_S else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    faults = [line for seed in range(given.seed, given.seed + given.count) if (line := fault(seed))]
    print("\n".join([*faults, f"{given.count} calls, {len(faults)} faults"]))
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()

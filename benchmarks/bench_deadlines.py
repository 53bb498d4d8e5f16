"""Deadlines of 5 to 300 ms over some fifty shapes: how far each answer overruns, and what it is worth.

Run: python -m pytest benchmarks/bench_deadlines.py -s -o addopts="" (BENCH_SMOKE=1 takes three shapes, once each).
The machine must be idle; with DEADLINE_CLOCK=cpu the clock of the calls counts processor time instead, so that what
other processes take does not show. Reading the input is part of the call: where it alone takes longer than the
deadline, the answer has to say so in its notes, and the overrun is measured against the time that reading took.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
import solver.clock
from benchmarks.conftest import SMOKE
from solver.problem.build import build_instance

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINES_MS = 5, 20, 50, 100, 300
ROUNDS = 1 if SMOKE else 3
READING = "reading the input"
CPU_CLOCK = os.environ.get("DEADLINE_CLOCK") == "cpu"
now = time.process_time if CPU_CLOCK else time.perf_counter


@dataclass(frozen=True)
class Shape:
    """One instance, built on demand: positional and keyword arguments of ``assign``."""

    name: str
    build: Callable[[np.random.Generator], tuple[tuple[Any, ...], dict[str, Any]]]


def slots_shape(n: int, m: int, room: float = 1.1, **options: Any) -> Shape:
    """Plain slots; ``room`` is the number of slots per agent."""
    priorities = options.pop("priorities", 0)
    whole = options.pop("whole", False)
    forbidden = options.pop("forbidden", 0.0)
    name = f"{n} x {m}, {room:g} slots an agent" + "".join(
        f", {key} {value}" for key, value in options.items()
    )
    name += f", {priorities} priorities" if priorities else ""
    name += ", whole scores" if whole else ""
    name += f", {forbidden:.0%} forbidden" if forbidden else ""

    def build(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
        scores = rng.integers(0, 101, (n, m)).astype(float) if whole else rng.uniform(0, 100, (n, m))
        if forbidden:
            scores[rng.random((n, m)) < forbidden] = -np.inf
        slots = np.full(m, int(n * room) // m)
        slots[: int(n * room) - int(slots.sum())] += 1
        extra = dict(options)
        if priorities:
            extra["priority"] = rng.integers(0, priorities, n)
        return (scores, slots), extra

    return Shape(name, build)


def sparse_shape(n: int, m: int, degree: int, slots: int = 1, **options: Any) -> Shape:
    """Scores of a few pairs, as a sparse matrix, one of them for every agent in a perfect matching where n <= m."""

    def build(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
        from scipy import sparse

        row, column = np.repeat(np.arange(n), degree), rng.integers(0, m, n * degree)
        row = np.append(row, np.arange(n))
        column = np.append(column, np.concatenate([rng.permutation(m) for _ in range(-(-n // m))])[:n])
        pair = np.unique(row * m + column)
        value = rng.integers(1, 1000, len(pair)).astype(float)
        matrix = sparse.csr_matrix((value, (pair // m, pair % m)), shape=(n, m))
        return (matrix, np.full(m, slots)), dict(options)

    return Shape(f"sparse {n} x {m}, {degree} pairs an agent, {slots} slots", build)


def demand_shape(n: int, m: int, resources: int = 1, **options: Any) -> Shape:
    """Agents that take different amounts."""

    def build(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
        demand = rng.uniform(1, 10, (n, m, resources))
        capacity = np.full((m, resources), 1.2 * 5.5 * n / m)
        return (rng.uniform(0, 100, (n, m)), capacity), {"demand": demand, **options}

    return Shape(f"{n} x {m}, {resources} resources" + (", all served" if options else ""), build)


def limits_shape(n: int, m: int, kind: str, count: int, room: float = 1.1, **options: Any) -> Shape:
    """Slots with limits of one kind."""

    def build(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
        scores = rng.uniform(0, 100, (n, m))
        slots = np.full(m, int(n * room) // m + 1)
        return (scores, slots), {"limits": _some(kind, count, n, m, rng), **options}

    served = ", all served" if options else ""
    return Shape(f"{n} x {m}, {count} x {kind}{served}", build)


def network_shape(
    n: int,
    m: int,
    *,
    copies: int = 1,
    count: int = 1,
    floor: float = 0.0,
    floor_if_open: float = 0.0,
    priorities: int = 0,
    **options: Any,
) -> Shape:
    """Slots with floors, copies, counts or opening costs; floors as a share of the units per model."""
    words = {
        f"{copies} copies": copies > 1,
        f"{count} equal agents a row": count > 1,
        f"floors at {floor:.0%}": floor > 0,
        f"floors at {floor_if_open:.0%} if open": floor_if_open > 0,
        f"{priorities} priorities": priorities > 0,
        **{f"{key} {value}": True for key, value in options.items()},
    }

    def build(rng: np.random.Generator) -> tuple[tuple[Any, ...], dict[str, Any]]:
        share = n * copies * count / m
        extra: dict[str, Any] = dict(options)
        if copies > 1:
            extra["copies"] = copies
        if count > 1:
            extra["count"] = count
        if floor:
            extra["min_load"] = int(floor * share)
        if floor_if_open:
            extra["min_load_if_open"] = int(floor_if_open * share)
        if priorities:
            extra["priority"] = rng.integers(0, priorities, n)
        return (rng.uniform(0, 100, (n, m)), np.full(m, int(1.2 * share) + 1)), extra

    return Shape(f"{n} x {m}, " + ", ".join(word for word, said in words.items() if said), build)


def _some(kind: str, count: int, n: int, m: int, rng: np.random.Generator) -> list[solver.Limit]:
    if kind == "apart":
        return [solver.Apart(name=f"a{q}", agents=rng.choice(n, 2, replace=False)) for q in range(count)]
    if kind == "teams apart":
        size = max(2, min(m, n // count))
        return [
            solver.Apart(name=f"a{q}", agents=np.arange(q * size, (q + 1) * size) % n) for q in range(count)
        ]
    if kind == "quota":
        cut = np.linspace(0, n, count + 1).astype(int)
        return [
            solver.Quota(name=f"q{k}", agents=np.arange(a, b), models=[k % m], at_most=1 + (b - a) // m)
            for k, (a, b) in enumerate(pairwise(cut))
        ]
    if kind == "floor":
        return [solver.Quota(name=f"f{j}", models=[j % m], at_least=n // (2 * m)) for j in range(count)]
    if kind == "budget":
        return [
            solver.Budget(name=f"b{k}", amount=n * 2.2, cost=rng.uniform(0, 5, (n, m))) for k in range(count)
        ]
    assert kind == "mixed"
    cut = np.linspace(0, n, count - 2).astype(int)
    return [
        solver.Budget(name="budget", amount=n * 2.0, cost=rng.uniform(0, 5, (n, m))),
        solver.Together(name="together", agents=np.arange(5)),
        solver.Share(name="share", models=[0], at_most=0.2),
        *(
            solver.Quota(
                name=f"q{k}", agents=np.arange(a, b), models=[min(1, m - 1)], at_most=2 + (b - a) // m
            )
            for k, (a, b) in enumerate(pairwise(cut))
        ),
    ]


SHAPES = (
    *(slots_shape(n, m) for n, m in ((1, 1), (10, 3), (100, 5), (1_000, 10), (10_000, 20), (20_000, 50))),
    *(slots_shape(1, m, m) for m in (100, 20_000)),
    *(slots_shape(n, 1, 1.0) for n in (100, 20_000)),
    *(slots_shape(n, m, m / n) for n, m in ((20, 6_000), (300, 5_000), (100, 20_000))),
    *(slots_shape(n, n, 1.0) for n in (50, 200, 500, 1_000, 2_000)),
    slots_shape(5_000, 300, 0.06),
    slots_shape(20_000, 100, 0.005),
    slots_shape(2_000, 500),
    slots_shape(5_000, 1_000),
    slots_shape(500, 500, 1.0, whole=True),
    slots_shape(500, 500, 1.0, forbidden=0.9),
    slots_shape(300, 400, 4 / 3, unassigned_penalty=10.0),
    slots_shape(20_000, 20, 0.5, priorities=50),
    slots_shape(1_000, 200, 0.5, priorities=20),
    slots_shape(20_000, 10, 1.1, unassigned_penalty=np.inf),
    sparse_shape(5_000, 5_000, 10, unassigned_penalty=np.inf),
    sparse_shape(20_000, 20_000, 10, unassigned_penalty=np.inf),
    sparse_shape(20_000, 20_000, 5),
    sparse_shape(20_000, 500, 8, 41),
    sparse_shape(200, 20_000, 30),
    demand_shape(100, 5),
    demand_shape(1_000, 10, 2),
    demand_shape(20_000, 20),
    demand_shape(400, 100, unassigned_penalty=np.inf),
    demand_shape(20_000, 5, 3, unassigned_penalty=np.inf),
    demand_shape(100, 1_000),
    limits_shape(1_000, 10, "apart", 100),
    limits_shape(2_000, 20, "apart", 200),
    limits_shape(2_000, 20, "apart", 400, unassigned_penalty=np.inf),
    limits_shape(20_000, 10, "apart", 400),
    limits_shape(180, 40, "teams apart", 60, unassigned_penalty=np.inf),
    limits_shape(20_000, 10, "mixed", 23),
    limits_shape(5_000, 50, "mixed", 100),
    limits_shape(300, 200, "mixed", 20),
    limits_shape(20_000, 10, "quota", 400),
    limits_shape(1_000, 20, "quota", 50, unassigned_penalty=np.inf),
    limits_shape(2_000, 40, "floor", 40),
    limits_shape(10, 3, "mixed", 4),
    limits_shape(2_000, 10, "budget", 10),
    limits_shape(20_000, 10, "budget", 3),
    limits_shape(5_000, 50, "budget", 5, unassigned_penalty=np.inf),
    limits_shape(100, 5_000, "budget", 1),
    limits_shape(1_000, 1_000, "apart", 50, 1.0),
    limits_shape(20_000, 20, "floor", 20),
    network_shape(1_000, 10, floor=0.7),
    network_shape(17_000, 50, floor=0.85, unassigned_penalty=np.inf),
    network_shape(20_000, 20, floor=0.8, priorities=5),
    network_shape(60, 40, copies=3, floor=0.4, unassigned_penalty=np.inf),
    network_shape(5_000, 500, copies=3, unassigned_penalty=np.inf),
    network_shape(2_000, 20, count=50),
    network_shape(300, 12, floor_if_open=0.5, opening_cost=50.0),
    network_shape(5_000, 40, floor_if_open=0.5),
)


@functools.cache
def overruns() -> list[tuple[str, int, float, float, float, str, float, bool]]:
    """Return shape, deadline, reading, wall and overrun in ms, status, gap, and whether the note on reading is due."""
    shapes = [SHAPES[1], SHAPES[2], limits_shape(10, 3, "mixed", 4)] if SMOKE else SHAPES
    if CPU_CLOCK:
        solver.clock.MonotonicClock.now = lambda self: time.process_time()  # type: ignore[method-assign]
    solver.warm_up()
    table = []
    for shape in shapes:
        arguments, options = shape.build(np.random.default_rng(0))
        limits = options.get("limits", ())
        reading = []
        for _ in range(2):
            started = now()
            build_instance(*arguments, **{**options, "limits": limits})
            reading.append((now() - started) * 1e3)
        for deadline_ms in DEADLINES_MS:
            for _ in range(ROUNDS):
                started = now()
                solution = solver.assign(*arguments, deadline_ms=deadline_ms, **options)
                wall = (now() - started) * 1e3
                noted = any(READING in note for note in solution.notes)
                due = max(float(deadline_ms), min(reading)) if noted else float(deadline_ms)
                over = wall - due
                table.append(
                    (
                        shape.name,
                        deadline_ms,
                        min(reading),
                        wall,
                        over,
                        solution.status.value,
                        solution.gap,
                        noted,
                    )
                )
    return table


def bench_deadlines_are_held() -> None:
    """At most 10 % + 5 ms over the deadline for 99 of 100 calls, 25 % + 10 ms for every one."""
    table = overruns()
    for name in dict.fromkeys(row[0] for row in table):
        rows = [row for row in table if row[0] == name]
        cells = []
        for deadline_ms in DEADLINES_MS:
            own = [row for row in rows if row[1] == deadline_ms]
            worst = max(own, key=lambda row: row[3])
            late = (
                "!" if worst[4] > 0.25 * deadline_ms + 10 else "*" if worst[4] > 0.1 * deadline_ms + 5 else ""
            )
            cells.append(f"{worst[3]:.1f}{late} {worst[5][:4]} {worst[6]:.0e}")
        print(f"\n{name}; reading {rows[0][2]:.1f} ms: " + "; ".join(cells), end="")
    relative = [(row[4] - 5) / row[1] for row in table]
    worst_one = max((row[4] - 10) / row[1] for row in table)
    share = float(np.quantile(relative, 0.99))
    print(f"\n{len(table)} calls over {len({row[0] for row in table})} shapes", end="; ")
    print(f"99 of 100 within 5 ms + {max(share, 0):.1%}, the worst within 10 ms + {max(worst_one, 0):.1%}")
    assert SMOKE or (share <= 0.10 and worst_one <= 0.25)


@pytest.mark.skipif(SMOKE, reason="needs the whole table")
def bench_late_readers_are_told() -> None:
    """Where reading alone takes longer than the deadline, the answer says so."""
    silent = [row[:4] for row in overruns() if row[2] > 1.1 * row[1] + 1 and not row[-1]]
    assert not silent

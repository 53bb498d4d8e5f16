"""The ladder of sizes: ours beside the usual tools, on the same instance, in the same run."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

import solver
from solver.errors import SpecError
from solver.interfaces.peers import PEERS
from solver.problem.generate import generate_scores

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LADDER", "ladder_report"]

LADDER = ((100, 5), (1_000, 10), (10_000, 20), (10_000, 50), (100_000, 50))
"""Agents and models of each rung."""


@dataclass(frozen=True, slots=True)
class _Timing:
    milliseconds: float
    objective: float


def ladder_report(*, largest: int, repeat: int, seed: int, on_row: Callable[[str], object]) -> Table:
    """Return a table of median times and gaps, calling ``on_row`` as each rung is done.

    Raises
    ------
    SpecError
        When no rung is small enough.
    """
    rungs = [rung for rung in LADDER if rung[0] <= largest]
    if not rungs:
        msg = f"largest: expected at least {LADDER[0][0]}, got {largest}"
        raise SpecError(msg)
    solver.warm_up()
    table = Table(box=None, pad_edge=False, header_style="bold", title="median milliseconds")
    for name in ("agents × models", "solver", "gap", *PEERS, "best peer ÷ solver"):
        table.add_column(name, justify="right")
    for n, m in rungs:
        scores, capacity = generate_scores(n, m, seed=seed)
        gaps: list[float] = []

        def ours(
            scores: NDArray[np.float64] = scores,
            capacity: NDArray[np.int64] = capacity,
            gaps: list[float] = gaps,
        ) -> float:
            solution = solver.assign(scores, capacity)
            gaps.append(solution.gap)
            return solution.objective

        mine = _median(ours, repeat)
        cells, best = [], float("inf")
        for peer in PEERS.values():
            if n * m > peer.most_pairs:
                cells.append("–")
                continue
            timing = _median(lambda peer=peer: peer.solve(scores, capacity), repeat)  # type: ignore[misc]
            best = min(best, timing.milliseconds)
            cells.append(f"{timing.milliseconds:,.1f}")
        table.add_row(
            f"{n:,} × {m}",
            f"{mine.milliseconds:,.1f}",
            f"{max(gaps):.1e}",
            *cells,
            f"{best / mine.milliseconds:.1f}×",
        )
        on_row(f"{n:,} × {m} done")
    return table


def _median(run: Callable[[], float], repeat: int) -> _Timing:
    times, objective = [], 0.0
    for _ in range(repeat):
        started = time.perf_counter()
        objective = run()
        times.append((time.perf_counter() - started) * 1e3)
    return _Timing(statistics.median(times), objective)

"""The ladder of sizes: ours beside the usual tools, on the same instance, in the same run."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from rich.table import Table

import solver
from solver.errors import SpecError
from solver.interfaces.bench.peers import PEERS
from solver.problem.generate import generate_scores

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

LADDER = ((100, 5), (1_000, 10), (10_000, 20), (10_000, 50), (100_000, 50))
"""Agents and models of each rung."""


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
        instance = generate_scores(n, m, seed=seed)
        gaps: list[float] = []
        mine = _median_ms(_ours(gaps), instance, repeat)
        peers = {
            name: _median_ms(peer.solve, instance, repeat)
            for name, peer in PEERS.items()
            if n * m <= peer.most_pairs
        }
        table.add_row(
            f"{n:,} × {m}",
            f"{mine:,.1f}",
            f"{max(gaps):.1e}",
            *(f"{peers[name]:,.1f}" if name in peers else "–" for name in PEERS),
            f"{min(peers.values()) / mine:.1f}×",
        )
        on_row(f"{n:,} × {m} done")
    return table


def _ours(gaps: list[float]) -> Callable[[NDArray[np.float64], NDArray[np.int64]], object]:
    """Return a solve that notes its gap."""
    return lambda scores, capacity: gaps.append(solver.assign(scores, capacity).gap)


def _median_ms(
    solve: Callable[[NDArray[np.float64], NDArray[np.int64]], object],
    instance: tuple[NDArray[np.float64], NDArray[np.int64]],
    repeat: int,
) -> float:
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        solve(*instance)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)

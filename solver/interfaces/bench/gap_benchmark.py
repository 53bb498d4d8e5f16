"""Gaps to the best known costs of a folder of generalized assignment instances, peers in the same run."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from solver.clock import Deadline
from solver.errors import SpecError
from solver.interfaces.bench.peers import gap_by_cpsat, gap_by_highs
from solver.interfaces.files.gap_format import read_gap
from solver.interfaces.files.sources import read_text
from solver.problem.compile import compile_problem
from solver.solution.solution import Status
from solver.solution.solving import solve_instance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from solver.problem.instance import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class GapResult:
    """One solver on one instance with one deadline.

    Parameters
    ----------
    instance : str
        File name.
    solver : str
        ``solver``, ``cp-sat`` or ``highs``.
    deadline_ms : float
        What it was given.
    cost : float or None
        What it found; None without a feasible assignment.
    gap : float or None
        ``cost / best known − 1``.
    certified_gap : float or None
        Ours to its own bound; None for the peers.
    elapsed_ms : float
        Wall clock, model building included.
    proven : bool
        Ours, and proven optimal.
    """

    instance: str
    solver: str
    deadline_ms: float
    cost: float | None
    gap: float | None
    certified_gap: float | None
    elapsed_ms: float
    proven: bool = False


def read_best_known(path: Path) -> dict[str, float]:
    """Return the best known cost by instance.

    Raises
    ------
    SpecError
        When the file lacks the columns ``instance`` and ``best_known_cost``, or a cost is no number.
    """
    best: dict[str, float] = {}
    for number, row in enumerate(csv.DictReader(read_text(path).splitlines()), start=2):
        try:
            best[row["instance"]] = float(row["best_known_cost"])
        except (KeyError, ValueError) as error:
            message = (
                f"{path}:{number}: expected columns instance and best_known_cost with a number, got {row}"
            )
            raise SpecError(message) from error
    return best


def gap_results(
    folder: Path,
    *,
    deadlines_ms: Sequence[float],
    engine: str = "lagrangian",
    peers: bool = True,
    seed: int = 0,
) -> Iterator[GapResult]:
    """Yield results instance by instance, ours and the peers' next to each other.

    Parameters
    ----------
    folder : Path
        Instances in the OR-Library's format, and ``best_known.csv``, which names them.
    deadlines_ms : sequence of float
        Budgets to try.
    engine : str
        Ours.
    peers : bool
        Whether to run CP-SAT and HiGHS too, one thread each.
    seed : int
        For our engine.
    """
    for name, best in read_best_known(folder / "best_known.csv").items():
        instance = compile_problem(read_gap(folder / name))
        for deadline_ms in deadlines_ms:
            started = time.perf_counter()
            solution = solve_instance(
                instance, deadline=Deadline.after(deadline_ms), engine=engine, seed=seed, threads=1
            )
            elapsed_ms = (time.perf_counter() - started) * 1e3
            cost = solution.objective if np.isfinite(solution.objective) else None
            yield GapResult(
                instance=name,
                solver="solver",
                deadline_ms=deadline_ms,
                cost=cost,
                gap=None if cost is None else cost / best - 1.0,
                certified_gap=None if cost is None else solution.gap,
                elapsed_ms=elapsed_ms,
                proven=solution.status is Status.OPTIMAL,
            )
            if peers:
                yield from _peers(name, instance, best, deadline_ms)


def gap_table(results: Sequence[GapResult]) -> Table:
    """Return one row per deadline and solver: how many instances it solved, how well, how long it took."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (
        "deadline ms",
        "solver",
        "feasible",
        "mean gap",
        "worst gap",
        "certified",
        "proven",
        "slowest ms",
    ):
        table.add_column(title, justify="left" if title == "solver" else "right")
    for deadline_ms, solver in dict.fromkeys((one.deadline_ms, one.solver) for one in results):
        mine = [one for one in results if (one.deadline_ms, one.solver) == (deadline_ms, solver)]
        gaps = [one.gap for one in mine if one.gap is not None]
        proven = [one.certified_gap for one in mine if one.certified_gap is not None]
        table.add_row(
            f"{deadline_ms:g}",
            solver,
            f"{len(gaps)}/{len(mine)}",
            f"{np.mean(gaps):.4%}" if gaps else "–",
            f"{max(gaps):.3%}" if gaps else "–",
            f"{np.mean(proven):.4%}" if proven else "–",
            f"{sum(one.proven for one in mine)}/{len(mine)}" if proven else "–",
            f"{max(one.elapsed_ms for one in mine):,.0f}",
        )
    return table


def _peers(name: str, instance: Instance, best: float, deadline_ms: float) -> Iterator[GapResult]:
    demand = np.ones((instance.n, instance.m)) if instance.demand is None else instance.demand[:, :, 0]
    for title, solve in (("cp-sat", gap_by_cpsat), ("highs", gap_by_highs)):
        started = time.perf_counter()
        value = solve(np.asarray(instance.score), demand, instance.capacity[:, 0], deadline_ms / 1e3)
        yield GapResult(
            instance=name,
            solver=title,
            deadline_ms=deadline_ms,
            cost=None if value is None else -value,
            gap=None if value is None else -value / best - 1.0,
            certified_gap=None,
            elapsed_ms=(time.perf_counter() - started) * 1e3,
        )

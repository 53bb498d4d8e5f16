"""The decisions of a balancer: assignments, reservations, and the reasons as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.instance import UNASSIGNED
from solver.solution.assignment import Assignment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from solver.load.balance.strategies import LoadStrategy, Work
    from solver.load.lease import Lease
    from solver.load.refusal import Refusal
    from solver.solution.solution import Solution

NO_SUCH_MODEL = "no model meets the requirements"
ALL_FULL = "every eligible model is full"
NOT_PLACED = "left out: the capacity of its eligible models went to others"
TOO_DEAR = "left out: the penalty is cheaper than its best score"
LOST = "every eligible model was taken by concurrent requests"


@dataclass(frozen=True, slots=True)
class Reservation(Assignment):
    """An assignment together with the capacity held for it.

    Parameters
    ----------
    lease : Lease or None
        To be released when the request is over; None when no model serves the agent.
    refusal : Refusal or None
        Why a request was not served, typed, and when to ask again: of its best eligible models, the one with
        room soonest. None where waiting does not help: no model meets the requirements, or its penalty is cheaper.
    """

    lease: Lease | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """Assignments, and the figures they were made on.

    Parameters
    ----------
    assignments : list of Assignment
        One per agent, in the agents' order.
    models_filtered : tuple of str
        Models left out because they were full or not accepting.
    avg_utilization : float
        Mean utilization of all models before the batch, 0 to 1.
    prices : mapping of str to float
        Shadow price of one more slot of each model, in score; empty where no engine was asked.
    solution : Solution or None
        The engine's verified answer, where one was asked.
    models : tuple of str
        Ids of the m models, in column order.
    work : Work or None
        The arrays that were decided on; None for an empty batch.
    """

    assignments: Sequence[Assignment]
    models_filtered: tuple[str, ...]
    avg_utilization: float
    prices: Mapping[str, float] = field(default_factory=dict)
    solution: Solution | None = None
    models: tuple[str, ...] = ()
    work: Work | None = None


def served_reason(strategy: LoadStrategy, score: float, busy_percent: float) -> str:
    """Say in words why a model was chosen."""
    return f"{strategy.name}: score {score:.4g}, {busy_percent:.0f} % busy before"


def reported_scores(work: Work, strategy: LoadStrategy, rows: int | slice) -> NDArray[np.float64]:
    """Return the scores that are reported, costs as costs. Where values are no scores, quality says more."""
    if not strategy.values_scores:
        return work.quality[rows]
    value = strategy.values(work, work.active, rows)
    return value if work.sign > 0 else 0.0 - value


def explained(
    work: Work, choice: NDArray[np.int64], strategy: LoadStrategy
) -> Iterator[tuple[int, float, str]]:
    """Yield (model or UNASSIGNED, score, reason) of each agent of a placement."""
    rows = np.arange(len(choice))
    picked = np.where(choice != UNASSIGNED, choice, 0)
    value = reported_scores(work, strategy, slice(None))
    busy = np.where(work.slots > 0, np.minimum(work.active / np.maximum(work.slots, 1.0), 1.0), 1.0)
    columns = (choice, value[rows, picked], 100.0 * busy[picked])
    left_out = iter(_reasons_left_out(work, np.flatnonzero(choice == UNASSIGNED), value))
    for j, score, percent in zip(*(column.tolist() for column in columns), strict=True):
        if j != UNASSIGNED:
            yield j, score, served_reason(strategy, score, percent)
        else:
            yield j, 0.0, next(left_out)


def _reasons_left_out(work: Work, rows: NDArray[np.intp], value: NDArray[np.float64]) -> list[str]:
    """Say in words why each of some agents was not placed."""
    if not len(rows):
        return []
    usable = work.usable[rows]
    best = np.where(usable, work.sign * value[rows], -np.inf).max(axis=1)
    too_dear = best < [work.left_out(i) for i in rows.tolist()]
    cases = [~work.eligible[rows].any(axis=1), ~usable.any(axis=1), too_dear]
    reasons: list[str] = np.select(cases, [NO_SUCH_MODEL, ALL_FULL, TOO_DEAR], NOT_PLACED).tolist()
    return reasons

"""scipy's linear_sum_assignment on replicated columns: the right tool when tiny.

A model with C slots becomes C equal columns; where agents may stay unassigned, each gets one more column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from solver.engines.base import Claim
from solver.engines.duals import minimal_prices
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from solver.clock import Deadline
    from solver.engines.base import Engine

__all__ = ["LsapEngine"]

_MAX_CELLS = 50_000_000  # 400 MB of float64
_SECONDS_PER_CELL_ROW = 4e-10  # of rows · cells: shortest augmenting paths, replicated columns tie heavily


class LsapEngine:
    """Shortest augmenting paths (Crouse 2016, Jonker and Volgenant 1987). O(n² Σ_j C_j), exact in float64."""

    name = "lsap"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: no slots, or a replicated matrix too large for memory or the time left."""
        if not instance.is_slots:
            return "lsap: every agent must take exactly one slot"
        if instance.load_cost is not None:
            return "lsap: slots must not cost by load"
        cells = instance.n * (int(instance.slots.sum()) + instance.n)
        if cells > _MAX_CELLS:
            return f"lsap: {cells:,} cells once columns are replicated, at most {_MAX_CELLS:,}"
        estimate = cells * instance.n * _SECONDS_PER_CELL_ROW
        if estimate > remaining_s:
            return f"lsap: needs about {estimate * 1e3:.0f} ms, {max(remaining_s, 0) * 1e3:.0f} ms left"
        return None

    def solve(
        self,
        instance: Instance,
        *,
        deadline: Deadline,
        hint: Claim | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> Claim | None:
        """Return an optimal choice with its minimal prices, or the proof that there is none."""
        n, m = instance.n, instance.m
        column = np.repeat(np.arange(m), instance.slots)
        cost = np.repeat(-np.asarray(instance.score), instance.slots, axis=1)
        if instance.may_leave or len(column) < n:
            leave = np.broadcast_to(-instance.unserved[:, None], (n, n))
            cost = np.concatenate([cost, leave], axis=1)
            column = np.append(column, np.full(n, UNASSIGNED))
        try:
            rows, picked = linear_sum_assignment(cost)
        except ValueError:  # scipy's word for "no complete matching"; its input was checked before
            return Claim(choice=np.full(n, UNASSIGNED, np.int64), infeasible=True)
        choice = np.empty(n, np.int64)
        choice[rows] = column[picked]
        return Claim(choice=choice, prices=minimal_prices(instance, choice))


if TYPE_CHECKING:
    _conforms: type[Engine] = LsapEngine

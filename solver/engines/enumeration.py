"""Every plan of a tiny instance, level by level: exact in float64, with all limits, and without another solver.

Agents are placed one after the other. A level holds every partial plan that can still be completed, as arrays: loads
of capacities and rows, service and score lost so far. Partial plans that break a capacity, that can no longer meet
a lower limit, that have lost more than the best plan known, or that another one with the same loads beats are
dropped (dynamic programming over loads: Nemhauser and Ullmann 1969).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.engines.serve_first import service_order
from solver.engines.standard_form import StandardForm, build_form
from solver.params import Params
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline


@dataclass(frozen=True, kw_only=True)
class EnumerationParams(Params):
    """Where enumeration ends."""

    most_pairs: int = 160
    """Pairs of agents and models beyond which it does not begin."""
    most_states: int = 20_000
    """Partial plans of one level beyond which it gives up. 20,000 take about 20 ms a level."""
    beam: int = 64
    """Partial plans per level of the first, incomplete pass, which finds a plan to compare with."""
    merge_from: int = 500
    """Levels with at least so many partial plans are searched for equal loads."""

    def __post_init__(self) -> None:
        if min(self.most_pairs, self.most_states, self.beam, self.merge_from) < 1:
            raise ValueError("EnumerationParams: expected whole numbers >= 1")


class EnumerationEngine:
    """Breadth-first enumeration with bounds and dominance; O(states · models) a level.

    Parameters
    ----------
    params : EnumerationParams, optional
        Where it ends.
    """

    name = "enumeration"

    def __init__(self, params: EnumerationParams | None = None) -> None:
        self._params = params or EnumerationParams()

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: more than a handful of pairs, or slots whose cost or number depends on the load."""
        if instance.network is not None or instance.load_cost is not None:
            return "enumeration: does not know floors, copies, multiplicity or load costs"
        if instance.n * instance.m > self._params.most_pairs:
            return f"enumeration: {instance.n * instance.m:,} pairs, at most {self._params.most_pairs}"
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
        """Return the optimum, the proof that there is no plan, or None where there are too many to look at."""
        may_leave = instance.serve_first or bool(np.isfinite(instance.unserved).any())
        form = build_form(instance, leave=may_leave)
        all_unassigned = np.full(instance.n, UNASSIGNED, np.int64)
        if instance.penalty is not None and np.isposinf(instance.penalty[form.unservable]).any():
            return Claim(choice=all_unassigned, infeasible=True)
        if form.n == 0:
            nothing = np.zeros(0, np.int64)
            bound = form.objective_and_bound(nothing, form.value(nothing))[1]
            return Claim(
                choice=all_unassigned, bound=bound, serves_most=True, infeasible=form.empty_violates_limits
            )
        levels = _Levels(instance, form, self._params, deadline)
        if not levels.complete():
            return None
        if levels.best is None:
            return Claim(choice=all_unassigned, infeasible=True)
        choice = form.choice(levels.best)
        bound = form.objective_and_bound(levels.best, form.value(levels.best))[1]
        return Claim(choice=choice, bound=bound, serves_most=levels.exact)


class _Levels:
    """The partial plans of one instance.

    Attributes
    ----------
    best : (n,) int64 or None
        Columns of the best plan found.
    """

    def __init__(
        self, instance: Instance, form: StandardForm, params: EnumerationParams, deadline: Deadline
    ) -> None:
        self.form, self.params, self.deadline = form, params, deadline
        n, models = form.n, form.models
        loss = form.loss.copy()
        service: NDArray[np.float64] = np.zeros(n)
        self.exact = True
        if instance.serve_first:  # then service is compared by itself, and what is left counts for nothing
            order = service_order(instance)
            self.exact = order.exact
            weight = order.weight[form.agents]
            service = np.bincount(form.owner, weights=weight, minlength=n).astype(np.float64)
            loss[models] = loss[models] + form.service
        loss -= loss.min(axis=0)
        self.loss, self.service = loss, service
        self.order = np.argsort(
            -(form.demand / np.maximum(form.capacity, 1e-12)[:, :, None]).mean(axis=(0, 1))
        )
        self.room = np.concatenate([form.room[:, :models].ravel() + 1e-12, self._row_room()])
        tail = self._least_rows()[:, self.order]
        # What later agents take off each row at least; capacities are taken, never given back.
        later = np.cumsum(tail[:, ::-1], axis=1)[:, ::-1]
        self.later = np.concatenate([later[:, 1:], np.zeros((form.rows, 1))], axis=1)
        self.limit = (np.inf, np.inf)
        self.best: NDArray[np.int64] | None = None

    def _row_room(self) -> NDArray[np.float64]:
        """Return more than any left-hand side that the certificate accepts."""
        form = self.form
        size = np.zeros(form.rows + 1)
        for row, coefficient in zip(form.row, form.coefficient, strict=True):
            np.add.at(size, row.ravel(), np.abs(coefficient).ravel())
        room: NDArray[np.float64] = form.row_bound + 1e-9 * (np.abs(form.row_bound) + size[:-1])
        room[form.soft] = np.inf
        return room

    def _least_rows(self) -> NDArray[np.float64]:
        """Return the (g, n) least that each agent can add to each row."""
        form = self.form
        total = np.zeros((form.rows + 1, form.columns, form.n))
        columns, agents = np.indices((form.columns, form.n))
        for row, coefficient in zip(form.row, form.coefficient, strict=True):
            np.add.at(total, (row, columns, agents), coefficient)
        self.row_use = total[:-1]
        least: NDArray[np.float64] = np.where(np.isfinite(self.loss), total[:-1], np.inf).min(axis=1)
        return least

    def complete(self) -> bool:
        """Look for a plan quickly, then at all that could be better; False where there are too many."""
        self._sweep(self.params.beam)
        return self._sweep(None)

    def _sweep(self, beam: int | None) -> bool:
        """Place all agents, keeping the most promising partial plans only if ``beam`` is given."""
        form = self.form
        cells = form.resources * form.models
        load = np.zeros((1, cells + form.rows))
        lost, left = np.zeros(1), np.zeros(1)
        picked = np.zeros((1, 0), np.int16)
        for position, agent in enumerate(self.order.tolist()):
            if self.deadline.expired():
                return False
            columns = np.flatnonzero(np.isfinite(self.loss[:, agent]))
            use = np.zeros((len(columns), cells + form.rows))
            for at, column in enumerate(columns.tolist()):
                if column < form.models:
                    use[at, np.arange(form.resources) * form.models + column] = form.demand[:, column, agent]
                use[at, cells:] = self.row_use[:, column, agent]
            load = (load[:, None, :] + use).reshape(-1, load.shape[1])
            lost = (lost[:, None] + self.loss[columns, agent]).ravel()
            leaving = np.where(columns == form.models, self.service[agent], 0.0) if form.leave else 0.0
            left = (left[:, None] + np.broadcast_to(leaving, len(columns))).ravel()
            picked = np.column_stack(
                [np.repeat(picked, len(columns), axis=0), np.tile(columns, len(picked))]
            ).astype(np.int16)
            ahead = np.concatenate([np.zeros(cells), self.later[:, position]])
            # An excess over soft limits costs at least the part that no later agent can reduce.
            least = lost + form.violation_charge((load + ahead)[:, cells:]) if len(form.soft) else lost
            keep = np.flatnonzero((load + ahead <= self.room).all(axis=1) & self._hopeful(left, least))
            if len(keep) > self.params.merge_from:
                keep = keep[_undominated(load[keep], left[keep], lost[keep])]
            if beam is not None and len(keep) > beam:
                keep = keep[np.lexsort((least[keep], left[keep]))[:beam]]
            if len(keep) > self.params.most_states:
                return False
            load, lost, left, picked = load[keep], lost[keep], left[keep], picked[keep]
            if not len(keep):
                return True
        charged = lost + form.violation_charge(load[:, cells:]) if len(form.soft) else lost
        self._finish(left, charged, picked)
        return True

    def _hopeful(self, left: NDArray[np.float64], lost: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether partial plans may become better than the best plan known."""
        most_left, most_lost = self.limit
        hopeful: NDArray[np.bool_] = (left < most_left) | ((left == most_left) & (lost < most_lost))
        return hopeful

    def _finish(
        self, left: NDArray[np.float64], lost: NDArray[np.float64], picked: NDArray[np.int16]
    ) -> None:
        """Take the best complete plan that is feasible to the letter."""
        for at in np.lexsort((lost, left)).tolist():
            columns = np.empty(self.form.n, np.int64)
            columns[self.order] = picked[at]
            if self.form.feasible(columns):
                self.best, self.limit = columns, (float(left[at]), float(lost[at]))
                return


def _undominated(
    load: NDArray[np.float64], left: NDArray[np.float64], lost: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the best of all partial plans with the same loads."""
    order = np.lexsort((lost, left, *load.T))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(load[order], axis=0) != 0).any(axis=1)
    chosen: NDArray[np.intp] = np.sort(order[first])
    return chosen

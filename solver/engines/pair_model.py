"""Assignment models for CP-SAT: one builder for all who need it."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.integer_scaling import SoftRow, joint_scale, scale_to_integers
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.engines.standard_form import StandardForm

_CONFIRMING_WORK = 0.5
"""Units of CP-SAT's deterministic time, about seconds, that a second run may take: how busy the machine is does not
decide what is proven."""

_CONFIRMING_TIMES = 4.0
"""Deterministic time that a second run may take, as a multiple of the first run; the larger limit holds."""


def is_loaded() -> bool:
    """Return whether the library has been imported, which alone takes longer than a short deadline."""
    return "ortools.sat.python.cp_model" in sys.modules


@dataclass(frozen=True, slots=True)
class Outcome:
    """What CP-SAT said.

    Parameters
    ----------
    picked : (p,) bool or None
        Pairs chosen; None when it found nothing.
    complete : bool
        It searched everything: ``picked`` is optimal for the model as scaled, or there is nothing.
    bound : float
        Lower bound on the loss of the model as scaled, in units of the loss.
    loss : float
        Loss of the pairs chosen, as scaled.
    work : float
        Deterministic time of CP-SAT.
    """

    picked: NDArray[np.bool_] | None
    complete: bool
    bound: float
    loss: float
    work: float = 0.0


class PairModel:
    """One Boolean per (agent, column) pair, exactly one per agent, minimise the loss.

    Parameters
    ----------
    agent : (p,) int64
        Agent of each pair, ascending.
    loss : (p,) float64
        Loss of each pair.
    soft : sequence of SoftRow
        Rows whose excess is paid for.
    outer : bool
        Relax rows that have to be rounded too coarsely, instead of tightening them: nothing feasible is lost, but
        what is found may break a row.

    Attributes
    ----------
    exact : bool
        No row lost a feasible assignment to rounding: an exhausted search is a proof.
    relaxed : bool
        Some row was relaxed: what is found has to be looked at.
    rounding : float
        Most that a total loss may be off by, in units of the loss.
    """

    def __init__(
        self,
        agent: NDArray[np.int64],
        loss: NDArray[np.float64],
        soft: Sequence[SoftRow] = (),
        *,
        outer: bool = False,
    ) -> None:
        from ortools.sat.python import cp_model

        self._cp = cp_model
        self.model: Any = cp_model.CpModel()
        self.exact = True
        self.relaxed = False
        self._outer = outer
        self.pairs = [self.model.new_bool_var("") for _ in range(len(agent))]
        starts = np.flatnonzero(np.diff(agent, prepend=-1))
        ends = np.append(starts[1:], len(agent)) if len(starts) else starts
        for first, last in zip(starts.tolist(), ends.tolist(), strict=True):
            self.model.add_exactly_one(self.pairs[first:last])
        self._agents = len(starts)
        scaled, row_scales = joint_scale(loss, soft, max(self._agents, 1))
        self.loss_scale = scaled.scale
        self._weights = scaled.values
        self.rounding = 0.0 if scaled.exact else 0.5 * self._agents / scaled.scale
        self._excess: list[tuple[Any, int]] = []
        for row, scale in zip(soft, row_scales, strict=True):
            self._add_soft(row, scale)
        self._objective = self._sum(np.arange(len(agent)), scaled.values)
        for excess, weight in self._excess:
            self._objective += weight * excess
        self.model.minimize(self._objective)

    def _sum(self, where: NDArray[np.intp], weights: NDArray[np.int64]) -> Any:
        pairs = self.pairs
        return self._cp.LinearExpr.weighted_sum([pairs[i] for i in where.tolist()], weights.tolist())

    def _add_soft(self, row: SoftRow, scale: float) -> None:
        """Add a row with its excess: in exact steps, or rounded to nearest at what that may cost."""
        scaled = row.weights * scale
        whole = np.rint(scaled)
        right = row.bound * scale
        price = row.price * self.loss_scale / scale
        exact = bool((np.abs(scaled - whole) <= 1e-13 * np.maximum(np.abs(scaled), 1.0)).all())
        exact = exact and abs(right - round(right)) <= 1e-13 * max(abs(right), 1.0)
        if not exact:
            steps = 0.5 * min(len(row.where), self._agents) + 1.0
            self.rounding += steps * row.price / scale
        # Whole steps exceed by whole steps; rounded ones by what rounding adds as well.
        most = (
            int(np.floor(row.most * scale + 1e-6))
            if exact
            else int(np.ceil(row.most * scale)) + len(row.where) + 1
        )
        if most == 0:
            self.model.add(self._sum(row.where, whole.astype(np.int64)) <= round(right))
            return
        excess = self.model.new_int_var(0, most, "")
        self.model.add(self._sum(row.where, whole.astype(np.int64)) <= round(right) + excess)
        weight = max(1, round(price))
        self.rounding += abs(price - weight) * row.most * scale / self.loss_scale
        self._excess.append((excess, weight))

    def at_most(self, where: NDArray[np.intp], weights: NDArray[np.float64], bound: float) -> None:
        """Require that the weights of the chosen pairs among ``where`` add up to at most ``bound``.

        Real weights are rounded to the nearest step and the bound is relaxed by what that may add up to, as
        long as this stays within half of what the certificate tolerates: nothing feasible is lost then, and
        whatever is found passes. Where steps would be too coarse, weights are rounded up, and the
        model no longer proves anything; or else, in an outer model, the bound is relaxed all the same.
        """
        if not len(where):
            if bound < 0:
                self.model.add_bool_or([])
            return
        if weights[weights > 0].sum() <= bound:
            return
        terms = min(len(where), self._agents)
        # Whoever touches the row adds at least the smallest weight to the scale of what is tolerated.
        size = abs(bound) + float(np.abs(weights[weights != 0]).min(initial=np.inf))
        scaled = scale_to_integers(weights, terms=len(where), extra=bound)
        limit = bound * scaled.scale
        if scaled.exact:
            limit = limit + 1e-9 * max(1.0, abs(limit))
        elif self._outer or terms + 2 <= 0.5 * EXCESS_TOLERANCE * size * scaled.scale:
            self.relaxed = self.relaxed or not terms + 2 <= 0.5 * EXCESS_TOLERANCE * size * scaled.scale
            limit = limit + 0.5 * terms + 1
        else:
            self.exact = False
            scaled = scale_to_integers(weights, terms=len(where), up=True, extra=bound)
            limit = bound * scaled.scale
        self.model.add(self._sum(where, scaled.values) <= int(np.floor(limit)))

    def couple(
        self,
        form: StandardForm,
        agent: NDArray[np.int64],
        column: NDArray[np.int64],
        *,
        load: NDArray[np.float64] | None = None,
        row_load: NDArray[np.float64] | None = None,
    ) -> None:
        """Add every capacity and limit row of a form over the given pairs.

        Parameters
        ----------
        form : StandardForm
            The problem.
        agent, column : (p,) int64
            The pairs, as given to the constructor.
        load : (r, c) float64, optional
            Capacity already taken by agents that are not in the model.
        row_load : (g,) float64, optional
            Limit rows, likewise.
        """
        order = np.argsort(column, kind="stable")
        bounds = np.searchsorted(column[order], np.arange(form.columns + 1))
        left = form.capacity if load is None else form.capacity - load
        for k in range(form.resources):
            for c in range(form.models):
                where = order[bounds[c] : bounds[c + 1]]
                self.at_most(where, form.demand[k, column[where], agent[where]], float(left[k, c]))
        if not form.rows:
            return
        touched = [np.flatnonzero(row[column, agent] < form.rows) for row in form.row]
        places = np.concatenate(touched)
        rows = np.concatenate([row[column[t], agent[t]] for row, t in zip(form.row, touched, strict=True)])
        weights = np.concatenate(
            [w[column[t], agent[t]] for w, t in zip(form.coefficient, touched, strict=True)]
        )
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], np.arange(form.rows + 1))
        right = form.row_bound if row_load is None else form.row_bound - row_load
        for g in range(form.rows):
            if np.isfinite(form.violation_price[g]):  # stands in the objective
                continue
            entries = order[bounds[g] : bounds[g + 1]]
            self.at_most(places[entries], weights[entries], float(right[g]))

    def loss_at_most(self, loss: float) -> None:
        """Ask only for assignments that lose no more."""
        self.model.add(self._objective <= int(np.floor(loss * self.loss_scale + 1e-6)))

    def hint(self, picked: NDArray[np.bool_]) -> None:
        """Suggest an assignment."""
        for pair, chosen in zip(self.pairs, picked.tolist(), strict=True):
            self.model.add_hint(pair, chosen)

    def solve(
        self,
        *,
        limit_s: float | None,
        seed: int,
        threads: int = 1,
        quick: bool = False,
        confirm: bool = False,
    ) -> Outcome:
        """Run CP-SAT for at most ``limit_s`` seconds.

        Parameters
        ----------
        limit_s : float or None
            Seconds; None for no limit.
        seed, threads : int
            For CP-SAT.
        quick : bool
            Skip presolve that small models do not repay. Only where ``complete`` is not taken for a proof.
        confirm : bool
            Ask again with other parameters before ``complete`` is said: it is a proof that cannot be recomputed.
        """
        now = time.perf_counter
        started = now()
        first = self._run(limit_s=limit_s, seed=seed, threads=threads, quick=quick, presolve=True)
        if not (confirm and first.complete):
            return first
        left_s = None if limit_s is None else limit_s - (now() - started)
        if left_s is not None and left_s <= 0.0:
            return replace(first, complete=False, bound=-np.inf)
        second = self._run(
            limit_s=left_s,
            seed=seed + 1,
            threads=threads,
            quick=False,
            presolve=False,
            most_work=max(_CONFIRMING_WORK, _CONFIRMING_TIMES * first.work),
        )
        if second.complete and first.picked is None and second.picked is None:
            return first
        if second.complete and abs(first.loss - second.loss) <= 2 / self.loss_scale:
            return first
        better = first if second.picked is None or second.loss >= first.loss else second
        return replace(better, complete=False, bound=-np.inf)

    def _run(
        self,
        *,
        limit_s: float | None,
        seed: int,
        threads: int,
        quick: bool,
        presolve: bool,
        most_work: float | None = None,
    ) -> Outcome:
        solver = self._cp.CpSolver()
        parameters = solver.parameters
        if limit_s is not None:
            parameters.max_time_in_seconds = max(limit_s, 0.001)
        if most_work is not None:
            parameters.max_deterministic_time = most_work
        parameters.num_workers = threads
        parameters.random_seed = seed % 2**31
        parameters.linearization_level = 2 if presolve else 1
        parameters.cp_model_presolve = presolve
        if quick:
            parameters.symmetry_level = 0
            parameters.cp_model_probing_level = 0
        status = solver.solve(self.model)
        complete = status in (self._cp.OPTIMAL, self._cp.INFEASIBLE)
        work = float(solver.response_proto.deterministic_time)
        if status not in (self._cp.OPTIMAL, self._cp.FEASIBLE):
            return Outcome(picked=None, complete=complete, bound=-np.inf, loss=np.inf, work=work)
        picked = np.array([solver.boolean_value(v) for v in self.pairs], dtype=bool)
        loss = float(self._weights[picked].sum())
        loss += sum(weight * solver.value(excess) for excess, weight in self._excess)
        # The reported bound of an optimal answer carries more noise than the answer itself.
        proven = loss if complete else solver.best_objective_bound
        return Outcome(picked, complete, proven / self.loss_scale, loss / self.loss_scale, work)

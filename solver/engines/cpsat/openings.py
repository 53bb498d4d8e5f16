"""Models that cost, or have a floor, only if they are opened, as an integer program for CP-SAT.

One variable per allowed pair (units), one per agent (units left out) and one per model (open). Serve-first is a
program for each rank of priority before the one of the score, so that no weight has to stand for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.integer_scaling import scale_to_integers
from solver.problem.network import UnitFlow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.problem.instance import Instance
    from solver.problem.network import NetworkShape

_LARGEST_OPENING_OBJECTIVE = 2.0**52
"""Scaled total at most."""


class OpeningOutcome:
    """What CP-SAT found.

    Parameters
    ----------
    flow : UnitFlow or None
        Units served; None when it found nothing.
    bound : float or None
        No flow that serves as many exceeds it; None unless every program before was solved to the end.
    infeasible : bool
        It proved that there is none.
    """

    def __init__(self, flow: UnitFlow | None, bound: float | None, *, infeasible: bool = False) -> None:
        self.flow, self.bound, self.infeasible = flow, bound, infeasible


class OpeningModel:
    """The integer program of an instance.

    Parameters
    ----------
    instance, shape
        The problem; agents take slots, and there is no load cost.
    """

    def __init__(self, instance: Instance, shape: NetworkShape) -> None:
        from ortools.sat.python import cp_model

        self._cp = cp_model
        self._instance, self._shape = instance, shape
        n, m = instance.n, instance.m
        score = np.asarray(instance.score)
        self._agent, self._model = np.nonzero(np.isfinite(score))
        self._score = score[self._agent, self._model].astype(np.float64)
        self.model: Any = cp_model.CpModel()
        width = shape.width[self._agent].tolist()
        self._units = [self.model.new_int_var(0, most, "") for most in width]
        must = np.zeros(n, bool) if instance.penalty is None else np.isposinf(instance.penalty)
        most_left = np.where(must, 0, shape.supply).tolist()
        self._left = [self.model.new_int_var(0, most, "") for most in most_left]
        self._open = [self.model.new_bool_var("") for _ in range(m)]
        total = cp_model.LinearExpr.sum
        rows: list[list[Any]] = [[left] for left in self._left]
        columns: list[list[Any]] = [[] for _ in range(m)]
        for i, j, units in zip(self._agent.tolist(), self._model.tolist(), self._units, strict=True):
            rows[i].append(units)
            columns[j].append(units)
        for row, supply in zip(rows, shape.supply.tolist(), strict=True):
            self.model.add(total(row) == supply)
        for j in range(m):
            load, slots = total(columns[j]), int(instance.slots[j])
            least = max(int(shape.floor_if_open[j]), 1)
            self.model.add(load <= slots * self._open[j])
            self.model.add(load >= least * self._open[j])
            if shape.floor[j]:
                self.model.add(load >= int(shape.floor[j]))

    def hint(self, flow: UnitFlow) -> None:
        """Suggest a flow."""
        given = np.zeros((self._instance.n, self._instance.m), np.int64)
        given[flow.agent, flow.model] = flow.units
        values = given[self._agent, self._model].tolist()
        for variable, value in zip(self._units, values, strict=True):
            self.model.add_hint(variable, value)
        load = flow.load(self._instance.m)
        for variable, units in zip(self._open, load.tolist(), strict=True):
            self.model.add_hint(variable, units > 0)

    def solve(self, *, ends_s: float, deadline: Deadline, seed: int, threads: int) -> OpeningOutcome:
        """Serve as many as possible where that comes first, then maximise the score, until ``ends_s``."""
        instance, sums = self._instance, self._cp.LinearExpr
        found: UnitFlow | None = None
        if instance.serve_first:
            rank = np.zeros(instance.n, np.int64) if instance.rank is None else instance.rank
            for level in range(int(rank.max()), -1, -1):
                left = sums.sum([self._left[i] for i in np.flatnonzero(rank == level)])
                self.model.minimize(left)
                solver, status = self._run(ends_s, deadline, seed, threads)
                if status == self._cp.INFEASIBLE:
                    return OpeningOutcome(None, None, infeasible=True)
                if status not in (self._cp.OPTIMAL, self._cp.FEASIBLE):
                    return OpeningOutcome(found, None)
                found = self._flow(solver)
                if status != self._cp.OPTIMAL:
                    return OpeningOutcome(found, None)
                self.model.add(left == round(solver.objective_value))
                self.model.clear_hints()
                self.hint(found)
        values, variables = self._objective()
        scaled = scale_to_integers(values, terms=self._terms(), sum_limit=_LARGEST_OPENING_OBJECTIVE)
        self.model.maximize(sums.weighted_sum(variables, scaled.values.tolist()))
        solver, status = self._run(ends_s, deadline, seed, threads)
        if status == self._cp.INFEASIBLE:
            return OpeningOutcome(None, None, infeasible=not instance.serve_first)
        if status not in (self._cp.OPTIMAL, self._cp.FEASIBLE):
            return OpeningOutcome(found, None)
        best = solver.objective_value if status == self._cp.OPTIMAL else solver.best_objective_bound
        rounding = 0.0 if scaled.exact else 0.5 * self._terms() / scaled.scale
        return OpeningOutcome(self._flow(solver), float(best) / scaled.scale + rounding)

    def _terms(self) -> int:
        """Return how many units can count in the objective at once."""
        return int(self._shape.supply.sum()) + self._instance.m

    def _objective(self) -> tuple[NDArray[np.float64], list[Any]]:
        instance = self._instance
        values, variables = [self._score, -self._shape.opening_cost], [*self._units, *self._open]
        if instance.penalty is not None:
            values.append(-np.where(np.isfinite(instance.penalty), instance.penalty, 0.0))
            variables += self._left
        return np.concatenate(values), variables

    def _run(self, ends_s: float, deadline: Deadline, seed: int, threads: int) -> tuple[Any, Any]:
        solver = self._cp.CpSolver()
        solver.parameters.num_workers = threads
        solver.parameters.random_seed = seed % 2**31
        solver.parameters.max_time_in_seconds = max(ends_s - deadline.clock.now(), 0.001)
        return solver, solver.solve(self.model)

    def _flow(self, solver: Any) -> UnitFlow:
        units = np.array([solver.value(one) for one in self._units], np.int64).reshape(len(self._units))
        return UnitFlow.of_arcs(self._agent, self._model, units)

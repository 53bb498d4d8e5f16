"""OR-Tools CP-SAT: small instances of any kind, with a proof.

Everything becomes an integer: scores are scaled as finely as CP-SAT's 64 bits allow, resources are rounded
against the user (demand up, capacity down), so that whatever comes out is feasible in real numbers too. The
claimed bound carries the rounding loss.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from ortools.sat.python import cp_model

from solver.engines.base import Claim
from solver.engines.duals import minimal_prices
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.base import Engine

__all__ = ["CpSatEngine"]

_MAX_ARCS = 200_000
_SECONDS_PER_ARC = 15e-6  # building the model in Python and handing it over
_LEAST_SEARCH_S = 0.05  # CP-SAT overruns limits shorter than this
_OBJECTIVE_LIMIT = 2.0**52  # of the sum of absolute scaled scores: far below CP-SAT's overflow
_RESOURCE_LIMIT = 2.0**40  # of one scaled capacity


class CpSatEngine:
    """Lazy clause generation over one Boolean per allowed pair (Perron and Furnon, OR-Tools)."""

    name = "cpsat"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: too many pairs to build a model of in the time left."""
        if instance.load_cost is not None:
            return "cpsat: slots must not cost by load"
        arcs = instance.n * instance.m
        if arcs > _MAX_ARCS:
            return f"cpsat: up to {arcs:,} pairs, at most {_MAX_ARCS:,}"
        estimate = arcs * _SECONDS_PER_ARC + _LEAST_SEARCH_S
        if estimate > remaining_s:
            left_ms = max(remaining_s, 0) * 1e3
            return f"cpsat: its model needs about {estimate * 1e3:.0f} ms, {left_ms:.0f} ms left"
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
        """Return the best choice found, with the bound CP-SAT proved, or prices where slots allow them."""
        agent, model = np.nonzero(np.isfinite(instance.score))
        unserved = instance.unserved
        leaving = np.isfinite(unserved)
        base = np.where(leaving, unserved, 0.0)
        gain = instance.score[agent, model] - base[agent]
        scale = _scale(gain)
        gains = np.rint(gain * scale).astype(np.int64)
        program = cp_model.CpModel()
        pairs = [program.new_bool_var("") for _ in range(len(agent))]
        bounds = np.searchsorted(agent, np.arange(instance.n + 1))
        for i in range(instance.n):
            options = pairs[bounds[i] : bounds[i + 1]]
            if leaving[i]:
                program.add_at_most_one(options)
            else:
                program.add_exactly_one(options)
        for j, k, amount, limit in _capacities(instance, agent, model):
            program.add(cp_model.LinearExpr.weighted_sum([pairs[a] for a in j], amount) <= limit[k])
        program.maximize(cp_model.LinearExpr.weighted_sum(pairs, gains))
        if hint is not None:
            for variable, chosen in zip(pairs, hint.choice[agent] == model, strict=True):
                program.add_hint(variable, bool(chosen))
        search = cp_model.CpSolver()
        search.parameters.num_workers = threads
        search.parameters.random_seed = seed
        if deadline.limited:
            search.parameters.max_time_in_seconds = max(0.01, 0.9 * deadline.remaining_s() - 0.01)
        status = search.solve(program)
        nobody = np.full(instance.n, UNASSIGNED, np.int64)
        if status == cp_model.INFEASIBLE:
            # rounding against the user can make a feasible instance infeasible: only exact models prove it
            return Claim(choice=nobody, infeasible=True) if _is_whole(instance) else None
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        chosen = np.array([search.boolean_value(variable) for variable in pairs], bool)
        choice = nobody
        choice[agent[chosen]] = model[chosen]
        prices = minimal_prices(instance, choice) if instance.is_slots else None
        bound = None
        if _is_whole(instance):
            offset = (
                float(base.sum()) if not instance.serve_first else float(base[choice != UNASSIGNED].sum())
            )
            rounding = 0.5 * instance.n / scale if not np.array_equal(gains, gain * scale) else 0.0
            bound = search.best_objective_bound / scale + rounding + offset
        return Claim(choice=choice, prices=prices, bound=bound)


def _scale(gain: NDArray[np.float64]) -> float:
    """Return a power of two that makes the gains integers as fine as the objective limit allows."""
    total = float(np.abs(gain).sum())
    if total == 0.0 or (total < _OBJECTIVE_LIMIT and np.array_equal(np.rint(gain), gain)):
        return 1.0
    return 2.0 ** math.floor(math.log2(_OBJECTIVE_LIMIT / total))


def _is_whole(instance: Instance) -> bool:
    """Return whether every demand and capacity is a whole number CP-SAT can take as it is."""
    if not (np.array_equal(np.floor(instance.capacity), instance.capacity)):
        return False
    return instance.demand is None or np.array_equal(np.floor(instance.demand), instance.demand)


def _capacities(
    instance: Instance, agent: NDArray[np.intp], model: NDArray[np.intp]
) -> list[tuple[NDArray[np.intp], int, NDArray[np.int64], NDArray[np.int64]]]:
    """Return per model and resource: the pairs, the resource, their whole demands and the whole limits."""
    rows = []
    for j in range(instance.m):
        pairs = np.flatnonzero(model == j)
        for k in range(instance.r):
            if instance.demand is None:
                amount, unit = np.ones(len(pairs)), 1.0
            else:
                amount = instance.demand[agent[pairs], j, k]
                top = max(float(amount.sum()), 1e-300)
                unit = 1.0 if _is_whole(instance) else 2.0 ** math.floor(math.log2(_RESOURCE_LIMIT / top))
            limit = np.minimum(instance.capacity[j] * unit, 2.0**62)
            rows.append((pairs, k, np.ceil(amount * unit).astype(np.int64), np.floor(limit).astype(np.int64)))
    return rows


if TYPE_CHECKING:
    _conforms: type[Engine] = CpSatEngine

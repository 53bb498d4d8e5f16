"""The usual tools, used plainly: what `solver bench` and the benchmarks compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_FLOW_SCALE = 10**6
"""Factor by which scores are multiplied before rounding, as users of the flow solver usually do."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to solve a dense slot instance in which all agents are served.

    Parameters
    ----------
    solve : callable of (scores, capacity) to float
        Returns the objective.
    most_pairs : int
        Largest n·m that it finishes in an acceptable time.
    """

    solve: Callable[[NDArray[np.float64], NDArray[np.int64]], float]
    most_pairs: int


def _scipy_lsa(scores: NDArray[np.float64], capacity: NDArray[np.int64]) -> float:
    from scipy.optimize import linear_sum_assignment

    column = np.repeat(np.arange(scores.shape[1]), capacity)
    rows, picked = linear_sum_assignment(scores[:, column], maximize=True)
    return float(scores[rows, column[picked]].sum())


def _ortools_flow(scores: NDArray[np.float64], capacity: NDArray[np.int64]) -> float:
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    n, m = scores.shape
    flow = SimpleMinCostFlow()
    flow.add_arcs_with_capacity_and_unit_cost(
        np.repeat(np.arange(n), m),
        n + np.tile(np.arange(m), n),
        np.ones(n * m, np.int64),
        np.rint(-scores.ravel() * _FLOW_SCALE).astype(np.int64),
    )
    flow.add_arcs_with_capacity_and_unit_cost(
        np.arange(n, n + m), np.full(m, n + m), capacity, np.zeros(m, np.int64)
    )
    supply = np.zeros(n + m + 1, np.int64)
    supply[:n], supply[n + m] = 1, -n
    flow.set_nodes_supplies(np.arange(n + m + 1), supply)
    status = flow.solve()
    if status != SimpleMinCostFlow.OPTIMAL:
        raise RuntimeError(f"plain flow ended with status {status}")
    return float(-flow.optimal_cost() / _FLOW_SCALE)


PEERS = {
    "scipy LSA": Peer(_scipy_lsa, 10_000),
    "OR-Tools flow": Peer(_ortools_flow, 5_000_000),
}
"""By name. Both are exact up to the rounding of their input; neither proves anything."""


def gap_by_cpsat(
    scores: NDArray[np.float64], demand: NDArray[np.float64], capacity: NDArray[np.float64], limit_s: float
) -> float | None:
    """Return the objective CP-SAT finds for a generalized assignment instance of whole numbers, or None.

    Parameters
    ----------
    scores, demand : (n, m) float64
        Whole numbers.
    capacity : (m,) float64
        Whole numbers.
    limit_s : float
        Seconds for the search; building the model comes on top.
    """
    from ortools.sat.python import cp_model

    n, m = scores.shape
    model = cp_model.CpModel()
    pairs = [[model.new_bool_var("") for _ in range(m)] for _ in range(n)]
    for row in pairs:
        model.add_exactly_one(row)
    for j in range(m):
        taken = [int(units) for units in demand[:, j]]
        column = [row[j] for row in pairs]
        model.add(cp_model.LinearExpr.weighted_sum(column, taken) <= int(capacity[j]))
    everything = [pair for row in pairs for pair in row]
    model.maximize(cp_model.LinearExpr.weighted_sum(everything, [int(s) for s in scores.ravel()]))
    search = cp_model.CpSolver()
    search.parameters.max_time_in_seconds = limit_s
    search.parameters.num_workers = 1
    status = search.solve(model)
    return float(search.objective_value) if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None


def gap_by_highs(
    scores: NDArray[np.float64], demand: NDArray[np.float64], capacity: NDArray[np.float64], limit_s: float
) -> float | None:
    """Return the objective HiGHS finds for a generalized assignment instance, or None; as :func:`gap_by_cpsat`."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    n, m = scores.shape
    index = np.arange(n * m)
    once = csr_matrix((np.ones(n * m), (index // m, index)), shape=(n, n * m))
    room = csr_matrix((demand.ravel(), (index % m, index)), shape=(m, n * m))
    solved = milp(
        -scores.ravel(),
        integrality=np.ones(n * m),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(once, 1, 1), LinearConstraint(room, ub=capacity)],
        options={"time_limit": limit_s},
    )
    return None if solved.x is None else float((scores.ravel() * np.rint(solved.x)).sum())

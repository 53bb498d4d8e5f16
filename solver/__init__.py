"""Decide which model serves which agent, for a whole batch at once, under capacity limits, with a proof."""

from solver.engines.portfolio import warm_up
from solver.errors import EngineError, MissingExtraError, SolverError, SpecError, UnsolvedError
from solver.problem.instance import UNASSIGNED
from solver.solution.solution import Solution, Status
from solver.solution.solving import assign

__all__ = [
    "UNASSIGNED",
    "EngineError",
    "MissingExtraError",
    "Solution",
    "SolverError",
    "SpecError",
    "Status",
    "UnsolvedError",
    "assign",
    "warm_up",
]

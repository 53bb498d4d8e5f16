"""Decide which model serves which agent, for a whole batch at once, under capacity limits, with a proof."""

from solver.engines.portfolio import warm_up
from solver.errors import EngineError, MissingExtraError, SolverError, SpecError, UnsolvedError
from solver.problem.instance import UNASSIGNED
from solver.problem.spec import Agent, Capacity, Model, Objective, Problem
from solver.solution.assignment import Assignment
from solver.solution.explain import Explanation, explain
from solver.solution.plan import Plan
from solver.solution.solution import Solution, Status
from solver.solution.solving import assign, solve

__all__ = [
    "UNASSIGNED",
    "Agent",
    "Assignment",
    "Capacity",
    "EngineError",
    "Explanation",
    "MissingExtraError",
    "Model",
    "Objective",
    "Plan",
    "Problem",
    "Solution",
    "SolverError",
    "SpecError",
    "Status",
    "UnsolvedError",
    "assign",
    "explain",
    "solve",
    "warm_up",
]

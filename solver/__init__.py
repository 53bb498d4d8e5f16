"""Decide which model serves which agent, for a whole batch at once, under capacity limits, with a proof."""

from solver.engines.portfolio import warm_up
from solver.errors import EngineError, MissingExtraError, SolverError, SpecError, UnsolvedError
from solver.load.balance.balancer import LoadBalancer
from solver.load.control.capacity import CapacityManager, ScalingAction, ScalingRule
from solver.load.lease import Lease
from solver.load.observe.feedback import AdaptiveScorer
from solver.load.snapshot import ModelLoad
from solver.load.tracker import LoadTracker
from solver.problem.instance import UNASSIGNED
from solver.problem.limits import (
    Apart,
    Average,
    Budget,
    Changes,
    Commitment,
    Limit,
    Quota,
    Share,
    StayPut,
    Together,
)
from solver.problem.spec import Agent, Capacity, Model, Objective, Problem
from solver.solution.assignment import Assignment
from solver.solution.explain import Explanation, explain
from solver.solution.plan import Plan
from solver.solution.solution import Solution, Status
from solver.solution.solving import assign, solve

__all__ = [
    "UNASSIGNED",
    "AdaptiveScorer",
    "Agent",
    "Apart",
    "Assignment",
    "Average",
    "Budget",
    "Capacity",
    "CapacityManager",
    "Changes",
    "Commitment",
    "EngineError",
    "Explanation",
    "Lease",
    "Limit",
    "LoadBalancer",
    "LoadTracker",
    "MissingExtraError",
    "Model",
    "ModelLoad",
    "Objective",
    "Plan",
    "Problem",
    "Quota",
    "ScalingAction",
    "ScalingRule",
    "Share",
    "Solution",
    "SolverError",
    "SpecError",
    "Status",
    "StayPut",
    "Together",
    "UnsolvedError",
    "assign",
    "explain",
    "solve",
    "warm_up",
]

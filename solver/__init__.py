"""Decide which model serves which agent, for a whole batch at once, under capacity limits, with a proof."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
"""False at run time, as in ``typing``, whose import takes longer than this whole module."""

if TYPE_CHECKING:
    from typing import Any

    from solver.clock import ManualClock
    from solver.errors import (
        EngineError,
        MissingExtraError,
        SolverError,
        SpecError,
        UnsolvedError,
        Violation,
        ViolationKind,
    )
    from solver.interfaces.files.problem_file import read_problem
    from solver.interfaces.http.client import AsyncClient, Client
    from solver.load.balance.balancer import LoadBalancer
    from solver.load.control.alerts import AlertMonitor, AlertRule
    from solver.load.control.capacity import CapacityManager, dry_run
    from solver.load.control.scaling_rules import ScalingAction, ScalingRule
    from solver.load.control.sinks import LogSink
    from solver.load.lease import Demand, Lease
    from solver.load.observe.feedback import AdaptiveScorer
    from solver.load.observe.trends import Trends
    from solver.load.snapshot import ModelLoad
    from solver.load.store.memory import MemoryStore
    from solver.load.store.queue_rules import QueueRules
    from solver.load.store.redis import RedisStore
    from solver.load.store.usage_limits import UsageLimit
    from solver.load.tracker import LoadTracker
    from solver.online.decision_records import read_decisions
    from solver.online.router import OptimalRouter
    from solver.problem.instance import UNASSIGNED
    from solver.problem.limit_kinds import (
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
    from solver.solution.infeasibility import explain_infeasibility
    from solver.solution.plan import Plan
    from solver.solution.solution import Solution, Status, StopReason
    from solver.solution.solving import assign, solve, warm_up
    from solver.solution.verification import Verification, verify_assignments

__all__ = [
    "UNASSIGNED",
    "AdaptiveScorer",
    "Agent",
    "AlertMonitor",
    "AlertRule",
    "Apart",
    "Assignment",
    "AsyncClient",
    "Average",
    "Budget",
    "Capacity",
    "CapacityManager",
    "Changes",
    "Client",
    "Commitment",
    "Demand",
    "EngineError",
    "Explanation",
    "Lease",
    "Limit",
    "LoadBalancer",
    "LoadTracker",
    "LogSink",
    "ManualClock",
    "MemoryStore",
    "MissingExtraError",
    "Model",
    "ModelLoad",
    "Objective",
    "OptimalRouter",
    "Plan",
    "Problem",
    "QueueRules",
    "Quota",
    "RedisStore",
    "ScalingAction",
    "ScalingRule",
    "Share",
    "Solution",
    "SolverError",
    "SpecError",
    "Status",
    "StayPut",
    "StopReason",
    "Together",
    "Trends",
    "UnsolvedError",
    "UsageLimit",
    "Verification",
    "Violation",
    "ViolationKind",
    "assign",
    "dry_run",
    "explain",
    "explain_infeasibility",
    "read_decisions",
    "read_problem",
    "solve",
    "verify_assignments",
    "warm_up",
]

_HOMES = {
    "solver.clock": ("ManualClock",),
    "solver.errors": (
        "EngineError",
        "MissingExtraError",
        "SolverError",
        "SpecError",
        "UnsolvedError",
        "Violation",
        "ViolationKind",
    ),
    "solver.interfaces.files.problem_file": ("read_problem",),
    "solver.interfaces.http.client": ("AsyncClient", "Client"),
    "solver.load.balance.balancer": ("LoadBalancer",),
    "solver.load.control.alerts": ("AlertMonitor", "AlertRule"),
    "solver.load.control.capacity": ("CapacityManager", "dry_run"),
    "solver.load.control.scaling_rules": ("ScalingAction", "ScalingRule"),
    "solver.load.control.sinks": ("LogSink",),
    "solver.load.lease": ("Demand", "Lease"),
    "solver.load.observe.feedback": ("AdaptiveScorer",),
    "solver.load.observe.trends": ("Trends",),
    "solver.load.snapshot": ("ModelLoad",),
    "solver.load.store.memory": ("MemoryStore",),
    "solver.load.store.redis": ("RedisStore",),
    "solver.load.store.usage_limits": ("UsageLimit",),
    "solver.load.store.queue_rules": ("QueueRules",),
    "solver.load.tracker": ("LoadTracker",),
    "solver.online.decision_records": ("read_decisions",),
    "solver.online.router": ("OptimalRouter",),
    "solver.problem.instance": ("UNASSIGNED",),
    "solver.problem.limit_kinds": (
        "Apart",
        "Average",
        "Budget",
        "Changes",
        "Commitment",
        "Limit",
        "Quota",
        "Share",
        "StayPut",
        "Together",
    ),
    "solver.problem.spec": ("Agent", "Capacity", "Model", "Objective", "Problem"),
    "solver.solution.assignment": ("Assignment",),
    "solver.solution.explain": ("Explanation", "explain"),
    "solver.solution.infeasibility": ("explain_infeasibility",),
    "solver.solution.plan": ("Plan",),
    "solver.solution.solution": ("Solution", "Status", "StopReason"),
    "solver.solution.solving": ("assign", "solve", "warm_up"),
    "solver.solution.verification": ("Verification", "verify_assignments"),
}
"""Module of each public name. Names load when they are first used, so that ``import solver`` costs a
millisecond: the command line can handle an interrupt while the rest still loads."""

_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # a type checker reads the imports above and still refuses unknown names

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

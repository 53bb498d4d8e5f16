"""Baselines: the objectives of simpler ways of assigning, so that a report can say what the proof is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.clock import Deadline
from solver.engines.base import Claim, load_engine
from solver.engines.certificate import certify
from solver.problem.instance import UNASSIGNED
from solver.solution.first_come import first_come
from solver.solution.solution import Status

if TYPE_CHECKING:
    from solver.interfaces.report import Baseline
    from solver.solution.plan import Plan

_MAX_COMPARED_PAIRS = 4_000_000
"""Agents times models above which baselines are left out: comparing must not cost more than solving."""


def baselines(plan: Plan) -> tuple[Baseline, ...]:
    """Return what greedy and first come, first served reach on the same instance, feasible ones only.

    Nothing for large instances, and for plans that are not worth comparing.
    """
    instance = plan.instance
    if plan.status in (Status.INFEASIBLE, Status.UNKNOWN) or instance.n * instance.m > _MAX_COMPARED_PAIRS:
        return ()
    claims = {}
    engine = load_engine("greedy")
    greedy = None
    if engine.unsupported_reason(instance, remaining_s=np.inf) is None:
        greedy = engine.solve(instance, deadline=Deadline.after(None))
    if plan.solution.engine != "greedy" and greedy is not None:
        claims["greedy"] = greedy
    if instance.is_slots:
        claims["first come"] = Claim(choice=first_come(instance))
    served = int(np.count_nonzero(plan.solution.choice != UNASSIGNED))
    found = []
    for name, claim in claims.items():
        certificate = certify(instance, claim)
        left = served - int(np.count_nonzero(claim.choice != UNASSIGNED))
        if not certificate.violations:
            label = f"{name}, {left:,} fewer served" if left > 0 and instance.serve_first else name
            found.append((label, instance.sign * certificate.objective))
    return tuple(found)

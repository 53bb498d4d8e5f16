"""Explanations of infeasibility, confirmed by solving again with what they ask for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from solver.clock import Deadline
from solver.engines.base import load_engine
from solver.problem.build import build_instance
from solver.problem.limit_kinds import Budget, Commitment, Quota
from solver.solution.infeasibility import explain_infeasibility


def test_missing_capacity_is_named_with_its_amount() -> None:
    instance = build_instance(np.ones((3, 2)), [2.0, 2.0], demand=[2.0, 2.0, 2.0], unassigned_penalty=np.inf)
    conflict = explain_infeasibility(instance)
    assert conflict.agents == ()
    assert conflict.irreducible
    assert set(conflict.rows) == {"capacity[0, 0]", "capacity[1, 0]"}
    assert sum(relief.amount for relief in conflict.reliefs) == 2.0
    raised = instance.capacity.copy()
    for relief in conflict.reliefs:
        raised[int(relief.what[9]), 0] += relief.amount
    claim = load_engine("cpsat").solve(replace(instance, capacity=raised), deadline=Deadline.after(2_000))
    assert claim is not None
    assert not claim.infeasible


def test_conflicting_limits_are_an_irreducible_set() -> None:
    scores = np.ones((6, 3))
    limits = [
        Commitment(name="promise", models=[0], at_least=4.0),
        Budget(name="dollars", amount=3.0, cost=[1.0, 0.1, 0.1]),
        Quota(name="harmless", at_most=6.0),
    ]
    instance = build_instance(scores, [6.0, 6.0, 6.0], unassigned_penalty=np.inf, limits=limits)
    claim = load_engine("cpsat").solve(instance, deadline=Deadline.after(2_000))
    assert claim is not None
    assert claim.infeasible
    conflict = explain_infeasibility(instance)
    assert conflict.irreducible
    assert set(conflict.rows) == {"limit promise", "limit dollars"}
    assert "relax limit" in " ".join(conflict.sentences())


def test_an_agent_larger_than_any_capacity_is_named() -> None:
    instance = build_instance(np.ones((2, 2)), [3.0, 3.0], demand=[1.0, 5.0], unassigned_penalty=np.inf)
    conflict = explain_infeasibility(instance)
    assert conflict.agents == (1,)
    assert conflict.rows == ()
    assert "no model can take agents 1" in conflict.sentences()[0]


def test_a_lower_limit_that_nobody_can_meet() -> None:
    scores = np.full((2, 1), -np.inf)
    instance = build_instance(scores, [3.0], limits=[Commitment(name="promise", at_least=1.0)])
    conflict = explain_infeasibility(instance)
    assert conflict.rows == ("limit promise",)
    assert conflict.reliefs[0].amount == 1.0


def test_whole_agents_that_do_not_fit_where_fractions_would() -> None:
    instance = build_instance(np.ones((3, 2)), [3.0, 3.0], demand=[2.0, 2.0, 2.0], unassigned_penalty=np.inf)
    conflict = explain_infeasibility(instance)
    assert conflict.rows == ()
    assert conflict.sentences() == ("fractions of agents would fit, whole agents do not",)

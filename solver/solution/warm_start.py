"""Starting from the answer to a similar problem."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.problem.instance import UNASSIGNED

if TYPE_CHECKING:
    from solver.problem.instance import Instance
    from solver.problem.spec import Problem
    from solver.solution.plan import Plan
    from solver.solution.solution import Solution


def by_ids(plan: Plan, problem: Problem, instance: Instance) -> Solution:
    """Return the solution of a plan in the rows and columns of another problem, as far as ids are the same."""
    before, solution = plan.problem, plan.solution
    columns = {name: j for j, name in enumerate(problem.model_ids)}
    column = np.array([columns.get(name, UNASSIGNED) for name in before.model_ids] + [UNASSIGNED], np.int64)
    known = column[:-1] != UNASSIGNED
    choice = np.full(instance.n, UNASSIGNED, np.int64)
    if solution.choice.ndim == 1:
        positions = before.agents.positions
        row = np.array([positions.get(name, -1) for name in problem.agents.ids.tolist()], np.int64)
        choice[row >= 0] = column[solution.choice[row[row >= 0]]]
    multipliers = np.zeros(instance.capacity.shape)
    if solution.multipliers.shape == (len(known), instance.r):
        multipliers[column[:-1][known]] = solution.multipliers[known]
    return replace(solution, choice=choice, multipliers=multipliers)


def hint_of(warm_start: Solution, instance: Instance) -> Claim:
    """Return what an engine can start from: choice and prices, each as far as its shape fits the instance."""
    multipliers = warm_start.multipliers
    prices = multipliers if multipliers.shape == instance.capacity.shape else None
    if prices is not None and instance.network is None:
        prices = np.maximum(prices, 0.0)  # those of floors, which the instance does not have, are negative
    fits = warm_start.choice.shape == (instance.n,) and warm_start.choice.max() < instance.m
    choice = warm_start.choice if fits else np.full(instance.n, UNASSIGNED, np.int64)
    return Claim(choice=choice, prices=prices)

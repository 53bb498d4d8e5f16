"""Turns an engine's certified answer into the Solution that the caller asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.network_terms import claimed_flow
from solver.engines.slot_prices import score_prices, slot_changes
from solver.problem.network import UnitFlow
from solver.solution.solution import Solution, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.base import Claim
    from solver.engines.portfolio import Answer
    from solver.problem.instance import Instance


def solution_of(instance: Instance, answer: Answer, deadline: Deadline, *, flat: bool) -> Solution:
    """Return the solution of an answer; ``flat`` says whether prices and loads are (m,) rather than (m, r)."""
    certificate = answer.certificate
    if answer.infeasible:
        status, objective, bound = Status.INFEASIBLE, -math.inf, -math.inf
    elif certificate.violations:
        status, objective, bound = Status.UNKNOWN, -math.inf, math.inf
    else:
        status = Status.OPTIMAL if certificate.optimal else Status.FEASIBLE
        objective, bound = certificate.objective, certificate.bound
    multipliers = answer.claim.prices
    if multipliers is None:
        multipliers = np.zeros((instance.m, instance.r))
    choice, flow, left = _answered(instance, answer)
    all_served = bool(choice.min() >= 0) if left is None else not left.any()
    prices, limit_prices = multipliers, _limit_multipliers(instance, answer.claim)
    if not all_served:
        given, given_limits = answer.claim.score_prices, answer.claim.score_limit_prices
        prices = score_prices(instance, multipliers) if given is None else given
        limit_prices = limit_prices if given_limits is None else given_limits
    floor_prices = np.zeros(instance.m)
    if instance.network is not None:
        floor_prices, prices = np.minimum(multipliers[:, 0], 0.0), np.maximum(prices, 0.0)
    changes, serves_more = None, None
    if status is Status.OPTIMAL and instance.has_exact_prices:
        changes, serves_more = prices[:, 0], np.zeros(instance.m, bool)
        if not all_served:
            part, more = slot_changes(instance, multipliers)
            changes, serves_more = part[:, 0], more[:, 0]
        changes = instance.sign * changes + 0.0
    load = certificate.load
    sign = instance.sign
    return Solution(
        status=status,
        choice=choice,
        objective=sign * objective + 0.0,
        bound=sign * bound + 0.0,
        prices=prices[:, 0] if flat else prices,
        load=load[:, 0] if flat else load,
        multipliers=multipliers,
        engine=answer.engine,
        elapsed_ms=deadline.elapsed_ms(),
        notes=answer.notes,
        stopped_by=answer.stopped_by,
        bound_is_claimed=certificate.bound_is_claimed,
        row_names=() if instance.limits is None else instance.limits.names,
        limit_prices=limit_prices,
        limit_multipliers=_limit_multipliers(instance, answer.claim),
        limit_load=certificate.limit_load,
        progress=tuple((ms, sign * value, sign * limit) for ms, value, limit in answer.claim.progress),
        sense=instance.sense,
        floor_prices=floor_prices,
        slot_changes=changes,
        serves_more=serves_more,
        unit_flow=flow,
        left=left,
    )


def _answered(
    instance: Instance, answer: Answer
) -> tuple[NDArray[np.int64], UnitFlow | None, NDArray[np.int64] | None]:
    """Return choice, flow and units left out as the caller asked for them; the last two None for plain agents."""
    shape, claim = instance.network, answer.claim
    if shape is None or shape.is_single:
        return claim.choice, None, None
    flow = claimed_flow(claim) if claim.flow is not None else UnitFlow.of_choice(np.full(instance.n, -1))
    choice = flow.choice(instance.n, shape.most_copies, instance.scores_of(flow.agent, flow.model))
    left = shape.supply - flow.served(instance.n)
    return choice if shape.copies is not None else choice[:, 0], flow, left


def _limit_multipliers(instance: Instance, claim: Claim) -> NDArray[np.float64]:
    if claim.limit_prices is not None:
        return claim.limit_prices
    return np.zeros(0 if instance.limits is None else instance.limits.count)

"""The straight way for what routers ask for most: a small array of finite scores, an array of slots, and nothing else.

Reading, engine and proof are those of the long way, without the questions that such an instance answers at once.
Whatever is unusual, wrong or not proven here is left to the long way, which says why.
"""

from __future__ import annotations

import time
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines import kernels
from solver.engines.base import StopReason
from solver.engines.certificate import full_service_proof
from solver.engines.portfolio import DEFAULT_PARAMS
from solver.problem.blocks import least_of
from solver.problem.instance import MAX_CAPACITY
from solver.problem.numbers import LARGEST
from solver.solution.solution import Solution, Status

if TYPE_CHECKING:
    from solver.clock import Deadline

_SCORE_TYPES = np.dtype(np.float64), np.dtype(np.float32)

_COMMON: dict[str, Any] = {
    given.name: given.default for given in fields(Solution) if given.default is not MISSING
} | {
    "status": Status.OPTIMAL,
    "stopped_by": StopReason.PROVEN,
    "limit_prices": np.zeros(0),
    "limit_multipliers": np.zeros(0),
    "limit_load": np.zeros(0),
}
"""Attributes that all answers of the straight way have in common."""


def plain_solution(scores: object, capacity: object, deadline: Deadline) -> Solution | None:
    """Return the proven optimum where every agent takes a slot, None where the long way is needed. O(n m).

    Parameters
    ----------
    scores : object
        Taken if it is an (n, m) array of finite float32 or float64 in C order.
    capacity : object
        Taken if it is an (m,) array of whole numbers that have room for all agents.
    deadline : Deadline
        A share of what is left is used at most.
    """
    if type(scores) is not np.ndarray or type(capacity) is not np.ndarray or scores.ndim != 2:
        return None
    n, m = scores.shape
    if not 0 < n * m <= DEFAULT_PARAMS.at_once_pairs:
        return None
    if capacity.shape != (m,) or scores.dtype not in _SCORE_TYPES or not scores.flags.c_contiguous:
        return None
    kind = capacity.dtype.kind
    if kind not in "iuf" or (kind == "f" and not (capacity == np.floor(capacity)).all()):
        return None
    units = capacity.astype(np.float64)
    with np.errstate(over="ignore"):
        total = np.add.reduce(units)
    if least_of(units) < 0 or not n <= total <= MAX_CAPACITY:
        return None
    flat = scores.ravel()
    if not (float(np.vdot(flat, flat)) <= LARGEST and kernels.available()):  # nor NaN and infinities
        return None
    until_s = np.inf
    if deadline.limited:
        left_s = deadline.remaining_s()
        if left_s < DEFAULT_PARAMS.at_once_s + DEFAULT_PARAMS.at_once_s_per_pair * n * m:
            return None
        until_s = time.monotonic() + DEFAULT_PARAMS.at_once_share * left_s
    slots = np.minimum(units, n).astype(np.int64)
    engine = "transport"
    if m < DEFAULT_PARAMS.many_models or n > DEFAULT_PARAMS.few_agents_per_model_compiled * m:
        found = kernels.transport(scores, None, slots, until_s=until_s)
    elif np.add.reduce(slots) >= DEFAULT_PARAMS.wide_slots_per_agent * n:
        engine, found = "lsap", kernels.match(scores, None, slots, until_s=until_s)
    else:
        return None
    if found.outcome is not kernels.Outcome.SOLVED:
        return None
    prices = found.prices
    proof = full_service_proof(scores, units, found.choice, prices)
    if proof is None:
        return None
    # The constructor of a frozen class sets two dozen attributes one by one: a tenth of the time of the whole call.
    solution = object.__new__(Solution)
    vars(solution).update(
        _COMMON,
        choice=found.choice,
        objective=proof.objective,
        bound=proof.objective + proof.slack,
        prices=prices,
        load=proof.load,
        multipliers=prices.reshape(m, 1),
        engine=engine,
        elapsed_ms=deadline.elapsed_ms(),
        floor_prices=np.zeros(m),
        slot_changes=prices,
        serves_more=np.zeros(m, bool),
    )
    return solution

"""The linear sum assignment problem: exact for slots where models are many, or everything is tiny.

Sparse instances are matched on their stored pairs; dense ones with about as many models as agents on a core of the
pairs, which their smallest prices then prove optimal over all pairs; dense ones with many more slots than agents, and
those that nothing simplifies, on all pairs. The compiled matching takes models with several slots as they are and
returns prices with the optimum. Without it a model with C slots becomes C equal columns for scipy's sparse matching or
``linear_sum_assignment``.
"""

from __future__ import annotations

import time
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from solver.engines import kernels
from solver.engines.base import Claim
from solver.engines.duals import core_prices, priced_claim, supported_claim
from solver.engines.matching import CoreParameters, core_pairs, match_pairs, replicated_pairs
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline

_MAX_CELLS = 50_000_000
"""Agents times replicated models at most: 400 MB of float64."""

_MAX_REPLICATED_PAIRS = 5_000_000
"""Pairs of a sparse matching at most, once replicated, which take as much."""

_DENSE_S_PER_CELL_ROW = 4e-10
"""Seconds per row and cell: shortest augmenting paths, with replicated columns that tie heavily."""

_SPARSE_S_PER_PAIR_ROW = 1.5e-10
"""Seconds per row and replicated pair of a sparse matching."""

_SPARSE_S_PER_PAIR = 1e-7
"""Seconds per pair for arranging them and pricing the result."""

_CORE_S_PER_CELL = 1.6e-8
"""Seconds per cell for finding and checking a core."""

_CORED_AGENTS = 150
"""Agents from which a core is found faster than an optimum of all pairs."""

_LSAP_OVERHEAD_S = 1e-3
"""Seconds of the call itself."""

_WIDE_SLOTS_PER_AGENT = 1.5
"""Slots per agent from which few agents compete, and the compiled matching takes all pairs."""

_WIDE_S_PER_CELL = 3e-9
"""Seconds per cell of the compiled matching there, which reads the clock itself."""


class LsapEngine:
    """Shortest augmenting paths (Crouse 2016, Jonker and Volgenant 1987), exact in float64.

    O(n² Σ_j C_j) at most; a few passes of O(n m) where a core suffices.
    """

    name = "lsap"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: no slots, or more replicated columns than memory or the time left allow."""
        if not instance.is_slots:
            return "lsap: every agent must take exactly one slot"
        if instance.load_cost is not None:
            return "lsap: slots must not cost by load"
        size, most, estimate = _size_and_seconds(instance)
        if size > most:
            what = "cells" if most == _MAX_CELLS else "pairs"
            return f"lsap: about {size:,} {what} once models are replicated, at most {most:,}"
        if estimate > remaining_s:
            return f"lsap: needs about {estimate * 1e3:.0f} ms, {max(remaining_s, 0) * 1e3:.0f} ms left"
        return None

    def solve(
        self,
        instance: Instance,
        *,
        deadline: Deadline,
        hint: Claim | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> Claim | None:
        """Return an optimal choice with its minimal prices, or the proof that there is none."""
        score = instance.score
        compiled = kernels.available()
        if _method(instance) is _Method.CORE:
            claim = _solve_core(instance, deadline)
            if claim is not None:
                return claim
            needs_s = 0.0 if compiled else _dense_seconds(instance)
            if _cells(instance) > _MAX_CELLS or needs_s > deadline.remaining_s():
                return None
        outside = instance.unserved if instance.may_leave else None
        if compiled:
            return _compiled_claim(instance, outside, deadline)
        if isinstance(score, CompressedScores):
            choice = match_pairs(score, instance.slots, outside)
        else:
            choice = _solve_dense(instance)
        if choice is None:
            return _nothing(instance)
        return priced_claim(instance, choice, deadline=deadline)


class _Method(Enum):
    """Which pairs are matched."""

    STORED = auto()
    """Those of sparse scores."""
    ALL_COMPILED = auto()
    """All of them, where slots are so many that few agents compete."""
    CORE = auto()
    """Those that prices leave in a core, if there is one."""
    ALL = auto()


def _method(instance: Instance) -> _Method:
    """Return which pairs to match: dense scores with slots for all agents may have a core."""
    n, slots = instance.n, instance.slot_total
    if isinstance(instance.score, CompressedScores):
        return _Method.STORED
    if kernels.available() and slots >= _WIDE_SLOTS_PER_AGENT * n:
        return _Method.ALL_COMPILED
    has_core = slots >= n >= _CORED_AGENTS and instance.m > CoreParameters().pairs_per_agent
    return _Method.CORE if has_core else _Method.ALL


def _size_and_seconds(instance: Instance) -> tuple[int, int, float]:
    """Return the cells or pairs once models are replicated, the most of them, and about how long it takes."""
    n, m, method, core_s = instance.n, instance.m, _method(instance), 0.0
    if method is _Method.ALL_COMPILED:
        return 0, _MAX_CELLS, n * m * _WIDE_S_PER_CELL
    if method is _Method.ALL:
        return _cells(instance), _MAX_CELLS, _dense_seconds(instance)
    if isinstance(instance.score, CompressedScores):
        pairs = replicated_pairs(instance.score, instance.slots) + n
    else:
        pairs = CoreParameters().pairs_per_agent * instance.slot_total * n // m + n
        core_s = n * m * _CORE_S_PER_CELL + _LSAP_OVERHEAD_S
    return pairs, _MAX_REPLICATED_PAIRS, core_s + pairs * (_SPARSE_S_PER_PAIR + n * _SPARSE_S_PER_PAIR_ROW)


def _nothing(instance: Instance) -> Claim:
    return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)


def _compiled_claim(
    instance: Instance, outside: NDArray[np.float64] | None, deadline: Deadline
) -> Claim | None:
    """Return the optimum of all pairs with its smallest prices, the proof that there is none, or None out of time."""
    score = instance.score
    score = score if isinstance(score, CompressedScores) else np.asarray(score, np.float64)
    found = kernels.match(score, outside, instance.slots, until_s=_until_s(deadline))
    if found.outcome is kernels.Outcome.INFEASIBLE:
        return _nothing(instance)
    if found.outcome is not kernels.Outcome.SOLVED:
        return None
    return Claim(choice=found.choice, prices=found.prices[:, None])


def _until_s(deadline: Deadline) -> float:
    return time.monotonic() + deadline.remaining_s() if deadline.limited else np.inf


def _cells(instance: Instance) -> int:
    return instance.n * (instance.slot_total + (0 if _alike(instance) else instance.n))


def _dense_seconds(instance: Instance) -> float:
    return _cells(instance) * min(instance.n, instance.slot_total) * _DENSE_S_PER_CELL_ROW


def _alike(instance: Instance) -> bool:
    """Whether staying unassigned needs no columns: no agent may, or all may at one value below every score."""
    if not instance.may_leave:
        return instance.slot_total >= instance.n
    return instance.serve_first and instance.rank is None and not instance.forbids


def _solve_core(instance: Instance, deadline: Deadline) -> Claim | None:
    """Return the optimum if some core of the pairs has one that its prices prove, or None."""
    parameters = CoreParameters()
    outside = instance.unserved if instance.may_leave else None
    leaving = parameters.leaving
    base = prices = pairs = None
    for most_left in parameters.most_left:
        core = core_pairs(instance, parameters, prices, pairs)
        pairs, started = core.pairs, prices is not None
        base = core.charge if base is None else base
        if not np.isfinite(core.reach) or _is_too_large(instance, pairs):
            return None
        charged, aside = core.charged(base), core.best - leaving * core.reach
        choice = known = None
        if not started or outside is not None:
            choice, known = _match(pairs, instance, outside, deadline)
        if choice is None:
            # Who may stay out of the core at a loss tells the prices of what they compete for.
            if outside is not None or deadline.expired() or not np.isfinite(aside).all():
                return None
            choice, rent = _match(charged, instance, aside, deadline)
            if choice is None or np.count_nonzero(choice == UNASSIGNED) > most_left * instance.n:
                return None
            known = base + (core_prices(instance, choice, charged, aside) if rent is None else rent)
            if (choice == UNASSIGNED).any():
                leaving *= 2.0
                prices = known
                continue
            if not np.isfinite(known).all() or known.min() < 0:
                known = None
        claim, proven = supported_claim(instance, choice, pairs, deadline=deadline, known=known)
        if proven or deadline.expired():
            return claim
        if not np.isfinite(base).all():
            return None
        prices = base + core_prices(instance, choice, charged, aside)
    return None


def _is_too_large(instance: Instance, pairs: CompressedScores) -> bool:
    """Whether scipy would need too much memory for some pairs once models are replicated."""
    return not kernels.available() and replicated_pairs(pairs, instance.slots) > _MAX_REPLICATED_PAIRS


def _match(
    pairs: CompressedScores, instance: Instance, outside: NDArray[np.float64] | None, deadline: Deadline
) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
    """Return an optimal choice among some pairs, if there is one, and its smallest prices, where they come for free."""
    if not kernels.available():
        return match_pairs(pairs, instance.slots, outside), None
    found = kernels.match(pairs, outside, instance.slots, until_s=_until_s(deadline))
    return (found.choice, found.prices) if found.outcome is kernels.Outcome.SOLVED else (None, None)


def _solve_dense(instance: Instance) -> NDArray[np.int64] | None:
    """Return an optimal choice by scipy's dense solver, or None if an agent that must be served cannot be."""
    n = instance.n
    slots = instance.slots
    column = np.repeat(np.arange(instance.m), slots)
    score = np.asarray(instance.score)
    value = score if len(column) == instance.m and (slots == 1).all() else np.repeat(score, slots, axis=1)
    if not _alike(instance):
        leave = np.broadcast_to(instance.unserved[:, None], (n, n))
        value = np.concatenate([value, leave], axis=1)
        column = np.append(column, np.full(n, UNASSIGNED))
    try:
        rows, picked = linear_sum_assignment(value, maximize=True)
    except ValueError:  # scipy's word for "no complete matching"; its input was checked before
        return None
    choice = np.full(n, UNASSIGNED, np.int64)
    choice[rows] = column[picked]
    return choice

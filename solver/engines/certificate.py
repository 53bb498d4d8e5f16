"""The judge: recomputes objective, loads, feasibility and bound of a claim from the Instance alone.

Weak Lagrangian duality makes the bound valid for any prices ``p >= 0``, wherever they came from:

    bound(p) = Σ_i max( max_j (score_ij − Σ_k p_jk demand_ijk), unserved_i ) + Σ_jk p_jk capacity_jk

with ``Σ_t slots_t max(p_j(t) − cost_t, 0)`` for the last sum where slots cost by tiers.

The gap is summed as complementary-slackness terms, each of them >= 0, rather than as the difference of two
large numbers. Everything is float64, whatever the precision of the scores.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.instance import UNASSIGNED, Instance, chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.base import Claim

__all__ = ["OPTIMALITY_TOLERANCE", "Certificate", "certify", "reduced_scores", "relative_gap"]

OPTIMALITY_TOLERANCE = 1e-9
"""Largest relative gap that is called optimal."""

_ROUNDING = 1e-13  # of the sum of absolute values: below this, a gap is float64 noise
_OVERLOAD = 1e-9  # relative, for resources measured in real numbers; slots are counted exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is proven about an assignment.

    Parameters
    ----------
    objective : float
        Recomputed objective.
    bound : float
        No feasible assignment (in serve-first mode: none that serves as well) exceeds it; ``inf`` if unknown.
    load : (m, r) float64
        Units used.
    violations : tuple of str
        Every constraint broken; empty for a feasible assignment.
    optimal : bool
        Feasible, and the gap is within :data:`OPTIMALITY_TOLERANCE` or float64 rounding.
    bound_is_claimed : bool
        The bound was vouched for by an engine, not recomputed from prices.
    """

    objective: float
    bound: float
    load: NDArray[np.float64]
    violations: tuple[str, ...]
    optimal: bool
    bound_is_claimed: bool = False

    @property
    def gap(self) -> float:
        """Relative distance from objective to bound, >= 0."""
        return relative_gap(self.objective, self.bound)


def relative_gap(objective: float, bound: float) -> float:
    """Return ``(bound − objective) / max(|objective|, |bound|)``, 0 when they are equal, never negative."""
    if bound <= objective:
        return 0.0
    if math.isinf(bound):
        return math.inf
    return (bound - objective) / max(abs(objective), abs(bound))


def certify(instance: Instance, claim: Claim, *, threads: int = 1) -> Certificate:
    """Verify a claim. O(n m r) time in one pass, O(n) memory beyond the input.

    Parameters
    ----------
    instance : Instance
        The problem.
    claim : Claim
        What an engine says.
    threads : int
        Threads that share the pass.

    Returns
    -------
    Certificate
    """
    violations = _malformed(instance, claim.choice)
    if violations:
        nothing = np.zeros((instance.m, instance.r))
        return Certificate(
            objective=-math.inf, bound=math.inf, load=nothing, violations=violations, optimal=False
        )
    choice = claim.choice
    load = instance.usage(choice)
    served = np.flatnonzero(choice != UNASSIGNED)
    own = instance.score[served, choice[served]].astype(np.float64)
    violations = _broken(instance, choice, load, own, served)
    left = np.flatnonzero(choice == UNASSIGNED)
    left_value = instance.unserved[left] if len(left) else np.zeros(0)
    objective = float(own.sum()) - float(instance.load_charge(load[:, 0]).sum())
    if not instance.serve_first:
        objective += float(left_value.sum())
    slack = math.inf if violations else _slack(instance, choice, load, claim.prices, threads)
    bound = objective + slack
    claimed = claim.bound is not None and claim.bound < bound
    if claimed and claim.bound is not None:
        bound = claim.bound
    scale = float(np.abs(own).sum() + np.abs(left_value).sum())
    tight = bound - objective <= max(
        OPTIMALITY_TOLERANCE * max(abs(objective), abs(bound)) if math.isfinite(bound) else 0.0,
        _ROUNDING * scale if math.isfinite(scale) else 0.0,
    )
    return Certificate(
        objective=objective,
        bound=bound,
        load=load,
        violations=violations,
        optimal=tight and not violations,
        bound_is_claimed=claimed,
    )


def _malformed(instance: Instance, choice: NDArray[np.int64]) -> tuple[str, ...]:
    if choice.shape != (instance.n,) or choice.dtype != np.int64:
        return (
            f"choice: expected int64 of shape ({instance.n},), got {choice.dtype} of shape {choice.shape}",
        )
    wrong = np.flatnonzero((choice < UNASSIGNED) | (choice >= instance.m))
    return tuple(f"choice[{i}]: expected -1 to {instance.m - 1}, got {choice[i]}" for i in wrong)


def _broken(
    instance: Instance,
    choice: NDArray[np.int64],
    load: NDArray[np.float64],
    own: NDArray[np.float64],
    served: NDArray[np.intp],
) -> tuple[str, ...]:
    broken = [
        f"choice[{i}]: agent {i} is not eligible for model {choice[i]}" for i in served[~np.isfinite(own)]
    ]
    room = instance.capacity if instance.is_slots else instance.capacity * (1 + _OVERLOAD) + 1e-12
    broken += [
        f"load[{j}, {k}]: expected <= {instance.capacity[j, k]:g}, got {load[j, k]:g}"
        for j, k in np.argwhere(load > room)
    ]
    if instance.penalty is not None:
        must = np.flatnonzero((choice == UNASSIGNED) & np.isposinf(instance.penalty))
        broken += [f"choice[{i}]: agent {i} must be served" for i in must]
    return tuple(broken)


def _slack(
    instance: Instance,
    choice: NDArray[np.int64],
    load: NDArray[np.float64],
    prices: NDArray[np.float64] | None,
    threads: int,
) -> float:
    """Return bound(prices) − objective as a sum of complementary-slackness terms."""
    if prices is None:
        prices = np.zeros((instance.m, instance.r))
    if prices.shape != (instance.m, instance.r) or not (np.isfinite(prices) & (prices >= 0)).all():
        return math.inf
    # In serve-first mode a full service can only be compared with full services: leaving is no option then.
    may_leave = not (instance.serve_first and (choice != UNASSIGNED).all())
    parts = list(chunks(instance.n, instance.m))
    lanes = [parts[k::threads] for k in range(threads)] if len(parts) >= 4 * threads else [parts]

    def misjudged(lane: list[slice]) -> float:
        """Sum what the agents of some blocks forgo; buffers are reused, fresh pages cost as much as sums."""
        buffer = np.empty((parts[0].stop, instance.m))
        start = np.arange(parts[0].stop) * instance.m
        total = 0.0
        for rows in lane:
            value = reduced_scores(instance, rows, prices, out=buffer[: rows.stop - rows.start])
            flat, first = value.ravel(), start[: len(value)]
            best = flat[first + value.argmax(axis=1)]  # faster than a maximum along short rows
            pick = choice[rows]
            own = flat[first + np.maximum(pick, 0)]
            if may_leave:
                unserved = instance.unserved[rows]
                np.maximum(best, unserved, out=best)
                own = np.where(pick == UNASSIGNED, unserved, own)
            total += float((best - own).sum())
        return total

    if len(lanes) == 1:
        total = misjudged(lanes[0])
    else:
        with ThreadPoolExecutor(len(lanes)) as pool:
            total = sum(pool.map(misjudged, lanes))
    if instance.load_cost is not None:
        return total + _tier_slack(instance, load[:, 0], prices[:, 0])
    return total + float((prices * (instance.capacity - load)).sum())


def _tier_slack(instance: Instance, load: NDArray[np.float64], price: NDArray[np.float64]) -> float:
    """Return what the models would earn at these prices less what they do: slots of each tier they misjudge."""
    model, cost, slots = instance.tiers
    end = np.cumsum(slots)
    first = np.flatnonzero(np.diff(model, prepend=-1))
    before = end - slots - np.repeat((end - slots)[first], np.diff(np.append(first, len(model))))
    used = np.clip(load[model] - before, 0, slots)
    margin = price[model] - cost
    return float((slots * np.maximum(margin, 0.0) - used * margin).sum())


def reduced_scores(
    instance: Instance,
    rows: slice,
    prices: NDArray[np.float64],
    *,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return ``score − price·demand`` of some rows, (rows, m) float64, in ``out`` if given."""
    if instance.demand is None:
        value: NDArray[np.float64] = np.subtract(
            instance.score[rows], prices[:, 0], out=out, dtype=np.float64
        )
        return value
    value = np.empty((rows.stop - rows.start, instance.m)) if out is None else out
    value[...] = instance.score[rows]
    for k in range(instance.r):
        value -= instance.demand[rows, :, k] * prices[:, k]
    return value

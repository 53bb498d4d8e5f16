"""The arrays that every engine reads: one frozen :class:`Instance`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.blocks import chunks, extremes
from solver.problem.sparse import CompressedScores
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.limit_rows import LimitRows
    from solver.problem.network import NetworkShape

UNASSIGNED = -1
"""The choice of an agent that no model serves."""

MAX_CAPACITY = 2**53
"""Capacities above this lose whole units in float64 and are refused."""

_LEAST_SPREAD = 2.0**-32
"""Differences of scores, relative to the largest, below which they are taken as that large in the value of service."""

_OF_SCORES = ("forbids", "highest", "score_range")
"""Cached properties of an instance that depend on its scores alone."""


def chain_gain(low: float, high: float, max_cost: float, models: int) -> float:
    """Return four times what a chain of re-assignments over all models can gain at most.

    Parameters
    ----------
    low, high : float
        Least and largest value of serving an agent. Where they differ by little, what they have in common counts:
        beside it the result must not be rounding.
    max_cost : float
        Largest cost of a slot.
    models : int
        Number of models.
    """
    spread = max(high - low + max_cost, _LEAST_SPREAD * max(abs(low), abs(high)))
    return 4.0 * (models + 1) * (spread or 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """A constrained assignment problem as arrays; immutable by convention and flags.

    Parameters
    ----------
    score : (n, m) float32 or float64, C order, or CompressedScores
        Value of serving agent i by model j; ``-inf`` forbids the pair. Compressed only where agents take slots.
    capacity : (m, r) float64
        Units each model has left, per resource.
    demand : (n, m, r) float64 or None
        Units agent i takes of model j, usually a broadcast view; None means one slot each (r = 1).
    penalty : (n,) float64 or None
        What leaving agent i unassigned costs; ``inf`` forbids it. None: serve as many agents as possible
        first, higher rank first, and only then maximise the score.
    rank : (n,) int64 or None
        Dense rank of the agents' priorities, 0 the lowest; read only when ``penalty`` is None.
    limits : LimitRows or None
        Couplings across models, compiled to rows.
    load_cost : (m, t) float64 or None
        What each slot costs in each of t equal tiers of a model's slots, non-decreasing along t.
    network : NetworkShape or None
        Floors on models, agents that need several models, rows that stand for several agents. Only where
        agents take slots.
    sense : {"maximize", "minimize"}
        What the caller asked for. Engines always maximise ``score``; of costs it holds the negatives.
    """

    score: NDArray[Any] | CompressedScores
    capacity: NDArray[np.float64]
    demand: NDArray[np.float64] | None = None
    penalty: NDArray[np.float64] | None = None
    rank: NDArray[np.int64] | None = None
    limits: LimitRows | None = None
    load_cost: NDArray[np.float64] | None = None
    network: NetworkShape | None = None
    sense: str = "maximize"

    @property
    def n(self) -> int:
        """Number of agents."""
        return int(self.score.shape[0])

    @property
    def m(self) -> int:
        """Number of models."""
        return int(self.score.shape[1])

    @property
    def sign(self) -> float:
        """What turns a score or a total of this instance into the caller's: -1 where scores are costs."""
        return -1.0 if self.sense == "minimize" else 1.0

    @property
    def r(self) -> int:
        """Number of resources."""
        return int(self.capacity.shape[1])

    @property
    def is_slots(self) -> bool:
        """Whether every agent takes one slot of its model and nothing else, and models have no floors."""
        return self.demand is None and self.limits is None and self.network is None

    @property
    def has_exact_prices(self) -> bool:
        """Whether an optimum's price is exactly what one more slot adds: where the problem is a network flow."""
        opens = self.network is not None and self.network.has_openings
        return self.demand is None and self.limits is None and not opens

    @cached_property
    def is_integral(self) -> bool:
        """Whether every allowed score is a whole number, so that totals move in steps of one."""
        if isinstance(self.score, CompressedScores):
            if (np.floor(self.score.data) != self.score.data).any():
                return False
        else:
            for rows in chunks(self.n, self.m):
                block = self.score[rows]
                if not ((np.floor(block) == block) | np.isinf(block)).all():
                    return False
        return max(map(abs, self.score_range)) * self.units < MAX_CAPACITY

    @cached_property
    def has_oversized(self) -> bool:
        """Whether some allowed pair asks for more than its model has when empty."""
        if self.demand is None:
            return bool(self.capacity.min() < 1)
        return any(bool(self.oversized(rows).any()) for rows in chunks(self.n, self.m))

    def oversized(self, rows: slice | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return, for some rows, the (rows, m) pairs that ask for more than their model has when empty."""
        if self.demand is None:
            count = len(np.arange(self.n)[rows])
            return np.broadcast_to(self.capacity[:, 0] < 1, (count, self.m))
        large = self.demand[rows, :, 0] > self.capacity[:, 0] * (1 + EXCESS_TOLERANCE)
        for k in range(1, self.r):
            large = large | (self.demand[rows, :, k] > self.capacity[:, k] * (1 + EXCESS_TOLERANCE))
        return large

    @property
    def serve_first(self) -> bool:
        """Whether serving more agents, higher rank first, comes before any score."""
        return self.penalty is None

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """(m,) int64, slots of each model, at most the units of all agents. Only where agents take slots."""
        return np.minimum(self.capacity[:, 0], self.units).astype(np.int64)

    @cached_property
    def slot_total(self) -> int:
        """Slots of all models together."""
        return int(self.slots.sum())

    @cached_property
    def units(self) -> int:
        """Slots that all agents together ask for: n, unless rows stand for several or need several models."""
        return self.n if self.network is None else int(self.network.supply.sum())

    @cached_property
    def tiers(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Model, cost per slot and slots of every tier, by model and then by cost. Only for slot instances.

        One free tier per model without a load cost. Tier k of t ends at the (k + 1)/t of the model's slots,
        rounded to whole slots.
        """
        total = self.capacity[:, 0]
        if self.load_cost is None:
            return np.arange(self.m), np.zeros(self.m), self.slots
        t = self.load_cost.shape[1]
        ends = np.minimum(np.rint(total[:, None] * (np.arange(1, t + 1) / t)), self.units).astype(np.int64)
        return (
            np.repeat(np.arange(self.m), t),
            self.load_cost.ravel(),
            np.diff(ends, axis=1, prepend=0).ravel(),
        )

    def remember_extremes(self, least: float, largest: float) -> None:
        """Fill the properties that depend on the extremes of the scores, which reading them has just found.

        Another pass over a large matrix costs a tenth of a solve.
        """
        known: dict[str, Any] = {"forbids": least == -np.inf, "highest": largest}
        if least > -np.inf:
            known["score_range"] = (least, largest)
        vars(self).update(known)

    def without_limits(self) -> Instance:
        """Return the same instance without its limits, and with what is known about its scores."""
        if self.limits is None:
            return self
        free = replace(self, limits=None)
        known = vars(self)
        vars(free).update({name: known[name] for name in _OF_SCORES if name in known})
        return free

    def load_charge(self, load: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what (m,) loads cost each model, the cheapest slots used first; zeros without a load cost."""
        if self.load_cost is None:
            return np.zeros(self.m)
        model, cost, slots = self.tiers
        t = self.load_cost.shape[1]
        before = (np.cumsum(slots.reshape(self.m, t), axis=1) - slots.reshape(self.m, t)).ravel()
        used = np.clip(load[model] - before, 0, slots)
        charge: NDArray[np.float64] = (used * cost).reshape(self.m, t).sum(axis=1)
        return charge

    @cached_property
    def forbids(self) -> bool:
        """Whether any pair is forbidden."""
        if isinstance(self.score, CompressedScores):
            return len(self.score.data) < self.n * self.m
        return extremes(self.score)[0] == -np.inf

    @cached_property
    def highest(self) -> float:
        """Largest score."""
        return self.score_range[1]

    @cached_property
    def score_range(self) -> tuple[float, float]:
        """Smallest and largest finite score; (0, 0) when no pair is allowed. One pass, no full-size copy."""
        if isinstance(self.score, CompressedScores):
            data = self.score.data
            return (float(data.min()), float(data.max())) if len(data) else (0.0, 0.0)
        low, high = np.inf, -np.inf
        for rows in chunks(self.n, self.m):
            block = self.score[rows]
            high = max(high, float(block.max()))
            least = float(block.min())
            if least == -np.inf:
                least = float(block.min(initial=np.inf, where=block > -np.inf))
            low = min(low, least)
        return (low, high) if low <= high else (0.0, 0.0)

    @cached_property
    def may_leave(self) -> bool:
        """Whether an optimum of a slot instance may need to leave an agent unassigned.

        It does not where nothing is forbidden and there are slots enough, unless leaving costs less than the worst
        slot: an agent that stays unassigned leaves one free. Nor where all agents must be served.
        """
        crowded = self.forbids or self.n > self.slot_total
        if self.penalty is None:
            return crowded
        if crowded:
            return bool(np.isfinite(self.penalty).any())
        max_cost = 0.0 if self.load_cost is None else float(self.load_cost.max())
        return bool(self.penalty.min() < max_cost - self.score_range[0])

    @cached_property
    def serve_step(self) -> float:
        """Step between the values of serving two neighbouring ranks in serve-first mode.

        Larger than anything a chain of re-assignments over all m models can gain, so that in a slot
        instance the maximum of (score + value of service) is the lexicographic maximum: the sets of agents
        that can be served together form a transversal matroid, whose best basis depends on the order of
        the weights alone (Edmonds and Fulkerson 1965). The factor 4 leaves room to read the score part of
        a price back out of it, see `solver.engines.slot_prices`.
        """
        low, high = self.score_range
        max_cost = 0.0 if self.load_cost is None else float(self.load_cost.max())
        step = chain_gain(low, high, max_cost, self.m)
        if self.network is not None and self.network.has_openings:
            # Opening models for one agent more may move all others: nothing all of them gain may outweigh it.
            step += 4.0 * self.units * (high - low) + 2.0 * float(self.network.opening_cost.sum())
        return step

    @cached_property
    def unserved(self) -> NDArray[np.float64]:
        """(n,) float64, value of leaving each agent unassigned, as every engine maximises it.

        ``-penalty`` where penalties are given; in serve-first mode low enough that service always wins.
        """
        if self.penalty is not None:
            return -self.penalty
        low, _ = self.score_range
        rank = np.zeros(1, np.int64) if self.rank is None else self.rank
        return np.broadcast_to(low - self.serve_step * (1.0 + rank), (self.n,))

    def scores_of(self, agents: NDArray[np.intp], models: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the float64 scores of some pairs, ``-inf`` where forbidden."""
        if isinstance(self.score, CompressedScores):
            return self.score[agents, models].astype(np.float64)
        # Flat indices take half the time of pairs.
        scores: NDArray[np.float64] = self.score.ravel()[agents * self.m + models].astype(np.float64)
        return scores

    def usage(self, choice: NDArray[np.int64], served: NDArray[np.intp] | None = None) -> NDArray[np.float64]:
        """Return the (m, r) float64 units used by an (n,) choice; ``served`` are its agents if known. O(n r)."""
        if served is None:
            served = np.flatnonzero(choice != UNASSIGNED)
        models = choice if len(served) == self.n else choice[served]
        if self.demand is None:
            return np.bincount(models, minlength=self.m).astype(np.float64).reshape(-1, 1)
        taken = self.demand[served, models]
        return np.stack(
            [np.bincount(models, weights=taken[:, k], minlength=self.m) for k in range(self.r)], axis=1
        )

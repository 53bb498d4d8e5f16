"""The first pass over all agents: ranges, agents that can be served, equal columns, and the samples drawn on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.price.agent_rows import DenseRows
from solver.errors import SpecError, Violation
from solver.problem.blocks import row_maxima
from solver.problem.instance import Instance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.scale.pieces import Block


_AGENT_VECTORS = ("penalty", "priority", "copies", "count")
"""Numbers of which an agent may have one, beside its scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some agents with their numbers.

    Parameters
    ----------
    agent : (k,) int64
        Places among all agents, ascending.
    score : (k, m) float32 or float64
        To be maximised.
    penalty, priority : (k,) float64 or None
        None without such a column.
    copies, count : (k,) int64 or None
        None without such a column.
    """

    agent: NDArray[np.int64]
    score: NDArray[Any]
    penalty: NDArray[np.float64] | None
    priority: NDArray[np.float64] | None
    copies: NDArray[np.int64] | None = None
    count: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, block: Block, agents: NDArray[np.int64]) -> Sample:
        """Return some agents of a block."""
        at = agents - block.first
        return cls(agent=agents, score=block.score[at], **_vectors_at(block, at))

    def at(self, place: NDArray[np.int64]) -> Sample:
        """Return the agents at some places of the sample, ascending."""
        return Sample(agent=self.agent[place], score=self.score[place], **_vectors_at(self, place))

    @classmethod
    def joined(cls, parts: Sequence[Sample]) -> Sample:
        """Return the agents of some parts, those of the one after those of the other."""
        wide = any(part.score.dtype == np.float64 for part in parts)
        kind = np.float64 if wide else np.float32
        vectors = {name: [getattr(part, name) for part in parts] for name in _AGENT_VECTORS}
        return cls(
            agent=np.concatenate([part.agent for part in parts]),
            score=np.concatenate([part.score.astype(kind, copy=False) for part in parts]),
            **{name: None if some[0] is None else np.concatenate(some) for name, some in vectors.items()},
        )


def _vectors_at(block: Block | Sample, place: NDArray[np.int64]) -> dict[str, Any]:
    own = {name: getattr(block, name) for name in _AGENT_VECTORS}
    return {name: None if values is None else values[place] for name, values in own.items()}


@dataclass(slots=True, kw_only=True)
class Survey:
    """Facts about agents, which add up over blocks, pieces and workers in any order.

    Parameters
    ----------
    m : int
        Number of models.
    closed : (m,) bool
        Models without slots.
    agents : int
        Agents seen.
    low, high : float
        Range of the finite scores.
    forbids : bool
        Whether any pair is forbidden.
    unservable_required : int
        Agents that must be served although no open model may serve them.
    required_count : int
        Agents that must be served: their penalty is infinite.
    least_penalty, largest_penalty : float
        Range of the finite penalties, after priorities.
    least_priority : float
        Smallest priority.
    levels : (k,) float64
        Different priorities, ascending.
    equal : (m,) int64
        The first model with an equal column, for every model.
    samples : list of Sample
        The agents that were asked for.
    units, required_units : int
        Slots that all rows ask for, and those that rows ask for that must be served.
    contents : dict of int to int
        Checksums of the numbers of each piece.
    """

    m: int
    closed: NDArray[np.bool_]
    agents: int = 0
    low: float = np.inf
    high: float = -np.inf
    forbids: bool = False
    unservable_required: int = 0
    required_count: int = 0
    least_penalty: float = np.inf
    largest_penalty: float = -np.inf
    least_priority: float = np.inf
    levels: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    equal: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    samples: list[Sample] = field(default_factory=list)
    units: int = 0
    required_units: int = 0
    contents: dict[int, int] = field(default_factory=dict)

    def add(self, block: Block, drawn: NDArray[np.int64], common_penalty: float | None) -> None:
        """Take a block into account; ``drawn`` are the places of the agents to keep, ascending."""
        score = block.score
        self.agents += len(score)
        self._take_range(score)
        width, depth = widths(block), depths(block)
        self.units += int((width * depth).sum())
        penalty = penalties(block, common_penalty)
        if penalty is not None:
            bound = np.isposinf(penalty)
            self.required_count += int(bound.sum())
            self.required_units += int((width * depth)[bound].sum())
            finite = penalty[~bound]
            self.least_penalty = min(self.least_penalty, float(finite.min(initial=np.inf)))
            self.largest_penalty = max(self.largest_penalty, float(finite.max(initial=-np.inf)))
            if bound.any() and block.copies is not None:
                able = (np.where(self.closed, -np.inf, score) > -np.inf).sum(axis=1)
                self.unservable_required += int((able < depth)[bound].sum())
            elif bound.any() and (self.forbids or self.closed.any()):
                best = row_maxima(np.where(self.closed, -np.inf, score))
                self.unservable_required += int((np.isneginf(best) & bound).sum())
        if block.priority is not None:
            self.least_priority = min(self.least_priority, float(block.priority.min()))
            self.levels = np.union1d(self.levels, block.priority)
        self.equal = _first_equal(score, self.equal if len(self.equal) else np.zeros(self.m, np.int64))
        begin, end = np.searchsorted(drawn, (block.first, block.first + len(score)))
        if end > begin:
            self.samples.append(Sample.of(block, drawn[begin:end]))

    def _take_range(self, score: NDArray[Any]) -> None:
        least = float(score.min())
        if least == -np.inf:
            self.forbids = True
            least = float(score.min(initial=np.inf, where=score > -np.inf))
        self.low = min(self.low, least)
        self.high = max(self.high, float(score.max()))

    def merge(self, other: Survey) -> None:
        """Take what another worker has seen into account."""
        self.agents += other.agents
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.forbids |= other.forbids
        self.contents |= other.contents
        self.unservable_required += other.unservable_required
        self.required_count += other.required_count
        self.units, self.required_units = self.units + other.units, self.required_units + other.required_units
        self.least_penalty = min(self.least_penalty, other.least_penalty)
        self.largest_penalty = max(self.largest_penalty, other.largest_penalty)
        self.least_priority = min(self.least_priority, other.least_priority)
        self.levels = np.union1d(self.levels, other.levels)
        if not len(self.equal):
            self.equal = other.equal
        elif len(other.equal):  # equal for both
            _, first, both = np.unique(
                self.equal * self.m + other.equal, return_index=True, return_inverse=True
            )
            self.equal = first[both]
        self.samples += other.samples

    @property
    def first_duplicate(self) -> NDArray[np.int64] | None:
        """(m,) int64, the first model with an equal column; None where all columns differ."""
        return None if (self.equal == np.arange(self.m)).all() else self.equal

    def sample(self) -> Sample:
        """Return all agents drawn, ascending."""
        return Sample.joined(sorted(self.samples, key=lambda part: int(part.agent[0])))

    def shape(
        self,
        capacity: NDArray[np.float64],
        load_cost: NDArray[np.float64] | None,
        *,
        serve_first: bool,
        sense: str,
    ) -> Instance:
        """Return an instance of this size without its scores, to ask for slots, tiers and what service is worth."""
        penalty = None if serve_first else np.broadcast_to(np.float64(0.0), (self.agents,))
        nothing = np.broadcast_to(np.float32(0.0), (self.agents, self.m))
        instance = Instance(
            score=nothing, capacity=capacity[:, None], penalty=penalty, load_cost=load_cost, sense=sense
        )
        vars(instance)["units"] = self.units
        vars(instance)["score_range"] = (self.low, self.high) if self.low <= self.high else (0.0, 0.0)
        vars(instance)["forbids"] = self.forbids
        return instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Valuation:
    """What staying unassigned is worth to an agent, as engines maximise it.

    Parameters
    ----------
    common_penalty : float or None
        Penalty where there is no column of penalties.
    serve_first : bool
        Serving more agents, higher priority first, comes before any score.
    low, step : float
        Serve first: least finite score, and the step between ranks, see ``Instance.serve_step``.
    levels : (k,) float64
        Serve first: the different priorities, ascending; at most one where priorities decide nothing.
    shift : float
        What every slot beyond the floors of models is charged in prices, see :mod:`solver.scale.floors`.
    """

    common_penalty: float | None
    serve_first: bool
    low: float
    step: float
    levels: NDArray[np.float64]
    shift: float = 0.0

    def outside(self, block: Block | Sample) -> NDArray[np.float64]:
        """Return the (k,) float64 values of leaving some agents unassigned, as prices are compared with them."""
        worth = self.worth(block)
        return worth - self.shift if self.shift else worth

    def worth(self, block: Block | Sample) -> NDArray[np.float64]:
        """Return the (k,) float64 values of leaving some agents unassigned, as the objective counts them."""
        if not self.serve_first:
            penalty = penalties(block, self.common_penalty)
            assert penalty is not None
            return -penalty
        if block.priority is None or len(self.levels) < 2:
            return np.full(len(block.score), self.low - self.step)
        rank = np.searchsorted(self.levels, block.priority)
        return np.asarray(self.low - self.step * (1.0 + rank), np.float64)

    def extremes(self, survey: Survey) -> list[float]:
        """Return the least and the largest finite value of staying unassigned, or none."""
        if not self.serve_first:
            values = [-self.shift - survey.least_penalty, -self.shift - survey.largest_penalty]
            return [value for value in values if np.isfinite(value)]
        least = self.low - self.shift
        return [least - self.step, least - self.step * max(1, len(self.levels))]


def valuation_of(survey: Survey, shape: Instance, common_penalty: float | None) -> Valuation:
    """Return what staying unassigned is worth in an instance of that shape.

    Raises
    ------
    SpecError
        For a negative priority where it multiplies a penalty.
    """
    if not shape.serve_first and survey.least_priority < 0:
        raise SpecError(
            Violation("priority", "expected >= 0 where it multiplies a penalty", survey.least_priority)
        )
    return Valuation(
        common_penalty=common_penalty,
        serve_first=shape.serve_first,
        low=shape.score_range[0],
        step=shape.serve_step if shape.serve_first else 0.0,
        levels=survey.levels,
    )


def penalties(block: Block | Sample, common: float | None) -> NDArray[np.float64] | None:
    """Return the (k,) penalties of some agents, a finite one multiplied by the agent's priority; None: serve first."""
    if block.penalty is None and common is None:
        return None
    penalty = np.full(len(block.score), common) if block.penalty is None else block.penalty
    if block.priority is None:
        return penalty
    return np.multiply(penalty, block.priority, out=penalty.copy(), where=np.isfinite(penalty))


def widths(block: Block | Sample) -> NDArray[np.int64]:
    """Return the (k,) numbers of equal agents that rows stand for."""
    return np.ones(len(block.score), np.int64) if block.count is None else block.count


def depths(block: Block | Sample) -> NDArray[np.int64]:
    """Return the (k,) numbers of different models that agents need."""
    return np.ones(len(block.score), np.int64) if block.copies is None else block.copies


def dense_rows(block: Block | Sample, valuation: Valuation | None, closed: NDArray[np.bool_]) -> DenseRows:
    """Return agents in memory as the price engine takes them; without a valuation no agent may stay unassigned."""
    return DenseRows(block.score, None if valuation is None else valuation.outside(block), closed)


_PROBED_ROWS = 64
"""Rows that rule out nearly all pairs of columns as duplicates before a block is compared in full."""


def _first_equal(score: NDArray[Any], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Split the classes of columns that were equal so far by those that differ in a block."""
    m = score.shape[1]
    if (first == np.arange(m)).all():
        return first
    left = first
    for rows in (score[:_PROBED_ROWS], score):
        split = np.arange(m)
        for j in range(1, m):
            for k in np.flatnonzero(left[:j] == left[j]):
                if split[k] == k and np.array_equal(rows[:, k], rows[:, j]):
                    split[j] = k
                    break
        left = split
        if (left == np.arange(m)).all():
            break
    return left

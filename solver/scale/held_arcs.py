"""Agents who pay for amounts: who is contested in a box of charges, and how they respond to charges.

Agent i pays ``a_i · q_j`` at model j. Whatever the charges in ``low <= q <= high``, it ends up at one of

    K_i = { j : s_ij − a_i·low_j >= max_k (s_ik − a_i·high_k) },

as in :mod:`solver.engines.price.contested_arcs`, where every agent's amount is one slot. Partial sums are rounded to a
common grain, coarse enough that adding multiples of it is exact: the totals do not depend on who adds what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.problem.blocks import chunks, row_maxima

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

_UNDIVIDED_FROM = 1e-3
"""Distance of the largest weight from 1 below which an agent does not add to the curvature."""

_CURVED_AT_ONCE = 1 << 14
"""Agents whose weights are spread over all models at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PayingAgents:
    """Some agents with all their numbers.

    Parameters
    ----------
    agent : (k,) int64
        Places among all agents, ascending.
    score : (k, m) float32 or float64
        To be maximised; ``-inf`` forbids the pair.
    amount : (k, c) float64
        What they take, the last column 1.
    outside : (k,) float64
        Value of staying unassigned; ``-inf`` where that is no option.
    """

    agent: NDArray[np.int64]
    score: NDArray[Any]
    amount: NDArray[np.float64]
    outside: NDArray[np.float64]

    def parts(self) -> Iterator[PayingAgents]:
        """Yield them in parts that fit into cache."""
        for rows in chunks(len(self.score), 3 * self.score.shape[1]):
            yield PayingAgents(
                agent=self.agent[rows],
                score=self.score[rows],
                amount=self.amount[rows],
                outside=self.outside[rows],
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grains:
    """Powers of two that partial sums are rounded to.

    Parameters
    ----------
    value : float
        Of values.
    load : (c,) float64
        Of loads.
    square : (c, c) float64
        Of sums of products of two amounts.
    """

    value: float
    load: NDArray[np.float64]
    square: NDArray[np.float64]

    @classmethod
    def of(
        cls, agents: int, score: float, total: NDArray[np.float64], most: NDArray[np.float64], charge: float
    ) -> Grains:
        """Return grains for sums over so many agents.

        Parameters
        ----------
        agents, score : int, float
            Their number, and the largest absolute score.
        total, most : (c,) float64
            Sums and maxima of their amounts.
        charge : float
            Upper limit of what all of them together pay.
        """
        return cls(
            value=float(grain(np.array(4.0 * agents * score + charge))),
            load=grain(total),
            square=grain(2.0 * total[:, None] * most),
        )


def grain(bound: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return a power of two whose multiples up to ``bound`` are added without rounding."""
    found: NDArray[np.float64] = np.exp2(np.ceil(np.log2(np.maximum(bound, 1e-290))) - 52.0)
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChargeResponse:
    """What agents do at some charges, smoothed.

    Parameters
    ----------
    value : float
        Sum of the agents' smoothed best values.
    load : (m, c) float64
        Amounts that models serve.
    curvature : (m c, m c) float64
        Second derivative of the value.
    """

    value: float
    load: NDArray[np.float64]
    curvature: NDArray[np.float64]

    @classmethod
    def total(cls, parts: Iterable[ChargeResponse]) -> ChargeResponse:
        """Return the sum: exact, as all parts are multiples of the same grains."""
        parts = list(parts)
        return cls(
            value=float(sum(part.value for part in parts)),
            load=np.sum([part.load for part in parts], axis=0),
            curvature=np.sum([part.curvature for part in parts], axis=0),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArcsInBox:
    """The contested agents of a box of charges with their arcs, and what the others have.

    Parameters
    ----------
    agent : (g,) int64
        Places among all agents, ascending.
    first : (g + 1,) int64
        Arcs of the agent at position i are ``first[i]:first[i + 1]``, at least two.
    model : (a,) uint8 or uint16
        Head of each arc; m for staying unassigned.
    value : (a,) float32 or float64
        Score of each arc, or the value of staying unassigned.
    amount : (g, c) float64
        What each agent takes.
    outside : (g,) float64
        Value of staying unassigned, whether that is an arc or not; ``-inf`` where it is no option.
    settled : (m + 1, c) float64
        Amounts of the others, by choice; the last column counts them.
    settled_value : float
        Scores and values of staying unassigned of the others.
    """

    agent: NDArray[np.int64]
    first: NDArray[np.int64]
    model: NDArray[Any]
    value: NDArray[Any]
    amount: NDArray[np.float64]
    outside: NDArray[np.float64]
    settled: NDArray[np.float64]
    settled_value: float

    @property
    def owner(self) -> NDArray[np.int64]:
        """(a,) int64, position each arc belongs to."""
        return np.repeat(np.arange(len(self.agent)), np.diff(self.first))

    def net(self, charge: NDArray[np.float64], owner: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (a,) float64 values less what the agent pays at (m, c) charges."""
        padded = np.vstack([charge, np.zeros(charge.shape[1])])
        net = self.value.astype(np.float64)
        for c in range(charge.shape[1]):
            net -= self.amount[owner, c] * padded[self.model, c]
        return net

    def respond(self, charge: NDArray[np.float64], temperature: float, grains: Grains) -> ChargeResponse:
        """Return the smoothed response. O(arcs c + d (m c)²), d agents divided between models."""
        m, c = charge.shape
        owner, starts = self.owner, self.first[:-1]
        load, curve = self.settled[:m].copy(), np.zeros((m * c, m * c))
        value = self.settled_value - float((charge * self.settled[:m]).sum())
        if len(starts):
            weight = self.net(charge, owner)
            top = np.maximum.reduceat(weight, starts)
            weight -= top[owner]
            weight /= temperature
            np.exp(weight, out=weight)
            total = np.add.reduceat(weight, starts)
            value += float(top.sum() + temperature * np.log(total).sum())
            weight /= total[owner]
            for k in range(c):
                load[:, k] += np.bincount(self.model, weight * self.amount[owner, k], m + 1)[:m]
            curve = self._curvature(weight, owner, m) / temperature
        square = np.tile(grains.square / temperature, (m, m))
        # Powers of two stay so only if the temperature is rounded likewise.
        square = np.exp2(np.ceil(np.log2(square)))
        return ChargeResponse(
            value=_round(value, grains.value),
            load=_round(load, grains.load),
            curvature=_round(curve, square),
        )

    def _curvature(
        self, weight: NDArray[np.float64], owner: NDArray[np.int64], m: int
    ) -> NDArray[np.float64]:
        """Return Σ_i of diag(w) − w wᵀ times products of amounts, (m c, m c), over models and columns."""
        c = self.amount.shape[1]
        curve = np.zeros((m, c, m, c))
        divided = np.flatnonzero(np.maximum.reduceat(weight, self.first[:-1]) < 1 - _UNDIVIDED_FROM)
        for begin in range(0, len(divided), _CURVED_AT_ONCE):
            some = divided[begin : begin + _CURVED_AT_ONCE]
            degree = self.first[some + 1] - self.first[some]
            at = np.repeat(np.arange(len(some)), degree)
            arcs = np.arange(len(at)) + np.repeat(self.first[some] - (np.cumsum(degree) - degree), degree)
            spread = np.zeros((len(some), m + 1))
            spread[at, self.model[arcs]] = weight[arcs]
            spread = spread[:, :m]
            amount = self.amount[some]
            joint = (spread[:, :, None] * amount[:, None, :]).reshape(len(some), m * c)
            curve -= (joint.T @ joint).reshape(m, c, m, c)
            for k in range(c):
                for other in range(c):
                    diagonal = spread.T @ (amount[:, k] * amount[:, other])
                    curve[np.arange(m), k, np.arange(m), other] += diagonal
        return curve.reshape(m * c, m * c)

    def inside(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> ArcsInBox:
        """Return what is left in a smaller box."""
        if not len(self.agent):
            return self
        m = len(low)
        owner, starts = self.owner, self.first[:-1]
        at_low = self.net(low, owner)
        padded = np.vstack([high - low, np.zeros(low.shape[1])])
        at_high = at_low - (self.amount[owner] * padded[self.model]).sum(axis=1)
        kept = at_low >= np.maximum.reduceat(at_high, starts)[owner]
        degree = np.add.reduceat(kept, starts)
        still = degree > 1
        lone = np.flatnonzero(kept & ~still[owner])
        settled = self.settled + _by_model(self.model[lone], self.amount[owner[lone]], m)
        alive = kept & still[owner]
        return ArcsInBox(
            agent=self.agent[still],
            first=np.append(0, np.cumsum(degree[still])),
            model=self.model[alive],
            value=self.value[alive],
            amount=self.amount[still],
            outside=self.outside[still],
            settled=settled,
            settled_value=self.settled_value + math.fsum(self.value[lone].astype(np.float64).tolist()),
        )

    @classmethod
    def joined(cls, parts: Iterable[ArcsInBox]) -> ArcsInBox:
        """Return several as one, in their order."""
        parts = list(parts)
        degree = np.concatenate([np.diff(part.first) for part in parts])
        return cls(
            agent=np.concatenate([part.agent for part in parts]),
            first=np.append(0, np.cumsum(degree)).astype(np.int64),
            model=np.concatenate([part.model for part in parts]),
            value=np.concatenate([part.value for part in parts]),
            amount=np.concatenate([part.amount for part in parts]),
            outside=np.concatenate([part.outside for part in parts]),
            settled=np.sum([part.settled for part in parts], axis=0),
            settled_value=math.fsum(part.settled_value for part in parts),
        )


def _round(values: Any, grain: Any) -> Any:
    return np.rint(values / grain) * grain


def _by_model(model: NDArray[Any], amount: NDArray[np.float64], m: int) -> NDArray[np.float64]:
    """Return the (m + 1, c) sums of amounts by model."""
    return np.stack([np.bincount(model, taken, m + 1) for taken in amount.T], axis=1).astype(np.float64)


def net_scores(
    score: NDArray[Any], amount: NDArray[np.float64], charge: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the (k, m) float64 scores less what agents pay; the same arithmetic for every pass."""
    net = score.astype(np.float64)
    for c in np.flatnonzero(charge.any(axis=0)).tolist():
        net -= amount[:, c, None] * charge[:, c]
    return net


def reduce_paying(agents: PayingAgents, low: NDArray[np.float64], high: NDArray[np.float64]) -> ArcsInBox:
    """Find the contested arcs of some agents for a box of (m, c) charges. O(k m c).

    An infinite upper side keeps every allowed arc.
    """
    m, c = low.shape
    wide = np.isinf(high).any()
    parts = []
    for part in agents.parts():
        net = net_scores(part.score, part.amount, low)
        if wide:
            mask = np.column_stack([net > -np.inf, part.outside > -np.inf])
        else:
            at_high = net - net_scores(np.zeros_like(net), -part.amount, high - low)
            floor = np.maximum(row_maxima(at_high), part.outside)
            mask = np.column_stack([net >= floor[:, None], part.outside >= floor])
        degree = mask.sum(axis=1)
        lone, open_ = np.flatnonzero(degree == 1), np.flatnonzero(degree > 1)
        own = mask[lone].argmax(axis=1)
        value = np.where(own < m, part.score[lone, np.minimum(own, m - 1)], part.outside[lone])
        row, model = np.nonzero(mask[open_])
        row = open_[row]
        worth = np.where(model < m, part.score[row, np.minimum(model, m - 1)], part.outside[row])
        parts.append(
            ArcsInBox(
                agent=part.agent[open_],
                first=np.append(0, np.cumsum(degree[open_])),
                model=model.astype(np.min_scalar_type(m)),
                value=_narrow(worth),
                amount=part.amount[open_],
                outside=part.outside[open_],
                settled=_by_model(own, part.amount[lone], m),
                settled_value=float(value.sum(dtype=np.float64)),
            )
        )
    if not parts:
        return ArcsInBox(
            agent=np.zeros(0, np.int64),
            first=np.zeros(1, np.int64),
            model=np.zeros(0, np.min_scalar_type(m)),
            value=np.zeros(0, np.float32),
            amount=np.zeros((0, c)),
            outside=np.zeros(0),
            settled=np.zeros((m + 1, c)),
            settled_value=0.0,
        )
    return ArcsInBox.joined(parts)


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        short = values.astype(np.float32)
    return short if (short == values).all() else values.astype(np.float64)

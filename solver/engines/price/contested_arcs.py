"""The part of a problem that a box of prices leaves open: the contested agents and the arcs they may use.

Let prices lie in a box ``low <= p <= high``. Whatever they are, agent i ends up at one of

    K_i = { j : s_ij − low_j >= max_k (s_ik − high_k) }.

An agent with one such model is settled for the whole box; the others are contested. Minimising the dual
over the box is therefore a problem on the contested arcs plus fixed counts, usually a few per cent of the
input, and if the minimiser presses on no side of the box it is the minimiser at large: D is convex.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from solver.engines.smoothed_demand import Response

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ARCWISE_FROM = 10_000
"""Arcs from which the best of each position is found arc by arc."""

_ARCWISE_PER_POSITION = 4
"""Arcs per position up to which it is."""

_CURVATURE_ARCS = 12_000
"""Arcs from which second derivatives are estimated."""

_PROBED_POSITIONS = 1000
"""Agents looked at before deciding whether merging pays."""

_MAX_DISTINCT_SHARE = 0.7
"""Share of distinct rows above which it does not."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Contested:
    """Contested agents with their arcs, grouped by agent, and what is settled.

    Parameters
    ----------
    first : (g + 1,) int64
        Arcs of the agent at position i are ``first[i]:first[i + 1]``, at least two.
    model : (a,) int64, or unsigned where many are held
        Head of each arc; m stands for staying unassigned.
    value : (a,) float64, or float32 where many are held
        Score of each arc, or the value of staying unassigned.
    weight : (g,) int64 or None
        Identical agents merged into each position; None: one each.
    width : (g,) int64 or None
        Most units of each position that one model may serve, where positions need units of several models;
        ``weight`` are all their units then. Only for flows.
    settled : (m + 1,) float64
        Agents whose choice is the same for all prices of the box, by choice.
    low, high : (m,) float64
        The box.
    settled_value : float
        Scores of the agents settled since the first reduction, so that values compare across nested boxes.
    """

    first: NDArray[np.int64]
    model: NDArray[np.int64]
    value: NDArray[np.float64]
    weight: NDArray[np.int64] | None
    settled: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    settled_value: float = 0.0
    width: NDArray[np.int64] | None = None

    @property
    def m(self) -> int:
        """Number of models."""
        return len(self.low)

    @property
    def groups(self) -> int:
        """Number of contested positions."""
        return len(self.first) - 1

    @property
    def arcs(self) -> int:
        """Number of arcs."""
        return len(self.model)

    @cached_property
    def agents(self) -> int:
        """Number of agents, settled ones included."""
        contested = self.groups if self.weight is None else int(self.weight.sum())
        return contested + int(self.settled.sum())

    @cached_property
    def degree(self) -> NDArray[np.int64]:
        """(g,) int64, arcs of each position."""
        return np.diff(self.first)

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """(a,) int64, position each arc belongs to."""
        return np.repeat(np.arange(self.groups), self.degree)

    @cached_property
    def _centred(self) -> tuple[NDArray[np.float64], float]:
        """(a,) value less price at the middle of the box, relative to the agent's first arc, and their sum.

        Contested arcs differ by no more than a side of the box, so any of them is reference enough for the
        exponentials of :meth:`respond`.
        """
        net = self.value - np.append(self._centre, 0.0)[self.model]
        reference = net[self.first[:-1]]
        net -= reference[self.owner]
        return net, float(reference.sum() if self.weight is None else self.weight @ reference)

    @cached_property
    def shortfall(self) -> NDArray[np.float64]:
        """(a,) float64, what each arc loses against its agent's best at the lower side of the box."""
        net: NDArray[np.float64] = self.value - np.append(self.low, 0.0)[self.model]
        return np.subtract(self._maxima(net)[self.owner], net) if self.groups else net

    @property
    def _centre(self) -> NDArray[np.float64]:
        return (self.low + self.high) / 2

    @cached_property
    def _table(self) -> sparse.csr_array:
        """(g, m + 1) sparse, one entry per arc; its values are overwritten at every response."""
        return sparse.csr_array(
            (np.empty(self.arcs), self.model.astype(np.int32), self.first.astype(np.int32)),
            shape=(self.groups, self.m + 1),
        )

    @cached_property
    def _probe(self) -> tuple[NDArray[np.int64], sparse.csr_array, float]:
        """Arcs of every s-th agent, their table, and s: enough of them for second derivatives."""
        stride = max(1, -(-self.arcs // _CURVATURE_ARCS))
        chosen = np.arange(0, self.groups, stride)
        degree = self.degree[chosen]
        first = np.concatenate(([0], np.cumsum(degree)))
        arcs = np.arange(first[-1]) + np.repeat(self.first[chosen] - first[:-1], degree)
        table = sparse.csr_array(
            (np.empty(len(arcs)), self.model[arcs].astype(np.int32), first.astype(np.int32)),
            shape=(len(chosen), self.m + 1),
        )
        return arcs, table, self.groups / max(1, len(chosen))

    def respond(self, prices: NDArray[np.float64], temperature: float) -> Response:
        """Return the smoothed response in O(arcs), see :class:`solver.engines.price.smoothed_dual.Demand`.

        Second derivatives are estimated from a systematic sample of the contested agents.
        """
        m = self.m
        centred, value = self._centred
        scaled = np.append((prices - self._centre) * (-1.0 / temperature), 0.0)
        table = self._table
        share = centred * (1.0 / temperature)
        share += scaled[self.model]
        if float((self.high - self.low).max()) > 300.0 * temperature:  # the exponential would overflow
            excess = np.maximum.reduceat(share, self.first[:-1])
            share -= excess[self.owner]
            excess *= temperature
            value += float(excess.sum() if self.weight is None else self.weight @ excess)
        np.exp(share, out=share)
        table.data = share
        total = table @ np.ones(m + 1)
        weight = 1.0 / total if self.weight is None else self.weight / total
        load = (table.T @ weight)[:m]
        surplus = np.log(total) * temperature
        value += float(surplus.sum() if self.weight is None else self.weight @ surplus)
        arcs, probe, factor = self._probe
        owner = self.owner[arcs]
        part = share[arcs] / total[owner]
        if self.weight is not None:
            part *= np.sqrt(self.weight)[owner]
        probe.data = part
        joint: NDArray[np.float64] = (probe.T @ probe).toarray()
        joint *= factor
        seen = joint.sum(axis=1)[:m]  # Σ_i P_ij of the sampled agents, scaled up
        joint = joint[:m, :m]
        curvature = joint * (-1.0 / temperature)
        curvature.flat[:: m + 1] += seen / temperature
        joint.flat[:: m + 1] += self.settled[:m]
        value += self.settled_value - float(self.settled[:m] @ prices)
        return Response(value=value, load=load + self.settled[:m], curvature=curvature, moment=joint)

    def inside(
        self, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> tuple[Contested, NDArray[np.bool_], NDArray[np.bool_]]:
        """Reduce further, to a smaller box.

        Returns
        -------
        contested : Contested
            What is left.
        kept : (a,) bool
            Arcs that survive, of contested and of newly settled agents.
        still : (g,) bool
            Positions still contested.
        """
        starts = self.first[:-1]
        floor = self._maxima(self.value - np.append(high, 0.0)[self.model])
        kept = self.value - np.append(low, 0.0)[self.model] >= floor[self.owner]
        count = np.concatenate(([0], np.cumsum(kept)))
        degree = count[self.first[1:]] - count[starts]
        still = degree > 1
        alive = kept & still[self.owner]
        lone = kept & ~still[self.owner]
        by_weight = None if self.weight is None else self.weight[self.owner[lone]]
        settled = self.settled + np.bincount(self.model[lone], by_weight, self.m + 1)
        gained = self.value[lone]
        left = Contested(
            first=np.concatenate(([0], np.cumsum(degree[still]))),
            model=self.model[alive],
            value=self.value[alive],
            weight=None if self.weight is None else self.weight[still],
            settled=settled,
            low=low,
            high=high,
            settled_value=self.settled_value
            + float(gained.sum(dtype=np.float64) if by_weight is None else by_weight @ gained),
        )
        return left, kept, still

    @property
    def room(self) -> NDArray[np.int64] | None:
        """(a,) int64, most units on each arc; None where it is all units of the position."""
        if self.width is None:
            return None
        assert self.weight is not None
        return np.where(self.model == self.m, self.weight[self.owner], self.width[self.owner])

    def _maxima(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (g,) largest of (a,) values of each position.

        Most positions have two arcs or three: taking the k-th arc of all that have one is several times
        faster than a general segmented maximum.
        """
        starts = self.first[:-1]
        if self.arcs < _ARCWISE_FROM or self.arcs > _ARCWISE_PER_POSITION * self.groups:
            best: NDArray[np.float64] = np.maximum.reduceat(values, starts)
            return best
        best = np.maximum(values[starts], values[starts + 1])
        at = np.flatnonzero(self.degree > 2)
        for k in range(2, int(self.degree.max())):
            best[at] = np.maximum(best[at], values[starts[at] + k])
            at = at[self.degree[at] > k + 1]
        return best

    def on_grid(self, grid: float) -> bool:
        """Return whether all values are whole multiples of ``grid``, to a millionth of it."""
        return is_on_grid(self.value, grid)

    def best_arcs(self, prices: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
        """Return (a,) which arcs are best for their agent at some prices, to a tolerance."""
        net = self.value - np.append(prices, 0.0)[self.model]
        best: NDArray[np.bool_] = net >= (self._maxima(net) - tolerance)[self.owner]
        return best

    def shares(self, prices: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
        """Return (a,) the logit weight of every arc, 1 for an agent's best."""
        net = self.value - np.append(prices, 0.0)[self.model]
        net -= self._maxima(net)[self.owner]
        net *= 1.0 / temperature
        share: NDArray[np.float64] = np.exp(net, out=net)
        return share

    def merged(self, resolution: float) -> tuple[Contested, NDArray[np.int64]] | None:
        """Merge positions with the same arcs and values.

        Parameters
        ----------
        resolution : float
            Differences of values are compared in this unit.

        Returns
        -------
        tuple or None
            The merged problem and the (g,) position each old one went to; None when too few are alike.
        """
        if self.groups < 8:
            return None
        if self.groups > _PROBED_POSITIONS:
            probe = self._fingerprints(resolution, min(self.groups, _PROBED_POSITIONS))
            if len(np.unique(probe)) > _MAX_DISTINCT_SHARE * len(probe):
                return None
        prints = self._fingerprints(resolution, self.groups)
        _, chosen, home = np.unique(prints, return_index=True, return_inverse=True)
        if len(chosen) > _MAX_DISTINCT_SHARE * self.groups:
            return None
        order = np.argsort(chosen)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        home = place[home]
        chosen = chosen[order]
        twin = chosen[home]
        if (self.degree[twin] != self.degree).any():
            return None
        shift = np.repeat(self.first[twin] - self.first[:-1], self.degree)
        if (self.model[np.arange(self.arcs) + shift] != self.model).any():
            return None  # two patterns share a fingerprint: rather solve the larger problem
        own = np.zeros(self.groups, bool)
        own[chosen] = True
        arc = own[self.owner]
        weight = np.bincount(home, self.weight, len(chosen)).astype(np.int64)
        merged = Contested(
            first=np.concatenate(([0], np.cumsum(self.degree[chosen]))),
            model=self.model[arc],
            value=self.value[arc],
            weight=weight,
            settled=self.settled,
            low=self.low,
            high=self.high,
            settled_value=self.settled_value,
        )
        return merged, home

    def _fingerprints(self, resolution: float, count: int) -> NDArray[np.uint64]:
        """Hash the first positions by their models and by their values relative to the best (Knuth's mixing)."""
        end = int(self.first[count])
        starts = self.first[:count]
        owner = self.owner[:end]
        value = self.value[:end]
        drop = (np.maximum.reduceat(value, starts)[owner] - value) * (1.0 / resolution)
        word: NDArray[Any] = np.rint(np.minimum(drop, 2.0**62)).astype(np.int64).view(np.uint64)
        word ^= word >> np.uint64(29)
        word *= np.uint64(0x9E3779B97F4A7C15)
        word += (self.model[:end] + 1).astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        word ^= word >> np.uint64(32)
        word *= np.uint64(0xD6E8FEB86659FD93)
        word ^= word >> np.uint64(29)
        prints: NDArray[np.uint64] = np.add.reduceat(word, starts)
        return prints


def is_on_grid(values: NDArray[np.float64], grid: float, *, within: float = 1e-6) -> bool:
    """Return whether all values are whole multiples of ``grid``, to a millionth of it or ``within`` such a share."""
    multiples = np.divide(values, grid, dtype=np.float64)
    return bool(np.abs(multiples - np.rint(multiples)).max(initial=0.0) < within)

"""Limits that are network structure: which rows of an instance are nodes of a minimum-cost flow.

Every row that counts agents is a set of pairs (agent, model). Sets on one model nest in one another or are disjoint
where quotas follow an organisation chart, and so do sets of whole models, and sets of agents with all their models.
Where every row is of one of these kinds, the constraint matrix is that of two laminar families and hence of a network
(Edmonds 1970): a unit goes from its agent to the innermost set of its pair, through the sets around it to its model,
and through groups of models to the sink. An agent that stays unassigned takes a column of its own, "outside", and a
limit on how many of some agents are served is one on how many of them go there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.flow.counting_rows import CountingRows, may_count
from solver.engines.flow.excess_costs import ViolationCosts
from solver.engines.flow.row_kinds import RowKinds, row_kinds
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance

_RECOGNITION_S = 1e-7
"""Upper estimate of the seconds of recognition, per pair and layer."""

_RECOGNITION_S_PER_ROW = 1.5e-6
"""The same per row (`python -m benchmarks.random_deadlines`)."""

_RECOGNITION_OVERHEAD_S = 1e-3
"""Upper estimate of the seconds of recognition, for the call itself."""

_MAX_RECOGNISED_ENTRIES = 20_000_000
"""Pairs times layers up to which limits are recognised as a network."""

_SAMPLED_FROM_PAIRS = 30_000
"""Pairs from which some agents are looked at first."""

_CACHED_NETWORK = "_laminar_network"
"""Name under which an instance keeps the answer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaminarNetwork:
    """The flow that an instance with limits is.

    Nodes are the m models, then "outside", then sets, then groups of models; the sink has the number ``nodes``.

    Parameters
    ----------
    agent, node : (a,) int64
        Arcs, by agent: the pairs that may be used and the innermost node that they lead to, and for every agent that
        may stay unassigned one to a node on the way outside.
    model : (a,) int64
        The model of each arc, m for staying unassigned.
    outside : int
        Number of models m, and the node of staying unassigned.
    parent : (k,) int64
        Where each node leads to.
    low, high : (k,) int64
        Bounds on the units from each node to its parent.
    row_node : (g,) int64
        Node whose bounds a row is, or -1 for a row that binds no agent.
    row_sign : (g,) int64
        Whether the multiplier of the row is the node's price less its parent's (1), or the reverse (-1).
    row_unit : (g,) float64
        Coefficient of the row, the same for all its pairs, in size.
    forbidding : tuple of int
        Rows with right-hand side 0 that forbid their pairs.
    certain : tuple of int
        Rows that may be exceeded and are, whatever anybody does.
    violation_costs : ViolationCosts
        What units through the nodes of rows that may be exceeded cost.
    whole_models : bool
        No set is smaller than all pairs of a model, and models are not grouped: floors and capacities say it all.
    strengthened : bool
        Some sets stand for all pairs of their agents: the same plans, but a bound that multipliers of the rows as they
        are do not prove.
    infeasible : bool
        Some row contradicts itself.
    """

    agent: NDArray[np.int64]
    node: NDArray[np.int64]
    model: NDArray[np.int64]
    outside: int
    parent: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    row_node: NDArray[np.int64]
    row_sign: NDArray[np.int64]
    row_unit: NDArray[np.float64]
    forbidding: tuple[int, ...]
    certain: tuple[int, ...]
    violation_costs: ViolationCosts
    whole_models: bool
    strengthened: bool
    infeasible: bool

    @property
    def nodes(self) -> int:
        """Number of nodes besides agents and the sink."""
        return len(self.parent)

    def all_served(self) -> LaminarNetwork:
        """Return the network without the arcs of staying unassigned."""
        kept = self.model != self.outside
        return replace(self, agent=self.agent[kept], node=self.node[kept], model=self.model[kept])

    def with_left(self, rank: NDArray[np.int64], left: NDArray[np.int64]) -> LaminarNetwork | None:
        """Return the network in which so many agents of each rank stay unassigned, or None where that crosses a set.

        Parameters
        ----------
        rank : (n,) int64
            From 0.
        left : (ranks,) int64
            Agents of each.
        """
        outside = self.outside
        if len(left) == 1:
            low, high = self.low.copy(), self.high.copy()
            low[outside] = high[outside] = left[0]
            return replace(self, low=low, high=high)
        if (self.parent == outside).any():
            return None
        first = self.nodes
        sink = first + len(left)
        leaving = self.model == outside
        return replace(
            self,
            node=np.where(leaving, first + rank[self.agent], self.node),
            parent=np.append(np.where(self.parent == first, sink, self.parent), np.full(len(left), outside)),
            low=np.append(self.low, left),
            high=np.append(self.high, left),
        )


def recognition_seconds(instance: Instance) -> float:
    """Return about how long :func:`find_network` takes; nothing once it is known."""
    if _CACHED_NETWORK in vars(instance):
        return 0.0
    limits = instance.limits
    layers, rows = (0, 0) if limits is None else (len(limits.layers), limits.count)
    entries = instance.n * instance.m * (1 + layers)
    return entries * _RECOGNITION_S + rows * _RECOGNITION_S_PER_ROW + _RECOGNITION_OVERHEAD_S


def find_network(instance: Instance) -> LaminarNetwork | None:
    """Return the flow that an instance with limits is, or None if it is not known to be one.

    Notes
    -----
    O(p log p) for p entries of all rows. The instance remembers the answer.
    """
    known = vars(instance)
    if _CACHED_NETWORK not in known:
        known[_CACHED_NETWORK] = _find(instance)
    found: LaminarNetwork | None = known[_CACHED_NETWORK]
    return found


def _find(instance: Instance) -> LaminarNetwork | None:
    limits = instance.limits
    if limits is None or instance.demand is not None or instance.load_cost is not None:
        return None
    if limits.together or isinstance(instance.score, CompressedScores):
        return None
    if instance.n * instance.m * max(1, len(limits.layers)) > _MAX_RECOGNISED_ENTRIES:
        return None
    if instance.n * instance.m > _SAMPLED_FROM_PAIRS and not may_count(limits, instance.n):
        return None
    allowed = np.isfinite(instance.score) & (instance.slots > 0)
    rows = CountingRows(limits, allowed)
    if not rows.understand():
        return None
    return _assembled(instance, rows)


def _assembled(instance: Instance, rows: CountingRows) -> LaminarNetwork | None:
    """Return the network of rows that are counts, or None where their sets cross."""
    n, m = instance.n, instance.m
    kinds = row_kinds(rows, m)
    soft = rows.weight_of != 0.0
    if kinds is None or (kinds.of_agents & soft).any():
        return None
    sets, groups = np.flatnonzero(kinds.sets), np.flatnonzero(kinds.of_models)
    number = np.full(rows.limits.count, -1, np.int64)
    number[sets] = m + 1 + np.arange(len(sets))
    number[groups] = m + 1 + len(sets) + np.arange(len(groups))
    parent = np.zeros(m + 1 + len(sets) + len(groups), np.int64)
    may_leave = np.ones(n, bool) if instance.penalty is None else np.isfinite(instance.penalty)
    arcs = _nest_sets(rows, kinds, may_leave, number, parent)
    if arcs is None or not _nest_groups(kinds, number, parent, m):
        return None
    # No more than n units flow: a node that could pass one more is never full, and its price says so.
    low, high = np.zeros(len(parent), np.int64), np.full(len(parent), n + 1, np.int64)
    high[:m] = np.minimum(instance.capacity[:, 0], n + 1)
    sign = _bound_nodes(rows, kinds, number, low, high)
    violation_costs = ViolationCosts.of_rows(rows.limits, rows.weight_of, number, n + 1)
    number[rows.idle] = -1
    number[
        rows.merged
    ] = -1  # one row of a clique: no multipliers of its pairs say what the whole set is worth
    agent, node, model = arcs
    only_models = not ((kinds.of_models | kinds.of_agents).any() or rows.merged)
    return LaminarNetwork(
        agent=agent,
        node=node,
        model=model,
        outside=m,
        parent=parent,
        low=low,
        high=np.maximum(high, 0),
        row_node=number,
        row_sign=sign,
        row_unit=rows.unit,
        forbidding=tuple(rows.forbidding),
        certain=tuple(rows.certain),
        whole_models=only_models and not soft.any() and bool((kinds.on_model == kinds.whole).all()),
        violation_costs=violation_costs,
        strengthened=bool(rows.merged) or violation_costs.are_partial,
        infeasible=rows.infeasible or bool((high < low).any() or (rows.least > kinds.size).any()),
    )


def _nest_sets(
    rows: CountingRows,
    kinds: RowKinds,
    may_leave: NDArray[np.bool_],
    number: NDArray[np.int64],
    parent: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Set the parents of sets on one model and of agents; return the arcs, or None where two sets cross.

    Sets of agents are seen as their pairs to the outside. Sets that hold all pairs of their model lie around its
    other sets.
    """
    m = rows.allowed.shape[1]
    parts = kinds.on_model & ~kinds.whole
    counted, optional = parts[rows.row], may_leave[kinds.person]
    row = np.concatenate([rows.row[counted], kinds.team[optional]])
    key = np.concatenate(
        [rows.agent[counted] * (m + 1) + rows.model[counted], kinds.person[optional] * (m + 1) + m]
    )
    nested = _nested(row, key, np.bincount(row, minlength=len(number)), len(number))
    if nested is None:
        return None
    inner, inner_row, around = nested
    agent, model = np.nonzero(np.append(rows.allowed, may_leave[:, None], axis=1))
    node = model.copy()
    node[np.searchsorted(agent * (m + 1) + model, inner)] = number[inner_row]
    innermost = np.arange(m + 1)  # of the sets that are whole columns, or the column itself
    for g in np.flatnonzero(kinds.whole).tolist():
        column = kinds.column[g]
        parent[number[g]], innermost[column] = innermost[column], number[g]
    own = node <= m
    node[own] = innermost[node[own]]
    nodes = np.flatnonzero(parts | kinds.of_agents)
    parent[number[nodes]] = np.where(
        around[nodes] >= 0, number[around[nodes]], innermost[kinds.column[nodes]]
    )
    return agent, node, model


def _nest_groups(kinds: RowKinds, number: NDArray[np.int64], parent: NDArray[np.int64], m: int) -> bool:
    """Set the parents of models, the outside and groups of models; return whether no two groups cross."""
    sink = len(parent)
    nested = _nested(kinds.group, kinds.member, np.bincount(kinds.group, minlength=len(number)), len(number))
    if nested is None:
        return False
    inner, inner_row, around = nested
    parent[: m + 1] = sink
    parent[inner] = number[inner_row]
    groups = np.flatnonzero(kinds.of_models)
    parent[number[groups]] = np.where(around[groups] >= 0, number[around[groups]], sink)
    return True


def _bound_nodes(
    rows: CountingRows,
    kinds: RowKinds,
    number: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Set the bounds of the flow out of each set and group; return the sign of each row's multiplier."""
    n = len(rows.allowed)
    used = np.flatnonzero(kinds.sets | kinds.of_models)
    low[number[used]], high[number[used]] = rows.least[used], np.minimum(rows.most[used], n + 1)
    sign = np.where(rows.least > 0, -1, 1)
    total, teams = np.bincount(kinds.team, minlength=len(number)), np.flatnonzero(kinds.of_agents)
    # At most so many of them are served: at least the others are not, and the other way round.
    low[number[teams]] = np.maximum(0, total[teams] - np.minimum(rows.most[teams], n))
    high[number[teams]] = total[teams] - rows.least[teams]
    sign[teams] *= -1
    sign[rows.weight_of < 0] = -1
    return sign


def _nested(
    row: NDArray[np.int64], key: NDArray[np.int64], size: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the innermost set of every element and the set around each set, or None where two sets cross.

    Parameters
    ----------
    row, key : (e,) int64
        Sets and their elements.
    size : (count,) int64
        Elements of each set.
    count : int
        Number of sets, those without elements included.

    Returns
    -------
    element, innermost : (u,) int64
        Every element once, and the smallest set that has it.
    around : (count,) int64
        Smallest set around each, -1 for none.
    """
    order = np.lexsort((row, -size[row], key))  # of every element the largest set first
    row, key = row[order], key[order]
    same = np.zeros(len(key), bool)
    same[1:] = key[1:] == key[:-1]
    before = np.where(same, np.concatenate([row[:1], row[:-1]]), -1) if len(row) else row
    least, most = np.full(count, count, np.int64), np.full(count, -1, np.int64)
    np.minimum.at(least, row, before)
    np.maximum.at(most, row, before)
    if (least < most).any():  # some of its elements lie in a larger set, others do not
        return None
    last = np.append(~same[1:], True) if len(key) else np.zeros(0, bool)
    return key[last], row[last], most

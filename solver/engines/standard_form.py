"""The standard form of a problem: columns by agents, losses to be minimised, one list of coupling rows.

A *column* is a model, or the extra last column of the agents that are left unassigned. The loss of a pair is
what it falls short of its agent's best value, so every loss is >= 0 and sums stay small whatever the
offset of the scores. Arrays are stored (columns, agents): sums over a few dozen columns then run along
contiguous agents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.instance import UNASSIGNED
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.problem.limit_rows import LimitRows

_ROW_NOISE = 1e-13
"""Error of a sum that should be the bound, relative to the row's largest coefficient, that rounding alone explains."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StandardForm:
    """Minimise total loss under coupling rows.

    Parameters
    ----------
    loss : (c, n) float64
        Shortfall against the agent's best value, >= 0; ``inf`` forbids the pair.
    demand : (r, c, n) float64
        Units taken; zero where the pair is forbidden and in the column of the unassigned.
    capacity : (r, c) float64
        Units each column has.
    leave : bool
        Whether the last column is the one of the unassigned agents.
    agents : (a,) int64
        Original row of each member of an agent, grouped by agent.
    owner : (a,) int64
        Agent (column of ``loss``) that each member belongs to; agents that must share a model are one.
    unservable : (k,) int64
        Original rows of the agents that no model can serve at all.
    offset : float
        Sum of the best values, the unservable included: value of a choice = offset − loss.
    service : (n,) float64
        Value of leaving each agent in serve-first mode, where the objective does not count it; zeros otherwise.
    unservable_service : float
        Value of leaving all unservable agents, together.
    row : (q, c, n) int32
        Limit row touched by a pair in each layer; ``rows`` (one past the last) for none.
    coefficient : (q, c, n) float64
        What the pair adds to that row.
    row_bound : (g,) float64
        Right-hand sides of the limit rows.
    violation_price : (g,) float64
        What each unit beyond the bound of a limit row costs; ``inf`` where the row must hold.
    integral : bool
        Every loss is a whole number, so that totals move in steps of one.
    """

    loss: NDArray[np.float64]
    demand: NDArray[np.float64]
    capacity: NDArray[np.float64]
    leave: bool
    agents: NDArray[np.int64]
    owner: NDArray[np.int64]
    unservable: NDArray[np.int64]
    offset: float
    service: NDArray[np.float64]
    unservable_service: float
    row: NDArray[np.int32]
    coefficient: NDArray[np.float64]
    row_bound: NDArray[np.float64]
    violation_price: NDArray[np.float64]
    integral: bool

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self.loss.shape[0])

    @property
    def models(self) -> int:
        """Number of columns that are models."""
        return self.columns - self.leave

    @property
    def n(self) -> int:
        """Number of agents, each group that moves together counted once."""
        return int(self.loss.shape[1])

    @property
    def resources(self) -> int:
        """Number of resources."""
        return int(self.capacity.shape[0])

    @property
    def rows(self) -> int:
        """Number of limit rows."""
        return len(self.row_bound)

    @cached_property
    def allowed(self) -> NDArray[np.bool_] | None:
        """(c, n) bool, or None when every pair is allowed."""
        allowed = np.isfinite(self.loss)
        return None if allowed.all() else allowed

    @cached_property
    def worst(self) -> float:
        """No choice can lose more: the sum of every agent's largest finite loss."""
        loss = self.loss if self.allowed is None else np.where(self.allowed, self.loss, 0.0)
        return float(loss.max(axis=0).sum())

    @cached_property
    def room(self) -> NDArray[np.float64]:
        """(r, c) largest load that the certificate accepts."""
        room: NDArray[np.float64] = self.capacity * (1 + EXCESS_TOLERANCE)
        return room

    @cached_property
    def soft(self) -> NDArray[np.intp]:
        """Limit rows that may be exceeded at a price."""
        return np.flatnonzero(np.isfinite(self.violation_price))

    def violation_charge(self, row_load: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what (..., g) left-hand sides cost where they exceed soft rows, shape (...)."""
        soft = self.soft
        beyond = np.maximum(row_load[..., soft] - self.row_bound[soft], 0.0)
        charge: NDArray[np.float64] = beyond @ self.violation_price[soft]
        return charge

    def value(self, columns: NDArray[np.int64]) -> float:
        """Return the total loss of an (n,) choice of columns."""
        loss = float(self.loss[columns, np.arange(self.n)].sum())
        return loss + float(self.violation_charge(self.row_load(columns))) if len(self.soft) else loss

    @property
    def empty_violates_limits(self) -> bool:
        """Whether serving no agent at all breaks a lower limit."""
        hard = np.isposinf(self.violation_price)
        return bool((hard & (self.row_bound < 0.0)).any())

    def objective_and_bound(self, columns: NDArray[np.int64], loss_bound: float) -> tuple[float, float]:
        """Return objective and bound as the certificate counts them, given a lower bound on the loss."""
        uncounted = self.unservable_service
        if self.leave:
            uncounted += float(self.service[columns == self.models].sum())
        return self.offset - self.value(columns) - uncounted, self.offset - loss_bound - uncounted

    def load(self, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (r, c) units used."""
        agents = np.arange(self.n)
        return np.stack(
            [np.bincount(columns, weights=d[columns, agents], minlength=self.columns) for d in self.demand]
        )

    def row_load(self, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the (g,) left-hand sides of the limit rows."""
        return self._row_sums(columns, self.coefficient)

    def _row_sums(self, columns: NDArray[np.int64], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        agents = np.arange(self.n)
        used = np.zeros(self.rows + 1)
        for row, coefficient in zip(self.row, coefficients, strict=True):
            used += np.bincount(
                row[columns, agents], weights=coefficient[columns, agents], minlength=self.rows + 1
            )
        return used[:-1]

    def feasible(self, columns: NDArray[np.int64]) -> bool:
        """Return whether a choice of columns breaks nothing."""
        if not np.isfinite(self.loss[columns, np.arange(self.n)]).all():
            return False
        if not (self.load(columns) <= self.room).all():
            return False
        if not self.rows:
            return True
        used, size = (
            self._row_sums(columns, self.coefficient),
            self._row_sums(columns, np.abs(self.coefficient)),
        )
        within = used <= self.row_bound + EXCESS_TOLERANCE * (np.abs(self.row_bound) + size)
        within[self.soft] = True
        return bool(within.all())

    @cached_property
    def row_room(self) -> NDArray[np.float64]:
        """(g,) largest left-hand side accepted: the bound, and rounding, also where the bound is zero."""
        largest = np.zeros(self.rows + 1)
        for row, coefficient in zip(self.row, self.coefficient, strict=True):
            np.maximum.at(largest, row.ravel(), np.abs(coefficient).ravel())
        room: NDArray[np.float64] = (
            self.row_bound + EXCESS_TOLERANCE * np.abs(self.row_bound) + _ROW_NOISE * largest[:-1]
        )
        return room

    def choice(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the (n,) choice of the original agents."""
        models = np.where(columns == self.models, UNASSIGNED, columns) if self.leave else columns
        out = np.full(len(self.agents) + len(self.unservable), UNASSIGNED, np.int64)
        out[self.agents] = models[self.owner]
        return out

    def columns_of(self, choice: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return a choice of the original agents as columns, or None where it leaves an agent that may not."""
        columns = np.empty(self.n, np.int64)
        columns[self.owner] = choice[self.agents]
        left = columns == UNASSIGNED
        if left.any():
            if not self.leave:
                return None
            columns[left] = self.models
        return columns


def build_form(instance: Instance, *, leave: bool) -> StandardForm:
    """Compile an instance. O(n m r) time and memory.

    Parameters
    ----------
    instance : Instance
        The problem.
    leave : bool
        Whether agents may be left unassigned, at the value the instance gives. Without it the form asks that
        every agent is served, except those that no model can take.

    Returns
    -------
    StandardForm
    """
    # Always a copy: it is written to.
    score = np.array(np.asarray(instance.score).T, dtype=np.float64, order="C")
    n = instance.n
    demand = _demand_by_resource(instance)
    capacity = np.ascontiguousarray(instance.capacity.T)
    members = np.arange(n)
    owner = np.arange(n)
    rows = instance.limits
    unserved = instance.unserved
    row, coefficient = _limit_layers(instance)
    if rows is not None and rows.together:
        owner = _owners(n, rows.together)
        score, demand, unserved = _merged(score, owner), _merged(demand, owner), _merged(unserved, owner)
        row, coefficient = _merged_layers(row, coefficient, owner, rows.count)
        members = np.argsort(owner, kind="stable")
        owner = owner[members]
    # One agent alone must fit: a pair that never can is no pair.
    too_large = (demand > (capacity * (1 + EXCESS_TOLERANCE))[:, :, None]).any(axis=0)
    if too_large.any():
        score[too_large] = -np.inf
    able = np.asarray(np.isfinite(score).any(axis=0))
    unservable = np.zeros(0, np.int64)
    if not able.all():
        unservable = members[~able[owner]]
        kept = able[owner]
        members = members[kept]
        owner = (np.cumsum(able) - 1)[owner[kept]]
        score, demand, unserved = score[:, able], demand[:, :, able], unserved[able]
        row, coefficient = row[:, :, able], coefficient[:, :, able]
    if leave:
        score = np.concatenate([score, np.asarray(unserved)[None, :]])
        demand = np.concatenate([demand, np.zeros((demand.shape[0], 1, demand.shape[2]))], axis=1)
        spare = np.ones((capacity.shape[0], 1))
        capacity = np.concatenate([capacity, spare], axis=1)
        row = np.concatenate([row, np.full_like(row[:, :1], 0 if rows is None else rows.count)], axis=1)
        coefficient = np.concatenate([coefficient, np.zeros_like(coefficient[:, :1])], axis=1)
    lost = instance.unserved[unservable]
    unservable_value = float(lost.sum()) if np.isfinite(lost).all() else 0.0
    best = score.max(axis=0, initial=-np.inf)
    loss = best - score
    forbidden = np.isinf(score)
    if forbidden.any():
        demand = np.where(forbidden, 0.0, demand)
    return StandardForm(
        loss=loss,
        demand=demand,
        capacity=capacity,
        leave=leave,
        agents=members,
        owner=owner,
        unservable=unservable,
        offset=float(best.sum()) + unservable_value,
        service=np.asarray(unserved) if instance.serve_first else np.zeros(len(best)),
        unservable_service=unservable_value if instance.serve_first else 0.0,
        row=row,
        coefficient=coefficient,
        row_bound=np.zeros(0) if rows is None else rows.bound,
        violation_price=_violation_prices(rows),
        integral=(rows is None or not rows.is_soft)
        and instance.is_integral
        and bool((np.floor(unserved) == unserved)[np.isfinite(unserved)].all()),
    )


def _demand_by_resource(instance: Instance) -> NDArray[np.float64]:
    """Return the (r, m, n) demands in C order, ones where agents take slots."""
    if instance.demand is None:
        return np.ones((1, instance.m, instance.n))
    return np.ascontiguousarray(instance.demand.transpose(2, 1, 0), dtype=np.float64)


def _violation_prices(rows: LimitRows | None) -> NDArray[np.float64]:
    if rows is None or rows.violation_price is None:
        return np.full(0 if rows is None else rows.count, np.inf)
    return rows.violation_price


def _limit_layers(instance: Instance) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    rows = instance.limits
    layers = () if rows is None else rows.layers
    shape = (len(layers), instance.m, instance.n)
    row, coefficient = np.empty(shape, np.int32), np.empty(shape)
    for layer, to_row, to_coefficient in zip(layers, row, coefficient, strict=True):
        to_row[:], to_coefficient[:] = layer.row.T, layer.coefficient.T
        if layer.row.min() < 0:
            nothing = to_row < 0
            to_row[nothing], to_coefficient[nothing] = rows.count if rows else 0, 0.0
    return row, coefficient


def _owners(n: int, together: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
    """Return, for every agent, the dense index of the group it moves with."""
    first = np.arange(n)
    for group in together:
        first[group] = group.min()
    return np.unique(first, return_inverse=True)[1].astype(np.int64)


def _merged(values: NDArray[np.float64], owner: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum the last axis over the members of every agent."""
    first, size = np.unique(owner, return_index=True, return_counts=True)[1:]
    merged: NDArray[np.float64] = values.take(first, axis=-1)
    groups = np.flatnonzero(size > 1)
    members = np.flatnonzero(size[owner] > 1)
    members = members[np.argsort(owner[members], kind="stable")]
    starts = np.cumsum(size[groups]) - size[groups]
    if len(groups):
        merged[..., groups] = np.add.reduceat(values[..., members], starts, axis=-1)
    return merged


def _merged_layers(
    row: NDArray[np.int32], coefficient: NDArray[np.float64], owner: NDArray[np.int64], none: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Add up what members contribute to the same rows; only groups whose members touch several need more layers."""
    layers, m, _ = row.shape
    first, size = np.unique(owner, return_index=True, return_counts=True)[1:]
    grouped = np.flatnonzero(size[owner] > 1)
    part = row[:, :, grouped]
    layer, column, member = np.nonzero(part != none)
    pair = owner[grouped[member]] * m + column
    entry, place = np.unique(pair * none + part[layer, column, member], return_inverse=True)
    total = np.bincount(place, coefficient[layer, column, grouped[member]])
    pair, touched = np.divmod(entry, max(none, 1))
    at = np.arange(len(pair)) - np.searchsorted(pair, pair)
    shape = (max(layers, int(at.max(initial=-1)) + 1), m, len(size))
    out_row, out_coefficient = np.full(shape, none, np.int32), np.zeros(shape)
    np.take(row, first, axis=2, out=out_row[:layers], mode="clip")
    np.take(coefficient, first, axis=2, out=out_coefficient[:layers], mode="clip")
    out_row[:layers, :, size > 1] = none
    out_coefficient[:layers, :, size > 1] = 0.0
    agent, column = np.divmod(pair, m)
    out_row[at, column, agent] = touched
    out_coefficient[at, column, agent] = total
    return out_row, out_coefficient

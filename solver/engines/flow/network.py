"""The arcs of a slot instance as a min-cost flow in whole numbers, solved by OR-Tools."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

from solver.errors import EngineError
from solver.problem.blocks import row_maxima
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores, maxima

if TYPE_CHECKING:
    from numpy.typing import NDArray

COARSE_BITS = 20
"""Costs are scaled to this many bits where speed matters; up to 2,000 agents that nearly always is exact enough."""

FINE_BITS = 40
"""Costs are scaled to this many bits where it does not."""


class Network:
    """Some arcs of an instance, and their costs before scaling.

    Parameters
    ----------
    n, m : int
        Agents are the nodes below n, models the next m, and n + m is the sink.
    agent, target : (a,) int64
        Ends of each arc; one straight to the sink leaves the agent unassigned.
    cost : (a,) float64
        What the arc loses against the agent's best, >= 0.
    slots : (m,) int64
        Slots of the models.
    """

    def __init__(
        self,
        n: int,
        m: int,
        agent: NDArray[np.int64],
        target: NDArray[np.int64],
        cost: NDArray[np.float64],
        slots: NDArray[np.int64],
    ) -> None:
        self.n, self.m = n, m
        self.agent, self.target, self.cost, self.slots = agent, target, cost, slots
        self.highest = float(cost.max(initial=0.0))

    @classmethod
    def of(cls, instance: Instance) -> Network:
        """Return all allowed arcs, agent by agent, and those of staying unassigned where that is an option."""
        n, m, score = instance.n, instance.m, instance.score
        if isinstance(score, CompressedScores):
            top = maxima(score.data.astype(np.float64), score.degree)
        else:
            top = row_maxima(score).astype(np.float64)
        if not (instance.may_leave or instance.forbids):  # leaving is no option worth an arc
            agent = np.repeat(np.arange(n), m)
            target = np.tile(np.arange(n, n + m), n)
            cost = (top[:, None] - np.asarray(score)).ravel()
            return cls(n, m, agent, target, cost, instance.slots)
        unserved = instance.unserved
        np.maximum(top, unserved, out=top)
        if isinstance(score, CompressedScores):
            agent, model = np.repeat(np.arange(n), score.degree), score.models
            cost = top[agent] - score.data
        else:
            agent, model = np.nonzero(np.isfinite(score))
            cost = top[agent] - score[agent, model]
        leaving = np.flatnonzero(np.isfinite(unserved))
        return cls(
            n,
            m,
            np.concatenate([agent, leaving]),
            np.concatenate([model + n, np.full(len(leaving), n + m)]),
            np.concatenate([cost, top[leaving] - unserved[leaving]]),
            instance.slots,
        )

    @cached_property
    def is_whole(self) -> bool:
        """Whether all costs are whole numbers, small enough to be taken as they are."""
        return self.highest < 2**COARSE_BITS and np.array_equal(np.rint(self.cost), self.cost)

    def scale(self, bits: int) -> float:
        """Return the factor to integers: ``bits`` of the highest cost, within the overflow limit."""
        if self.is_whole:
            return 1.0
        room = 61 - math.ceil(math.log2(self.n + self.m + 3))  # |cost| · (nodes + 2) < 2**62
        return 2.0 ** (min(bits, room) - math.ceil(math.log2(self.highest)))

    def solve(self, bits: int) -> NDArray[np.int64] | None:
        """Return the choice of least scaled cost, or None when not all units can be routed."""
        n, m = self.n, self.m
        solver = SimpleMinCostFlow()
        cost = np.rint(self.cost * self.scale(bits)).astype(np.int64)
        arcs = solver.add_arcs_with_capacity_and_unit_cost(
            self.agent, self.target, np.ones(len(cost), np.int64), cost
        )
        solver.add_arcs_with_capacity_and_unit_cost(
            np.arange(n, n + m), np.full(m, n + m), self.slots, np.zeros(m, np.int64)
        )
        supply = np.zeros(n + m + 1, np.int64)
        supply[:n] = 1
        supply[n + m] = -n
        solver.set_nodes_supplies(np.arange(n + m + 1), supply)
        status = solver.solve()
        if status == SimpleMinCostFlow.INFEASIBLE:
            return None
        if status != SimpleMinCostFlow.OPTIMAL:
            raise EngineError(f"flow: expected an optimal flow, got {status.name}")
        used = np.flatnonzero(solver.flows(arcs))
        choice = np.full(n, UNASSIGNED, np.int64)
        choice[self.agent[used]] = np.where(self.target[used] == n + m, UNASSIGNED, self.target[used] - n)
        return choice

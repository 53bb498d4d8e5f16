"""OR-Tools min-cost flow on all allowed arcs: exact for slot capacities, small to medium.

Agents send one unit each to a model or, where they may stay unassigned, straight to the sink. Costs are what
an arc loses against the agent's best, scaled to integers; the loss by rounding shows in the certified gap.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

from solver.engines.base import Claim
from solver.engines.certificate import certify
from solver.engines.duals import minimal_prices
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.base import Engine

__all__ = ["FlowEngine"]

_SMALL = 2_000  # agents: up to here 20 bits nearly always give the float64 optimum, and cost half the time
_TINY = 2_000  # pairs: up to here a check costs more than the finer bits
_COARSE_BITS = 20
_FINE_BITS = 40
_SECONDS_PER_ARC = 1e-6  # generous: cost scaling slows down on ties, and cannot be interrupted
_MAX_ARCS = 100_000_000


class FlowEngine:
    """Cost-scaling push-relabel (Goldberg and Tarjan 1990) over n + m + 1 nodes, with minimal prices."""

    name = "flow"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: no slots, or more arcs than memory or the time left allows."""
        if not instance.is_slots:
            return "flow: every agent must take exactly one slot"
        if instance.load_cost is not None:
            return "flow: slots must not cost by load"
        arcs = instance.n * (instance.m + 1)
        if arcs > _MAX_ARCS:
            return f"flow: up to {arcs:,} arcs, at most {_MAX_ARCS:,}"
        estimate = arcs * _SECONDS_PER_ARC
        if estimate > remaining_s:
            return f"flow: needs about {estimate * 1e3:.0f} ms, {max(remaining_s, 0) * 1e3:.0f} ms left"
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
        network = _Network.of(instance)
        if instance.n <= _SMALL and instance.n * instance.m > _TINY:
            choice = network.solve(_COARSE_BITS)
            if choice is None:
                return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
            claim = Claim(choice=choice, prices=minimal_prices(instance, choice))
            if network.is_whole or _is_tight(instance, claim) or deadline.expired():
                return claim
        choice = network.solve(_FINE_BITS)
        if choice is None:
            return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
        return Claim(choice=choice, prices=minimal_prices(instance, choice))


def _is_tight(instance: Instance, claim: Claim) -> bool:
    return certify(instance, claim).optimal


class _Network:
    """The arcs of an instance, agent by agent, and their costs before scaling."""

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
    def of(cls, instance: Instance) -> _Network:
        n, m, score = instance.n, instance.m, instance.score
        top = score.max(axis=1).astype(np.float64)
        certain = int(instance.slots.sum()) >= n and instance.serve_first
        forbidden = instance.forbids
        if certain and not forbidden:  # everybody is served: leaving is no option worth an arc
            agent = np.repeat(np.arange(n), m)
            target = np.tile(np.arange(n, n + m), n)
            cost = (top[:, None] - score).ravel()
            return cls(n, m, agent, target, cost, instance.slots)
        unserved = instance.unserved
        np.maximum(top, unserved, out=top)
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
        return self.highest < 2**_COARSE_BITS and np.array_equal(np.rint(self.cost), self.cost)

    def scale(self, bits: int) -> float:
        """Return the factor to integers: ``bits`` of the highest cost, within the overflow limit."""
        if self.is_whole:
            return 1.0
        room = 61 - math.ceil(math.log2(self.n + self.m + 3))  # |cost| · (nodes + 2) < 2**62
        return 2.0 ** (min(bits, room) - math.ceil(math.log2(self.highest)))

    def solve(self, bits: int) -> NDArray[np.int64] | None:
        """Return the choice of least scaled cost, or None when not everyone can be routed."""
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
            raise RuntimeError(f"min-cost flow ended with status {status} on {n} agents and {m} models")
        used = np.flatnonzero(solver.flows(arcs))
        choice = np.full(n, UNASSIGNED, np.int64)
        choice[self.agent[used]] = np.where(self.target[used] == n + m, UNASSIGNED, self.target[used] - n)
        return choice


if TYPE_CHECKING:
    _conforms: type[Engine] = FlowEngine

"""OR-Tools min-cost flow on allowed arcs, a few of them first: exact for slot capacities, small to medium.

Agents send one unit each to a model or, where they may stay unassigned, straight to the sink. Costs are what
an arc loses against the agent's best, scaled to integers; the loss by rounding shows in the certified gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.engines.certificate import certify
from solver.engines.duals import minimal_prices, supporting_prices
from solver.engines.flow.core_arcs import solve_core
from solver.engines.flow.network import COARSE_BITS, FINE_BITS, Network
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from solver.clock import Deadline
    from solver.engines.base import Engine

__all__ = ["FlowEngine"]

_SMALL = 2_000  # agents: up to here 20 bits nearly always give the float64 optimum, and cost half the time
_TINY = 2_000  # pairs: up to here a check costs more than the finer bits
_CORED, _FEW = 5_000, 4  # pairs, and models, from which on a core is found faster than a flow on all arcs
_SECONDS_PER_ARC = 1e-6  # generous: cost scaling slows down on ties, and cannot be interrupted
_MAX_ARCS = 100_000_000


class FlowEngine:
    """Cost-scaling push-relabel (Goldberg and Tarjan 1990) over n + m + 1 nodes or a core, with minimal prices."""

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
        if instance.n * instance.m >= _CORED and instance.m >= _FEW:
            choice = solve_core(instance)
            if choice is not None:
                prices = supporting_prices(instance, choice)
                if prices is not None:  # proven for all arcs, or all of them are tried
                    return Claim(choice=choice, prices=prices)
        network = Network.of(instance)
        if instance.n <= _SMALL and instance.n * instance.m > _TINY:
            choice = network.solve(COARSE_BITS)
            if choice is None:
                return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
            claim = Claim(choice=choice, prices=minimal_prices(instance, choice))
            if network.is_whole or _is_tight(instance, claim) or deadline.expired():
                return claim
        choice = network.solve(FINE_BITS)
        if choice is None:
            return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
        return Claim(choice=choice, prices=minimal_prices(instance, choice))


def _is_tight(instance: Instance, claim: Claim) -> bool:
    return certify(instance, claim).optimal


if TYPE_CHECKING:
    _conforms: type[Engine] = FlowEngine

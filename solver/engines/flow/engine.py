"""OR-Tools min-cost flow on allowed arcs, a few of them first: exact for slot capacities, small to medium.

Agents send one unit each to a model or, where they may stay unassigned, straight to the sink. Costs are what
an arc loses against the agent's best, scaled to integers; the loss by rounding shows in the certified gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.engines.certificate import certify
from solver.engines.duals import priced_claim, supporting_prices
from solver.engines.flow.arc_pricing import GenerationParams
from solver.engines.flow.core_arcs import solve_core
from solver.engines.flow.generation import solve_network
from solver.engines.flow.laminar_flow import solve_laminar, unsupported_limits
from solver.engines.flow.network import COARSE_BITS, FINE_BITS, Network
from solver.engines.flow.openings import search_openings
from solver.engines.network_terms import principal_choice
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from solver.clock import Deadline

_COARSE_AGENTS = 2_000
"""Agents up to which 20 bits nearly always give the float64 optimum, at half the time."""

_UNCHECKED_PAIRS = 2_000
"""Pairs up to which a check of the coarse answer costs more than the finer bits."""

_CORED_PAIRS = 5_000
"""Pairs from which a core is found faster than a flow on all arcs."""

_CORED_MODELS = 4
"""Models from which the same holds."""

_FLOW_S_PER_ARC = 1e-6
"""Upper estimate of a flow: cost scaling slows down on ties, and cannot be interrupted."""

_MANY_NODES = 10_000
"""Nodes by which the time per arc doubles."""

_MAX_FLOW_ARCS = 100_000_000
"""Arcs at most: more do not fit into memory."""

_GENERATION_S_PER_PAIR = 3e-8
"""Upper estimate of the passes over all pairs of an instance with floors, copies or counts."""

_GENERATION_S_PER_ARC = 5e-6
"""Upper estimate of the flows on the few arcs of each of its rows."""

_GENERATION_S_PER_MODEL = 3e-4
"""The same per model where rows are few for the models: sampled prices say little then, and rounds are many."""

_FEW_ROWS_PER_MODEL = 4
"""Rows per model below which they are few."""

_EXCHANGE_S = 1.5e-7
"""Upper estimate of looking at one exchange of two pairs of a row (`python -m benchmarks.random_deadlines`)."""


class FlowEngine:
    """Cost-scaling push-relabel (Goldberg and Tarjan 1990) over n + m + 1 nodes or a core, with minimal prices."""

    name = "flow"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: no slots, or more arcs than memory or the time left allows."""
        if instance.demand is not None:
            return "flow: every agent must take exactly one slot"
        if instance.limits is not None:
            return unsupported_limits(instance, remaining_s)
        if instance.network is not None:
            return _unsupported_network(instance, remaining_s)
        if instance.load_cost is not None:
            return "flow: slots must not cost by load"
        score = instance.score
        pairs = len(score.data) if isinstance(score, CompressedScores) else instance.n * instance.m
        arcs = pairs + instance.n
        if arcs > _MAX_FLOW_ARCS:
            return f"flow: up to {arcs:,} arcs, at most {_MAX_FLOW_ARCS:,}"
        estimate = arcs * _FLOW_S_PER_ARC * (1 + (instance.n + instance.m) / _MANY_NODES)
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
        if instance.limits is not None:
            return solve_laminar(instance, deadline)
        if instance.network is not None:
            return _network_claim(instance, deadline, hint)
        if instance.n * instance.m >= _CORED_PAIRS and instance.m >= _CORED_MODELS:
            choice = solve_core(instance)
            if choice is not None:
                prices = supporting_prices(instance, choice)
                if prices is not None:  # proven for all arcs, or all of them are tried
                    return Claim(choice=choice, prices=prices)
        network = Network.of(instance)
        if instance.n <= _COARSE_AGENTS and instance.n * instance.m > _UNCHECKED_PAIRS:
            choice = network.solve(COARSE_BITS)
            if choice is None:
                return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
            claim = priced_claim(instance, choice, deadline=deadline)
            if network.is_whole or _is_tight(instance, claim) or deadline.expired():
                return claim
        choice = network.solve(FINE_BITS)
        if choice is None:
            return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
        return priced_claim(instance, choice, deadline=deadline)


def _unsupported_network(instance: Instance, remaining_s: float) -> str | None:
    """Return why floors, copies and counts are too many for the time left, or are not a flow."""
    if instance.network is None:
        return None
    n, m = instance.n, instance.m
    estimate = n * m * _GENERATION_S_PER_PAIR + float(instance.network.depth.sum()) * _GENERATION_S_PER_ARC
    if n * m <= GenerationParams().all_pairs:
        used = float(np.minimum(instance.network.supply, m).sum())
        estimate += n * m * _FLOW_S_PER_ARC + used * m * _EXCHANGE_S
    elif n < _FEW_ROWS_PER_MODEL * m:
        estimate += m * _GENERATION_S_PER_MODEL
    if estimate > remaining_s:
        return f"flow: needs about {estimate * 1e3:.0f} ms, {max(remaining_s, 0) * 1e3:.0f} ms left"
    return None


def _network_claim(instance: Instance, deadline: Deadline, hint: Claim | None) -> Claim | None:
    """Return the optimal flow with its smallest prices, the proof that there is none, or None out of time."""
    shape = instance.network
    if shape is not None and shape.has_openings:
        flow, relaxed = search_openings(instance, shape, deadline)
        if flow is None:
            return None
        choice = principal_choice(instance, flow)
        return Claim(choice=choice, prices=relaxed[:, None], flow=None if shape.is_single else flow)
    start = None
    if hint is not None and hint.prices is not None and hint.prices.shape == (instance.m, 1):
        start = hint.prices[:, 0]
    found = solve_network(instance, deadline, prices=start)
    must = np.zeros(instance.n, bool) if instance.penalty is None else np.isposinf(instance.penalty)
    all_unassigned = np.full(instance.n, UNASSIGNED, np.int64)
    if found.missing.any() or (found.left > 0)[must].any():
        return Claim(choice=all_unassigned, infeasible=True) if found.complete else None
    prices = found.prices[:, None]
    single = shape is not None and shape.is_single
    return Claim(
        choice=principal_choice(instance, found.flow), prices=prices, flow=None if single else found.flow
    )


def _is_tight(instance: Instance, claim: Claim) -> bool:
    return certify(instance, claim).optimal

"""Exact transportation by compiled shortest augmenting paths: the fastest way for small and medium slot instances."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from solver.engines import kernels
from solver.engines.base import Claim
from solver.engines.network_terms import principal_choice
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.network import UnitFlow
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from solver.clock import Deadline

_MAX_MODELS = 2_000
"""The exchange matrix has the square of it in entries: 32 MB."""

_MAX_PAIRS = 50_000_000
"""Time goes up with the square of the models, too: beyond, other engines are faster."""

_MAX_TABLED_PAIRS = 5_000_000
"""With copies or counts, the units of every pair are a table: 80 MB."""


class TransportEngine:
    """Successive shortest augmenting paths on the models (Tomizawa 1971; Edmonds and Karp 1972), compiled."""

    name = "transport"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: no kernels, no slots, too many models or pairs. The kernel looks at the clock itself."""
        if not kernels.available():
            return "transport: needs the compiled kernels"
        shape = instance.network
        if not instance.is_slots and shape is None:
            return "transport: every agent must take exactly one slot"
        if shape is not None and shape.has_openings:
            return "transport: no costs or floors that depend on whether a model is open"
        if isinstance(instance.score, CompressedScores):
            return "transport: scores must be dense"
        pairs = _MAX_PAIRS if shape is None or shape.is_single else _MAX_TABLED_PAIRS
        if instance.m > _MAX_MODELS or instance.n * instance.m > pairs:
            return f"transport: at most {_MAX_MODELS:,} models and {pairs:,} pairs"
        if remaining_s <= 0:
            return "transport: no time left"
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
        """Return an optimal choice with its smallest prices, the proof that there is none, or None out of time."""
        shape = instance.network
        may_leave = shape is not None or instance.may_leave
        outside = instance.unserved if may_leave else None
        until = time.monotonic() + deadline.remaining_s() if deadline.limited else np.inf
        found = kernels.transport(
            np.asarray(instance.score),
            outside,
            instance.slots,
            supplied=_supplied(instance),
            bounded=shape is not None or instance.load_cost is not None,
            until_s=until,
        )
        if found.outcome is kernels.Outcome.INFEASIBLE:
            return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
        if found.outcome is not kernels.Outcome.SOLVED:
            return None
        # Only floors can make a slot worth less than nothing.
        prices = found.prices if shape is not None else np.maximum(found.prices, 0.0)
        if found.units is None:
            return Claim(choice=found.choice, prices=prices[:, None])
        agent, model = np.nonzero(found.units[:, : instance.m])
        flow = UnitFlow(agent=agent, model=model, units=found.units[agent, model])
        return Claim(choice=principal_choice(instance, flow), prices=prices[:, None], flow=flow)


def _supplied(instance: Instance) -> kernels.Supplied | None:
    """Return floors, tiers and units of an instance as the kernel takes them, None where it has none."""
    shape = instance.network
    cost = end = None
    if instance.load_cost is not None:
        _, cost, slots = instance.tiers
        table = instance.load_cost.shape
        cost, end = cost.reshape(table), np.cumsum(slots.reshape(table), axis=1)
    elif shape is None:
        return None
    if shape is None:
        return kernels.Supplied(tier_cost=cost, tier_end=end)
    return kernels.Supplied(
        floor=shape.floor if shape.floor.any() else None,
        tier_cost=cost,
        tier_end=end,
        width=shape.count,
        copies=shape.copies,
    )

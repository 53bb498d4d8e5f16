"""Exact transportation by compiled shortest augmenting paths: the fastest way for small and medium slot instances."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from solver.engines import kernels
from solver.engines.base import Claim
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from solver.clock import Deadline
    from solver.engines.base import Engine

__all__ = ["TransportEngine"]

_MAX_MODELS = 2_000
"""The exchange matrix has the square of it in entries: 32 MB."""

_MAX_PAIRS = 50_000_000
"""Scores are copied to float64 where they are not: 400 MB."""


class TransportEngine:
    """Successive shortest augmenting paths on the models (Tomizawa 1971; Edmonds and Karp 1972), compiled."""

    name = "transport"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: no kernels, no slots, too many models or pairs. The kernel looks at the clock itself."""
        if not kernels.available():
            return "transport: needs the compiled kernels"
        if not instance.is_slots:
            return "transport: every agent must take exactly one slot"
        if instance.load_cost is not None:
            return "transport: slots must not cost by load"
        if isinstance(instance.score, CompressedScores):
            return "transport: scores must be dense"
        if instance.m > _MAX_MODELS or instance.n * instance.m > _MAX_PAIRS:
            return f"transport: at most {_MAX_MODELS:,} models and {_MAX_PAIRS:,} pairs"
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
        outside = instance.unserved if instance.may_leave else np.full(instance.n, -np.inf)
        until = time.monotonic() + deadline.remaining_s() if deadline.limited else np.inf
        found = kernels.transport(np.asarray(instance.score), outside, instance.slots, until_s=until)
        if found.outcome is kernels.Outcome.INFEASIBLE:
            return Claim(choice=np.full(instance.n, UNASSIGNED, np.int64), infeasible=True)
        if found.outcome is not kernels.Outcome.SOLVED:
            return None
        return Claim(choice=found.choice, prices=found.prices[:, None])


if TYPE_CHECKING:
    _conforms: type[Engine] = TransportEngine

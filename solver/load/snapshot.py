"""Load as seen from outside: one model's figures, and every model's as arrays for the engines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import SpecError, Violation
from solver.load.store.base import nano_usd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from solver.load.lease import Demand
    from solver.load.stops import Stop
    from solver.load.store.base import StoreView


def utilization_of(active: int, max_concurrent: int) -> float:
    """Return the share of slots taken, 0 to 1; a drained model (no slots) counts as fully used."""
    return min(1.0, active / max_concurrent) if max_concurrent > 0 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoad:
    """The load of one model.

    Parameters
    ----------
    active_requests, queue_depth : int
        Slots and queue places taken.
    avg_latency_ms : float or None
        Exponentially weighted mean latency of the successful requests recorded here, milliseconds; None before
        the first.
    utilization : float
        Active requests over slots, 0 to 1; 1 for a drained model.
    last_updated : float
        Reading of the tracker's clock when the model was last heard of, seconds.
    """

    active_requests: int
    queue_depth: int
    avg_latency_ms: float | None
    utilization: float
    last_updated: float


@dataclass(frozen=True, eq=False)
class LoadSnapshot:
    """The load of every model at one instant; immutable.

    All arrays have one entry a model, in the order of ``models``; derived ones are computed on first use.

    Parameters
    ----------
    view : StoreView
        What the store said.
    target : (m,) float64
        Target utilization, in (0, 1].
    open_slots : (m,) int64
        Slots of each model, none where work is being rejected.
    """

    view: StoreView
    target: NDArray[np.float64]
    open_slots: NDArray[np.int64]

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of the m models."""
        return self.view.models

    @property
    def version(self) -> int:
        """Grows with every change of the store; equal versions mean equal load."""
        return self.view.version

    @property
    def active(self) -> NDArray[np.int64]:
        """(m,) int64, slots taken."""
        return self.view.active

    @property
    def queued(self) -> NDArray[np.int64]:
        """(m,) int64, queue places taken."""
        return self.view.queued

    @property
    def max_concurrent(self) -> NDArray[np.int64]:
        """(m,) int64, slots."""
        return self.view.max_concurrent

    @property
    def max_queue(self) -> NDArray[np.int64]:
        """(m,) int64, queue places."""
        return self.view.max_queue

    @property
    def accepting(self) -> NDArray[np.bool_]:
        """(m,) bool, False while new work is rejected on purpose."""
        return self.view.accepting

    @property
    def stops(self) -> Mapping[str, tuple[Stop, ...]]:
        """What keeps new work away from each model that is not open: owner, reason, and until when."""
        return self.view.stops

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each model."""
        return {model: j for j, model in enumerate(self.view.models)}

    @cached_property
    def utilization(self) -> NDArray[np.float64]:
        """(m,) float64 in [0, 1], active over slots; 1 for a drained model."""
        slots = self.view.max_concurrent
        return np.where(slots > 0, np.minimum(1.0, self.view.active / np.maximum(slots, 1)), 1.0)

    @cached_property
    def free_slots(self) -> NDArray[np.int64]:
        """(m,) int64, slots that an acquisition could take now, of the model and of each pool it draws on.

        None where work is being rejected. Models that share a pool share what is left in it.
        """
        free: NDArray[np.int64] = np.maximum(self.open_slots - self.view.active, 0)
        return free if self.view.pool_free is None else np.minimum(free, self.view.pool_free)

    @cached_property
    def free_queue(self) -> NDArray[np.int64]:
        """(m,) int64, queue places left."""
        free = np.maximum(self.view.max_queue - self.view.queued, 0)
        return np.where(self.view.accepting, free, 0)

    @cached_property
    def free_meters(self) -> NDArray[np.float64]:
        """(3, m) float64, requests and tokens left this minute and US dollars left; ``inf`` for no limit."""
        left = np.maximum(self.view.meter_limit - self.view.meter_used, 0.0)
        left[2] /= 1e9
        return left

    @property
    def metered(self) -> bool:
        """Whether any model has a limit on requests, tokens or money."""
        return bool(self.view.metered)

    def room(self, demand: Demand, *, queue: bool = False) -> NDArray[np.int64]:
        """Return how many agents of this demand each model can take now, (m,) int64.

        Parameters
        ----------
        demand : Demand
            What each of them takes.
        queue : bool
            Count queue places as room.
        """
        room: NDArray[Any] = np.maximum(self.open_slots - self.view.active, 0)
        if self.view.pool_free is not None:
            room = np.minimum(room, self.view.pool_free)
        if demand.slots > 1:
            room //= demand.slots
        if queue:
            room = room + self.free_queue
        view = self.view
        if not view.metered:
            return room
        amounts = (demand.requests, demand.tokens, nano_usd(demand.cost_usd))  # whole numbers: exact
        for kind in view.metered:
            if amounts[kind] > 0:
                fits = view.meter_limit[kind] - view.meter_used[kind]  # inf without a limit
                fits /= amounts[kind]
                room = np.minimum(room, np.floor(fits, out=fits))
        whole: NDArray[np.int64] = np.maximum(room, 0).astype(np.int64)
        return whole

    def positions(self, models: list[str]) -> NDArray[np.intp]:
        """Return the positions of some models, or raise SpecError naming the unknown ones."""
        index = self.index
        unknown = [
            Violation(f"models[{j}].id", f"no capacity is set for {name!r}")
            for j, name in enumerate(models)
            if name not in index
        ]
        if unknown:
            raise SpecError(*unknown)
        return np.array([index[name] for name in models], np.intp)

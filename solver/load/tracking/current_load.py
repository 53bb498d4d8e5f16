"""How busy each model is: what leases hold, what was observed, and snapshots of all of it."""

from __future__ import annotations

import math

import numpy as np

from solver.errors import SpecError
from solver.load.checks import amount_problems, positive_problems, whole_problems
from solver.load.snapshot import LoadSnapshot, ModelLoad, utilization_of
from solver.load.tracking.state import TrackerState


class CurrentLoad(TrackerState):
    """The load of every model."""

    def refusals(self) -> dict[tuple[str, str], int]:
        """Return how often this tracker was refused, by (model, reason)."""
        with self._lock:
            return dict(self._refusals)

    def update_load(self, model: str, delta_active: int = 0, delta_queue: int = 0) -> None:
        """Add to the work that runs or waits without a lease; the sum never falls below zero.

        Nothing bounds or expires such work: prefer leases wherever a request can die unseen.
        """
        problems = whole_problems("delta_active", delta_active, low=None)
        problems += whole_problems("delta_queue", delta_queue, low=None)
        if problems:
            raise SpecError(*problems)
        self._store.adjust(model, active=int(delta_active), queue=int(delta_queue))

    def observe_load(
        self,
        model: str,
        *,
        active_requests: int,
        queue_depth: int = 0,
        ttl_s: float | None = None,
        age_s: float = 0.0,
    ) -> None:
        """Set what was measured at the model itself; what exceeds the leases counts as work from outside.

        Parameters
        ----------
        model : str
            Its id.
        active_requests, queue_depth : int
            What runs and what waits there.
        ttl_s : float, optional
            Seconds after which the excess is forgotten, so that a monitor that dies leaves no phantom load
            behind; ``inf`` for never. Default: the tracker's ``stale_after_s``.
        age_s : float
            How old the measurement is, seconds: it is compared with the leases of that time, so that requests
            that have ended since do not count as work from outside. Leases are remembered from the first
            measurement with an age on, for as long as they go on to come.
        """
        ttl_s = self._stale_after_s if ttl_s is None else ttl_s
        problems = whole_problems("active_requests", active_requests)
        problems += whole_problems("queue_depth", queue_depth)
        problems += [] if ttl_s == math.inf else positive_problems("ttl_s", ttl_s)
        problems += amount_problems("age_s", age_s)
        if problems:
            raise SpecError(*problems)
        if age_s >= ttl_s:
            return  # it would be forgotten at once
        self._store.observe(
            model,
            active=int(active_requests),
            queue=int(queue_depth),
            ttl_s=None if ttl_s == math.inf else float(ttl_s - age_s),
            age_s=float(age_s),
        )

    def current_load(self, model: str) -> ModelLoad | None:
        """Return the load of a model, None when it is unknown or was not updated for too long."""
        try:
            row = self._store.row(model)
        except SpecError:
            return None
        now = self._clock.now()
        heard = max(now - row.age_s, self._last_outcome_s.get(model, -math.inf))
        if now - heard > self._stale_after_s:
            return None
        return ModelLoad(
            active_requests=row.active,
            queue_depth=row.queued,
            avg_latency_ms=self._latency_ms.get(model),
            utilization=utilization_of(row.active, row.limits.max_concurrent),
            last_updated=heard,
        )

    def is_overloaded(self, model: str) -> bool:
        """Return whether more runs than there are slots, or more waits than there are queue places."""
        row = self._store.row(model)
        return row.active > row.limits.max_concurrent or row.queued > row.limits.max_queue

    def is_full(self, model: str, *, queue: bool = False) -> bool:
        """Return whether there is no room for one more; with ``queue``, not even to wait."""
        row = self._store.row(model)
        if not row.accepting:
            return True
        if row.pool_free == 0 and not (queue and row.queued < row.limits.max_queue):
            return True
        return row.active >= row.limits.max_concurrent and not (queue and row.queued < row.limits.max_queue)

    def is_over_target(self, model: str) -> bool:
        """Return whether utilization is above the target."""
        row = self._store.row(model)
        return utilization_of(row.active, row.limits.max_concurrent) > self.target_of(model)

    def target_of(self, model: str) -> float:
        """Return the target utilization of a model, 1 for one this tracker does not know."""
        capacity = self._capacities.get(model)
        return 1.0 if capacity is None else capacity.target_utilization

    def snapshot(self) -> LoadSnapshot:
        """Return the load of every model at one instant, as arrays."""
        view = self._store.view()
        models, target = self._targets
        if models is not view.models:
            with self._lock:
                known = self._capacities
                target = np.array(
                    [known[name].target_utilization if name in known else 1.0 for name in view.models]
                )
                self._targets = (view.models, target)
        accepting, slots, open_slots = self._open
        if accepting is not view.accepting or slots is not view.max_concurrent:
            open_slots = view.max_concurrent * view.accepting
            self._open = (view.accepting, view.max_concurrent, open_slots)
        return LoadSnapshot(view, target, open_slots)

"""Routers that share a fleet over Redis: what others gave back is found, though the last reading says full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import solver
from solver.clock import ManualClock
from solver.load.store.redis import RedisStore
from solver.online.parameters import RefreshParams
from solver.online.refusal import RouteRefusalReason
from tests.redis_server import running

if TYPE_CHECKING:
    from pathlib import Path


def test_an_old_reading_that_says_full_is_not_believed(tmp_path: Path) -> None:
    models = [solver.Model(id=name, capacity=solver.Capacity(max_concurrent=1)) for name in ("a", "b")]
    with running(tmp_path) as server:
        stores = [RedisStore(server.url, replicas=1) for _ in range(2)]
        clock = ManualClock()
        other = solver.LoadTracker(stores[0])
        router = solver.OptimalRouter(
            solver.LoadTracker(stores[1], clock=clock),
            models,
            background=False,
            refresh=RefreshParams(every_s=1e3),
        )
        held = [other.acquire(model.id, ttl_s=60.0) for model in models]
        for _ in range(20):  # from then on, prices are computed anew each third arrival
            refused = router.route(scores=[0.9, 0.5])
        router.refresh()
        assert refused.refusal is not None
        assert refused.refusal.reason is RouteRefusalReason.FULL
        for lease in held:
            assert lease is not None
            lease.release()
        clock.advance(0.2)
        decision = router.route(scores=[0.9, 0.5])
        assert decision.model == "a"
        decision.release()
        for store in stores:
            store.close()

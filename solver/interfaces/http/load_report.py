"""The live load as clients and the page get it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from solver.interfaces.http.audit_trail import now_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from solver.load.observe.trends import Trends
    from solver.load.tracker import LoadTracker


def finite_or_none(value: float | None) -> float | None:
    """Return a number that JSON can hold, None for one that it cannot."""
    return None if value is None or not math.isfinite(value) else float(value)


def load_report(
    tracker: LoadTracker, trends: Trends, *, prices: Mapping[str, float], fleet: AbstractSet[str]
) -> dict[str, Any]:
    """Return slots, queues, utilization, latencies of the last minute, prices and stops of every model. O(m).

    Parameters
    ----------
    tracker : LoadTracker
        The live load.
    trends : Trends
        Latencies.
    prices : mapping of str to float
        What one more slot of a model is worth, in score.
    fleet : set of str
        Models of the fleet; others came with requests.
    """
    snapshot = tracker.snapshot()
    now_s = tracker.clock.now()
    rows = zip(
        snapshot.models,
        snapshot.active.tolist(),
        snapshot.queued.tolist(),
        snapshot.max_concurrent.tolist(),
        snapshot.max_queue.tolist(),
        snapshot.utilization.tolist(),
        snapshot.target.tolist(),
        snapshot.accepting.tolist(),
        strict=True,
    )
    models = []
    for model, active, queued, slots, places, utilization, target, accepting in rows:
        latency = trends.latency(model)
        models.append(
            {
                "model": model,
                "in_fleet": model in fleet,
                "active_requests": int(active),
                "queue_depth": int(queued),
                "max_concurrent": int(slots),
                "max_queue": int(places),
                "utilization": utilization,
                "target_utilization": target,
                "accepting": bool(accepting),
                "slot_price": prices.get(model),
                "requests_60s": latency.requests,
                "success_rate": latency.success_rate,
                "p50_ms": latency.p50_ms,
                "p95_ms": latency.p95_ms,
                "p99_ms": latency.p99_ms,
                "stops": [
                    {
                        "owner": stop.owner.value,
                        "name": stop.name,
                        "reason": stop.reason,
                        "ends_in_s": finite_or_none(max(0.0, stop.until_s - now_s)),
                    }
                    for stop in snapshot.stops.get(model, ())
                ],
            }
        )
    return {"at": now_text(), "models": models}

"""What the client processes of the Redis tests do; a module of its own, so that spawned processes find it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from solver.load.store.redis import RedisStore
from solver.load.tracker import LoadTracker

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import SynchronizedArray

MODELS, CAP = 20, 3


def connect(url: str, namespace: str, **options: Any) -> tuple[LoadTracker, RedisStore]:
    store = RedisStore(url, **{"replicas": 1, "namespace": namespace, "timeout_s": 10.0, **options})
    return LoadTracker(store=store), store


def racer(
    number: int,
    url: str,
    namespace: str,
    turns: int,
    start: Any,
    holders: SynchronizedArray[int],
    report: Any,
) -> None:
    """Acquire and release; count holders in memory that Redis has nothing to do with."""
    tracker, store = connect(url, namespace)
    state, highest, granted = number + 1, 0, 0
    start.wait()
    for _ in range(turns):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        j = (state >> 8) % 2 if state & 64 else (state >> 8) % MODELS
        lease = tracker.acquire(f"m{j}")
        if lease is None:
            continue
        granted += 1
        with holders.get_lock():
            holders[j] += 1
            highest = max(highest, holders[j])
        with holders.get_lock():
            holders[j] -= 1
        lease.release()
    report.put((granted, highest))
    store.close()


def holder(url: str, namespace: str, ttl_s: float, ready: Any, done: Any) -> None:
    """Hold two slots until told to stop, renewing them."""
    tracker, store = connect(url, namespace)
    leases = [lease for _ in range(2) if (lease := tracker.acquire("a", ttl_s=ttl_s)) is not None]
    ready.put(len(leases))
    while not done.value:  # plain memory: a lock would die with whoever is killed while holding it
        time.sleep(ttl_s / 8)
        for lease in leases:
            lease.renew()
    for lease in leases:
        lease.release()
    store.close()

"""Eight threads on one process's store: never above a cap at any instant, nothing leaked."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity

if TYPE_CHECKING:
    from solver.load.lease import Lease

MODELS, CAP, THREADS = 20, 3, 8
# The full bar takes minutes on one core; the benchmark folder documents it. The same code, fewer turns.
TURNS = int(os.environ.get("SOLVER_STRESS_TURNS", "4000"))


class Gauge:
    """Counts holders by itself, under a lock of its own, and remembers the highest count."""

    def __init__(self) -> None:
        self.lock, self.now, self.highest = threading.Lock(), 0, 0

    def enter(self) -> None:
        with self.lock:
            self.now += 1
            self.highest = max(self.highest, self.now)

    def leave(self) -> None:
        with self.lock:
            self.now -= 1


def hammer(turns: int) -> tuple[LoadTracker, list[Gauge], int, int]:
    tracker = LoadTracker()
    names = [f"m{j}" for j in range(MODELS)]
    for name in names:
        tracker.set_capacity(name, Capacity(max_concurrent=CAP))
    gauges = [Gauge() for _ in names]
    granted, refused = [0] * THREADS, [0] * THREADS
    start = threading.Barrier(THREADS)

    def client(number: int) -> None:
        start.wait()
        state = number + 1
        held: list[tuple[int, Lease]] = []
        for _ in range(turns):
            state = state * 1103515245 + 12345 & 0x7FFFFFFF
            # half the turns go to two models, so that caps are really reached
            j = (state >> 8) % 2 if state & 64 else (state >> 8) % MODELS
            lease = tracker.acquire(names[j], ttl_s=3600)
            if lease is None:
                refused[number] += 1
            else:
                gauges[j].enter()
                granted[number] += 1
                held.append((j, lease))
            if len(held) > (state >> 4) % 4:
                j, lease = held.pop(0)
                gauges[j].leave()
                lease.release()
                if state & 1:
                    lease.release()  # a double release must not free somebody else's slot
        for j, lease in held:
            gauges[j].leave()
            lease.release()

    threads = [threading.Thread(target=client, args=(k,)) for k in range(THREADS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # far more switches between threads than usual
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return tracker, gauges, sum(granted), sum(refused)


def test_never_above_a_cap_and_nothing_leaked() -> None:
    tracker, gauges, granted, refused = hammer(TURNS)
    assert max(gauge.highest for gauge in gauges) == CAP  # reached, and never exceeded
    assert granted + refused == THREADS * TURNS
    assert refused > 0
    assert tracker.snapshot().active.tolist() == [0] * MODELS


def test_the_gauge_notices_one_too_many() -> None:
    gauge = Gauge()
    for _ in range(CAP + 1):
        gauge.enter()
    assert gauge.highest > CAP

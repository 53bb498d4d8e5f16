"""A herd that was refused at once, and a tenant beside one that sends ten times its share."""

from __future__ import annotations

import pytest

from benchmarks.fairness import HERDS, SERVICE_S, SLOTS, herd, waits
from solver.load.lease import LeaseState
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity


@pytest.mark.parametrize("name", HERDS)
def test_few_of_a_herd_are_refused_again(name: str) -> None:
    assert herd(*HERDS[name]) <= 0.2


@pytest.mark.parametrize("load", [0.7, 0.8])
def test_a_noisy_tenant_costs_another_little(load: float) -> None:
    share = SLOTS / 2 / SERVICE_S
    beside = waits(SLOTS, load * share, 10 * share, seed=2).mean()
    assert beside <= 1.2 * waits(SLOTS // 2, load * share, 0.0, seed=2).mean()
    mixed = waits(SLOTS, load * share, 10 * share, named=False, seed=2, arrivals=1000).mean()
    assert beside <= 0.1 * mixed  # a full queue makes everybody wait alike


def test_what_a_tenant_has_before_another_when_it_comes_back_is_bounded() -> None:
    tracker = LoadTracker()
    tracker.set_capacity("m", Capacity(max_concurrent=4, max_queue=400))
    leases = {
        lease.lease_id: lease
        for tenant in ("there", "back")
        for _ in range(60)
        if (lease := tracker.acquire("m", queue=True, ttl_s=1e3, tenant=tenant))
    }
    running = [lease for lease in leases.values() if lease.granted is LeaseState.RUNNING]
    started: list[str] = []
    tracker.on_promotion(started.append)
    lead = 0
    while len(started) < 60:
        running.pop(0).release()
        running.append(leases[started[-1]])
        lead += 1 if leases[started[-1]].tenant == "back" else -1
        assert lead <= 2 * 4 / 2 + 2  # two for each of its two slots, and the largest request of each
    assert lead >= 3

"""Occupancy prices against Erlang's formula and against value iteration written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from solver.online.occupancy import occupancy_prices


def erlang_b(load: Any, servers: Any) -> Any:
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def single(value: Any, service: Any, rate: Any, slots: Any, queue: Any = 0, wait_cost: Any = 0.0) -> Any:
    n = len(value)
    return occupancy_prices(
        value[:, None],
        service[:, None],
        weights=np.full(n, 1.0 / n),
        unserved=np.zeros(n),
        shares=np.ones((n, 1)),
        mean_price=np.zeros(1),
        rate_per_s=rate,
        slots=np.array([slots]),
        queue=np.array([queue]),
        wait_cost_per_s=wait_cost,
    )[0]


@pytest.mark.parametrize("load", [0.3, 0.9, 1.4])
@pytest.mark.parametrize("slots", [1, 5, 30])
def test_one_kind_of_agent_is_erlangs_loss_system(load: Any, slots: Any) -> None:
    service = 2.0
    rate = load * slots / service
    table = single(np.ones(1), np.full(1, service), rate, slots)
    gain = rate * (1.0 - erlang_b(rate * service, slots))
    assert table[slots - 1] == pytest.approx(
        gain / slots
    )  # the last slot costs what is earned until one is free
    assert math.isinf(table[slots])
    assert (np.diff(table[:slots]) >= -1e-12).all()
    assert table[0] >= 0.0


def value_iteration(
    value: Any, service: Any, rate: Any, slots: Any, queue: Any, wait_cost: Any, rounds: Any = 60_000
) -> Any:
    """Relative value iteration of the uniformised chain: slow, plain, independent."""
    mean = service.mean()
    full = slots + queue
    fee = wait_cost * np.maximum(np.arange(full) - slots + 1, 0) * mean / slots
    speed = np.minimum(np.arange(full + 1), slots) / mean
    total = rate + speed.max()
    h = np.zeros(full + 1)
    for _ in range(rounds):
        cost = h[:-1] - h[1:]
        gain = np.maximum(value[:, None] - (cost + fee) * (service / mean)[:, None], 0.0).mean(axis=0)
        after = np.zeros(full + 1)
        after[:-1] = rate * gain
        after += speed * np.append(0.0, h[:-1]) + (total - speed) * h
        after /= total
        new = after - after[0]
        if np.abs(new - h).max() < 1e-13:
            break
        h = new
    return (h[:-1] - h[1:] + fee) / mean


@pytest.mark.parametrize("seed", range(5))
def test_policy_iteration_meets_value_iteration(seed: Any) -> None:
    rng = np.random.default_rng(seed)
    value, service = rng.random(12), rng.uniform(0.5, 2.0, 12)
    slots, queue = int(rng.integers(1, 7)), int(rng.integers(0, 4))
    rate = float(rng.uniform(0.3, 2.5)) * slots / service.mean()
    wait_cost = float(rng.uniform(0.0, 0.2))
    # mean service as the module sees it when everybody is served: the plain mean
    table = single(value, service, rate, slots, queue, wait_cost)
    expected = np.maximum.accumulate(value_iteration(value, service, rate, slots, queue, wait_cost))
    np.testing.assert_allclose(table[: slots + queue], expected, rtol=1e-6, atol=1e-8)


def test_large_pools_and_closed_models_have_finite_sorted_prices() -> None:
    rng = np.random.default_rng(0)
    n, m = 400, 3
    slots = np.array([1200, 0, 7])
    table = occupancy_prices(
        rng.random((n, m)),
        rng.uniform(0.5, 2.0, (n, m)),
        weights=np.full(n, 1.0 / n),
        unserved=np.zeros(n),
        shares=np.full((n, m), 1.0 / 3.0),
        mean_price=np.zeros(m),
        rate_per_s=1300.0,
        slots=slots,
        queue=np.array([10, 0, 2]),
    )
    assert table.shape == (3, 1211)
    assert np.isinf(table[1]).all()
    for j, limit in ((0, 1210), (2, 9)):
        assert np.isfinite(table[j, :limit]).all()
        assert np.isinf(table[j, limit:]).all()
        assert (np.diff(table[j, :limit]) >= 0).all()

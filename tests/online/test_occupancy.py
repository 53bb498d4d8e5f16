"""Occupancy prices against Erlang's formula and against value iteration written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from solver.errors import SpecError
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
    ).table[0]


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
    ).table
    assert table.shape == (3, 1211)
    assert np.isinf(table[1]).all()
    for j, limit in ((0, 1210), (2, 9)):
        assert np.isfinite(table[j, :limit]).all()
        assert np.isinf(table[j, limit:]).all()
        assert (np.diff(table[j, :limit]) >= 0).all()


def test_first_order_prices_meet_tables_computed_at_those_prices() -> None:
    """Let the other model be empty or nearly full, and compute the table of one by its own program at that price."""
    rng = np.random.default_rng(3)
    n, slots, rate = 400, np.array([6, 6]), 5.0
    scores = np.stack([rng.uniform(0.6, 1.0, n), rng.uniform(0.2, 0.6, n)], axis=1)
    shared: dict[str, Any] = {
        "weights": np.full(n, 1.0 / n),
        "unserved": np.full(n, -1.0),
        "shares": np.tile([1.0, 0.0], (n, 1)),
        "rate_per_s": rate,
        "queue": np.zeros(2, np.int64),
        "rounds": 1,
    }

    def tables(price: float, **extra: Any) -> Any:
        charged = np.array([0.0, price])
        return occupancy_prices(scores, np.ones((n, 2)), mean_price=charged, slots=slots, **shared, **extra)

    mean = tables(0.2, alternatives=True)
    others = mean.alternatives
    assert others is not None
    assert ((others.displaced[:, :6] >= 0) & (others.displaced[:, :6] <= 1)).all()
    assert others.service[0] == pytest.approx([0.0, 1.0])
    for now in (0.1, 0.3):
        first_order = mean.table[0, :6] + others.displaced[0, :6] * (now - 0.2) * others.service[0, 1]
        exact = tables(now).table[0, :6]
        change = np.abs(exact - mean.table[0, :6])
        assert (np.abs(first_order - exact) <= 0.15 * change + 1e-3).all()


@pytest.mark.parametrize(("slots", "queue"), [(2**53, 0), (1, 2**53)])
def test_a_table_that_no_memory_holds_is_refused_by_name(slots: int, queue: int) -> None:
    with pytest.raises(SpecError, match="slots and queue places a model"):
        single(np.ones(1), np.ones(1), 1.0, slots, queue)

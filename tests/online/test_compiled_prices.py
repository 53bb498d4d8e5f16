"""The compiled parts of a refresh against their numpy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from solver.engines import kernels
from solver.online.occupancy import occupancy_prices
from solver.online.window_prices import WindowPrices, window_prices
from tests.kernel_equality import numpy_only

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")


def case(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 120)), int(rng.integers(1, 24))
    scores = rng.random((n, m)) if seed % 3 else rng.integers(0, 4, (n, m)) / 3.0
    if seed % 4 == 1:
        scores[rng.random((n, m)) < 0.3] = -np.inf
    if seed % 7 == 0:
        scores[0] = -np.inf
    shares = rng.random((n, m))
    slots = rng.integers(0, 9, m) if seed % 5 else rng.integers(250, 700, m)
    return {
        "scores": scores,
        "service_s": rng.uniform(0.2, 4.0, (n, m)),
        "weights": rng.dirichlet(np.ones(n)),
        "unserved": rng.uniform(-1.0, 0.5, n),
        "shares": shares / shares.sum(axis=1, keepdims=True),
        "mean_price": rng.random(m) * (seed % 2),
        "rate_per_s": float(10.0 ** rng.uniform(-1, 2)),
        "slots": slots,
        "queue": rng.integers(0, 5, m) * (seed % 2),
        "wait_cost_per_s": float(rng.random() * 0.3 * (seed % 2)),
        "rounds": int(rng.integers(1, 4)),
        "alternatives": m > 1,
    }


@pytest.mark.parametrize("seed", range(60))
def test_tables_are_those_of_numpy(seed: int) -> None:
    given = case(seed)
    scores, service_s = given.pop("scores"), given.pop("service_s")
    found = occupancy_prices(scores, service_s, **given)
    with numpy_only():
        expected = occupancy_prices(scores, service_s, **given)
    np.testing.assert_allclose(found.table, expected.table, rtol=1e-7, atol=1e-9)
    if expected.alternatives is not None:
        assert found.alternatives is not None
        np.testing.assert_allclose(
            found.alternatives.mean_price, expected.alternatives.mean_price, rtol=1e-7, atol=1e-9
        )
        # An agent whose worth equals the price may be admitted or not, as rounding has it.
        np.testing.assert_allclose(found.alternatives.displaced, expected.alternatives.displaced, atol=0.05)
        if seed % 3:  # equal scores make ties between second choices, likewise
            np.testing.assert_allclose(found.alternatives.service, expected.alternatives.service, rtol=1e-6)


def dual_value(scores: Any, given: dict[str, Any], found: WindowPrices) -> float:
    """Return the smoothed dual at some prices, written out."""
    net = scores - given["of_models"][0] * found.of_models[0]
    for price, use in zip(found.shared, given["shared"], strict=True):
        net = net - price * use
    choices = np.concatenate([net, given["unserved"][:, None]], axis=1) / given["temperature"]
    worth = given["temperature"] * np.logaddexp.reduce(choices, axis=1)
    prices = np.concatenate([found.of_models.ravel(), found.shared])
    return float(given["weights"] @ worth + given["rates"] @ prices)


@pytest.mark.parametrize("seed", range(30))
def test_mean_prices_are_as_good_as_those_of_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(40, 150)), int(rng.integers(1, 30))
    scores = rng.random((n, m))
    scores[rng.random((n, m)) < 0.2] = -np.inf
    service = rng.uniform(0.5, 2.0, (n, m))
    shared = [rng.random((n, m))] if seed % 2 else []
    given: dict[str, Any] = {
        "weights": np.full(n, 1.0 / n),
        "unserved": rng.uniform(-0.5, 0.2, n),
        "rates": np.concatenate([rng.uniform(0.2, 1.5, m) / m, np.full(len(shared), 0.2)]),
        "of_models": (service,),
        "shared": shared,
        "temperature": 0.01,
    }
    found = window_prices(scores, **given)
    with numpy_only():
        expected = window_prices(scores, **given)
    assert dual_value(scores, given, found) == pytest.approx(dual_value(scores, given, expected), abs=1e-5)
    np.testing.assert_allclose(found.shares.sum(axis=1), expected.shares.sum(axis=1), atol=0.02)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 agents and 3 models"):
        kernels.occupancy_costs(
            np.zeros((2, 3)),
            np.ones((2, 3)),
            weights=np.ones(2),
            unserved=np.zeros(2),
            mean_s=np.ones(3),
            mean_price=np.zeros(3),
            arrivals_per_s=np.ones(3),
            servers=np.ones(3, np.int64),
            full=np.zeros(3, np.int64),
            wait_cost_per_s=0.0,
            rounds=1,
            displaced=False,
        )
    with pytest.raises(ValueError, match="2 rows"):
        kernels.smoothed_shares(np.zeros((2, 3)), np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="writeable float64"):  # half of the bytes that the kernel would read
        kernels.smoothed_shares(np.zeros((2, 3), np.float32), np.zeros(2), 1.0)
    with pytest.raises(ValueError, match="2 weights"):
        kernels.negative_gram(np.zeros((2, 3)), np.ones(1), least_share=0.0)

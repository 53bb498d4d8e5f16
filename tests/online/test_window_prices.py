"""Prices of a window against linear programming and against their own optimality conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

from solver.online.window_prices import window_prices


def linear_bound(scores: Any, rates: Any, shared: Any, shared_rate: Any) -> Any:
    """Value of a typical arrival when fractions of agents may be split: the unsmoothed problem."""
    n, m = scores.shape
    use = [np.kron(np.ones(n), np.eye(m)) / n]
    limits = list(rates)
    if shared is not None:
        use.append(shared.reshape(1, -1) / n)
        limits.append(shared_rate)
    once = np.kron(np.eye(n), np.ones(m))
    answer = linprog(
        -np.where(np.isfinite(scores), scores, -100.0).ravel() / n,
        A_ub=np.concatenate([*use, once]),
        b_ub=np.concatenate([limits, np.ones(n)]),
        bounds=(0, 1),
    )
    return -float(answer.fun or 0.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [False, True])
def test_the_dual_meets_the_linear_program(seed: Any, budget: Any) -> None:
    rng = np.random.default_rng(seed)
    n, m = 60, 5
    scores = rng.random((n, m))
    scores[rng.random((n, m)) < 0.15] = -np.inf
    rates = rng.uniform(0.05, 0.25, m)
    cost = rng.uniform(0.1, 3.0, (n, m)) if budget else None
    given = np.append(rates, 0.3) if budget else rates
    start: Any = None
    for temperature in (0.05, 0.01, 0.002, 0.0005):
        found = window_prices(
            scores,
            weights=np.ones(n),
            unserved=np.zeros(n),
            rates=given,
            shared=() if cost is None else (cost,),
            start=start,
            temperature=temperature,
        )
        start = np.append(found.of_models[0], found.shared)
    price = found.of_models[0] + (found.shared[0] * cost if budget else 0.0)
    bound = np.maximum((scores - price).max(axis=1), 0.0).mean() + start @ given
    optimum = linear_bound(scores, rates, cost, 0.3)
    assert bound >= optimum - 1e-9  # weak duality, whatever the prices
    assert bound <= optimum * 1.005
    used = found.shares.mean(axis=0)
    assert (used <= rates * 1.01 + 1e-3).all()


def test_unlimited_resources_cost_nothing_and_forbidden_pairs_are_not_used() -> None:
    scores = np.array([[1.0, -np.inf], [0.5, 0.4], [-np.inf, -np.inf]])
    found = window_prices(
        scores, weights=np.ones(3), unserved=np.zeros(3), rates=np.array([np.inf, 0.1]), temperature=0.01
    )
    assert found.of_models[0, 0] == 0.0
    assert found.shares[0, 1] == 0.0
    assert found.shares[2].sum() == 0.0


def test_prices_scale_with_scores_and_with_units() -> None:
    rng = np.random.default_rng(3)
    scores, use = rng.random((80, 4)), rng.uniform(1.0, 2.0, (80, 4))
    common: Any = {"weights": np.ones(80), "unserved": np.zeros(80)}
    one = window_prices(scores, rates=np.full(4, 0.2), of_models=(use,), temperature=0.01, **common)
    ten = window_prices(10 * scores, rates=np.full(4, 0.2), of_models=(use,), temperature=0.1, **common)
    milli = window_prices(scores, rates=np.full(4, 200.0), of_models=(1e3 * use,), temperature=0.01, **common)
    np.testing.assert_allclose(ten.of_models, 10 * one.of_models, rtol=2e-2, atol=1e-3)
    np.testing.assert_allclose(1e3 * milli.of_models, one.of_models, rtol=2e-2, atol=1e-4)

"""Joint placement with the compiled matching and with scipy: the same total."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import solver
from solver.engines import kernels
from solver.load.balance.balancer import LoadBalancer
from solver.online import joint
from solver.problem.spec import Agent, Capacity, Model
from tests.kernel_equality import numpy_only

compiled = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")


@compiled
@pytest.mark.parametrize("seed", range(40))
def test_both_matchings_find_the_same_total(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = (int(size) for size in rng.integers(1, 30, 2))
    value = rng.normal(size=(n, k)) if seed % 2 else rng.integers(-3, 4, (n, k)).astype(float)
    value[rng.random((n, k)) < 0.4] = -np.inf
    value[0, 0] = 0.5
    nobody = rng.normal(size=n) if seed % 3 else np.full(n, -1e6)

    def total(chosen: object) -> float:
        column = np.asarray(chosen)
        served = column >= 0
        assert len(set(column[served].tolist())) == served.sum()
        return float(value[served, column[served]].sum() + nobody[~served].sum())

    ours = total(joint._matched(value, nobody))
    with numpy_only():
        assert ours == pytest.approx(total(joint._matched(value, nobody)), rel=1e-12, abs=1e-9)
    assert np.isfinite(ours)


@compiled
def test_agents_at_one_moment_go_through_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    match = kernels.match

    def counted(*given: Any) -> kernels.Transported:
        calls.append(given)
        return match(*given)

    monkeypatch.setattr(kernels, "match", counted)
    tracker = solver.LoadTracker()
    models = [Model(id=f"m{j}", capacity=Capacity(max_concurrent=4)) for j in range(3)]
    for model in models:
        tracker.set_capacity(model.id, model.capacity)
    router = solver.OptimalRouter(tracker, models, background=False)
    scores = np.random.default_rng(0).uniform(size=(9, 3))
    decisions = router.route_many(scores=scores)
    assert len(calls) == 1
    assert all(decision.model for decision in decisions)


@compiled
def test_a_batch_of_the_balancer_goes_through_the_kernel() -> None:
    rng = np.random.default_rng(0)
    models = [
        Model(id=f"m{j}", capabilities={"coding": float(rng.random())}, capacity=Capacity(max_concurrent=9))
        for j in range(20)
    ]
    agents = [Agent(id=f"a{i}", task_type="coding") for i in range(100)]
    tracker = solver.LoadTracker()
    for model in models:
        tracker.set_capacity(model.id, model.capacity)
    decided = LoadBalancer(tracker, strategy="weighted", routing="optimal").decide(agents, models)
    assert decided.solution is not None
    assert decided.solution.engine == "transport"

"""Every loop ends after a number of rounds, even where the clock stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from solver.clock import Deadline, ManualClock
from solver.engines import kernels
from solver.engines.base import load_engine
from solver.engines.certificate import certify
from solver.engines.lagrangian import LagrangianEngine
from solver.engines.lagrangian.params import CampaignParams, LagrangianParams, LargeParams, SearchParams
from solver.problem.build import build_instance

if TYPE_CHECKING:
    from solver.problem.instance import Instance


def _frozen() -> Deadline:
    return Deadline.after(200.0, clock=ManualClock())


def _knapsacks(n: int = 40, m: int = 4, fill: float = 0.9, seed: int = 0) -> Instance:
    rng = np.random.default_rng(seed)
    demand = rng.integers(10, 60, n).astype(float)
    capacity = np.full(m, demand.sum() / (fill * m))
    return build_instance(rng.random((n, m)), capacity, demand=demand, unassigned_penalty=np.inf)


@pytest.mark.parametrize("fill", [0.9, 1.3])
def test_the_search_ends_by_rounds(fill: float) -> None:
    """Feasible and not: neither a proof nor the clock ends it."""
    params = LagrangianParams(
        search=SearchParams(most_rounds=20), campaign=CampaignParams(most_attempts=3, kernel_pairs=0)
    )
    instance = _knapsacks(fill=fill)
    claim = LagrangianEngine(params).solve(instance, deadline=_frozen())
    assert claim is None or claim.infeasible or not certify(instance, claim).violations


def test_cores_of_large_instances_end_by_rounds() -> None:
    params = LagrangianParams(
        search=SearchParams(most_rounds=5),
        campaign=CampaignParams(most_attempts=2, kernel_pairs=0),
        large=LargeParams(most_cores=2, least_agents=100, most_relaxed_work=1),
    )
    instance = _knapsacks(n=2_000, m=10)
    LagrangianEngine(params).solve(instance, deadline=_frozen())


@pytest.mark.parametrize("name", ["greedy", "lsap", "flow", "price", "transport"])
def test_engines_for_slots_need_no_clock(name: str) -> None:
    if name == "transport" and not kernels.available():
        pytest.skip("the compiled kernels are not available")
    rng = np.random.default_rng(1)
    instance = build_instance(rng.random((400, 5)), [60, 90, 30, 100, 80])
    claim = load_engine(name).solve(instance, deadline=_frozen())
    assert claim is None or not certify(instance, claim).violations


@pytest.mark.parametrize("penalty", [None, np.inf, 3.0])
def test_greedy_ends_where_nothing_fits_any_more(penalty: float | None) -> None:
    demand = np.array([0.1, 0.2, 0.30000000000000004, 0.4, 1e-17])
    instance = build_instance(np.ones((5, 2)), [0.3, 0.3], demand=demand, unassigned_penalty=penalty)
    assert load_engine("greedy").solve(instance, deadline=_frozen()) is not None


def test_floors_and_openings_end_by_rounds() -> None:
    rng = np.random.default_rng(2)
    scores = rng.random((60, 6))
    for given in (
        {"min_load": 5},
        {"min_load_if_open": 12, "opening_cost": 2.0},
        {"copies": 2, "min_load": 10},
    ):
        instance = build_instance(scores, [30] * 6, **given)
        claim = load_engine("flow").solve(instance, deadline=_frozen())
        assert claim is None or not certify(instance, claim).violations

"""Small instances with demands and limits: never wrong, never endless, proven with or without a deadline."""

from __future__ import annotations

import numpy as np
import pytest

import solver
from solver import Average, Budget, Quota, Status, StopReason
from solver.clock import Deadline
from solver.engines.base import load_engine
from solver.engines.lagrangian import LagrangianEngine, LagrangianParams
from solver.problem.build import build_instance
from tests.fuzz_small import draw, run

A_MINUTE_MS = 60_000
"""A deadline that no proof of a tiny instance needs, however busy the machine is."""


@pytest.mark.parametrize("deadline_ms", [None, 2000.0])
def test_random_instances_equal_enumeration(deadline_ms: float | None) -> None:
    tally = run(250, 20, deadline_ms=deadline_ms)
    assert tally.wrong == []
    assert tally.unproven == []


def test_random_medium_instances_equal_highs() -> None:
    assert run(15, 5, medium=True).wrong == []


@pytest.mark.parametrize("engine", ["auto", "cpsat", "lagrangian"])
def test_a_budget_with_real_costs_is_solved_to_the_true_optimum(engine: str) -> None:
    scores = [
        [0.07314727698968684, 2.0794296545431896],
        [0.9052955702837004, -0.9930516748753359],
        [1.3107621853431688, 2.36460394987466],
        [-0.14998820112532546, 1.1695702081919372],
        [-0.9983769412187228, -1.1748737378360727],
    ]
    cost = np.array([[1.35, 0.37], [2.09, 2.89], [2.47, 2.48], [0.81, 2.09], [0.55, 0.21]])
    budget = Budget(name="b", amount=2.6004503867565276, cost=cost)
    answer = solver.assign(
        scores, [1, 4], demand=[1, 2, 1, 2, 1], unassigned_penalty=6, limits=[budget], engine=engine
    )
    assert answer.objective == pytest.approx(-14.751000137264873, abs=1e-9)
    assert answer.bound >= answer.objective - 1e-7


def test_large_penalties_beside_small_scores_do_not_cost_the_proof() -> None:
    """42 bits hold what everybody loses at worst; steps as fine as the scores need a second look."""
    sample = draw(np.random.default_rng([6101, 273]), most_agents=20, most_models=5, least=8)
    sample.arguments["deadline_ms"] = A_MINUTE_MS
    answer = sample.solve()
    assert (answer.status, answer.stopped_by) == (Status.OPTIMAL, StopReason.PROVEN)
    assert answer.objective == pytest.approx(0.0120643451496788, abs=1e-11)
    rng = np.random.default_rng(3)
    scores, demand = 1e-3 * rng.random((8, 3)), rng.uniform(0.2, 3.0, (8, 3))
    share = solver.Share(name="s", models=[0], at_most=0.3, violation_price=1e4)
    exact = [
        solver.assign(scores, [4.5] * 3, demand=demand, limits=[share], unassigned_penalty=1e6, engine=engine)
        for engine in ("enumeration", "cpsat")
    ]
    assert [one.status for one in exact] == [Status.OPTIMAL] * 2
    assert exact[0].choice.tolist() == exact[1].choice.tolist()


def test_greedy_ends_where_limits_make_it_no_slot_instance() -> None:
    quota = Quota(name="both", at_least=1)
    instance = build_instance([[9.0, 1.0], [8.0, 2.0]], [1, 1], limits=[quota])
    claim = load_engine("greedy").solve(instance, deadline=Deadline.after(5000))
    assert sorted(claim.choice.tolist()) == [0, 1] if claim is not None else False


def test_averages_and_shares_with_a_right_side_of_zero() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        value = rng.uniform(0.1, 0.9, size=(7, 15))
        limit = Average(name="latency", value=value, at_most=0.3)
        answer = solver.assign(rng.uniform(size=(7, 15)), [2] * 15, limits=[limit], deadline_ms=3000)
        assert answer.status in (Status.OPTIMAL, Status.FEASIBLE)


@pytest.mark.parametrize("deadline_ms", [None, 1500.0, 60_000.0])
def test_a_proof_is_not_lost_on_a_tie(deadline_ms: float | None) -> None:
    answer = solver.assign(
        [[5, 5], [7, 9], [1, 2]], [4, 8], demand=[5, 5, 2], unassigned_penalty=0, deadline_ms=deadline_ms
    )
    assert (answer.status, answer.objective, answer.bound) == (Status.OPTIMAL, 11.0, 11.0)
    assert answer.stopped_by is StopReason.PROVEN
    knapsack = solver.assign([[3], [3], [2]], [2.0], demand=[2, 2, 0.1], unassigned_penalty=0)
    assert (knapsack.status, knapsack.objective) == (Status.OPTIMAL, 3.0)


@pytest.mark.parametrize("engine", ["auto", "cpsat", "lagrangian"])
def test_as_many_as_possible_are_served_whatever_it_costs_in_score(engine: str) -> None:
    scores = np.zeros((22, 2))
    scores[:20, 0] = 1.0
    scores[20:] = [0, -np.inf]
    cost = np.where(np.arange(22)[:, None] < 20, [[1.0, 0.0]], [[20.0, 0.0]])
    budget = Budget(name="usd", amount=20, cost=cost)
    limited = solver.assign(scores, [30, 30], limits=[budget], engine=engine, deadline_ms=A_MINUTE_MS)
    assert ((limited.choice >= 0).sum(), limited.objective, limited.status) == (21, 0.0, Status.OPTIMAL)
    demand = np.where(cost == 20.0, 20.0, 1.0)
    loaded = solver.assign(scores, [20, 30], demand=demand, engine=engine, deadline_ms=A_MINUTE_MS)
    assert ((loaded.choice >= 0).sum(), loaded.objective, loaded.status) == (21, 0.0, Status.OPTIMAL)


def test_bounds_hold_no_value_of_service() -> None:
    rng = np.random.default_rng(0)
    scores, demand = rng.random((60, 4)), rng.integers(1, 9, 60)
    answer = solver.assign(scores, [30] * 4, demand=demand, deadline_ms=60)
    most = np.sort(scores.max(axis=1))[::-1][: int((answer.choice >= 0).sum())].sum()
    assert answer.objective <= answer.bound <= most + 1e-9


def test_the_search_stops_at_its_own_limit_and_says_so() -> None:
    rng = np.random.default_rng(0)
    demand = rng.integers(5, 26, (120, 8)).astype(float)
    scores = -(111.0 - demand + rng.integers(-10, 11, demand.shape))
    capacity = 0.8 * demand.sum(axis=0) / 8
    instance = build_instance(scores, capacity, demand=demand, unassigned_penalty=np.inf)
    short = LagrangianEngine(LagrangianParams(own_limit_s=0.2))
    claim = short.solve(instance, deadline=Deadline.after(None))
    assert claim is not None
    assert claim.stopped_by is StopReason.ENGINE_LIMIT
    timed = load_engine("lagrangian").solve(instance, deadline=Deadline.after(200))
    assert timed is not None
    assert timed.stopped_by is StopReason.DEADLINE


def test_rows_too_coarse_for_whole_numbers_are_still_proven() -> None:
    """Averages of real values: rounded rows alone prove nothing, relaxed ones do."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        scores, value = rng.random((16, 5)), rng.random((16, 5))
        limits = [
            solver.Average(name="a", value=value, at_most=float(rng.uniform(0.3, 0.5))),
            solver.Share(name="s", models=[0], at_least=0.25, use=rng.random((16, 1))),
        ]
        answer = solver.assign(scores, [5] * 5, limits=limits, engine="cpsat")
        assert answer.status is solver.Status.OPTIMAL


@pytest.mark.parametrize("engine", ["auto", "flow", "price", "lsap"])
@pytest.mark.parametrize("size", [1e17, -1e18, -1e25, 1e80])
def test_scores_that_are_large_and_equal_leave_no_agent_out(size: float, engine: str) -> None:
    """The value of service was rounding beside them, and a plan that serves no one was called optimal."""
    solution = solver.assign(np.full((3, 2), size), [2, 1], engine=engine, priority=[1, 2, 3])
    assert solution.status is not solver.Status.UNKNOWN
    assert (solution.choice >= 0).all()


def test_a_lower_limit_in_tiny_units_is_no_rounding() -> None:
    """Serving no one was tried although a limit asks for 1e-12 units, and failed verification."""
    limit = solver.Commitment(name="least", at_least=2e-12, use=np.full((3, 2), 1e-12))
    solution = solver.assign(-np.ones((3, 2)), [2, 2], limits=[limit], unassigned_penalty=0.0)
    assert solution.status is solver.Status.OPTIMAL
    assert solution.objective == -2.0

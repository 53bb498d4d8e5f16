"""Floors, copies, counts and openings: known answers, HiGHS on random instances, and the certificate's judgement."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linear_sum_assignment

import solver
from solver.clock import Deadline
from solver.engines import network_duals
from solver.engines.base import Claim, load_engine
from solver.engines.certificate import certify
from solver.engines.flow.arc_pricing import GenerationParams
from solver.engines.flow.generation import solve_network
from solver.engines.network_terms import claimed_flow, most_score, principal_choice
from solver.problem.build import build_instance
from solver.problem.instance import UNASSIGNED
from solver.problem.network import UnitFlow
from tests.fuzz_networks import check, optimum, random_arguments

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.mark.parametrize("seed", range(60))
def test_random_instances_equal_highs(seed: int) -> None:
    """Optimum, prices, infeasibility and its reason, as the command checks them by the thousand."""
    problem = check(random_arguments(np.random.default_rng(10_000 + seed)))
    assert problem is None


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz_networks.optimum", lambda instance: 1e6)
    assert check({"scores": np.ones((2, 2)), "capacity": [1, 1], "min_load": 1}) is not None


def test_a_floor_moves_agents_and_is_priced() -> None:
    solution = solver.assign([[9, 1], [8, 2], [7, 3]], [3, 3], min_load=[0, 1])
    assert solution.choice.tolist() == [0, 0, 1]
    assert solution.objective == solution.bound == 20
    assert solution.prices.tolist() == [0, 0]
    assert solution.floor_prices.tolist() == [0, -6]  # a second one would cost 8 − 2
    raised = solver.assign([[9, 1], [8, 2], [7, 3]], [3, 3], min_load=[0, 2])
    assert raised.objective == 14


def test_panels_of_different_models() -> None:
    solution = solver.assign([[5, 4, 1], [5, 1, 4]], [2, 2, 2], copies=2)
    assert solution.choice.tolist() == [[0, 1], [0, 2]]
    assert solution.objective == 18
    mixed = solver.assign([[5, 4, 1], [5, 1, 4]], [2, 2, 2], copies=[1, 3])
    assert mixed.choice.tolist() == [[0, UNASSIGNED, UNASSIGNED], [0, 2, 1]]
    assert not len(mixed.unassigned)


def test_too_few_models_for_a_panel() -> None:
    scores = np.array([[5, 4], [5, -np.inf]])
    served = solver.assign(scores, [2, 2], copies=2)
    assert served.choice.tolist() == [[0, 1], [0, UNASSIGNED]]
    assert served.unassigned.tolist() == [1]
    refused = solver.assign(scores, [2, 2], copies=2, unassigned_penalty=np.inf)
    assert refused.status is solver.Status.INFEASIBLE
    assert any("agents 1" in note for note in refused.notes)


def test_a_row_stands_for_many_agents() -> None:
    scores, count = np.array([[5.0, 4.0], [3.0, 1.0]]), np.array([500, 300])
    solution = solver.assign(scores, [400, 400], count=count)
    assert solution.flow.tolist() == [[100, 400], [300, 0]]
    spelt_out = solver.assign(np.repeat(scores, count, axis=0), [400, 400])
    assert solution.objective == spelt_out.objective == solution.bound
    assert solution.load.tolist() == spelt_out.load.tolist()
    assert solution.choice.tolist() == [1, 0]


def test_a_row_of_a_million_costs_no_more_than_a_row() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 6))
    solution = solver.assign(scores, [10_000_000] * 6, count=1_000_000, min_load=5_000_000)
    assert solution.status is solver.Status.OPTIMAL
    assert solution.flow.sum() == 40_000_000


def test_counted_panels_split_into_different_models() -> None:
    solution = solver.assign([[5, 4, 3]], [10, 10, 10], count=5, copies=2)
    assert solution.flow.tolist() == [[5, 5, 0]]  # nobody has the same model twice


@pytest.mark.parametrize("seed", range(12))
def test_generated_arcs_reach_the_optimum_of_all_arcs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = 90, 9
    scores = rng.normal(size=(n, m)) + rng.normal(size=m) * 2
    scores[rng.random((n, m)) < 0.2] = -np.inf
    instance = build_instance(
        scores,
        rng.integers(10, 40, m),
        copies=rng.integers(1, 4, n) if seed % 2 else None,
        count=rng.integers(1, 4, n) if seed % 3 == 0 else None,
        min_load=rng.integers(0, 15, m),
        unassigned_penalty=[None, 1.0, np.inf][seed % 3],
        load_cost=[0.0, 0.5, 2.0] if seed % 4 == 0 else None,
    )
    assert instance.network is not None
    found = solve_network(instance, Deadline.after(None), params=GenerationParams(all_pairs=0))
    assert found.complete
    expected = optimum(instance)
    must = np.zeros(n, bool) if instance.penalty is None else np.isposinf(instance.penalty)
    infeasible = bool(found.missing.any() or (found.left > 0)[must].any())
    assert infeasible == (expected is None)
    if expected is not None:
        claim = Claim(
            choice=principal_choice(instance, found.flow), prices=found.prices[:, None], flow=found.flow
        )
        certificate = certify(instance, claim)
        assert certificate.optimal
        assert certificate.objective == pytest.approx(expected, rel=1e-9)


def test_rounds_are_bounded() -> None:
    rng = np.random.default_rng(3)
    instance = build_instance(rng.normal(size=(300, 20)) + 3 * rng.normal(size=20), [20] * 20, min_load=10)
    params = GenerationParams(all_pairs=0, max_rounds=1)
    found = solve_network(instance, Deadline.after(None), prices=np.zeros(20), params=params)
    assert not found.complete


def test_clusters_of_three_to_four_hundred_at_a_sixth_of_the_size() -> None:
    rng = np.random.default_rng(0)
    n, k = 2_800, 8
    distance = ((rng.normal(size=(n, 1, 2)) - rng.normal(size=(1, k, 2))) ** 2).sum(-1)
    solution = solver.assign(distance, [400] * k, min_load=300, unassigned_penalty=np.inf, sense="minimize")
    assert solution.status is solver.Status.OPTIMAL
    assert solution.load.min() >= 300
    assert solution.gap == 0


def test_floors_of_equal_size_are_an_assignment() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(12, 4))
    solution = solver.assign(scores, [12] * 4, min_load=3, unassigned_penalty=np.inf)
    cost = -np.repeat(scores, 3, axis=1)
    assert solution.objective == pytest.approx(-cost[linear_sum_assignment(cost)].sum())


def test_sparse_scores_with_floors_and_copies() -> None:
    rng = np.random.default_rng(2)
    table = np.where(rng.random((50, 8)) < 0.5, rng.random((50, 8)), 0.0)
    dense = np.where(table > 0, table, -np.inf)
    one = solver.assign(sparse.csr_array(table), [20] * 8, min_load=5, copies=2)
    other = solver.assign(dense, [20] * 8, min_load=5, copies=2)
    assert one.objective == pytest.approx(other.objective)


def test_large_sparse_scores_stay_compressed() -> None:
    rng = np.random.default_rng(4)
    n, m = 3_000, 1_500
    table = sparse.csr_array(
        (
            rng.random(n * 5),
            (
                np.repeat(np.arange(n), 5),
                (rng.permuted(np.tile(np.arange(m), (n, 1)), axis=1)[:, :5]).ravel(),
            ),
        ),
        shape=(n, m),
    )
    solution = solver.assign(table, [3] * m, min_load=1, unassigned_penalty=np.inf)
    assert solution.status is solver.Status.OPTIMAL
    assert solution.load.min() == 1


def test_an_earlier_solution_starts_a_similar_one() -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(3_000, 20))
    first = solver.assign(scores, [200] * 20, min_load=120)
    again = solver.assign(scores, [205] * 20, min_load=118, warm_start=first)
    cold = solver.assign(scores, [205] * 20, min_load=118)
    assert again.objective == pytest.approx(cold.objective, rel=1e-12)
    plain = solver.assign(scores, [200] * 20, warm_start=first)
    assert plain.status is solver.Status.OPTIMAL


@pytest.mark.parametrize("engine", ["lsap", "price", "lagrangian", "cpsat"])
def test_engines_that_know_no_floors_say_so(engine: str) -> None:
    with pytest.raises(solver.SpecError, match="cannot solve this instance"):
        solver.assign(np.ones((3, 2)), [3, 3], min_load=1, engine=engine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 2, "demand": [1, 2]}, "copies: expected none together with demand"),
        (
            {"count": 2, "limits": [solver.Quota(name="q", at_most=1)]},
            "count: expected none together with limits",
        ),
        ({"opening_cost": 2, "load_cost": [0, 1]}, "opening_cost: expected none together with load_cost"),
        ({"min_load_if_open": 2, "priority": [1, 2]}, "priority: expected an unassigned_penalty"),
        ({"min_load": -1}, "min_load: expected a whole number from 0 to"),
        ({"min_load": [1, 0.5]}, r"min_load\[1\]: expected a whole number"),
        ({"min_load": [1, 2, 3]}, r"min_load: expected shape \(2,\)"),
        ({"copies": 0}, "copies: expected a whole number from 1"),
        ({"copies": "many"}, "copies: expected whole numbers"),
        ({"count": [1, np.nan]}, r"count\[1\]: expected a whole number from 1"),
        ({"count": [2**40, 2**40]}, "count: expected at most"),
        ({"sense": "least"}, "sense: expected maximize or minimize, got 'least'"),
        (
            {"sense": "minimize", "scores": [[1, np.nan], [1, 1]]},
            r"scores\[0, 1\]: expected a finite number or \+inf",
        ),
        ({"sense": "minimize", "scores": [[1, -np.inf], [1, 1]]}, r"finite number or \+inf, got -inf"),
    ],
)
def test_bad_input_is_named(options: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"scores": np.ones((2, 2)), "capacity": [2, 2]} | options
    with pytest.raises(solver.SpecError, match=message):
        solver.assign(**arguments)  # type: ignore[arg-type]


def test_floors_with_a_demand_or_limits_are_limits() -> None:
    scores = np.array([[5.0, 1.0], [5.0, 2.0], [5.0, 3.0]])
    loaded = solver.assign(scores, [6, 6], demand=[2, 2, 2], min_load=[0, 4])
    assert loaded.status is solver.Status.OPTIMAL
    assert loaded.load.tolist() == [2, 4]
    budget = solver.Budget(name="money", amount=10, cost=1)
    limited = solver.assign(scores, [3, 3], limits=[budget], min_load=[0, 2])
    assert limited.objective == 10
    assert limited.limit_names[-1].startswith("min_load[1]")


def test_minimum_cost_in_the_sense_asked_for() -> None:
    cost = np.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])
    solution = solver.assign(cost, [1, 1, 1], sense="minimize")
    assert solution.objective == solution.bound == 5
    assert solution.gap == 0
    assert solution.sense == "minimize"
    assert (solution.prices >= 0).all()
    mirrored = solver.assign(-cost, [1, 1, 1])
    assert mirrored.choice.tolist() == solution.choice.tolist()
    assert mirrored.prices.tolist() == solution.prices.tolist()
    penalized = solver.assign([[5.0]], [1], sense="minimize", unassigned_penalty=3.0)
    assert (penalized.objective, penalized.choice.tolist()) == (3.0, [UNASSIGNED])
    forbidden = solver.assign([[np.inf, 2.0]], [1, 1], sense="minimize")
    assert forbidden.objective == 2
    nothing = solver.assign([[np.inf]], [1], sense="minimize", unassigned_penalty=np.inf)
    assert nothing.status is solver.Status.INFEASIBLE
    assert nothing.objective == np.inf


def test_a_gap_of_costs_is_not_negative() -> None:
    rng = np.random.default_rng(6)
    cost, demand = rng.integers(1, 20, (40, 5)), rng.integers(3, 9, 40)
    solution = solver.assign(
        cost, [50] * 5, demand=demand, sense="minimize", unassigned_penalty=60.0, deadline_ms=200
    )
    assert solution.bound <= solution.objective
    assert 0 <= solution.gap < 1


def test_zero_or_three_to_six() -> None:
    scores = [[5.0, 4.0]] * 4
    spread = solver.assign(scores, [3, 6])
    assert spread.load.tolist() == [3, 1]
    whole = solver.assign(scores, [3, 6], min_load_if_open=3)
    assert whole.load.tolist() == [0, 4]
    assert whole.status is solver.Status.OPTIMAL
    dear = solver.assign(scores, [4, 6], opening_cost=[5.0, 0.0])
    assert dear.load.tolist() == [0, 4]
    assert dear.objective == 16


def test_large_openings_have_a_certified_gap() -> None:
    rng = np.random.default_rng(7)
    n, m = 800, 25
    scores = rng.normal(size=(n, m))
    solution = solver.assign(
        scores,
        [100] * m,
        min_load_if_open=30,
        opening_cost=15.0,
        unassigned_penalty=np.inf,
        deadline_ms=800,
    )
    assert solution.status in (solver.Status.FEASIBLE, solver.Status.OPTIMAL)
    assert 0 < solution.gap < 0.25
    loads = solution.load[solution.load > 0]
    assert loads.min() >= 30


def _instance_with_floor() -> tuple[solver.problem.instance.Instance, UnitFlow]:  # type: ignore[name-defined]
    instance = build_instance([[9.0, 1.0], [8.0, 2.0], [7.0, 3.0]], [3, 3], min_load=[0, 1], copies=[1, 1, 2])
    flow = UnitFlow.of_choice(np.array([[0, -1], [0, -1], [0, 1]]))
    return instance, flow


@pytest.mark.parametrize("price", [[0.0, 0.0], [3.0, -6.0], [0.0, -1e9], [-5.0, 2.0]])
def test_any_prices_prove_a_bound(price: list[float]) -> None:
    """Weak duality: whatever the prices, the bound is no lower than the optimum."""
    instance, flow = _instance_with_floor()
    claim = Claim(choice=principal_choice(instance, flow), prices=np.array(price)[:, None], flow=flow)
    certificate = certify(instance, claim)
    assert not certificate.violations
    assert certificate.bound >= (optimum(instance) or 0.0)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ([[0, -1], [0, -1], [0, -1]], "expected >= 1, got 0"),
        ([[0, 0], [0, -1], [0, 1]], "served 1 times too often"),
        ([[0, -1], [0, -1], [1, 1]], "expected different models"),
    ],
)
def test_the_certificate_rejects_what_breaks_the_shape(choice: list[list[int]], message: str) -> None:
    instance, _ = _instance_with_floor()
    flow = UnitFlow.of_choice(np.array(choice))
    certificate = certify(instance, Claim(choice=principal_choice(instance, flow), flow=flow))
    assert any(message in line for line in certificate.violations)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_is_feasible_and_bounded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = 200, 12
    scores = rng.normal(size=(n, m)) + rng.normal(size=m)
    options = {"copies": rng.integers(1, 4, n)} if seed % 2 else {"count": rng.integers(1, 9, n)}
    arguments = {"min_load": rng.integers(0, 30, m)} | options
    greedy = solver.assign(scores, [120] * m, engine="greedy", **arguments)  # type: ignore[arg-type]
    exact = solver.assign(scores, [120] * m, **arguments)  # type: ignore[arg-type]
    assert exact.status is solver.Status.OPTIMAL
    assert greedy.status in (solver.Status.FEASIBLE, solver.Status.OPTIMAL)
    assert greedy.objective <= exact.objective + 1e-9 <= greedy.bound + 2e-9


def test_a_short_deadline_has_a_verified_answer() -> None:
    rng = np.random.default_rng(8)
    scores = rng.normal(size=(5_000, 40)) + rng.normal(size=40)
    solution = solver.assign(scores, [180] * 40, min_load=60, deadline_ms=60)
    assert solution.status in (solver.Status.FEASIBLE, solver.Status.OPTIMAL, solver.Status.UNKNOWN)
    if solution.status is not solver.Status.UNKNOWN:
        assert solution.load.min() >= 60
        assert np.isfinite(solution.gap)


def test_prices_end_where_only_rounding_would_raise_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle of exchanges that gains less than float64 can tell raised prices once per model, for ever."""
    plain, rounds = network_duals._is_rounding, 0

    def counted(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
        nonlocal rounds
        rounds += 1
        return plain(before, after)

    monkeypatch.setattr(network_duals, "_is_rounding", counted)
    m = 1_000
    exchanges = network_duals.Exchanges(
        source=np.array([m, 0, 1]), target=np.array([0, 1, 0]), loss=np.array([-5.0, 0.3, -0.3 - 1e-15])
    )
    prices = network_duals.exchange_prices(exchanges, m)
    assert rounds < 6
    assert prices[:2] == pytest.approx([5.0, 4.7], abs=1e-12)
    assert (prices[2:] == 0.0).all()


@pytest.mark.parametrize("seed", range(12))
def test_bounds_of_networks_hold_no_value_of_service(seed: int) -> None:
    """Poor answers and no answer at all: no bound is above what as many units can score, none below the optimum."""
    rng = np.random.default_rng(seed)
    given = random_arguments(rng)
    instance = build_instance(given.pop("scores"), given.pop("capacity"), **given)
    shape = instance.network
    if shape is None:
        return
    best = np.where(np.isfinite(instance.score), instance.score, -np.inf).max(axis=1, initial=-np.inf)
    for engine in ("greedy", "flow"):
        claim = load_engine(engine).solve(instance, deadline=Deadline.after(None))
        if claim is None or claim.infeasible:
            continue
        claim = replace(claim, prices=rng.normal(size=(instance.m, 1)) * 3)
        verdict = certify(instance, claim)
        if verdict.violations or not instance.serve_first:
            continue
        units = claimed_flow(claim).units.sum()
        assert verdict.objective <= verdict.bound
        assert verdict.bound <= units * max(best.max(), 0.0) + 1e-9
    nobody = certify(instance, Claim(choice=np.full(instance.n, UNASSIGNED)))
    if instance.serve_first and not nobody.violations:
        assert (nobody.objective, nobody.bound, nobody.optimal) == (0.0, 0.0, False)


def test_most_score_is_what_enumeration_says() -> None:
    scores = [[5.0, 4.0, -1.0], [9.0, -np.inf, 2.0]]
    given = build_instance(scores, [3, 3, 3], copies=[2, 1], count=[2, 3])
    assert given.network is not None
    best = sorted([5, 5, 4, 4, 9, 9, 9], reverse=True)
    for units in range(8):
        assert most_score(given, given.network, units) == sum(best[:units])
    refused = build_instance(
        scores, [3, 3, 3], copies=[2, 1], count=[2, 3], unassigned_penalty=[-0.0, np.inf]
    )
    assert refused.network is not None
    assert most_score(refused, refused.network, 0) == 45.0


def test_greedy_closes_models_that_stay_short_of_their_floors() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 100, (300, 40))
    options: dict[str, Any] = {"min_load_if_open": 20, "opening_cost": 5.0}
    greedy = solver.assign(scores, [30] * 40, engine="greedy", **options)
    load = np.bincount(greedy.choice[greedy.choice >= 0], minlength=40)
    assert (greedy.choice >= 0).all()
    assert ((load == 0) | (load >= 20)).all()
    assert greedy.objective == pytest.approx(scores[range(300), greedy.choice].sum() - 5.0 * (load > 0).sum())
    best = solver.assign(scores, [30] * 40, deadline_ms=1_000, **options)
    assert greedy.objective <= best.objective <= greedy.bound


def test_openings_on_many_models_have_an_answer_in_time(processor_time: None) -> None:
    scores = np.random.default_rng(0).uniform(0, 100, (300, 5_000))
    solution = solver.assign(scores, np.full(5_000, 2), opening_cost=1.0, deadline_ms=100)
    assert (solution.choice >= 0).all()
    assert solution.bound <= scores.max(axis=1).sum() + 1e-9


@pytest.mark.parametrize("deadline_ms", [40, 90, 180])
def test_an_answer_in_time_is_never_worse_than_what_greedy_finds_at_leisure(
    deadline_ms: float, processor_time: None
) -> None:
    """The compiled kernel takes more than a second here, and leaves greedy the time it needs."""
    scores = np.random.default_rng(0).uniform(0, 100, (45, 1_400))
    options: dict[str, Any] = {"copies": 3, "count": 30, "min_load": 2, "unassigned_penalty": np.inf}
    greedy = solver.assign(scores, np.full(1_400, 4), engine="greedy", **options)
    answer = solver.assign(scores, np.full(1_400, 4), deadline_ms=deadline_ms, **options)
    assert answer.objective >= greedy.objective > 0
    assert answer.objective <= answer.bound


def test_a_certificate_without_a_pass_bounds_the_optimum() -> None:
    rng = np.random.default_rng(3)
    for penalty in (None, 5.0):
        given = build_instance(
            rng.uniform(0, 10, (9, 4)), [4] * 4, copies=2, min_load=1, unassigned_penalty=penalty
        )
        best = load_engine("flow").solve(given, deadline=Deadline.after(None))
        poor = load_engine("greedy").solve(given, deadline=Deadline.after(None))
        assert best is not None
        assert poor is not None
        quick, whole = certify(given, poor, quick=True), certify(given, best)
        assert quick.objective <= whole.objective <= quick.bound
        assert whole.optimal
        assert not quick.optimal

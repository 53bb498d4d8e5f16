"""Limits that are network structure: known answers, HiGHS on random instances, and what is not one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import solver
from solver.engines.attainable_bounds import attainable_bounds
from solver.engines.flow import laminar_flow
from solver.engines.flow.laminar import find_network
from solver.problem.build import build_instance
from tests.fuzz_laminar import check, draw


@pytest.mark.parametrize("seed", range(60))
def test_random_instances_equal_highs(seed: int) -> None:
    verdict = check(draw(np.random.default_rng([10_000, seed])))
    assert verdict is None or verdict.startswith("not recognised")


@pytest.mark.parametrize("seed", range(20))
def test_floors_and_capacities_by_column_generation(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laminar_flow, "_GENERATED_PAIRS", -1)
    verdict = check(draw(np.random.default_rng([20_000, seed])))
    assert verdict is None or verdict.startswith("not recognised")


def test_an_agent_that_a_limit_bars_from_all_models_is_worth_nothing_to_the_bound() -> None:
    bar = solver.Budget(name="barred", amount=0.0, cost=np.array([[2.0, 2.0], [0, 0], [0, 0]]))
    quota = solver.Quota(name="q", models=[1], at_least=1)
    scores, priority = [[9.0, 9.0], [2.0, 1.0], [1.0, 1.0]], [1.0, 1.0, 3.0]
    solution = solver.assign(scores, [2, 2], limits=[bar, quota], priority=priority, engine="flow")
    assert solution.status is solver.Status.OPTIMAL
    assert (solution.objective, solution.bound) == (3.0, 3.0)
    assert solution.choice.tolist() == [-1, 0, 1]


@pytest.mark.parametrize("cost", ["equal", "unequal"])
def test_pairs_that_a_limit_bars_are_not_generated(cost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laminar_flow, "_GENERATED_PAIRS", -1)
    barred = np.zeros((40, 5))
    barred[:20, 0] = 1.0 if cost == "equal" else np.arange(1, 21)
    limits = [
        solver.Budget(name="barred", amount=0.0, cost=barred),
        solver.Quota(name="q", models=[0], at_most=9),
    ]
    scores = np.random.default_rng(1).random((40, 5))
    scores[:, 0] += 1.0
    solution = solver.assign(scores, [10] * 5, limits=limits, engine="flow")
    assert solution.status is solver.Status.OPTIMAL
    assert not solution.bound_is_claimed
    assert (solution.choice[:20] != 0).all()
    scores[:20, 0] = -np.inf
    assert solution.objective == pytest.approx(solver.assign(scores, [9, 10, 10, 10, 10]).objective)


@pytest.mark.parametrize("seed", range(3))
def test_limits_on_who_is_served_cross_priorities(seed: int) -> None:
    """Which of three priorities are served is decided first, and a limit on half the agents takes part in it."""
    rng = np.random.default_rng(seed)
    n, m = 30, 3
    scores = np.where(rng.random((n, m)) < 0.2, -np.inf, rng.normal(size=(n, m)))
    team = rng.permutation(n)[: n // 2].tolist()
    given: dict[str, Any] = {
        "limits": [
            solver.Quota(name="few of a team", agents=team, at_most=6),
            solver.Quota(name="fewer there", agents=team, models=[0], at_most=2),
        ],
        "priority": rng.integers(1, 4, n),
    }
    solution = solver.assign(scores, [7, 8, 6], engine="flow", **given)
    exact = solver.assign(scores, [7, 8, 6], engine="cpsat", deadline_ms=60_000, **given)
    assert solution.status is exact.status is solver.Status.OPTIMAL
    assert solution.objective == pytest.approx(exact.objective, abs=1e-6)
    assert solution.prices.max() <= np.ptp(scores[np.isfinite(scores)])


@pytest.mark.parametrize("price", [0.05, 0.4])
def test_limits_that_may_be_exceeded_at_a_price_are_a_network_too(price: float) -> None:
    """Panels kept apart, and reviewers with a floor, each exceeded where that is worth its price."""
    given = _panel(30, 20, 3)
    given["limits"] = [
        *(solver.Apart(name=one.name, agents=one.agents, violation_price=price) for one in given["limits"]),
        *(solver.Quota(name=f"r{j}", models=[j], at_least=7, violation_price=price) for j in range(20)),
    ]
    solution = solver.assign(**given, engine="flow")
    assert solution.status is solver.Status.OPTIMAL
    assert not solution.bound_is_claimed
    assert solution.limit_prices.max() <= price * (1 + 1e-9)
    again = solver.assign(**given, engine="cpsat", deadline_ms=20_000)
    assert again.objective == pytest.approx(solution.objective, abs=1e-6)
    assert solver.assign(**given).engine == "flow"


def test_a_bound_crossed_within_an_agent_is_charged_for_the_part_beyond_it() -> None:
    quota = solver.Quota(name="q", models=[0], at_most=1.5, violation_price=2.0)
    scores = [[9.0, 5.0], [8.0, 5.0], [7.0, 5.5]]
    solution = solver.assign(scores, [3, 3], limits=[quota], engine="flow")
    assert solution.status is solver.Status.OPTIMAL
    # The second agent costs 1 there and brings 3; the third would cost 2 and bring 1.5.
    assert solution.choice.tolist() == [0, 0, 1]
    assert solution.objective == 9 + 8 - 1 + 5.5


def test_service_comes_before_what_a_limit_charges() -> None:
    """Ten agents, eight slots, and a quota of three: eight are served, at five for each beyond."""
    quota = solver.Quota(name="q", at_most=3, violation_price=5.0)
    solution = solver.assign(np.full((10, 1), 2.0), [8], limits=[quota], engine="flow")
    assert solution.status is solver.Status.OPTIMAL
    assert (solution.choice == 0).sum() == 8
    assert solution.objective == 8 * 2 - 5 * 5


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz_laminar.by_highs", lambda sample: ("optimal", 1e6))
    assert check(draw(np.random.default_rng([10_000, 1]))) is not None


def _panel(papers: int, reviewers: int, copies: int, *, pairwise: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    scores = np.repeat(np.round(rng.beta(1, 4, (papers, reviewers)), 3), copies, axis=0)
    teams = [list(range(p * copies, (p + 1) * copies)) for p in range(papers)]
    if pairwise:
        teams = [[a, b] for team in teams for a in team for b in team if a < b]
    return {
        "scores": scores,
        "capacity": [2 + papers * copies // reviewers] * reviewers,
        "unassigned_penalty": np.inf,
        "limits": [solver.Apart(name=f"p{k}", agents=team) for k, team in enumerate(teams)],
    }


@pytest.mark.parametrize("floors", [False, True])
def test_copies_that_are_kept_apart_equal_an_agent_with_copies(floors: bool) -> None:
    """The same panels, said with limits and said with copies."""
    given = _panel(30, 20, 3)
    least = np.full(20, 2 if floors else 0)
    known = solver.assign(
        given["scores"][::3], given["capacity"], copies=3, min_load=least, unassigned_penalty=np.inf
    )
    if floors:
        given["limits"] += [solver.Quota(name=f"r{j}", models=[j], at_least=2) for j in range(20)]
    solution = solver.assign(**given)
    assert solution.status is solver.Status.OPTIMAL
    assert solution.engine == "flow"
    assert not solution.bound_is_claimed
    assert solution.objective == pytest.approx(known.objective, rel=1e-12)
    assert all(len(set(team)) == 3 for team in solution.choice.reshape(-1, 3).tolist())


@pytest.mark.parametrize("size", [(400, 8), (4_000, 10)])
def test_quotas_of_one_model_are_floors(size: tuple[int, int]) -> None:
    n, m = size
    rng = np.random.default_rng(3)
    scores, low, high = rng.normal(size=(n, m)) + rng.normal(size=m), n // (2 * m), n // m + 20
    limits = [solver.Quota(name=f"c{j}", models=[j], at_least=low, at_most=high) for j in range(m)]
    solution = solver.assign(scores, [n] * m, unassigned_penalty=np.inf, limits=limits)
    known = solver.assign(scores, [high] * m, unassigned_penalty=np.inf, min_load=low)
    assert solution.status is solver.Status.OPTIMAL
    assert not solution.bound_is_claimed
    assert solution.objective == pytest.approx(known.objective, rel=1e-12)


def test_pairs_kept_apart_are_cliques() -> None:
    """Panels said pair by pair: the same optimum, with a bound that is the engine's word."""
    known, pairs = solver.assign(**_panel(20, 12, 3)), solver.assign(**_panel(20, 12, 3, pairwise=True))
    assert pairs.status is solver.Status.OPTIMAL
    assert pairs.engine == "flow"
    assert pairs.objective == pytest.approx(known.objective, rel=1e-12)
    assert all(len(set(team)) == 3 for team in pairs.choice.reshape(-1, 3).tolist())


def test_a_path_of_pairs_is_no_clique() -> None:
    path = [solver.Apart(name=f"p{i}", agents=[i, i + 1]) for i in range(4)]
    instance = build_instance(np.ones((5, 2)), [5, 5], limits=path)
    assert find_network(instance) is None
    assert solver.assign(np.ones((5, 2)), [5, 5], limits=path).objective == 5


def test_service_first_with_teams_and_priorities() -> None:
    """Two of a team of three may be served by each model; the highest priorities are."""
    limits = [solver.Apart(name="team", agents=[0, 1, 2, 3], at_most=1)]
    solution = solver.assign(
        [[5, 1], [4, 3], [9, 9], [9, 9], [1, 1]], [3, 3], priority=[2, 2, 1, 1, 1], limits=limits
    )
    assert solution.status is solver.Status.OPTIMAL
    assert solution.choice.tolist() == [0, 1, -1, -1, 0]


def test_crossing_quotas_are_no_network() -> None:
    crossing = [
        solver.Quota(name="a", agents=[0, 1], models=[0], at_most=1),
        solver.Quota(name="b", agents=[1, 2], models=[0], at_most=1),
    ]
    instance = build_instance(np.ones((3, 2)), [3, 3], limits=crossing)
    assert find_network(instance) is None
    with pytest.raises(solver.SpecError) as reason:
        solver.assign(np.ones((3, 2)), [3, 3], limits=crossing, engine="flow")
    assert "nested" in str(reason.value)
    assert solver.assign(np.ones((3, 2)), [3, 3], limits=crossing).status is solver.Status.OPTIMAL


def test_quotas_that_cross_on_forbidden_pairs_only_are_a_network() -> None:
    scores = np.array([[1.0, 1.0], [-np.inf, 1.0], [1.0, 1.0]])
    limits = [
        solver.Quota(name="a", agents=[0, 1], models=[0], at_most=1),
        solver.Quota(name="b", agents=[1, 2], models=[0], at_most=0),
    ]
    assert find_network(build_instance(scores, [3, 3], limits=limits)) is not None


def test_a_row_moves_in_steps_of_its_coefficients() -> None:
    limits = [
        solver.Quota(name="agents", models=[0], at_most=2.5),
        solver.Budget(name="dimes", amount=0.35, cost=0.1),
        solver.Budget(name="pairs", amount=7.5, cost=np.array([[2.0, 4.0]])),
        solver.Budget(name="real", amount=7.5, cost=np.array([[2.5, 4.1]])),
        solver.Quota(name="least", models=[1], at_least=1.5),
    ]
    instance = build_instance(np.ones((3, 2)), [3, 3], limits=limits)
    assert attainable_bounds(instance) == pytest.approx([2, 0.3, 6, 7.5, -2])

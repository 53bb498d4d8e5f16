"""Every kind of limit against brute force: all assignments of small instances, checked from the definition."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import solver
from solver.clock import Deadline
from solver.engines.attainable_bounds import attainable_bounds
from solver.engines.base import Claim, load_engine
from solver.engines.certificate import certify
from solver.engines.limit_insertion import insert_left_out
from solver.engines.limit_repair import repaired
from solver.problem.build import build_instance
from solver.problem.limit_kinds import (
    Apart,
    Average,
    Budget,
    Changes,
    Commitment,
    Limit,
    Quota,
    Share,
    StayPut,
    Together,
)
from solver.problem.limit_row_assembly import compile_limits

if TYPE_CHECKING:
    from solver.problem.instance import Instance

ENGINES = ("cpsat", "lagrangian")


def _pairs(values: Any, n: int, m: int) -> np.ndarray[Any, Any]:
    return np.broadcast_to(np.asarray(1.0 if values is None else values, dtype=float), (n, m))


def _members(given: Any, count: int) -> list[int]:
    if given is None:
        return list(range(count))
    return list(np.arange(count)[np.asarray(given)])


def obeys(limit: Limit, choice: tuple[int, ...], m: int) -> bool:
    """Check one limit by its definition in words, agent by agent."""
    n = len(choice)
    agents, models = _members(limit.agents, n), _members(limit.models, m)
    inside = [i for i in agents if choice[i] in models]

    def total(values: Any, who: list[int]) -> float:
        table = _pairs(values, n, m)
        return float(sum(table[i, choice[i]] for i in who))

    def within(value: float, low: float | None, high: float | None) -> bool:
        return (low is None or value >= low - 1e-7) and (high is None or value <= high + 1e-7)

    match limit:
        case Budget():
            return within(total(limit.cost, inside), None, limit.amount)
        case Quota():
            return within(total(limit.use, inside), limit.at_least, limit.at_most)
        case Commitment():
            return within(total(limit.use, inside), limit.at_least, None)
        case Share():
            whole = total(limit.use, [i for i in range(n) if choice[i] >= 0])
            part = total(limit.use, inside)
            low = None if limit.at_least is None else limit.at_least * whole
            high = None if limit.at_most is None else limit.at_most * whole
            return within(part, low, high)
        case Average():
            if not inside:
                return True
            return within(total(limit.value, inside) / len(inside), limit.at_least, limit.at_most)
        case Together():
            return len({choice[i] for i in agents}) == 1
        case Apart():
            return all(sum(choice[i] == j for i in agents) <= limit.at_most for j in models)
        case Changes():
            before = np.asarray(limit.previous)
            moved = [i for i in inside if before[i] >= 0 and before[i] != choice[i]]
            return len(moved) <= limit.at_most
        case StayPut():
            return True
    raise AssertionError(limit)


def brute_force(instance: Instance, limits: list[Limit]) -> float | None:
    """Return the best value (service included) over all assignments, or None when none is feasible."""
    n, m = instance.n, instance.m
    best: float | None = None
    unserved = instance.unserved
    for choice in itertools.product(range(-1, m), repeat=n):
        value = 0.0
        for i, j in enumerate(choice):
            value += float(unserved[i]) if j < 0 else float(instance.score[i, j])
        if not np.isfinite(value) or (best is not None and value <= best + 1e-9):
            continue
        load = instance.usage(np.array(choice, np.int64))
        if (load > instance.capacity + 1e-7).any():
            continue
        if all(obeys(limit, choice, m) for limit in limits):
            best = value
    return best


def value_of(instance: Instance, choice: np.ndarray[Any, Any]) -> float:
    served = np.flatnonzero(choice >= 0)
    left = np.flatnonzero(choice < 0)
    return float(instance.score[served, choice[served]].sum() + instance.unserved[left].sum())


def random_limits(rng: np.random.Generator, n: int, m: int) -> list[Limit]:
    """Draw one to four limits of any kind, usually tight."""
    some = np.flatnonzero(rng.random(n) < 0.6)
    agents = some if len(some) else np.array([0])
    models = np.flatnonzero(rng.random(m) < 0.6)
    models = models if len(models) else np.array([0])
    table = rng.integers(0, 9, (n, m)).astype(float)
    pair = rng.choice(n, 2, replace=False)
    before = rng.integers(-1, m, n)
    kinds: list[Limit] = [
        Budget(name="budget", amount=float(rng.integers(0, 5 * n)), cost=table),
        Quota(name="quota", agents=agents, models=models, at_most=float(rng.integers(0, n))),
        Quota(
            name="quota of use", agents=agents, use=table, at_least=2.0, at_most=float(rng.integers(2, 6 * n))
        ),
        Commitment(name="commitment", models=models, at_least=float(rng.integers(0, 3))),
        Share(name="share", agents=agents, models=models, at_most=0.5),
        Share(name="share of use", models=models, use=table, at_least=0.25),
        Average(name="average", value=table, at_least=float(rng.integers(1, 7))),
        Average(name="mean cost", value=table, agents=agents, at_most=float(rng.integers(2, 7))),
        Together(name="together", agents=pair),
        Apart(name="apart", agents=agents, at_most=int(rng.integers(1, 3))),
        Changes(name="changes", previous=before, at_most=float(rng.integers(0, n))),
        StayPut(name="stay put", previous=before, cost=float(rng.integers(0, 5))),
    ]
    return [kinds[k] for k in rng.choice(len(kinds), rng.integers(1, 5), replace=False)]


def random_instance(rng: np.random.Generator, limits: bool) -> tuple[Instance, list[Limit]]:
    n, m, r = int(rng.integers(2, 6)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    scores = rng.integers(0, 30, (n, m)).astype(float) + (rng.random((n, m)) if rng.random() < 0.4 else 0.0)
    scores[rng.random((n, m)) < 0.15] = -np.inf
    demand = rng.integers(0, 6, (n, m, r)).astype(float)
    capacity = rng.integers(0, 5 * n // m + 2, (m, r)).astype(float)
    penalty = [None, np.inf, float(rng.integers(0, 25))][int(rng.integers(3))]
    priority = rng.integers(1, 4, n) if rng.random() < 0.4 else None
    drawn = random_limits(rng, n, m) if limits else []
    instance = build_instance(
        scores, capacity, demand=demand, unassigned_penalty=penalty, priority=priority, limits=drawn
    )
    return instance, drawn


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("limited", [False, True])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_small_instances_equal_brute_force(engine: str, limited: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance, limits = random_instance(rng, limited)
    best = brute_force(instance, limits)
    patience_ms = 60_000 if engine == "cpsat" else 3_000  # its import counts
    claim = load_engine(engine).solve(instance, deadline=Deadline.after(patience_ms), seed=seed % 1000)
    assert claim is not None
    assert claim.infeasible == (best is None)
    if best is None:
        return
    certificate = certify(instance, claim)
    assert certificate.violations == ()
    assert value_of(instance, claim.choice) == pytest.approx(best, abs=1e-6 * max(1.0, abs(best)))
    assert certificate.bound >= certificate.objective - 1e-6
    # Where agents are left out, one weighted problem does not prove that no more can be served.
    assert certificate.optimal or (instance.serve_first and (claim.choice < 0).any())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_certificate_judges_limits_as_their_definitions_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance, limits = random_instance(rng, True)
    choice = rng.integers(-1, instance.m, instance.n)
    from solver.engines.base import Claim

    violations = certify(instance, Claim(choice=choice)).violations
    broken = any(line.startswith("limit ") for line in violations)
    assert broken == (not all(obeys(limit, tuple(choice), instance.m) for limit in limits))


def test_any_multipliers_bound_the_optimum() -> None:
    from solver.engines.base import Claim

    rng = np.random.default_rng(3)
    for _ in range(60):
        instance, limits = random_instance(rng, True)
        best = brute_force(instance, limits)
        if best is None or instance.limits is None:
            continue
        claim = load_engine("cpsat").solve(instance, deadline=Deadline.after(2_000))
        assert claim is not None
        given = Claim(
            choice=claim.choice,
            prices=rng.exponential(2.0, (instance.m, instance.r)),
            limit_prices=rng.exponential(1.0, instance.limits.count),
        )
        certificate = certify(instance, given)
        assert certificate.bound >= certificate.objective - 1e-9


def test_assign_takes_limits_and_reports_their_prices() -> None:
    scores = [[9.0, 1.0], [8.0, 2.0], [7.0, 3.0], [6.0, 4.0]]
    budget = Budget(name="dollars", amount=2.0, cost=[1.0, 0.0])
    solution = solver.assign(scores, [4, 4], limits=[budget], deadline_ms=2_000)
    assert solution.status is solver.Status.OPTIMAL
    assert solution.choice.tolist() == [0, 0, 1, 1]
    assert solution.limit_names == ("dollars",)
    assert solution.limit_load.tolist() == [2.0]
    assert 4.0 - 1e-3 <= solution.limit_prices[0] <= 6.0 + 1e-3


def test_quotas_of_many_tenants_share_one_layer() -> None:
    tenants = np.arange(60) % 20
    quotas = [Quota(name=f"tenant {t}", agents=tenants == t, at_most=2.0) for t in range(20)]
    rows, _ = compile_limits(quotas, 60, 5)
    assert rows is not None
    assert len(rows.layers) == 1
    assert rows.count == 20


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Budget(name="b", amount=-1.0, cost=1.0), "amount: expected a finite number >= 0, got -1"),
        (Budget(name="b", amount=1.0, cost=-1.0), "cost: expected >= 0, got -1"),
        (Budget(name="b", amount=1.0, cost=np.nan), "cost: expected finite numbers"),
        (
            Budget(name="b", amount=1.0, cost=[1.0, 2.0, 3.0]),
            "cost: expected numbers that broadcast to (4, 2)",
        ),
        (Quota(name="q"), "at_most: expected at_most or at_least, got neither"),
        (Quota(name="q", at_least=3.0, at_most=2.0), "at_least: expected at most at_most (2), got 3"),
        (Quota(name="q", at_most=1.0, agents=[]), "agents: expected at least one, got none"),
        (Quota(name="q", at_most=1.0, agents=[4]), "agents: expected indices from 0 to 3, got 4"),
        (Quota(name="q", at_most=1.0, models=[-1]), "models: expected indices from 0 to 1, got -1"),
        (Quota(name="q", at_most=1.0, models=["gpt"]), "models: expected indices or a mask of 2"),
        (Share(name="s", at_most=1.5), "at_most: expected a finite number from 0 to 1, got 1.5"),
        (Together(name="t", agents=[1]), "agents: expected at least two, got 1"),
        (Together(name="t", agents=[1, 2], models=[0]), "models: expected None"),
        (Changes(name="c", previous=[0, 1], at_most=1.0), "previous: expected 4 model indices below 2"),
    ],
)
def test_a_broken_limit_is_named_with_its_value(limit: Limit, words: str) -> None:
    with pytest.raises(solver.SpecError) as caught:
        build_instance(np.ones((4, 2)), [4, 4], limits=[limit])
    assert f"limits[0] ({limit.name}).{words}" in str(caught.value)


def test_agents_cannot_be_in_two_groups_that_move_together() -> None:
    groups = [Together(name="one", agents=[0, 1]), Together(name="two", agents=[1, 2])]
    with pytest.raises(solver.SpecError, match=r"limits \(two\).agents: expected agents of no other group"):
        build_instance(np.ones((4, 2)), [4, 4], limits=groups)


def test_a_limit_that_keeps_agents_out_is_priced_in_score() -> None:
    cost = np.arange(1.0, 9.0)
    score = np.array([50.0, 20.0, 30.0, 40.0, 60.0, 90.0, 80.0, 70.0])
    limits = [Budget(name="usd", amount=12.0, cost=cost[:, None])]
    solution = solver.assign(score[:, None] + 1000.0, [8], limits=limits, engine="lagrangian")
    # The four cheapest cost 10; two fifths of the fifth would fit: one more dollar is a fifth of its score.
    assert len(solution.unassigned) == 4
    assert solution.limit_prices[0] == pytest.approx(1060.0 / 5.0, rel=1e-3)
    # Four is proven to be the most; the multipliers need not carry the value of service.
    assert solution.status is solver.Status.OPTIMAL
    assert solution.prices[0] == pytest.approx(0.0, abs=1e-4)


def test_a_resource_that_keeps_agents_out_is_priced_in_score_whatever_the_rank() -> None:
    demand = np.array([4.0, 3.0, 5.0, 2.0, 2.0, 4.0])
    score = np.array([9.0, 5.0, 4.0, 7.0, 3.0, 8.0])
    priority = np.array([2.0, 2.0, 1.0, 2.0, 1.0, 1.0])
    solution = solver.assign(score[:, None], [12.0], demand=demand, priority=priority, engine="lagrangian")
    # The first rank takes 4 + 3 + 2 units, the smallest of the others 2; a quarter of the next one would fit.
    assert solution.unassigned.tolist() == [2, 5]
    assert solution.prices[0] == pytest.approx(8.0 / 4.0, rel=1e-3)


def test_teams_apart_that_must_be_served_are_moved() -> None:
    """Greedy puts several of a team on one model; repaired by leaving agents out, there was no answer."""
    rng = np.random.default_rng(1)
    n, m, teams = 1_500, 60, 50
    limits = [solver.Apart(name=f"t{k}", agents=np.arange(k, n, teams)) for k in range(teams)]
    scores = rng.uniform(0, 100, (n, m))
    instance = build_instance(scores, np.full(m, 28), limits=limits, unassigned_penalty=np.inf)
    greedy = load_engine("greedy").solve(instance.without_limits(), deadline=Deadline.after(None))
    assert greedy is not None
    assert certify(instance, greedy).violations
    choice = repaired(instance, greedy.choice, Deadline.after(None))
    assert choice is not None
    certificate = certify(instance, Claim(choice=choice))
    assert not certificate.violations
    assert certificate.objective > 0.98 * certify(instance, greedy).objective


@pytest.mark.parametrize("seed", range(6))
def test_agents_are_inserted_only_where_all_limits_hold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = 60, 6
    scores = np.where(rng.random((n, m)) < 0.2, -np.inf, rng.uniform(-5, 5, (n, m)))
    limits = [
        solver.Budget(name="money", amount=40.0, cost=rng.uniform(0, 3, (n, m))),
        solver.Quota(name="quota", agents=list(range(30)), models=[0, 1], at_least=2, at_most=6),
        solver.Apart(name="apart", agents=[1, 2, 3, 4]),
        solver.Share(name="share", models=[2], at_most=0.3),
        solver.Quota(name="soft", models=[3], at_most=2, violation_price=1.0),
    ]
    penalty = rng.choice([0.0, 2.0], n)
    demand = rng.uniform(0.5, 2.0, (n, m))
    instance = build_instance(
        scores, np.full(m, 12.0), demand=demand, limits=limits, unassigned_penalty=penalty
    )
    choice = np.full(n, -1)
    assert instance.limits is not None
    insert_left_out(instance, instance.limits, choice, Deadline.after(None))
    certificate = certify(instance, Claim(choice=choice))
    assert not certificate.violations
    assert (choice >= 0).sum() >= 10
    left = np.flatnonzero(choice < 0)
    for agent in left.tolist():  # nobody else fits anywhere where it gains
        for model in np.flatnonzero(scores[agent] >= -penalty[agent]).tolist():
            tried = choice.copy()
            tried[agent] = model
            again = certify(instance, Claim(choice=tried))
            soft = instance.limits.violation_charges(again.limit_load).sum() > 0
            assert again.violations or soft


@pytest.mark.parametrize("penalty", [None, np.inf])
def test_budgets_of_large_batches_have_an_answer_before_a_search_could_be_set_up(
    penalty: float | None, processor_time: None
) -> None:
    """Greedy at the prices of a sample serves all, where greedy by itself leaves a tenth out."""
    solver.warm_up()
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 100, (4_000, 40))
    limits: list[solver.Limit] = [
        solver.Budget(name=f"b{k}", amount=8_800.0, cost=rng.uniform(0, 5, (4_000, 40))) for k in range(4)
    ]
    limits.append(solver.Together(name="tied", agents=np.arange(6)))
    answer = solver.assign(
        scores, np.full(40, 120), limits=limits, unassigned_penalty=penalty, deadline_ms=150
    )
    assert (answer.choice >= 0).all()
    assert len(set(answer.choice[:6].tolist())) == 1
    assert answer.gap < 0.03


def test_a_group_left_out_is_placed_as_a_whole() -> None:
    limits = [
        solver.Together(name="tied", agents=[0, 1, 2]),
        solver.Quota(name="few", agents=[0, 1, 2, 3], models=[0], at_most=2),
    ]
    instance = build_instance([[9, 5, 1], [9, 5, 1], [9, 5, 1], [9, 0, 0]], [4, 3, 4], limits=limits)
    choice = repaired(instance, np.array([0, 0, 1, 0]), Deadline.after(None))
    assert choice is not None
    assert choice.tolist() == [1, 1, 1, 0]


def test_a_budget_in_steps_is_recognised_whatever_its_first_agents_cost() -> None:
    cost = np.full((40, 2), 4.0)
    cost[:9] = 2.0
    steps = build_instance(
        np.ones((40, 2)), [40, 40], limits=[solver.Budget(name="usd", amount=10.5, cost=cost)]
    )
    assert attainable_bounds(steps).tolist() == [10.0]
    cost[0] = 2.5
    loose = build_instance(
        np.ones((40, 2)), [40, 40], limits=[solver.Budget(name="usd", amount=10.5, cost=cost)]
    )
    assert attainable_bounds(loose).tolist() == [10.5]

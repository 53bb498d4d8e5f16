"""The price engine where sampling, boxes and flows all take part; small cases are in the contract suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import solver
from solver import Status
from solver.clock import Deadline
from solver.engines.base import Claim, load_engine
from solver.engines.certificate import certify
from solver.problem.build import build_instance
from solver.problem.generate import generate_scores
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_LIMIT = Deadline.after(None)


def price(instance: Instance, *, seed: int = 0, hint: Claim | None = None, threads: int = 1) -> Claim:
    claim = load_engine("price").solve(instance, deadline=NO_LIMIT, seed=seed, hint=hint, threads=threads)
    assert claim is not None
    return claim


def value(instance: Instance, claim: Claim) -> float:
    """Objective with the value of service included, so that serve-first answers compare."""
    left = claim.choice == UNASSIGNED
    total = certify(instance, claim).objective
    return total + float(instance.unserved[left].sum()) if instance.serve_first and left.any() else total


def slots_for(rng: np.random.Generator, n: int, m: int, fill: float, *, spread: str) -> NDArray[np.int64]:
    if spread == "heavy":
        weight = rng.pareto(0.8, m) + 1e-3
        weight[rng.random(m) < 0.25] = 0
        weight[0] = 1.0
    else:
        weight = rng.gamma(2.0, 1.0, m)
    slots: NDArray[np.int64] = np.floor(weight / weight.sum() * n / fill).astype(np.int64)
    if fill <= 1:
        slots[int(slots.argmax())] += max(0, n - int(slots.sum()))
    return slots


def scores_of(kind: str, rng: np.random.Generator, n: int, m: int) -> NDArray[np.float64]:
    if kind == "smooth":
        return generate_scores(n, m, seed=int(rng.integers(1000)))[0]
    if kind == "integers":
        return rng.integers(0, 30, (n, m)).astype(np.float64)
    if kind == "four levels":
        return rng.integers(0, 4, (n, m)).astype(np.float64)
    if kind == "few distinct rows":
        return rng.random((60, m))[rng.integers(60, size=n)]
    if kind == "twin columns":
        half = rng.random((n, (m + 1) // 2))
        return np.hstack([half, half])[:, :m]
    if kind == "dominating model":
        scores = rng.random((n, m))
        scores[:, 0] += 2
        return scores
    if kind == "rank one":
        return rng.random((n, 1)) * np.linspace(0, 1, m)
    if kind == "constant":
        return np.ones((n, m))
    if kind == "outliers":
        return rng.standard_cauchy((n, m))
    if kind == "nearly equal rows":
        return rng.random((n, 1)) * 5 + 0.05 * rng.random((n, m))
    return rng.random((n, m))


KINDS = (
    "uniform",
    "smooth",
    "integers",
    "four levels",
    "few distinct rows",
    "twin columns",
    "dominating model",
    "rank one",
    "constant",
    "outliers",
    "nearly equal rows",
)


@pytest.mark.parametrize("fill", [0.35, 0.9, 1.02, 1.3, 3.0])
@pytest.mark.parametrize("kind", ["uniform", "smooth"])
def test_ordinary_scores_never_need_the_flow_on_all_arcs(
    kind: str, fill: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fall-back hides a bad start; here it may not."""

    def refuse(*_: object) -> None:
        raise AssertionError("solved everything")

    monkeypatch.setattr("solver.engines.price.optimum.solve_everything", refuse)
    rng = np.random.default_rng(7)
    n, m = 6000, 40
    scores, slots = scores_of(kind, rng, n, m), slots_for(rng, n, m, fill, spread="even")
    for penalty in (None, 0.2):
        instance = build_instance(scores, slots, unassigned_penalty=penalty)
        assert certify(instance, price(instance)).optimal


@pytest.mark.parametrize("spread", ["even", "heavy"])
@pytest.mark.parametrize("fill", [0.35, 0.95, 1.0, 1.3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_certified_and_equal_to_flow(kind: str, fill: float, spread: str) -> None:
    rng = np.random.default_rng(len(kind) + int(100 * fill))
    n, m = 2500, 17
    instance = build_instance(scores_of(kind, rng, n, m), slots_for(rng, n, m, fill, spread=spread))
    claim = price(instance)
    certificate = certify(instance, claim)
    assert certificate.violations == ()
    assert certificate.optimal, certificate.gap
    flow = load_engine("flow").solve(instance, deadline=NO_LIMIT)
    assert flow is not None
    assert value(instance, claim) == pytest.approx(value(instance, flow), rel=1e-9)


@pytest.mark.parametrize("allowed", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("fill", [0.35, 1.0, 1.3])
@pytest.mark.parametrize("penalty", [None, 0.4])
def test_masks_are_certified(allowed: float, fill: float, penalty: float | None) -> None:
    rng = np.random.default_rng(int(1000 * allowed))
    n, m = 4000, 20
    scores = rng.random((n, m))
    scores[rng.random((n, m)) > allowed] = -np.inf
    instance = build_instance(scores, slots_for(rng, n, m, fill, spread="even"), unassigned_penalty=penalty)
    claim = price(instance)
    assert certify(instance, claim).optimal
    flow = load_engine("flow").solve(instance, deadline=NO_LIMIT)
    assert flow is not None
    assert value(instance, claim) == pytest.approx(value(instance, flow), rel=1e-9)


@pytest.mark.parametrize("seed", range(300))
def test_small_instances_equal_lsap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 60)), int(rng.integers(1, 8))
    scores = rng.random((n, m)) if seed % 2 else rng.integers(0, 5, (n, m)).astype(np.float64)
    if seed % 3 == 0:
        scores[rng.random((n, m)) < 0.5] = -np.inf
    slots = rng.integers(0, 2 * n // m + 2, m)
    priority = rng.integers(0, 3, n).astype(np.float64) if seed % 5 == 0 else None
    penalty = float(rng.random()) if seed % 7 == 0 else None
    instance = build_instance(scores, slots, priority=priority, unassigned_penalty=penalty)
    claim = price(instance, seed=seed)
    assert certify(instance, claim).optimal
    exact = load_engine("lsap").solve(instance, deadline=NO_LIMIT)
    assert exact is not None
    assert value(instance, claim) == pytest.approx(value(instance, exact), rel=1e-9, abs=1e-9)


def test_priorities_are_served_first_when_slots_are_short() -> None:
    rng = np.random.default_rng(5)
    n, m = 5000, 8
    priority = rng.integers(0, 4, n).astype(np.float64)
    solution = solver.assign(rng.random((n, m)), np.full(m, n // (2 * m)), priority=priority, engine="price")
    assert solution.status is Status.OPTIMAL
    served = solution.choice != UNASSIGNED
    assert served.sum() == m * (n // (2 * m))
    assert priority[served].min() >= priority[~served].max()


def test_everyone_must_be_served_and_cannot() -> None:
    rng = np.random.default_rng(6)
    scores = rng.random((3000, 5))
    short = build_instance(scores, np.full(5, 599), unassigned_penalty=np.inf)
    assert price(short).infeasible
    scores[17] = -np.inf
    unservable = build_instance(scores, np.full(5, 3000), unassigned_penalty=np.inf)
    assert price(unservable).infeasible
    scores[:1500, 1:] = -np.inf  # Hall's condition: 1500 agents want the 700 slots of model 0
    scores[17] = scores[16]
    crowded = build_instance(scores, np.array([700, 3000, 3000, 3000, 3000]), unassigned_penalty=np.inf)
    assert price(crowded).infeasible


def test_some_must_be_served_and_others_may_leave() -> None:
    rng = np.random.default_rng(7)
    n, m = 3000, 6
    penalty = np.where(rng.random(n) < 0.3, np.inf, 0.2)
    instance = build_instance(rng.random((n, m)), np.full(m, n // (2 * m)), unassigned_penalty=penalty)
    claim = price(instance)
    assert certify(instance, claim).optimal
    assert (claim.choice[np.isinf(penalty)] != UNASSIGNED).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_precision_and_threads_change_nothing(dtype: type, threads: int) -> None:
    scores, slots = generate_scores(20_000, 12, seed=3)
    instance = build_instance(scores.astype(dtype), slots)
    claim = price(instance, threads=threads)
    assert certify(instance, claim).optimal
    assert np.array_equal(claim.choice, price(instance).choice)


def test_zero_slots_are_priced_at_the_worth_of_the_first() -> None:
    scores, slots = generate_scores(3000, 6, seed=1, fill=0.7)
    slots[2] = 0
    instance = build_instance(scores, slots)
    claim = price(instance)
    assert certify(instance, claim).optimal
    assert claim.prices is not None
    more = slots.copy()
    more[2] = 1
    larger = build_instance(scores, more)
    gain = value(larger, price(larger)) - value(instance, claim)
    assert claim.prices[2, 0] == pytest.approx(gain, abs=1e-7)


@pytest.mark.parametrize("fill", [0.7, 0.97, 1.3])
def test_prices_are_right_derivatives_on_sampled_instances(fill: float) -> None:
    scores, slots = generate_scores(6000, 8, seed=2, fill=fill)
    instance = build_instance(scores, slots)
    claim = price(instance)
    assert claim.prices is not None
    for j in range(8):
        more = slots.copy()
        more[j] += 1
        larger = build_instance(scores, more)
        gain = value(larger, price(larger)) - value(instance, claim)
        assert claim.prices[j, 0] == pytest.approx(gain, rel=1e-6, abs=1e-7), j


def test_warm_start_finds_the_same_optimum() -> None:
    scores, slots = generate_scores(30_000, 10, seed=4, fill=0.9)
    before = price(build_instance(scores, slots))
    rng = np.random.default_rng(4)
    changed = scores.copy()
    fresh = rng.random(30_000) < 0.05
    changed[fresh] = generate_scores(30_000, 10, seed=99)[0][fresh]
    instance = build_instance(changed, slots)
    cold, warm = price(instance), price(instance, hint=before)
    assert certify(instance, warm).optimal
    assert value(instance, warm) == pytest.approx(value(instance, cold), rel=1e-12)


def test_misleading_prices_do_no_harm() -> None:
    scores, slots = generate_scores(10_000, 10, seed=4, fill=0.9)
    instance = build_instance(scores, slots)
    wrong = Claim(choice=np.zeros(10_000, np.int64), prices=np.linspace(0, 500, 10)[:, None])
    assert certify(instance, price(instance, hint=wrong)).optimal


@dataclass
class ImpatientClock:
    """A clock that moves a second each time it is read."""

    seconds: float = 0.0

    def now(self) -> float:
        self.seconds += 1.0
        return self.seconds


@pytest.mark.parametrize("kind", ["uniform", "rank one", "four levels"])
@pytest.mark.parametrize("fill", [0.9, 1.0, 1.3])
def test_out_of_time_the_answer_is_feasible_and_bounded(kind: str, fill: float) -> None:
    rng = np.random.default_rng(8)
    n, m = 20_000, 15
    slots = slots_for(rng, n, m, fill, spread="even")
    instance = build_instance(scores_of(kind, rng, n, m), slots)
    deadline = Deadline.after(4000.0, clock=ImpatientClock())
    claim = load_engine("price").solve(instance, deadline=deadline)
    assert claim is not None
    certificate = certify(instance, claim)
    assert certificate.violations == ()
    assert np.isfinite(certificate.bound)
    assert (claim.choice != UNASSIGNED).sum() == min(n, int(slots.sum()))


def test_no_time_at_all_still_gives_a_bounded_answer() -> None:
    solver.warm_up("price")
    scores, slots = generate_scores(60_000, 40, seed=5, fill=0.95)
    solution = solver.assign(scores, slots, deadline_ms=5.0, engine="price")
    assert len(solution.unassigned) == 0
    assert solution.gap < 0.02


def test_prices_at_zero_leave_little_to_decide() -> None:
    rng = np.random.default_rng(9)
    instance = build_instance(rng.random((30_000, 20), np.float32), np.full(20, 30_000 // 16))
    claim = price(instance)
    assert certify(instance, claim).optimal
    assert claim.prices is not None
    assert not claim.prices.any()


seeds = st.integers(0, 2**32 - 1)


def medium(seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1200, 4000)), int(rng.integers(15, 30))
    fill = float(rng.choice([0.5, 0.95, 1.0]))
    return scores_of(str(rng.choice(KINDS)), rng, n, m), slots_for(rng, n, m, fill, spread="even")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seeds)
def test_permuting_agents_and_models_changes_nothing_that_matters(seed: int) -> None:
    scores, slots = medium(seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(scores)), rng.permutation(len(slots))
    first = build_instance(scores, slots)
    second = build_instance(scores[rows][:, columns], slots[columns])
    assert value(second, price(second)) == pytest.approx(value(first, price(first)), rel=1e-9)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seeds)
def test_adding_capacity_never_lowers_the_optimum(seed: int) -> None:
    scores, slots = medium(seed)
    first = build_instance(scores, slots)
    second = build_instance(scores, slots + 1)
    best = value(first, price(first))
    assert value(second, price(second)) >= best - 1e-9 * abs(best)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seeds, st.sampled_from([0.125, 3.0, 1e4]), st.floats(-5, 5))
def test_scaling_and_shifting_scores_do_the_same_to_the_optimum(
    seed: int, factor: float, shift: float
) -> None:
    scores, slots = medium(seed)
    first = build_instance(scores, slots)
    second = build_instance(scores * factor + shift, slots)
    claim = price(second)
    assert certify(second, claim).optimal
    expected = value(first, price(first)) * factor + shift * len(scores)
    size = factor * float(np.abs(scores).max(axis=1).sum()) + abs(shift) * len(scores)
    assert value(second, claim) == pytest.approx(expected, abs=1e-9 * size)


@pytest.mark.parametrize("seed", [2, 4, 7, 8, 26])
def test_rare_extreme_scores_do_not_pass_for_infeasible(seed: int) -> None:
    """A sample of the scores says nothing about the price of a model that only a few agents can have."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_cauchy((3_000, 5)) ** 3
    slots = np.array([1, 1, 3_000, 3_000, 3_000])
    claim = price(build_instance(scores, slots))
    assert not claim.infeasible
    assert certify(build_instance(scores, slots), claim).optimal


@pytest.mark.parametrize("seed", [5, 8, 44, 110])
def test_the_value_of_service_does_not_coarsen_costs(seed: int) -> None:
    """Extreme scores make leaving cost millions; what decides between models is far smaller and counts in full."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_cauchy((2_000, 20))
    scores[rng.random(scores.shape) < 0.5] = -np.inf
    instance = build_instance(scores, np.full(20, 110), load_cost=[0.1, 0.2, 0.45])
    assert certify(instance, price(instance)).optimal


def test_levels_of_float32_are_proven_without_another_engine() -> None:
    """Fifths in float32 are multiples of a tenth but for their rounding, which penalties in float64 do not share."""
    rng = np.random.default_rng(3)
    n, m, fill = 10_000, 20, 1.4
    scores = (rng.integers(0, 5, (n, m)) / np.float32(5)).astype(np.float32)
    priority = rng.integers(1, 4, n).astype(np.float64)
    slots = np.full(m, int(n / m / fill))
    instance = build_instance(scores, slots, priority=priority, unassigned_penalty=0.2)
    certificate = certify(instance, price(instance))
    assert certificate.violations == ()
    assert certificate.optimal, certificate.gap

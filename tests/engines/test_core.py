"""The core of a small instance, and the prices that prove a choice optimal or find it wanting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.clock import Deadline
from solver.engines.base import Claim, load_engine
from solver.engines.certificate import certify
from solver.engines.duals import minimal_prices, supporting_prices
from solver.engines.flow.core_arcs import solve_core
from solver.engines.flow.network import FINE_BITS, Network
from solver.problem.build import build_instance
from solver.problem.generate import generate_scores
from solver.problem.instance import UNASSIGNED, Instance
from tests.engines.test_price import KINDS, scores_of, slots_for, value

NO_LIMIT = Deadline.after(None)


def plain(instance: Instance) -> Claim:
    """The optimum by one flow on all arcs."""
    choice = Network.of(instance).solve(FINE_BITS)
    assert choice is not None
    return Claim(choice=choice, prices=minimal_prices(instance, choice))


@pytest.mark.parametrize("seed", range(10))
def test_the_core_of_a_generated_instance_holds_the_optimum(seed: int) -> None:
    instance = build_instance(*generate_scores(1000, 10, seed=seed))
    choice = solve_core(instance)
    assert choice is not None
    prices = supporting_prices(instance, choice)
    assert prices is not None
    assert certify(instance, Claim(choice=choice, prices=prices)).optimal
    assert prices == pytest.approx(minimal_prices(instance, plain(instance).choice), abs=1e-9)


@pytest.mark.parametrize("penalty", [None, 0.3, np.inf])
@pytest.mark.parametrize("fill", [0.35, 0.95, 1.0, 1.3])
@pytest.mark.parametrize("kind", KINDS)
def test_flow_is_exact_with_or_without_a_core(kind: str, fill: float, penalty: float | None) -> None:
    rng = np.random.default_rng(len(kind) + int(100 * fill))
    n, m = 900, 8
    slots = slots_for(rng, n, m, fill, spread="heavy")
    instance = build_instance(scores_of(kind, rng, n, m), slots, unassigned_penalty=penalty)
    claim = load_engine("flow").solve(instance, deadline=NO_LIMIT)
    assert claim is not None
    assert claim.infeasible == (penalty == np.inf and fill > 1)
    if not claim.infeasible:
        certificate = certify(instance, claim)
        assert certificate.optimal, (certificate.gap, certificate.violations)
        assert value(instance, claim) == pytest.approx(value(instance, plain(instance)), rel=1e-12, abs=1e-9)


def test_priorities_decide_who_is_left_out_of_a_core() -> None:
    scores, slots = generate_scores(1200, 8, seed=1, fill=1.2)
    instance = build_instance(scores, slots, priority=np.arange(1200) % 3)
    claim = load_engine("flow").solve(instance, deadline=NO_LIMIT)
    assert claim is not None
    assert certify(instance, claim).optimal
    left = np.bincount(np.arange(1200)[claim.choice == UNASSIGNED] % 3, minlength=3)
    assert left.sum() == 1200 - slots.sum()
    assert left.tolist() == [left.sum(), 0, 0]


@pytest.mark.parametrize(
    "instance",
    [
        build_instance(*generate_scores(100, 10, seed=0)),
        build_instance(np.random.default_rng(0).integers(0, 4, (1000, 8)), np.full(8, 150)),
        build_instance(np.ones((1000, 8)), np.full(8, 150)),
        build_instance(np.where(np.arange(8000).reshape(1000, 8) % 9, 1.0, -np.inf), np.full(8, 150)),
        build_instance(*generate_scores(1000, 8, seed=0, fill=1.2), unassigned_penalty=np.inf),
    ],
    ids=[
        "small sample",
        "four levels",
        "constant",
        "forbidden pairs",
        "too few slots for all who must be served",
    ],
)
def test_no_core_where_there_is_no_use_in_one(instance: Instance) -> None:
    assert solve_core(instance) is None


def test_prices_support_an_optimum_and_nothing_else() -> None:
    instance = build_instance([[9, 6], [8, 2], [7, 3]], [2, 1])
    supported = supporting_prices(instance, np.array([1, 0, 0]))
    assert supported is not None
    assert supported[:, 0].tolist() == [3, 0]
    assert supporting_prices(instance, np.array([0, 1, 0])) is None


def test_an_idle_slot_that_is_wanted_supports_nothing() -> None:
    instance = build_instance([[1.0, 0.0], [1.0, 0.0]], [2, 2])
    assert supporting_prices(instance, np.array([0, 0])) is not None
    assert supporting_prices(instance, np.array([0, 1])) is None


def test_an_agent_who_would_rather_leave_supports_nothing() -> None:
    """Agent 0 is served at a price that agent 1, left out, would pay and agent 0 would not."""
    instance = build_instance([[1.0], [5.0]], [1], unassigned_penalty=2.0)
    assert supporting_prices(instance, np.array([UNASSIGNED, 0])) is not None
    assert supporting_prices(instance, np.array([0, UNASSIGNED])) is None


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.sampled_from([None, 0.2]), st.booleans())
def test_support_agrees_with_the_certificate(seed: int, penalty: float | None, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    scores = rng.integers(0, 4, (n, m)).astype(np.float64) if whole else rng.random((n, m))
    scores[rng.random((n, m)) < 0.2] = -np.inf
    instance = build_instance(scores, rng.integers(0, n + 1, m), unassigned_penalty=penalty)
    claim = plain(instance)
    if rng.random() < 0.5:  # spoil it, where that stays feasible
        i, j = int(rng.integers(n)), int(rng.integers(m))
        spoilt = claim.choice.copy()
        spoilt[i] = j
        if np.isfinite(scores[i, j]) and (instance.usage(spoilt) <= instance.capacity).all():
            claim = Claim(choice=spoilt, prices=minimal_prices(instance, spoilt))
    supported = supporting_prices(instance, claim.choice)
    assert (supported is not None) == certify(instance, claim).optimal

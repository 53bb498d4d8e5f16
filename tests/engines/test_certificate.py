from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from solver.clock import Deadline
from solver.engines.base import Claim
from solver.engines.certificate import certify, relative_gap
from solver.engines.flow.engine import FlowEngine
from solver.engines.portfolio import run
from solver.errors import EngineError
from solver.problem.build import build_instance
from solver.problem.generate import generate_scores

if TYPE_CHECKING:
    from solver.problem.instance import Instance


@pytest.fixture
def instance() -> Instance:
    scores, capacity = generate_scores(30, 4, seed=4, fill=0.8)
    scores[0, 1:] = -np.inf
    return build_instance(scores, capacity)


@pytest.fixture
def claim(instance: Instance) -> Claim:
    claim = FlowEngine().solve(instance, deadline=Deadline.after(None))
    assert claim is not None
    return claim


def test_an_honest_claim_is_optimal(instance: Instance, claim: Claim) -> None:
    certificate = certify(instance, claim)
    assert certificate.optimal
    assert certificate.violations == ()
    assert certificate.gap <= 1e-9


def test_overload_is_found(instance: Instance, claim: Claim) -> None:
    everyone = np.where(np.arange(30) == 0, 0, 1).astype(np.int64)
    certificate = certify(instance, replace(claim, choice=everyone))
    assert not certificate.optimal
    assert any(line.startswith("load[1, 0]: expected <= ") for line in certificate.violations)


def test_a_forbidden_pair_is_found(instance: Instance, claim: Claim) -> None:
    choice = claim.choice.copy()
    choice[0] = 2
    certificate = certify(instance, replace(claim, choice=choice))
    assert "choice[0]: agent 0 is not eligible for model 2" in certificate.violations


@pytest.mark.parametrize("bad", [-2, 4, 99])
def test_a_choice_out_of_range_is_found(instance: Instance, claim: Claim, bad: int) -> None:
    choice = claim.choice.copy()
    choice[5] = bad
    certificate = certify(instance, replace(claim, choice=choice))
    assert certificate.violations == (f"choice[5]: expected -1 to 3, got {bad}",)
    assert not certificate.optimal


def test_a_choice_of_wrong_shape_or_type_is_found(instance: Instance, claim: Claim) -> None:
    assert certify(instance, replace(claim, choice=claim.choice[:5])).violations
    assert certify(instance, replace(claim, choice=claim.choice.astype(np.int32))).violations


def test_wrong_prices_prove_only_what_they_prove(instance: Instance, claim: Claim) -> None:
    assert claim.prices is not None
    off = certify(instance, replace(claim, prices=claim.prices + 0.1))
    assert not off.optimal
    assert off.bound > off.objective + 0.1
    for bad in (-claim.prices - 1.0, claim.prices * np.nan, claim.prices[:2], claim.prices + np.inf):
        assert certify(instance, replace(claim, prices=bad)).bound == np.inf


def test_a_worse_choice_is_not_optimal(instance: Instance, claim: Claim) -> None:
    choice = claim.choice.copy()
    first, second = np.flatnonzero(choice == 1)[0], np.flatnonzero(choice == 2)[0]
    choice[[first, second]] = choice[[second, first]]
    certificate = certify(instance, replace(claim, choice=choice))
    assert certificate.violations == ()
    assert certificate.objective < certify(instance, claim).objective
    assert not certificate.optimal


def test_a_claimed_bound_is_marked_as_claimed(instance: Instance, claim: Claim) -> None:
    objective = certify(instance, claim).objective
    certificate = certify(instance, Claim(choice=claim.choice, bound=objective))
    assert certificate.optimal
    assert certificate.bound_is_claimed
    assert not certify(instance, claim).bound_is_claimed


def test_agents_that_must_be_served_are_missed() -> None:
    instance = build_instance([[1.0], [2.0]], [2], unassigned_penalty=np.inf)
    certificate = certify(instance, Claim(choice=np.array([0, -1])))
    assert certificate.violations == ("choice[1]: agent 1 must be served",)


def test_a_lying_engine_is_reported_and_never_returned(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overload(*_: object, **__: object) -> Claim:
        return Claim(choice=np.zeros(30, np.int64))

    monkeypatch.setattr(FlowEngine, "solve", overload)
    with pytest.raises(EngineError, match=r"engine flow claimed .* load\[0, 0\]"):
        run(instance, deadline=Deadline.after(None), engine="flow")


def test_relative_gap() -> None:
    assert relative_gap(5.0, 5.0) == 0.0
    assert relative_gap(8.0, 10.0) == pytest.approx(0.2)
    assert relative_gap(-10.0, -8.0) == pytest.approx(0.2)
    assert relative_gap(1.0, np.inf) == np.inf


def test_resources_are_judged_with_their_demands() -> None:
    demand = np.array([[2.0, 1.0], [1.0, 3.0]])[:, :, None]
    instance = build_instance([[5.0, 4.0], [3.0, 2.0]], [[2.0], [3.0]], demand=demand)
    good = certify(instance, Claim(choice=np.array([0, 1]), prices=np.array([[0.5], [0.0]])))
    assert good.violations == ()
    assert good.load[:, 0].tolist() == [2.0, 3.0]
    # max(5-1, 4) + max(3-.5, 2) + 2·0.5 = 7.5 by hand, rounded down because every score is a whole number
    assert good.bound == 7.0
    assert certify(instance, Claim(choice=np.array([0, 0]))).violations

from __future__ import annotations

import pickle

import numpy as np
import pytest

import solver
from solver.engines.base import Claim
from solver.engines.certificate import certify
from solver.problem.build import build_instance
from solver.problem.instance import UNASSIGNED


def test_a_violation_is_data_and_reads_as_its_text() -> None:
    found = solver.Violation("agents[3].tokens", "expected >= 0", -5)
    assert found == "agents[3].tokens: expected >= 0, got -5"
    assert (found.path, found.rule, found.value, found.kind) == (
        "agents[3].tokens",
        "expected >= 0",
        -5,
        solver.ViolationKind.VALUE,
    )
    assert found.to_dict() == {
        "path": "agents[3].tokens",
        "rule": "expected >= 0",
        "kind": "value",
        "value": "-5",
        "message": "agents[3].tokens: expected >= 0, got -5",
    }


def test_violations_move_into_larger_things_and_between_processes() -> None:
    found = solver.Violation("tokens", "expected >= 0", -5, position=(3,)).within("agents[3]")
    assert found == "agents[3].tokens: expected >= 0, got -5"
    assert found.at("agents.csv:5: tokens").noted("; see the manual") == (
        "agents.csv:5: tokens: expected >= 0, got -5; see the manual"
    )
    again = pickle.loads(pickle.dumps(found))  # noqa: S301
    assert again == found
    assert (again.path, again.value, again.position) == (found.path, -5, (3,))


def test_none_is_a_value_and_no_value_is_none() -> None:
    assert solver.Violation("x", "expected text", None) == "x: expected text, got None"
    missing = solver.Violation("x", "required, but missing", kind=solver.ViolationKind.MISSING)
    assert missing.within("y") == "y.x: required, but missing"
    assert missing.to_dict()["value"] is None


def test_spec_errors_carry_data_whatever_raised_them() -> None:
    with pytest.raises(solver.SpecError) as caught:
        solver.Agent(id="a", input_tokens=-5)
    (found,) = caught.value.violations
    assert (found.path, found.rule, found.value) == ("input_tokens", "expected >= 0", -5)
    with pytest.raises(solver.SpecError) as caught:
        solver.assign(np.zeros(3), [1])
    assert [one.path for one in caught.value.violations] == ["scores"]
    with pytest.raises(solver.SpecError) as caught:
        solver.Agent(id="a", capabilites=())  # type: ignore[call-arg]
    assert caught.value.violations[0].kind is solver.ViolationKind.UNKNOWN
    (plain,) = solver.SpecError("anything").violations
    assert (plain.path, plain.rule) == ("", "anything")


def test_a_certificate_says_by_position_what_is_broken() -> None:
    instance = build_instance([[1.0, -np.inf], [1.0, 1.0], [1.0, 1.0]], [1, 1], unassigned_penalty=np.inf)
    broken = certify(instance, Claim(choice=np.array([1, 1, UNASSIGNED]))).violations
    kinds = solver.ViolationKind
    assert {(found.kind, found.position) for found in broken} == {
        (kinds.NOT_ELIGIBLE, (0, 1)),
        (kinds.OVER_CAPACITY, (1, 0)),
        (kinds.UNSERVED, (2,)),
    }

"""Values that are no values: arrays where one number goes, lists that contain themselves, durations, long doubles."""

from __future__ import annotations

import contextlib
import fractions
import inspect
from typing import Any

import numpy as np
import pytest

import solver
from solver.problem.agent_columns import agent_table
from solver.problem.agents import AgentTable

SCORES = [[1.0, 2.0], [3.0, 4.0]]
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


class Refusing:
    """An object whose array cannot be had."""

    def __array__(self, *arguments: object, **options: object) -> None:
        raise RuntimeError("no array")

    def __iter__(self) -> None:
        raise RuntimeError("no elements")


HOSTILE: dict[str, object] = {
    "text array": np.array(["a", "b"]),
    "whole array": np.array([2**64 - 1, 1], np.uint64),
    "no dimensions": np.array(3.0),
    "four dimensions": np.zeros((1, 1, 1, 1)),
    "records": np.zeros(2, [("a", float)]),
    "objects": np.array([None, 1], object),
    "masked": np.ma.array([1.0, 2.0], mask=[True, False]),
    "duration": np.timedelta64(3, "s"),
    "long double": np.longdouble("1e4000"),
    "half": np.float16(3),
    "fraction": fractions.Fraction(1, 3),
    "denormal": 1e-320,
    "large": np.array([1e308, 1e308]),
    "infinite": np.array([np.inf, np.inf]),
    "contains itself": ENDLESS,
    "refuses": Refusing(),
    "type": int,
}
BASE: dict[type, dict[str, Any]] = {
    solver.Budget: {"name": "l", "amount": 1.0, "cost": 1.0},
    solver.Quota: {"name": "l", "at_most": 1},
    solver.Share: {"name": "l", "models": [0], "at_most": 0.5},
    solver.Average: {"name": "l", "value": 1.0, "at_most": 1.0},
    solver.Apart: {"name": "l", "agents": [0, 1]},
    solver.Together: {"name": "l", "agents": [0, 1]},
    solver.Capacity: {"max_concurrent": 1},
    solver.Agent: {"id": "a"},
    solver.Model: {"id": "m", "capacity": solver.Capacity(max_concurrent=1)},
    solver.Problem: {
        "agents": [solver.Agent(id="a")],
        "models": [solver.Model(id="m", capacity=solver.Capacity(max_concurrent=1))],
    },
}


def _refused_or_taken(call: Any) -> None:
    with contextlib.suppress(solver.SpecError):
        call()


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_assign_names_what_is_wrong(kind: str) -> None:
    value = HOSTILE[kind]
    for name in inspect.signature(solver.assign).parameters:
        given: dict[str, Any] = {"scores": SCORES, "capacity": [1, 1], name: value}
        _refused_or_taken(lambda given=given: solver.assign(**given))


@pytest.mark.parametrize("kind", sorted(HOSTILE))
@pytest.mark.parametrize("cls", BASE, ids=lambda cls: cls.__name__)
def test_values_name_what_is_wrong(cls: type, kind: str) -> None:
    for name in inspect.signature(cls).parameters:
        given = {**BASE[cls], name: HOSTILE[kind]}
        if issubclass(cls, solver.Limit):
            _refused_or_taken(lambda given=given: solver.assign(SCORES, [1, 1], limits=[cls(**given)]))
        else:
            _refused_or_taken(lambda given=given: cls(**given))


def test_an_array_is_no_number_of_slots() -> None:
    with pytest.raises(solver.SpecError, match="max_queue"):
        solver.Capacity(max_concurrent=1, max_queue=np.array([1, 2]))
    with pytest.raises(solver.SpecError, match="agents: expected a sequence of agents"):
        AgentTable.from_agents(np.array(3.0))


@pytest.mark.parametrize("value", [np.longdouble("1e4000"), -np.longdouble("1e4000")])
def test_a_score_that_float64_cannot_hold_is_not_read_as_infinite(value: Any) -> None:
    with pytest.raises(solver.SpecError, match="scores"):
        solver.assign(np.array([[1.0, value]]), [1, 1])


def test_half_a_surrogate_pair_is_no_name() -> None:
    """No file and no terminal could show it."""
    limit = solver.Quota(name="a\ud800", at_most=1)
    with pytest.raises(
        solver.SpecError, match=r"limits\[0\] \(a\\ud800\)\.name: expected text, half a surrogate"
    ):
        solver.assign(SCORES, [1, 1], limits=[limit])


def test_a_priority_beyond_all_scores_is_refused() -> None:
    with pytest.raises(solver.SpecError, match="priority"):
        solver.Agent(id="a", priority=1e308)
    with pytest.raises(
        solver.SpecError, match=r"agents\[1\]\.priority: expected a finite number > 0, at most 1e\+100"
    ):
        agent_table({"id": ["a", "b"], "priority": [1.0, 1e308]})

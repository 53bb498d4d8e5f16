from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from solver import SpecError, assign
from solver.problem.build import build_instance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": [1.0, 2.0]}, r"scores: expected shape \(agents, models\), got shape \(2,\)"),
        ({"scores": np.zeros((0, 2))}, r"scores: expected at least one agent \(row\), got shape \(0, 2\)"),
        ({"scores": np.zeros((2, 0))}, r"scores: expected at least one model \(column\)"),
        (
            {"scores": [[1.0, np.nan], [2.0, 3.0]]},
            r"scores\[0, 1\]: expected a finite number or -inf, got nan",
        ),
        (
            {"scores": [[1.0, 1.0], [np.inf, 3.0]]},
            r"scores\[1, 0\]: expected a finite number or -inf, got inf",
        ),
        ({"scores": [["a", "b"]]}, r"scores: expected real numbers"),
        ({"scores": [[1.0], [2.0, 3.0]]}, r"scores: expected real numbers in a rectangular array"),
        ({"scores": [[1.0, 2.0j]]}, r"scores: expected real numbers, got complex numbers"),
        ({"capacity": [1]}, r"capacity: expected shape \(2,\) or \(2, resources\), got shape \(1,\)"),
        ({"capacity": [1, -3]}, r"capacity\[1\]: expected between 0 and 2\*\*53, got -3"),
        ({"capacity": [1, np.nan]}, r"capacity\[1\]: expected between 0 and 2\*\*53, got nan"),
        ({"capacity": [1e17, 1]}, r"capacity\[0\]: expected between 0 and 2\*\*53, got 1e\+17"),
        ({"capacity": [1.5, 1]}, r"capacity\[0\]: expected a whole number of slots, got 1.5"),
        ({"capacity": [[1, 1], [1, 1]]}, r"demand: expected one amount per resource, got None"),
        ({"demand": [1.0, -2.0]}, r"demand\[1\]: expected a finite number >= 0, got -2.0"),
        ({"demand": [1.0, 2.0, 3.0]}, r"demand: expected shape \(2,\), \(2, 2\) or \(2, 2, 1\)"),
        ({"eligible": [True, False]}, r"eligible: expected bools of shape \(2, 2\)"),
        ({"eligible": [[1, 0], [0, 1]]}, r"eligible: expected bools of shape \(2, 2\), got int64"),
        ({"priority": [1.0]}, r"priority: expected shape \(2,\), got shape \(1,\)"),
        ({"priority": [1.0, np.nan]}, r"priority\[1\]: expected a finite number, got nan"),
        ({"unassigned_penalty": -1.0}, r"unassigned_penalty\[0\]: expected >= 0, got -1.0"),
        (
            {"unassigned_penalty": 1.0, "priority": [1.0, -1.0]},
            r"priority\[1\]: expected >= 0 where it multiplies a penalty, got -1.0",
        ),
    ],
)
def test_bad_input_names_path_value_and_rule(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"scores": [[1.0, 2.0], [3.0, 4.0]], "capacity": [1, 1]} | arguments
    with pytest.raises(SpecError, match=message):
        assign(given.pop("scores"), given.pop("capacity"), **given)


def test_all_errors_come_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        assign([[1.0, np.nan]], [-1, 1], priority=[1.0, 2.0])
    assert len(caught.value.violations) == 3


def test_scores_are_not_copied() -> None:
    scores = np.zeros((4, 3), np.float32)
    assert np.shares_memory(build_instance(scores, [1, 1, 1]).score, scores)


def test_a_demand_of_ones_is_slots() -> None:
    assert build_instance([[1.0, 2.0]], [1, 1], demand=[1]).is_slots
    assert not build_instance([[1.0, 2.0]], [1, 1], demand=[2]).is_slots


def test_demand_is_a_view_whatever_its_shape() -> None:
    scores = np.zeros((4, 3))
    for demand, capacity in [
        (np.arange(4.0), np.ones(3)),
        (np.ones((4, 3)) * 2, np.ones(3)),
        (np.ones((4, 2)), np.ones((3, 2))),
        (np.ones((4, 3, 2)), np.ones((3, 2))),
    ]:
        instance = build_instance(scores, capacity, demand=demand)
        assert instance.demand is not None
        assert instance.demand.shape == (4, 3, instance.r)
        assert np.shares_memory(instance.demand, demand)


def test_zero_capacity_leaves_everyone_unassigned() -> None:
    solution = assign([[1.0, 2.0], [3.0, 4.0]], [0, 0])
    assert solution.choice.tolist() == [-1, -1]
    assert solution.objective == 0.0
    assert solution.status == "optimal"


def test_forbidden_pairs_are_known_however_they_came() -> None:
    scores = np.array([[1.0, 2.0], [3.0, 4.0]])
    masked = scores.copy()
    masked[0, 1] = -np.inf
    assert not build_instance(scores, [1, 1]).forbids
    assert build_instance(masked, [1, 1]).forbids
    assert build_instance(scores, [1, 1], eligible=np.isfinite(masked)).forbids
    assert not build_instance(scores, [1, 1], eligible=np.ones((2, 2), bool)).forbids


def test_a_priority_of_zero_leaves_an_infinite_penalty_infinite() -> None:
    instance = build_instance([[1.0], [1.0]], [1], priority=[0, 2], unassigned_penalty=[np.inf, 3.0])
    assert instance.penalty is not None
    assert instance.penalty.tolist() == [np.inf, 6.0]

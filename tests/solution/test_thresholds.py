"""What `explain` says would change an answer is true: the problem is changed that way and solved again."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import solver

KINDS = ("slots", "penalty", "priorities", "limits", "floors", "costs")


def drawn(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """Return the arguments of a random problem of up to five agents and three models."""
    n, m = int(rng.integers(2, 6)), int(rng.integers(2, 4))
    scores = np.where(rng.random((n, m)) < 0.15, -np.inf, np.round(rng.uniform(-3, 9, (n, m)), 2))
    if rng.random() < 0.5:
        scores = np.floor(scores)
    given: dict[str, Any] = {
        "agents": [{"id": f"a{i}", "priority": 1 + i % 3 * (kind == "priorities")} for i in range(n)],
        "models": [
            {"id": f"m{j}", "capacity": {"max_concurrent": int(rng.integers(1, 2 + n // 2))}}
            for j in range(m)
        ],
        "scores": [[None if np.isinf(x) else float(x) for x in row] for row in scores],
    }
    if kind == "penalty":
        given["objective"] = {"unassigned_penalty": 3.0}
    if kind == "costs":
        given["objective"] = {"sense": "minimize"}
    if kind == "floors":
        given["models"][0]["capacity"]["min_slots"] = 1
    if kind == "limits":
        soft = None if rng.random() < 0.5 else 1.5
        given["limits"] = [
            {"name": "q", "kind": "quota", "at_most_agents": 1, "models": ["m0"], "violation_price": soft},
            {"name": "apart", "kind": "apart", "agents": ["a0", "a1"]},
        ]
    return given


def model_with(given: dict[str, Any], row: int, model: int, more: float) -> int:
    """Return the model of an agent once it scores more on one of them, as scores are shown in the answer."""
    scores = [list(line) for line in given["scores"]]
    sign = -1.0 if given.get("objective", {}).get("sense") == "minimize" else 1.0
    scores[row][model] += sign * more / given["agents"][row]["priority"]
    plan = solver.solve(solver.Problem(**{**given, "scores": scores}))
    return int(plan.solution.choice[row])


def check(given: dict[str, Any]) -> None:
    """Assert what is said of every agent."""
    plan = solver.solve(solver.Problem(**given))
    if plan.status is not solver.Status.OPTIMAL:
        return
    for row in range(len(given["agents"])):
        change = solver.explain(plan, f"a{row}").change
        now = int(plan.solution.choice[row])
        others = [j for j, score in enumerate(given["scores"][row]) if score is not None and j != now]
        threshold = re.match(r"m(\d+) would win if it (?:scored|cost) (\S+) (?:more|less)", change)
        if threshold:
            model, more = int(threshold[1]), float(threshold[2])
            assert model_with(given, row, model, more * (1 + 1e-5) + 1e-3) == model, change
            assert model_with(given, row, model, more * (1 - 1e-5) - 1e-3) != model, change
        elif "no score alone" in change:
            assert all(model_with(given, row, model, 1e3) != model for model in others), change
        unit = re.search(r"one more unit on m(\d+)", change)
        if unit:
            models = [
                {
                    **one,
                    "capacity": {**one["capacity"], "max_concurrent": one["capacity"]["max_concurrent"] + 1},
                }
                if one["id"] == f"m{unit[1]}"
                else one
                for one in given["models"]
            ]
            again = solver.solve(solver.Problem(**{**given, "models": models}))
            assert again.solution.choice[row] >= 0, change


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_is_true(kind: str) -> None:
    for seed in range(8):
        check(drawn(np.random.default_rng([KINDS.index(kind), seed]), kind))


def test_a_model_that_has_no_room_takes_more_than_its_price() -> None:
    """The price of y is 0, but whoever has it has nowhere else to go."""
    given = {
        "agents": [{"id": "a"}, {"id": "b"}],
        "models": [
            {"id": "x", "capacity": {"max_concurrent": 1}},
            {"id": "y", "capacity": {"max_concurrent": 1}},
        ],
        "scores": [[9.0, 5.0], [None, 4.0]],
        "objective": {"unassigned_penalty": 0.0},
    }
    plan = solver.solve(solver.Problem(**given))
    assert plan.models[1].price == 0.0
    assert solver.explain(plan, "a").change == "y would win if it scored 8 more, or cost 8 less"


def test_where_it_is_not_solved_again_prices_are_a_lower_bound() -> None:
    rng = np.random.default_rng(0)
    problem = solver.Problem(
        agents=[{"id": f"a{i}", "copies": 1 + (i == 0)} for i in range(6)],
        models=[{"id": f"m{j}", "capacity": {"max_concurrent": 3}} for j in range(3)],
        scores=rng.integers(0, 10, (6, 3)).astype(float).tolist(),
    )
    change = solver.explain(solver.solve(problem), "a1").change
    assert re.fullmatch(
        r"m\d would have to score at least \S+ more; how much depends on who would have to move", change
    )

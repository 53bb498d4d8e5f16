"""Named resources: compiled, bound, reported, and refused where they make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import solver
from solver.interfaces.cli import main
from solver.problem.agent_columns import agent_table
from solver.problem.compile import compile_problem
from solver.solution.verification import verify_assignments

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "resources.yaml"


def document(taken: list[dict[str, float]], *has: dict[str, float], **facts: Any) -> dict[str, Any]:
    return {
        "agents": [
            {"id": f"a{i}", "input_tokens": 10 * i, "output_tokens": 1, "resources": resources}
            for i, resources in enumerate(taken)
        ],
        "models": [
            {"id": f"m{j}", "capacity": {"max_concurrent": 9}, "resources": resources}
            for j, resources in enumerate(has)
        ],
        "scores": [[10.0 - i - 5 * j for j in range(len(has))] for i in range(len(taken))],
        "objective": facts,
    }


def read(*given: Any, **facts: Any) -> solver.Problem:
    return solver.Problem.model_validate(document(*given, **facts))


def test_resources_become_columns_of_demand_and_capacity() -> None:
    instance = compile_problem(
        read([{"gb": 3.0}, {}, {"gb": 5.0, "disk": 2.0}], {"gb": 6.0}, {"disk": 4.0, "tokens": 20.0})
    )
    assert instance.capacity.tolist() == [[9.0, 6.0, 2.0, 33.0], [9.0, 8.0, 4.0, 20.0]]
    assert instance.demand is not None
    assert instance.demand[:, 0].tolist() == [[1, 3, 0, 1], [1, 0, 0, 11], [1, 5, 2, 21]]


def test_slots_given_per_pair_stand_beside_resources() -> None:
    given = document([{"gb": 3.0}, {}], {"gb": 6.0}, {}) | {"demand": [[1, 2], [3, 4]]}
    instance = compile_problem(solver.Problem.model_validate(given))
    assert instance.demand is not None
    assert instance.demand[:, :, 0].tolist() == [[1, 2], [3, 4]]
    assert instance.demand[:, :, 1].tolist() == [[3, 3], [0, 0]]


def test_without_resources_nothing_changes() -> None:
    assert compile_problem(read([{}, {}], {}, {})).is_slots


def test_use_price_and_reasons() -> None:
    plan = solver.solve(read([{"gb": 3.0}, {"gb": 3.0}, {"gb": 3.0}, {"gb": 50.0}], {"gb": 6.0}))
    assert [one.model_id for one in plan.assignments] == ["m0", "m0", None, None]
    (report,) = plan.resources
    assert (report.resource, report.model_id, report.used, report.capacity) == ("gb", "m0", 6.0, 6.0)
    assert report.utilization == 1.0
    # A third of the next agent, whose score is 8, would fit into one more unit.
    assert report.price == pytest.approx(8.0 / 3.0, rel=0.3)
    assert plan.scarce == [report]
    assert plan.reasons[2] == "capacity of m0 full"
    assert plan.reasons[3] == "asks for more gb than any eligible model has"
    assert plan.summary()["resources"][0]["resource"] == "gb"


def test_too_large_for_any_model_is_infeasible_where_all_must_be_served() -> None:
    plan = solver.solve(read([{"gb": 3.0}, {"gb": 50.0}], {"gb": 6.0}, unassigned_penalty=np.inf))
    assert plan.status is solver.Status.INFEASIBLE
    assert any("no model can take agent a1" in note for note in plan.solution.notes)


def test_a_conflict_names_the_resource() -> None:
    plan = solver.solve(read([{"gb": 4.0}] * 2, {"gb": 6.0}, unassigned_penalty=np.inf))
    assert plan.status is solver.Status.INFEASIBLE
    assert any("loosen gb of m0 by 2" in note for note in plan.solution.notes)


def test_verifying_names_the_resource() -> None:
    checked = verify_assignments(read([{"gb": 4.0}] * 2, {"gb": 6.0}), {"a0": "m0", "a1": "m0"})
    assert checked.violations == ("m0: load 8 exceeds its capacity of 6 gb",)


@pytest.mark.parametrize(
    ("taken", "has", "line"),
    [
        (
            {"bg": 1.0},
            {"gb": 1.0},
            "agents[1].resources.bg: expected a resource that some model has, got 'bg'",
        ),
        ({"gb": -1.0}, {"gb": 1.0}, "agents[1].resources.gb: expected >= 0, got -1"),
        ({"tokens": 1.0}, {"tokens": 1.0}, "agents[1].resources.tokens: expected another name"),
        ({}, {"gb": -1.0}, "models[0].resources.gb: expected >= 0, got -1"),
        ({}, {"gb": 1e300}, "models[0].resources.gb: expected <= 9007199254740992"),
        ({}, {"slots": 1.0}, "models[0].resources.slots: expected the slots of a batch as capacity.slots"),
    ],
)
def test_what_makes_no_sense_is_refused(taken: dict[str, float], has: dict[str, float], line: str) -> None:
    with pytest.raises(solver.SpecError) as caught:
        read([{}, taken], has)
    assert any(found.startswith(line) for found in caught.value.violations), caught.value.violations


def test_a_column_for_each_resource() -> None:
    table = agent_table({"id": ["a", "b"], "resources.gb": np.array([0.0, 2.5])})
    assert [agent.resources for agent in table] == [{}, {"gb": 2.5}]
    with pytest.raises(solver.SpecError, match=r"agents\[1\]\.resources\.gb: expected a finite number >= 0"):
        agent_table({"id": ["a", "b"], "resources.gb": np.array([0.0, -2.5])})
    with pytest.raises(solver.SpecError, match=r"one column for each, such as resources\.memory_gb"):
        agent_table({"id": ["a"], "resources": [{}]})


def test_problems_with_resources_survive_a_round_trip() -> None:
    problem = read([{"gb": 3.0}, {}], {"gb": 6.0, "tokens": 50.0})
    assert solver.Problem.model_validate(json.loads(problem.model_dump_json())) == problem


def test_the_report_prints_resources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", str(EXAMPLE)]) == 0
    printed = capsys.readouterr().out
    assert "memory_gb  large" in printed
    assert "on large, tokens, 100% used" in printed

# ruff: noqa: E501 - tables of cases
"""Whatever the API can say, a problem file can say: both lists are walked, and both answers are equal."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

import solver
from solver.interfaces.cli import main
from solver.interfaces.files.problem_file import read_problem
from solver.interfaces.generate import write_problem
from solver.problem import limit_kinds, limit_specs
from solver.problem.agents import AgentTable

if TYPE_CHECKING:
    from pathlib import Path

SCORES = np.array([[9.0, 4.0], [8.0, 7.0], [6.0, 5.0], [3.0, 2.0]])
CAPACITY = [2, 2]
HOW_TO_RUN = {"deadline_ms", "engine", "warm_start", "seed", "threads"}
"""What says how to solve, not what; options of the command line."""


def document(**changes: Any) -> dict[str, Any]:
    """A problem of the scores above; ``agents`` and ``models`` add fields to each, in order."""
    agents = changes.pop("agents", [{}] * 4)
    models = changes.pop("models", [{}] * 2)
    return {
        "agents": [{"id": f"a{i}", **extra} for i, extra in enumerate(agents)],
        "models": [
            {"id": f"m{j}", "capacity": {"max_concurrent": CAPACITY[j], **extra.pop("capacity", {})}, **extra}
            for j, extra in enumerate(dict(one) for one in models)
        ],
        "scores": SCORES.tolist(),
        **changes,
    }


def of_each(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scores": ({}, {}),
    "capacity": ({"models": [{"capacity": {"slots": 1}}, {}]}, {"capacity": [1, 2]}),
    "demand": ({"demand": [[2, 1], [2, 1], [1, 2], [1, 1]]}, {"demand": [[2, 1], [2, 1], [1, 2], [1, 1]]}),
    "demand of pairs": (
        {
            "models": [{"resources": {"gb": 3}}, {"resources": {"gb": 4, "hours": 1.5}}],
            "agents": of_each("resources", {"hours": 1}, {"hours": 0.5}, {"hours": 1}, {"hours": 0.25}),
            "demand": {"slots": 1, "gb": [[3, 1], [4, 2], [1, 1], [2, 2]]},
        },
        {
            "capacity": [[2, 3, 99], [2, 4, 1.5]],
            "demand": [
                [[1, gb, hours] for gb in row]
                for row, hours in zip([[3, 1], [4, 2], [1, 1], [2, 2]], [1, 0.5, 1, 0.25], strict=True)
            ],
        },
    ),
    "eligible": (
        {"scores": [[None, 4], [8, 7], [6, 5], [3, 2]]},
        {"eligible": [[False, True], [True, True], [True, True], [True, True]]},
    ),
    "priority": (
        {"agents": of_each("priority", 1, 3, 2, 1), "models": [{"capacity": {"slots": 1}}] * 2},
        {"scores": SCORES * [[1], [3], [2], [1]], "capacity": [1, 1], "priority": [1, 3, 2, 1]},
    ),
    "unassigned_penalty": (
        {"agents": of_each("unassigned_penalty", 0, 5, 9, 0), "models": [{"capacity": {"slots": 1}}] * 2},
        {"unassigned_penalty": [0, 5, 9, 0], "capacity": [1, 1]},
    ),
    "limits": (
        {"limits": [{"kind": "quota", "name": "q", "models": ["m0"], "at_most_agents": 1}]},
        {"limits": [solver.Quota(name="q", models=[0], at_most=1)]},
    ),
    "load_cost": (
        {"models": of_each("capacity", {"load_cost": [0, 6]}, {"load_cost": [1, 1]})},
        {"load_cost": [[0, 6], [1, 1]]},
    ),
    "min_load": ({"models": [{"capacity": {"slots": 4}}, {"capacity": {"min_slots": 1}}]}, {"capacity": [4, 2], "min_load": [0, 1]}),
    "min_load_if_open": (
        {"models": [{"capacity": {"slots": 4}}, {"capacity": {"min_slots_if_open": 2}}]},
        {"capacity": [4, 2], "min_load_if_open": [0, 2]},
    ),
    "opening_cost": (
        {"models": [{"capacity": {"slots": 4}}, {"capacity": {"opening_cost": 50}}], "objective": {"unassigned_penalty": 1}},
        {"capacity": [4, 2], "opening_cost": [0, 50], "unassigned_penalty": 1},
    ),
    "copies": ({"agents": of_each("copies", 2, 1, 1, 1)}, {"copies": [2, 1, 1, 1]}),
    "count": ({"agents": of_each("count", 2, 1, 1, 1)}, {"count": [2, 1, 1, 1]}),
    "sense": ({"objective": {"sense": "minimize"}}, {"sense": "minimize"}),
}  # fmt: skip
"""Each parameter of ``assign`` as a file says it, and as arrays."""


def test_every_parameter_of_assign_has_a_place() -> None:
    assert {name.partition(" ")[0] for name in WAYS} | HOW_TO_RUN == set(
        inspect.signature(solver.assign).parameters
    )


@pytest.mark.parametrize("name", WAYS)
def test_a_file_and_arrays_have_the_same_optimum(tmp_path: Path, name: str) -> None:
    in_file, in_arrays = WAYS[name]
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(document(**in_file)))
    plan = solver.solve(read_problem(path))
    arguments = {"scores": SCORES, "capacity": CAPACITY, **in_arrays}
    solution = solver.assign(**arguments)
    assert plan.status is solution.status is solver.Status.OPTIMAL
    assert plan.objective == pytest.approx(solution.objective)
    if name not in {"scores", "limits"}:
        assert plan.objective != solver.assign(SCORES, CAPACITY).objective  # it makes a difference


HOURS = [3.0, 1.0, 2.0, 2.0]
TOKENS = {"input_tokens": 100, "output_tokens": 10}
TAKING_HOURS = [{"resources": {"hours": one}, **TOKENS} for one in HOURS]
PRICED = {
    "usd_per_million_input_tokens": 1.0,
    "usd_per_million_output_tokens": 1.0,
    "latency_s": 1.0,
    "output_tokens_per_second": 10.0,
}
LIMITS: dict[str, list[tuple[dict[str, Any], solver.Limit]]] = {
    "budget": [
        (
            {"resource": "hours", "at_most": 4},
            solver.Budget(name="l", amount=4, cost=np.array(HOURS)[:, None]),
        ),
        ({"at_most_usd": 0.00025}, solver.Budget(name="l", amount=0.00025, cost=110e-6)),
    ],
    "quota": [
        (
            {"resource": "hours", "models": ["m0"], "at_most": 3, "at_least": 2},
            solver.Quota(name="l", models=[0], at_most=3, at_least=2, use=np.array(HOURS)[:, None]),
        ),
        (
            {"resource": "demand", "models": ["m1"], "at_most": 1},
            solver.Quota(name="l", models=[1], at_most=1),
        ),
    ],
    "share": [
        (
            {"of": "hours", "models": ["m0"], "at_most_share": 0.4},
            solver.Share(name="l", models=[0], at_most=0.4, use=np.array(HOURS)[:, None]),
        )
    ],
    "commitment": [
        (
            {"resource": "hours", "models": ["m1"], "at_least": 5},
            solver.Commitment(name="l", models=[1], at_least=5, use=np.array(HOURS)[:, None]),
        )
    ],
    "average": [
        (
            {"resource": "hours", "models": ["m0"], "at_most": 1.5},
            solver.Average(name="l", models=[0], at_most=1.5, value=np.array(HOURS)[:, None]),
        )
    ],
    "together": [({"agents": ["a0", "a3"]}, solver.Together(name="l", agents=[0, 3]))],
    "apart": [({"agents": ["a0", "a1"]}, solver.Apart(name="l", agents=[0, 1]))],
    "changes": [
        (
            {"previous": {"a0": "m1", "a1": "m1"}, "at_most_agents": 0},
            solver.Changes(name="l", previous=[1, 1, -1, -1], at_most=0),
        )
    ],
    "stay_put": [
        (
            {"previous": {"a0": "m1", "a1": "m1"}, "cost_per_move": 4},
            solver.StayPut(name="l", previous=[1, 1, -1, -1], cost=4),
        )
    ],
}


def leaves(kind: type) -> set[type]:
    """Return the classes that a class is refined to."""
    below: list[type] = kind.__subclasses__()
    return {leaf for one in below for leaf in leaves(one) or {one}}


def test_every_limit_has_a_kind() -> None:
    specs: list[Any] = list(leaves(limit_specs.LimitSpec))
    said = {type(limit) for ways in LIMITS.values() for _, limit in ways}
    assert {str(spec.model_fields["kind"].default) for spec in specs} == set(LIMITS)
    assert said == leaves(limit_kinds.Limit)
    priced = {spec for spec in specs if "violation_price" in spec.model_fields}
    softened = {limit for limit in leaves(limit_kinds.Limit) if issubclass(limit, limit_kinds.RowLimit)}
    assert {one.__name__.removesuffix("Spec") for one in priced} == {one.__name__ for one in softened}


SOFT_LIMITS = [
    (kind, ({**words, "violation_price": 0.75}, replace(limit, violation_price=0.75)))
    for kind, ways in LIMITS.items()
    for words, limit in ways
    if isinstance(limit, limit_kinds.RowLimit)
]


@pytest.mark.parametrize(
    ("kind", "way"), [*((kind, way) for kind, ways in LIMITS.items() for way in ways), *SOFT_LIMITS]
)
def test_a_limit_in_words_is_that_in_arrays(
    tmp_path: Path, kind: str, way: tuple[dict[str, Any], solver.Limit]
) -> None:
    words, limit = way
    path = tmp_path / "p.yaml"
    counts_hours = "hours" in words.values()
    asked = document(
        agents=TAKING_HOURS if counts_hours else [TOKENS] * 4,
        models=[PRICED, PRICED],
        limits=[{"kind": kind, "name": "l", **words}],
        objective={"unassigned_penalty": 0},
    )
    path.write_text(yaml.safe_dump(asked))
    plan = solver.solve(read_problem(path))
    solution = solver.assign(SCORES, CAPACITY, limits=[limit], unassigned_penalty=0)
    assert plan.objective == pytest.approx(solution.objective)
    assert main(["solve", str(path), "-o", str(tmp_path / "o.json")]) == 0
    assert main(["verify", str(path), str(tmp_path / "o.json"), "-q"]) == 0


WRONG = {
    "resource that nobody takes": (
        {"kind": "quota", "name": "l", "resource": "houres", "at_most": 1},
        "limits[0].resource: expected a resource that an agent it concerns takes, got 'houres'; did you mean 'hours'?",
    ),
    "share of nothing": (
        {"kind": "share", "name": "l", "of": "people", "at_most_share": 0.5},
        "limits[0].of: expected a resource that an agent it concerns takes, got 'people'",
    ),
    "amount without resource": (
        {"kind": "quota", "name": "l", "at_most": 1},
        "limits[0].at_most: expected a resource beside it, or the unit in the name of the field",
    ),
    "resource without amount": (
        {"kind": "budget", "name": "l", "resource": "hours"},
        "limits[0].resource: expected at_most or at_least beside it, got neither",
    ),
    "two units": (
        {"kind": "quota", "name": "l", "resource": "hours", "at_most": 1, "at_least_agents": 1},
        "expected amounts in one unit",
    ),
    "nothing": ({"kind": "budget", "name": "l"}, "limits[0].at_most_usd: required, but missing"),
}


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (
            {"gbb": 1},
            "demand.gbb: expected slots or a resource that some model has, got 'gbb'; did you mean 'gb'?",
        ),
        ({"gb": [1, 2]}, "demand.gb: expected shape (4,) or (4, 2), got shape (2,)"),
        (
            {"gb": [[1, 1], [1, -2], [1, 1], [1, 1]]},
            "demand.gb[1, 1]: expected a finite number >= 0, got -2.0",
        ),
        ({"gb": "3"}, "demand.gb: expected numbers, one per agent or per agent and model, got '3'"),
        ({"gb": -1}, "demand.gb: expected a finite number >= 0, got -1.0"),
        ({}, "demand: expected slots or resources by name, got none"),
        ({"tokens": 3}, "demand.tokens: expected another name, as these are counted from input_tokens"),
        ({"hours": 3}, "demand.hours: expected none, since agents say what they take in resources"),
        ({1: 3}, "demand: expected names of resources, got 1"),
        ({"gb": [[1, 2], [3]]}, "demand.gb: expected numbers, one per agent or per agent and model"),
    ],
)
def test_a_wrong_demand_is_named(
    tmp_path: Path, demand: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models = of_each("resources", {"gb": 5, "hours": 9}, {})
    asked = document(models=models, agents=of_each("resources", {"hours": 1}, {}, {}, {}), demand=demand)
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(asked))
    assert main(["solve", str(tmp_path / "p.yaml")]) == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert expected in errors
    assert "p.yaml:" in errors


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_limit_is_named(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = WRONG[name]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document(agents=TAKING_HOURS, limits=[words])))
    assert main(["solve", str(tmp_path / "p.yaml")]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_what_a_soft_limit_costs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quota = {"kind": "quota", "name": "[red]q", "models": ["m0"], "at_most_agents": 0, "violation_price": 1.5}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document(limits=[quota])))
    assert main(["solve", str(tmp_path / "p.yaml")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "'[red]q' is exceeded: 3 taken off the total" in said
    assert "less the price of exceeded limits" in said
    assert main(["solve", str(tmp_path / "p.yaml"), "--json"]) == 0
    (limit,) = json.loads(capsys.readouterr().out)["limits"]
    assert (limit["used"], limit["violation_price"], limit["charge"]) == (2, 1.5, 3)


def test_penalties_of_agents_are_checked_and_survive_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text(
        yaml.safe_dump(document(agents=of_each("unassigned_penalty", 1, None, 2, 3)))
    )
    assert main(["solve", str(tmp_path / "p.yaml")]) == 2
    assert "agents[1].unassigned_penalty: required where other agents have one" in capsys.readouterr().err
    agents = [
        solver.Agent(id="a", unassigned_penalty=2.5, copies=2),
        solver.Agent(id="b", unassigned_penalty=0.5, count=3),
    ]
    models = [solver.Model(id=name, capacity=solver.Capacity(max_concurrent=3)) for name in "xy"]
    problem = solver.Problem(agents=agents, models=models)
    for table in ("csv", "parquet"):
        assert read_problem(write_problem(problem, tmp_path / table, table=table)[0]).agents == problem.agents
    infinite = problem.model_copy(
        update={"agents": AgentTable.from_agents([solver.Agent(id="a", unassigned_penalty=np.inf)])}
    )
    with pytest.raises(solver.SpecError, match="unassigned_penalty: expected finite numbers in a table"):
        write_problem(infinite, tmp_path / "infinite")
    plain = infinite.model_dump(mode="json", exclude_defaults=True)
    assert solver.Problem.model_validate(plain).agents == infinite.agents
    plain = problem.model_dump(mode="json", exclude_defaults=True)
    assert solver.Problem.model_validate(plain).agents == problem.agents


def test_tiers_of_load_costs_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = of_each("capacity", {"load_cost": [1, 2, 3]}, {"load_cost": [2, 1]})
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document(models=models)))
    assert main(["solve", str(tmp_path / "p.yaml")]) == 2
    errors = capsys.readouterr().err
    assert "models[1].capacity.load_cost: expected 3 tiers as in models[0], got 2" in errors
    assert "models[1].capacity.load_cost: expected costs that do not fall, got [2.0, 1.0]" in errors

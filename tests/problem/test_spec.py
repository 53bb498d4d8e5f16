"""The values a user writes: their rules, their errors, and that they survive being written down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.errors import SpecError
from solver.problem.agent_columns import agent_table
from solver.problem.agents import Agent, AgentTable
from solver.problem.column_values import Coded
from solver.problem.spec import Capacity, Model, Objective, Problem

ONE = {"id": "x", "capacity": {"max_concurrent": 1}}


def test_capacity_of_a_batch() -> None:
    assert Capacity(max_concurrent=10, max_queue=5, target_utilization=0.8).batch_slots == 10
    assert Capacity(max_concurrent=10, slots=200).batch_slots == 200
    assert Capacity(max_concurrent=0).batch_slots == 0


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ({"max_concurrent": -1}, "max_concurrent: expected >= 0, got -1"),
        ({"max_concurrent": 1.5}, "max_concurrent: expected a whole number, got 1.5"),
        ({"max_concurrent": True}, "max_concurrent: expected a whole number, got True"),
        ({"max_concurrent": 2**53 + 1}, "max_concurrent: expected <= 9007199254740992"),
        ({"max_concurrent": math.inf}, "max_concurrent: expected a whole number, got inf"),
        ({"max_concurrent": 1, "target_utilization": 0}, "target_utilization: expected > 0, got 0"),
        ({"max_concurrent": 1, "target_utilization": 1.1}, "target_utilization: expected <= 1, got 1.1"),
        ({"max_concurrent": 1, "max_queu": 1}, "max_queu: unknown field; did you mean 'max_queue'"),
        ({}, "max_concurrent: required, but missing"),
    ],
)
def test_capacity_refuses(bad: dict[str, Any], rule: str) -> None:
    with pytest.raises(SpecError) as caught:
        Capacity(**bad)
    assert rule in str(caught.value)


def test_numpy_numbers_and_whole_floats_are_numbers() -> None:
    capacity = Capacity(max_concurrent=np.int64(3), max_queue=4.0, target_utilization=np.float32(0.5))
    assert capacity == Capacity(max_concurrent=3, max_queue=4, target_utilization=0.5)
    assert Agent(id=np.int32(7)).id == Agent(id=7).id == "7"


@pytest.mark.parametrize("written", [math.inf, ".inf", "infinite", "Infinity", " INF "])
def test_infinite_penalties_can_be_written(written: Any) -> None:
    objective = Objective(unassigned_penalty=written)
    assert objective.unassigned_penalty == math.inf
    assert Objective.model_validate(objective.model_dump(mode="json")) == objective
    assert '"infinite"' in objective.model_dump_json()


@pytest.mark.parametrize("bad", [math.nan, -1.0, "a lot", True])
def test_penalties_that_make_no_sense_are_refused(bad: Any) -> None:
    with pytest.raises(SpecError, match="unassigned_penalty"):
        Objective(unassigned_penalty=bad)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("load_weight", -0.1),
        ("load_weight", 1.1),
        ("load_weight", math.nan),
        ("cost_weight", -1.0),
        ("latency_weight", math.inf),
        ("min_score", math.nan),
        ("quality", "capabilty"),
    ],
)
def test_objectives_refuse(field: str, bad: Any) -> None:
    with pytest.raises(SpecError, match=field):
        Objective(**{field: bad})


def test_values_cannot_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Capacity(max_concurrent=1).max_concurrent = 2  # type: ignore[misc]


def test_weighing_cost_or_latency_needs_the_facts() -> None:
    with pytest.raises(SpecError) as caught:
        Problem(agents=[{"id": "a"}], models=[ONE], objective={"cost_weight": 1, "latency_weight": 1})
    assert [line.split(":")[0] for line in caught.value.violations] == [
        "models[0].usd_per_million_input_tokens",
        "models[0].usd_per_million_output_tokens",
        "models[0].latency_s",
        "models[0].output_tokens_per_second",
    ]


@pytest.mark.parametrize(
    ("extra", "rule"),
    [
        ({"objective": {"quality": "given"}}, "scores: required where objective.quality is 'given'"),
        ({"demand": [1.0, 2.0]}, "demand: expected shape (1,) or (1, 1), got shape (2,)"),
        ({"demand": [-1.0]}, "demand[0]: expected a finite number >= 0, got -1.0"),
        ({"demand": ["x"]}, "demand: expected numbers"),
        ({"scores": {"agents": ["a"], "values": [[1.0]], "modles": []}}, "scores.modles: unknown field"),
        ({"scores": {"agents": ["a", "a"], "values": [[1.0], [2.0]]}}, "expected unique ids, got 'a' again"),
        ({"scores": [{"agent": "a", "model": "x"}]}, "scores[0].score: required, but missing"),
        ({"scores": [{"agent": "a", "model": "x", "score": "1"}]}, "scores[0].score: expected a number"),
        ({"scores": [[True]]}, "scores: expected a rectangular matrix"),
        ({"scores": [1.0]}, "scores: expected shape (agents, models)"),
        ({"task_types": {"query": ["cooding"]}}, "task_types.query: expected a capability"),
    ],
)
def test_parts_that_do_not_fit_are_refused(extra: dict[str, Any], rule: str) -> None:
    with pytest.raises(SpecError) as caught:
        Problem(agents=[{"id": "a"}], models=[ONE], **extra)
    assert rule in str(caught.value)


@pytest.mark.parametrize("agents", [None, "a", 3, {"id": "a"}])
def test_agents_that_are_no_list_are_refused(agents: Any) -> None:
    with pytest.raises(SpecError, match="agents: expected a list of agents"):
        Problem(agents=agents, models=[ONE])


def test_a_region_nobody_serves_is_a_fact_and_a_near_miss_a_typo() -> None:
    model = Model(id="x", capacity=Capacity(max_concurrent=1), region="eu-west")
    Problem(agents=[{"id": "a", "allowed_regions": ["mars"]}], models=[model])
    with pytest.raises(SpecError, match="did you mean 'eu-west'"):
        Problem(agents=[{"id": "a", "allowed_regions": ["eu-wset"]}], models=[model])


NAMES = st.lists(st.sampled_from(["coding", "math", "vision"]), max_size=3, unique=True)
AGENT = st.fixed_dictionaries(
    {
        "task_type": st.none() | st.sampled_from(["coding", "math"]),
        "required_capabilities": st.none() | NAMES,
        "preferred_capabilities": NAMES,
        "min_context_tokens": st.integers(0, 2**53),
        "requires_tools": st.booleans(),
        "allowed_models": st.none() | st.just(["x"]),
        "priority": st.floats(0.01, 1e6),
        "min_score": st.none() | st.floats(-10, 10),
        "tenant": st.none() | st.sampled_from(["t", "u"]),
    }
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(facts=st.lists(AGENT, min_size=1, max_size=8))
def test_agents_as_objects_mappings_and_columns_are_the_same(facts: list[dict[str, Any]]) -> None:
    rows = [{"id": f"a{i}", **fact} for i, fact in enumerate(facts)]
    agents = [Agent(**row) for row in rows]
    table = AgentTable.from_agents(agents)
    assert list(table) == agents
    assert AgentTable.from_agents(rows) == table
    assert agent_table({name: [row[name] for row in rows] for name in rows[0]}) == table
    problem = Problem(agents=rows, models=[ONE])
    assert Problem.model_validate(problem.model_dump(mode="json")) == problem


def test_columns_of_every_kind() -> None:
    table = agent_table(
        {
            "id": np.arange(3),
            "task_type": Coded(np.array([0, -1, 0]), ["math"]),
            "requires_tools": np.ma.array([True, True, False], mask=[False, True, False]),
            "priority": np.ma.array([2.0, 0.0, 1.5], mask=[False, True, False]),
            "allowed_models": ["x; y", None, ["x", "y"]],
            "input_tokens": np.array([1.0, 2.0, 3.0]),
        }
    )
    assert list(table) == [
        Agent(
            id="0",
            task_type="math",
            requires_tools=True,
            priority=2.0,
            allowed_models=("x", "y"),
            input_tokens=1,
        ),
        Agent(id="1", input_tokens=2),
        Agent(id="2", task_type="math", priority=1.5, allowed_models=("x", "y"), input_tokens=3),
    ]
    assert table[1:] == [table[1], table[2]]
    assert table.positions == {"0": 0, "1": 1, "2": 2}


def test_columns_refuse() -> None:
    with pytest.raises(SpecError) as caught:
        agent_table(
            {
                "id": ["a", "a", None, "", 1.5],
                "priority": [1, "x", math.nan, 0, True],
                "input_tokens": [1, 2, 3, 4, 2.0**60],
                "requires_vision": [True, "yes", 0, "maybe", 2],
                "tenant": [None, "t", 3, "", "u"],
                "allowed_models": ["a|b", [], {"x": 1}, [["y"]], "a;"],
            }
        )
    assert list(caught.value.violations) == [
        "agents[2].id: required, but missing",
        "agents[3].id: required, but missing",
        "agents[4].id: expected text, got 1.5",
        "agents[1].id: expected unique ids, got 'a' again, first at agents[0]",
        "agents[4].input_tokens: expected a whole number from 0 to 2**53, got 1.152921504606847e+18",
        "agents[1].priority: expected a number, got 'x'",
        "agents[4].priority: expected a number, got True",
        "agents[2].priority: expected a finite number > 0, got nan",
        "agents[3].priority: expected a finite number > 0, got 0",
        "agents[2].tenant: expected text, got 3",
        "agents[3].requires_vision: expected true or false, got 'maybe'",
        "agents[4].requires_vision: expected true or false, got 2",
        "agents[2].allowed_models: expected a list of names, or names separated by ';', got {'x': 1}",
        "agents[3].allowed_models: expected a list of names, or names separated by ';', got (['y'],)",
        "agents[4].allowed_models: expected a list of names, or names separated by ';', got 'a;'",
    ]
    with pytest.raises(SpecError, match=r"agents\.priority: expected 2 values"):
        agent_table({"id": ["a", "b"], "priority": [1.0]})


def test_many_distinct_profiles_are_kept_apart() -> None:
    n = 3000
    columns = {
        "id": [f"a{i}" for i in range(n)],
        "tenant": [f"t{i % 7}" for i in range(n)],
        "task_type": [("math", "coding", None)[i % 3] for i in range(n)],
        "allowed_models": [f"m{i % 97}" for i in range(n)],
        "forbidden_models": [f"m{i % 89}" for i in range(n)],
        "allowed_regions": [f"r{i % 83}" for i in range(n)],
    }
    table = agent_table(columns)
    for i in (0, 1, 1234, 2999):
        assert table[i].allowed_models == (f"m{i % 97}",)
        assert table[i].forbidden_models == (f"m{i % 89}",)
        assert table[i].allowed_regions == (f"r{i % 83}",)
        assert table[i].tenant == f"t{i % 7}"

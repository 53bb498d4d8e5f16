"""Scores against the worked examples, and against the formula written out pair by pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.errors import SpecError
from solver.problem.capability import CAPABILITIES, TASK_TYPES
from solver.problem.compile import compile_problem, pair_scorer, remaining_slots
from solver.problem.score_formulas import (
    AdaptiveWeights,
    Feedback,
    adaptive_score,
    capability_score,
    load_factor,
)
from solver.problem.spec import Agent, Capacity, Model, Objective, Problem


@dataclass(frozen=True)
class Load:
    active_requests: int = 0
    queue_depth: int = 0
    utilization: float = 0.0


def model(name: str = "m", slots: int = 1, **facts: Any) -> Model:
    return Model(id=name, capacity=Capacity(max_concurrent=slots), **facts)


def score_of(agent: Agent, by: Model, **objective: Any) -> float:
    problem = Problem(agents=[agent], models=[by], objective=Objective(**objective))
    return float(compile_problem(problem).score[0, 0])


def test_worked_example_of_a_missing_capability() -> None:
    agent = Agent(id="a", required_capabilities=("coding", "math"))
    assert score_of(agent, model(capabilities={"coding": 0.8}, context_tokens=8192)) == pytest.approx(58.0)


def test_worked_example_of_half_the_context() -> None:
    agent = Agent(id="a", required_capabilities=("coding",), min_context_tokens=8192)
    by = model(capabilities={"coding": 1.0}, context_tokens=4096)
    assert score_of(agent, by) == pytest.approx(95.0)


def test_worked_example_of_load() -> None:
    assert 90.0 * load_factor(0.6, 0.3) == pytest.approx(73.8)
    problem = Problem(agents=[{"id": "a"}], models=[model()], scores=[[90.0]])
    instance = compile_problem(problem, load={"m": Load(utilization=0.6)})
    assert instance.score[0, 0] == pytest.approx(73.8)


@pytest.mark.parametrize("busy", [-0.1, 1.5, math.nan])
def test_utilization_outside_its_range_is_refused(busy: float) -> None:
    with pytest.raises(SpecError, match="utilization: expected between 0 and 1"):
        load_factor(busy, 0.3)
    problem = Problem(agents=[{"id": "a"}], models=[model()])
    with pytest.raises(SpecError, match=r"load\.m\.utilization"):
        compile_problem(problem, load={"m": Load(utilization=busy)})


def test_every_task_type_needs_known_capabilities() -> None:
    assert {name for needed in TASK_TYPES.values() for name in needed} <= set(CAPABILITIES)


def test_task_types_bring_their_capabilities_and_the_users_own_come_first() -> None:
    by = model(capabilities={"coding": 1.0, "sql": 0.5})
    assert score_of(Agent(id="a", task_type="coding"), by) == pytest.approx(100.0)
    assert score_of(Agent(id="a", task_type="math"), by) == pytest.approx(30.0)
    assert score_of(Agent(id="a", task_type="math", required_capabilities=()), by) == pytest.approx(100.0)
    problem = Problem(agents=[Agent(id="a", task_type="query")], models=[by], task_types={"query": ["sql"]})
    assert compile_problem(problem).score[0, 0] == pytest.approx(65.0)


def test_cost_latency_and_priority() -> None:
    agent = Agent(id="a", input_tokens=2_000_000, output_tokens=500_000, priority=2.0)
    by = model(
        usd_per_million_input_tokens=3.0,
        usd_per_million_output_tokens=10.0,
        latency_s=0.5,
        output_tokens_per_second=50_000.0,
    )
    assert score_of(agent, by, cost_weight=2.0, latency_weight=0.1) == pytest.approx(2 * (100 - 22 - 1.05))


def test_adaptive_score_waits_for_ten_requests_then_counts_success_and_latency() -> None:
    feedback = Feedback(
        requests=np.array([9.0, 10.0, 10.0, 10.0]),
        success_rate=np.array([0.0, 1.0, 0.8, 1.0]),
        latency_ms=np.array([9e9, 250.0, 0.0, 600.0]),
    )
    expected = [80.0, 48 + 25 + 0.15 * 75, 0.5 * (48 + 20 + 15), 0.8 * (48 + 25 + 0.15 * 40)]
    assert adaptive_score(np.full(4, 80.0), feedback) == pytest.approx(expected)
    problem = Problem(agents=[{"id": "a"}], models=[model(f"m{j}") for j in range(4)])
    assert compile_problem(problem, feedback=feedback).score[0] == pytest.approx(
        adaptive_score(np.full(4, 100.0), feedback)
    )


@pytest.mark.parametrize("bad", [{"latency": -1.0}, {"acceptable_latency_ms": 0.0}, {"capability": math.nan}])
def test_adaptive_weights_refuse_nonsense(bad: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(bad))):
        AdaptiveWeights(**bad)


@pytest.mark.parametrize(
    ("agent", "facts", "allowed"),
    [
        ({"requires_tools": True}, {}, False),
        ({"requires_tools": True}, {"supports_tools": True}, True),
        ({"requires_vision": True}, {}, False),
        ({"requires_vision": True}, {"supports_vision": True}, True),
        ({"requires_context": True, "min_context_tokens": 10}, {}, False),
        ({"requires_context": True, "min_context_tokens": 10}, {"context_tokens": 9}, False),
        ({"requires_context": True, "min_context_tokens": 10}, {"context_tokens": 10}, True),
        ({"requires_context": True}, {}, True),
        ({"allowed_models": ["m"]}, {}, True),
        ({"allowed_models": []}, {}, False),
        ({"forbidden_models": ["m"]}, {}, False),
        ({"allowed_regions": ["eu"]}, {}, False),
        ({"allowed_regions": ["eu"]}, {"region": "us"}, False),
        ({"allowed_regions": ["eu", "us"]}, {"region": "us"}, True),
        ({"allowed_providers": ["ours"]}, {"provider": "theirs"}, False),
        ({"allowed_providers": ["ours"]}, {"provider": "ours"}, True),
        ({"min_score": 100.0}, {}, True),
        ({"min_score": 100.1}, {}, False),
    ],
)
def test_hard_requirements_decide_eligibility(
    agent: dict[str, Any], facts: dict[str, Any], allowed: bool
) -> None:
    assert np.isfinite(score_of(Agent(id="a", **agent), model(**facts))) == allowed


def test_a_minimum_score_looks_at_quality_not_at_load_or_cost() -> None:
    problem = Problem(
        agents=[{"id": "a"}, {"id": "b", "min_score": 91}],
        models=[model()],
        scores=[[90.0], [90.0]],
        objective={"min_score": 80},
    )
    score = compile_problem(problem, load={"m": Load(utilization=1.0)}).score
    assert score[0, 0] == pytest.approx(63.0)
    assert score[1, 0] == -np.inf


def test_given_scores_in_every_form_are_the_same() -> None:
    agents, models = [{"id": "a"}, {"id": "b"}], [model("x"), model("y")]
    plain = Problem(agents=agents, models=models, scores=[[1.0, None], [3.0, 4.0]])
    labelled = {"agents": ["b", "a"], "models": ["y", "x"], "values": [[4.0, 3.0], [None, 1.0]]}
    pairs = [("b", "y", 4.0), ("a", "x", 1.0), ("b", "x", 3.0)]
    long = [{"agent": agent, "model": name, "score": score} for agent, name, score in pairs]
    expected = [[1.0, -np.inf], [3.0, 4.0]]
    for scores in (labelled, long, np.array(expected)):
        problem = Problem(agents=agents, models=models, scores=scores)
        assert (
            np.asarray(compile_problem(problem).score).tolist()
            == np.asarray(compile_problem(plain).score).tolist()
            == expected
        )
        assert Problem.model_validate(problem.model_dump(mode="json")) == problem
    missing = Problem(agents=agents, models=models, scores=long, objective={"missing_score": 2.0})
    assert np.asarray(compile_problem(missing).score).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_combined_quality() -> None:
    problem = Problem(
        agents=[{"id": "a", "required_capabilities": ["coding"]}],
        models=[model("x", capabilities={"coding": 1.0}), model("y"), model("z")],
        scores=[[10.0, 20.0, None]],
        objective={"quality": "combined", "capability_weight": 0.25, "given_weight": 2.0},
    )
    assert compile_problem(problem).score[0].tolist() == pytest.approx([45.0, 47.5, -np.inf])


def test_live_load_takes_slots_and_never_below_zero() -> None:
    problem = Problem(
        agents=[{"id": "a"}],
        models=[
            model("idle", 3),
            model("busy", 3),
            model("over", 3),
            Model(id="long", capacity=Capacity(max_concurrent=3, slots=100)),
        ],
    )
    load = {"busy": Load(1, 1, 0.3), "over": Load(9, 9, 1.0), "idle": None, "elsewhere": Load(1)}
    assert remaining_slots(problem, load=load).tolist() == [3, 1, 0, 100]
    assert compile_problem(problem, load=load).slots.tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("same", [True, False])
def test_priority_multiplies_scores_and_penalties(same: bool) -> None:
    problem = Problem(
        agents=[{"id": "a", "priority": 3}, {"id": "b", "priority": 3 if same else 2}],
        models=[model()],
        objective={"unassigned_penalty": 10},
    )
    instance = compile_problem(problem)
    assert instance.penalty is not None
    assert instance.penalty.tolist() == [30, 30 if same else 20]
    assert instance.score[:, 0].tolist() == pytest.approx([300, 300 if same else 200])


def test_zero_capacity_and_no_eligible_pair_are_valid_problems() -> None:
    problem = Problem(agents=[{"id": "a", "allowed_models": []}], models=[model(slots=0)])
    instance = compile_problem(problem)
    assert instance.slots.tolist() == [0]
    assert np.asarray(instance.score).tolist() == [[-np.inf]]


STRENGTHS = st.dictionaries(st.sampled_from(CAPABILITIES), st.floats(0, 1), max_size=5)
NAMES = st.lists(st.sampled_from(CAPABILITIES), max_size=3).map(tuple)
AGENTS = st.fixed_dictionaries(
    {
        "task_type": st.none() | st.sampled_from(sorted(TASK_TYPES)),
        "required_capabilities": st.none() | NAMES,
        "preferred_capabilities": NAMES,
        "min_context_tokens": st.sampled_from([0, 1, 4096, 8192]),
        "requires_context": st.booleans(),
        "requires_tools": st.booleans(),
        "allowed_regions": st.none() | st.just(("eu",)),
        "priority": st.sampled_from([0.5, 1.0, 3.0]),
        "input_tokens": st.integers(0, 10_000),
        "output_tokens": st.integers(0, 10_000),
        "min_score": st.none() | st.floats(0, 100),
    }
)
MODELS = st.fixed_dictionaries(
    {
        "capabilities": STRENGTHS,
        "context_tokens": st.none() | st.sampled_from([1000, 4096, 100_000]),
        "supports_tools": st.booleans(),
        "region": st.none() | st.sampled_from(["eu", "us"]),
        "usd_per_million_input_tokens": st.floats(0, 20),
        "usd_per_million_output_tokens": st.floats(0, 20),
        "latency_s": st.floats(0, 5),
        "output_tokens_per_second": st.floats(1, 500),
    }
)


def by_hand(agent: Agent, by: Model, objective: Objective, busy: float, given: float | None) -> float:
    """The objective of PRODUCT, one pair at a time in plain Python."""

    def mean(names: tuple[str, ...]) -> float:
        return sum(by.capabilities.get(name, 0.0) for name in names) / len(names) if names else 1.0

    needed = agent.required_capabilities
    if needed is None:
        needed = TASK_TYPES[agent.task_type] if agent.task_type else ()
    wanted = agent.min_context_tokens
    context = 1.0 if not wanted or by.context_tokens is None else min(1.0, by.context_tokens / wanted)
    quality = 100 * (0.7 * mean(needed) + 0.2 * mean(agent.preferred_capabilities) + 0.1 * context)
    if given is not None:
        quality = 0.5 * quality + 0.5 * given
    if agent.requires_tools and not by.supports_tools:
        return -math.inf
    if agent.requires_context and (by.context_tokens or 0) < wanted:
        return -math.inf
    if agent.allowed_regions is not None and by.region not in agent.allowed_regions:
        return -math.inf
    if agent.min_score is not None and quality < agent.min_score:
        return -math.inf
    assert by.usd_per_million_input_tokens is not None
    assert by.usd_per_million_output_tokens is not None
    assert by.latency_s is not None
    assert by.output_tokens_per_second is not None
    usd = (
        agent.input_tokens * by.usd_per_million_input_tokens
        + agent.output_tokens * by.usd_per_million_output_tokens
    ) / 1e6
    seconds = by.latency_s + agent.output_tokens / by.output_tokens_per_second
    value = quality * (1 - objective.load_weight * busy)
    return agent.priority * (value - objective.cost_weight * usd - objective.latency_weight * seconds)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    agents=st.lists(AGENTS, min_size=1, max_size=6),
    models=st.lists(MODELS, min_size=1, max_size=4),
    weights=st.tuples(st.floats(0, 1), st.sampled_from([0.0, 3.0]), st.sampled_from([0.0, 0.5])),
    busy=st.floats(0, 1),
    seed=st.none() | st.integers(0, 99),
)
def test_the_vectorised_scores_are_the_formula(
    agents: list[dict[str, Any]],
    models: list[dict[str, Any]],
    weights: tuple[float, float, float],
    busy: float,
    seed: int | None,
) -> None:
    objective = Objective(
        load_weight=weights[0],
        cost_weight=weights[1],
        latency_weight=weights[2],
        quality="capability" if seed is None else "combined",
    )
    given = None if seed is None else np.random.default_rng(seed).uniform(0, 100, (len(agents), len(models)))
    problem = Problem(
        agents=[Agent(id=f"a{i}", **agent) for i, agent in enumerate(agents)],
        models=[model(f"m{j}", **facts) for j, facts in enumerate(models)],
        objective=objective,
        scores=given,
    )
    load = {name: Load(utilization=busy) for name in problem.model_ids}
    score = compile_problem(problem, load=load).score
    scorer = pair_scorer(problem, load=load)
    for i, agent in enumerate(problem.agents):
        terms = scorer.terms([i])
        for j, by in enumerate(problem.models):
            expected = by_hand(agent, by, objective, busy, None if given is None else given[i, j])
            near = agent.min_score is not None and abs(terms.quality[0, j] - agent.min_score) < 1e-9
            if not near:  # a quality at the threshold may round to either side of it
                assert score[i, j] == pytest.approx(expected)
                assert terms.score[0, j] == score[i, j]


def test_one_gather_equals_the_general_path() -> None:
    rng = np.random.default_rng(0)
    models = [
        model(f"m{j}", capabilities=dict(zip(CAPABILITIES, rng.random(11), strict=True))) for j in range(7)
    ]
    kinds = sorted(TASK_TYPES)
    agents = [Agent(id=f"a{i}", task_type=kinds[i % len(kinds)]) for i in range(5000)]
    gathered = compile_problem(Problem(agents=agents, models=models)).score
    agents[-1] = Agent(id="last", task_type=kinds[0], min_context_tokens=5)
    general = compile_problem(Problem(agents=agents, models=models)).score
    assert np.array_equal(gathered[:-1], general[:-1])


def test_capability_score_takes_other_weights() -> None:
    score = capability_score(0.5, 0.0, 1.0, required_weight=1.0, preferred_weight=0.0, context_weight=0.0)
    assert score == pytest.approx(50.0)

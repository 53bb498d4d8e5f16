"""One objective, one answer: what a batch solve and a live decision make of the same agents and load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import solver
from solver.load.balance.strategies import Weighted
from solver.problem.agents import AgentTable
from solver.problem.fleet_scorer import FleetScorer
from solver.problem.score_formulas import Feedback

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAPABILITIES = ("coding", "math", "general")
weights = st.sampled_from([0.0, 0.2, 1.0, 3.0])


@st.composite
def objectives(draw: st.DrawFn) -> solver.Objective:
    costs = draw(st.booleans())
    return solver.Objective(
        quality=draw(st.sampled_from([None, "capability", "given", "combined"])),
        capability_weight=draw(weights),
        given_weight=draw(weights),
        required_weight=draw(weights),
        preferred_weight=draw(weights),
        context_weight=draw(weights),
        load_weight=draw(st.sampled_from([0.0, 0.3, 1.0])),
        cost_weight=draw(st.sampled_from([0.0, 10.0, 3000.0])),
        latency_weight=draw(st.sampled_from([0.0, 5.0])),
        unassigned_penalty=draw(st.sampled_from([None, 0.0, 20.0])),
        min_score=None if costs else draw(st.sampled_from([None, 10.0, 40.0])),
        sense="minimize" if costs else "maximize",
    )


def fleet(rng: np.random.Generator, m: int) -> list[solver.Model]:
    return [
        solver.Model(
            id=f"m{j}",
            capabilities={name: float(rng.random()) for name in CAPABILITIES},
            context_tokens=int(rng.integers(1000, 9000)),
            usd_per_million_input_tokens=float(rng.random() * 10),
            usd_per_million_output_tokens=float(rng.random() * 30),
            latency_s=float(rng.random()),
            output_tokens_per_second=float(rng.integers(20, 200)),
            supports_tools=bool(rng.random() < 0.7),
            capacity=solver.Capacity(max_concurrent=int(rng.integers(1, 4))),
        )
        for j in range(m)
    ]


def crowd(rng: np.random.Generator, n: int, costs: bool) -> list[solver.Agent]:
    return [
        solver.Agent(
            id=f"a{i}",
            required_capabilities=[str(rng.choice(CAPABILITIES))],
            preferred_capabilities=[str(rng.choice(CAPABILITIES))],
            min_context_tokens=int(rng.choice([0, 4000])),
            requires_context=bool(rng.random() < 0.3),
            requires_tools=bool(rng.random() < 0.3),
            priority=float(rng.choice([1.0, 1.0, 2.5])),
            input_tokens=int(rng.integers(0, 4000)),
            output_tokens=int(rng.integers(0, 2000)),
            min_score=None if costs or rng.random() < 0.7 else float(rng.random() * 60),
        )
        for i in range(n)
    ]


@settings(max_examples=60, deadline=None)
@given(objectives(), st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_a_batch_and_a_live_decision_have_the_same_objective(
    objective: solver.Objective, seed: int, n: int, m: int
) -> None:
    rng = np.random.default_rng(seed)
    models, agents = fleet(rng, m), crowd(rng, n, objective.sense == "minimize")
    scores: NDArray[np.float64] | None = None
    if objective.quality is not None or rng.random() < 0.5:
        scores = np.where(rng.random((n, m)) < 0.15, -np.inf, np.round(rng.random((n, m)) * 100, 3))
    tracker = solver.LoadTracker()
    for model in models:
        tracker.set_capacity(model.id, model.capacity)
    leases = [tracker.try_acquire(models[int(j)].id) for j in rng.integers(0, m, 2) if rng.random() < 0.7]
    load = {model.id: tracker.current_load(model.id) for model in models}
    problem = solver.Problem(agents=agents, models=models, objective=objective, scores=scores)
    plan = solver.solve(problem, load=load)
    live = solver.LoadBalancer(tracker, objective=objective).decide(agents, models, scores=scores)
    assert len(leases) <= 2

    served = {one.agent_id: one for one in live.assignments if one.model_id is not None}
    assert len(served) == sum(one.model_id is not None for one in plan.assignments)
    assert sum(one.score for one in served.values()) == pytest.approx(
        float(plan.scores.sum()), rel=1e-6, abs=1e-5
    )
    work = live.work
    assert work is not None
    value = work.sign * Weighted(objective.load_weight).values(work, work.active, slice(None))
    batch = np.asarray(plan.instance.score) * plan.instance.sign
    np.testing.assert_allclose(
        np.where(work.eligible, value, np.nan), np.where(np.isfinite(batch), batch, np.nan)
    )

    alone = solver.LoadBalancer(tracker, objective=objective).assign_and_reserve(
        agents[:1], models, scores=None if scores is None else scores[:1]
    )[0]
    usable = work.eligible[0] & (work.room > 0)
    best = np.where(usable, work.sign * value[0], -np.inf).max()
    worthwhile = (
        objective.unassigned_penalty is None or best >= -agents[0].priority * objective.unassigned_penalty
    )
    assert (alone.model_id is not None) == (best > -np.inf and worthwhile)
    if alone.model_id is not None:
        assert work.sign * alone.score == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_cost_decides_live_as_in_the_batch() -> None:
    models = [
        solver.Model(
            id="dear",
            capabilities={"coding": 0.9},
            usd_per_million_input_tokens=1e6,
            usd_per_million_output_tokens=1e6,
            capacity=solver.Capacity(max_concurrent=9),
        ),
        solver.Model(
            id="cheap",
            capabilities={"coding": 0.8},
            usd_per_million_input_tokens=1.0,
            usd_per_million_output_tokens=1.0,
            capacity=solver.Capacity(max_concurrent=9),
        ),
    ]
    agent = solver.Agent(id="a", task_type="coding", input_tokens=1, output_tokens=1)
    objective = solver.Objective(cost_weight=10)
    plan = solver.solve(solver.Problem(agents=[agent], models=models, objective=objective))
    for strategy in ("weighted", "predictive", "least_loaded"):
        for routing in ("optimal", "greedy", "balanced"):
            balancer = solver.LoadBalancer(solver.LoadTracker(), strategy, routing, objective=objective)
            assert balancer.select([agent], models)[0].model_id == plan.assignments[0].model_id == "cheap"
            assert balancer.assign_and_reserve([agent], models)[0].model_id == "cheap"


def test_an_agent_too_dear_is_left_out_without_a_lease() -> None:
    models = [
        solver.Model(
            id="dear",
            usd_per_million_input_tokens=1e6,
            usd_per_million_output_tokens=0.0,
            capacity=solver.Capacity(max_concurrent=2),
        )
    ]
    objective = solver.Objective(cost_weight=100, unassigned_penalty=50)
    agent = solver.Agent(id="a", input_tokens=2)
    tracker = solver.LoadTracker()
    for routing in ("optimal", "greedy", "balanced"):
        balancer = solver.LoadBalancer(tracker, routing=routing, objective=objective)
        answer = balancer.assign_and_reserve([agent], models)[0]
        both = balancer.select([agent, solver.Agent(id="b", input_tokens=1)], models)
        assert (answer.model_id, answer.lease) == (None, None)
        assert answer.reason == "left out: the penalty is cheaper than its best score"
        assert [one.model_id for one in both] == [None, "dear"]
    assert tracker.snapshot().active.tolist() == [0]


def test_missing_facts_and_scores_are_refused() -> None:
    models = [solver.Model(id="m", capacity=solver.Capacity(max_concurrent=1))]
    agent = solver.Agent(id="a")
    balancer = solver.LoadBalancer(solver.LoadTracker(), objective=solver.Objective(cost_weight=1))
    with pytest.raises(solver.SpecError, match=r"models\[0\].usd_per_million_input_tokens: required where"):
        balancer.select([agent], models)
    balancer = solver.LoadBalancer(solver.LoadTracker(), objective=solver.Objective(quality="given"))
    with pytest.raises(solver.SpecError, match=r"scores: required where objective.quality is 'given'"):
        balancer.select([agent], models)
    balancer = solver.LoadBalancer(solver.LoadTracker(), objective=solver.Objective(sense="minimize"))
    with pytest.raises(
        solver.SpecError, match=r"agents\[0\].min_score: expected none where scores are costs"
    ):
        balancer.select([solver.Agent(id="a", min_score=1)], models)
    with pytest.raises(solver.SpecError, match="utilization: expected between 0 and 1, got 2"):
        FleetScorer(models).rows([agent], utilization=[2.0])


@settings(max_examples=40, deadline=None)
@given(objectives(), st.integers(0, 2**32 - 1))
def test_rows_of_a_table_of_agents_one_by_one_and_of_a_problem_are_the_same(
    objective: solver.Objective, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    models, agents = fleet(rng, 3), crowd(rng, 4, objective.sense == "minimize")
    busy = rng.random(3)
    feedback = Feedback(
        requests=rng.integers(0, 30, 3).astype(np.float64),
        success_rate=rng.random(3),
        latency_ms=rng.random(3) * 999,
    )
    scorer = FleetScorer(models, objective.model_copy(update={"quality": None}))
    known: dict[str, Any] = {"utilization": busy, "feedback": feedback}
    together = scorer.rows(agents, **known).score
    np.testing.assert_array_equal(scorer.rows(AgentTable.from_agents(agents), **known).score, together)
    for i, agent in enumerate(agents):
        np.testing.assert_array_equal(scorer.rows([agent], **known).score[0], together[i])
    plan = solver.solve(
        solver.Problem(agents=agents, models=models, objective=scorer.objective), feedback=feedback
    )
    idle = scorer.rows(agents, feedback=feedback).score
    np.testing.assert_array_equal(plan.instance.score, idle)


def test_a_plan_is_a_warm_start_for_other_agents_and_models() -> None:
    rng = np.random.default_rng(5)
    models, agents = fleet(rng, 4), crowd(rng, 8, costs=False)
    before = solver.solve(solver.Problem(agents=agents, models=models))
    after = solver.Problem(agents=agents[2:][::-1], models=models[1:])
    cold, warm = solver.solve(after), solver.solve(after, warm_start=before)
    assert warm.objective == pytest.approx(cold.objective)
    assert warm.status is cold.status is solver.Status.OPTIMAL
    assert solver.solve(after, warm_start=cold.solution).objective == pytest.approx(cold.objective)


def test_fleets_that_alternate_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    whole = FleetScorer.match_profiles

    def counted(self: FleetScorer, profiles: Any) -> Any:
        compiled.append(1)
        return whole(self, profiles)

    monkeypatch.setattr(FleetScorer, "match_profiles", counted)
    rng = np.random.default_rng(1)
    fleets = [fleet(rng, 3), fleet(rng, 2), [], fleet(rng, 4)]
    fleets[2] = [model.model_copy() for model in fleets[0]]  # equal to the first, other objects
    balancer = solver.LoadBalancer(solver.LoadTracker())
    agent = solver.Agent(id="a", task_type="coding")
    for _ in range(20):
        for models in fleets:
            balancer.select([agent], models)
    assert len(compiled) == 3

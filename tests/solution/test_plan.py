from __future__ import annotations

import json

import numpy as np
import pytest

import solver
from solver import Agent, Capacity, Model, Objective, Problem, SpecError


def model(name: str, slots: int, **facts: object) -> Model:
    return Model.model_validate({"id": name, "capacity": {"max_concurrent": slots}} | facts)


def scored(scores: list[list[float]], slots: list[int], **objective: object) -> Problem:
    return Problem(
        agents=[Agent(id=f"a{i}") for i in range(len(scores))],
        models=[model(f"m{j}", slots[j]) for j in range(len(slots))],
        scores=scores,
        objective=Objective.model_validate(objective),
    )


def test_a_plan_speaks_in_ids() -> None:
    plan = solver.solve(scored([[9.0, 6.0], [8.0, 2.0], [7.0, 3.0]], [2, 1]))
    assert [one.model_id for one in plan.assignments] == ["m1", "m0", "m0"]
    assert plan.objective == 21.0
    assert plan.status is solver.Status.OPTIMAL
    assert plan.reasons.tolist() == [
        "m0 would score higher but is in demand",
        "highest score",
        "highest score",
    ]
    first, second = plan.models
    assert (first.agents, first.load, first.capacity, first.price, first.mean_score) == (2, 2, 2, 3, 7.5)
    assert (second.utilization, second.price) == (1.0, 0.0)
    assert [one.model_id for one in plan.bottlenecks] == ["m0"]


def test_every_unassigned_agent_has_its_reason() -> None:
    allowed = [
        Agent(id="free"),
        Agent(id="second"),
        Agent(id="nowhere", allowed_regions=["moon"]),
        Agent(id="only-b", allowed_models=["b"]),
    ]
    plan = solver.solve(Problem(agents=allowed, models=[model("a", 1), model("b", 0)]))
    reasons = dict(zip(("free", "second", "nowhere", "only-b"), plan.reasons.tolist(), strict=True))
    assert reasons["nowhere"] == "no eligible model"
    assert reasons["only-b"] == "capacity of b full"
    assert sorted([reasons["free"], reasons["second"]]) == ["capacity of a, b full", "highest score"]
    assert plan.unassigned_reasons() == {
        "capacity of a, b full": 1,
        "capacity of b full": 1,
        "no eligible model": 1,
    }


def test_refusal_says_that_the_penalty_is_cheaper() -> None:
    plan = solver.solve(scored([[-5.0], [4.0]], [2], unassigned_penalty=1.0))
    assert plan.reasons.tolist() == ["refused: the penalty is cheaper than its best score", "highest score"]
    assert plan.objective == 3.0


def test_infeasible_is_a_plan_with_reasons() -> None:
    plan = solver.solve(scored([[1.0], [2.0]], [1], unassigned_penalty=np.inf))
    assert plan.status is solver.Status.INFEASIBLE
    assert plan.reasons.tolist() == ["no plan: infeasible"] * 2
    with pytest.raises(solver.UnsolvedError):
        plan.raise_for_status()
    assert json.loads(plan.to_json())["objective"] is None


def test_many_full_models_are_counted_not_listed() -> None:
    plan = solver.solve(scored([[1.0] * 5] * 2, [1, 0, 0, 0, 0]))
    assert sorted(plan.reasons.tolist()) == ["capacity of every model full", "highest score"]


def test_frame_csv_and_json_hold_the_same() -> None:
    plan = solver.solve(scored([[9.0, 6.0], [8.0, 2.0]], [1, 0]))
    frame = plan.to_frame()
    assert frame["agent"].tolist() == ["a0", "a1"]
    assert frame["score"].tolist() == [9.0, 0.0]
    assert plan.to_csv().splitlines()[1] == "a0,m0,9.0,highest score"
    document = json.loads(plan.to_json())
    assert document["assignments"][1]["model"] is None
    assert document["assigned"] == 1


def test_load_takes_slots_away_and_lowers_scores() -> None:
    class Load:
        active_requests, queue_depth, utilization = 6, 0, 0.6

    agent = Agent(id="a")
    problem = Problem(agents=[agent], models=[model("m", 10)], scores=[[90.0]])
    plan = solver.solve(problem, load={"m": Load()})
    assert plan.objective == pytest.approx(73.8)
    assert plan.models[0].capacity == 4


def test_explain_names_the_price_that_decided() -> None:
    plan = solver.solve(scored([[9.0, 6.0], [8.0, 2.0], [7.0, 3.0]], [2, 1]))
    found = solver.explain(plan, "a0")
    assert found.chosen is not None
    assert found.runner_up is not None
    assert (found.chosen.model_id, found.chosen.net) == ("m1", 6.0)
    assert (found.runner_up.model_id, found.runner_up.price, found.runner_up.net) == ("m0", 3.0, 6.0)
    assert found.change == "the next free slot: m0 is worth as much to it, and its price is what keeps it out"
    assert solver.explain(plan, "a1").change == "m1 would win if it scored 3 more, or cost 3 less"


def test_explain_says_what_makes_a_model_ineligible() -> None:
    agents = [Agent(id="a", requires_vision=True)]
    plan = solver.solve(
        Problem(agents=agents, models=[model("blind", 1), model("sees", 1, supports_vision=True)])
    )
    blind = next(one for one in solver.explain(plan, "a").candidates if one.model_id == "blind")
    assert blind.unmet
    assert "image" in blind.unmet[0] or "vision" in blind.unmet[0]


def test_explain_an_unassigned_agent() -> None:
    plan = solver.solve(scored([[9.0], [8.0]], [1]))
    found = solver.explain(plan, "a1")
    assert found.chosen is None
    enough = "m0 would win if it scored 1 more, or cost 1 less; or one more unit on m0; or a higher priority"
    assert found.change == enough
    with pytest.raises(SpecError, match="agent: expected one of 2 ids, got 'a7'"):
        solver.explain(plan, "a7")


def test_capacity_names_its_slots() -> None:
    assert Capacity(max_concurrent=3).batch_slots == 3


def test_a_threshold_under_limits_is_found_by_solving_again() -> None:
    one = solver.Capacity(max_concurrent=1)
    problem = solver.Problem(
        agents=[solver.Agent(id="a"), solver.Agent(id="b")],
        models=[solver.Model(id="x", capacity=one), solver.Model(id="y", capacity=one)],
        scores=[[9.0, 1.0], [8.0, 2.0]],
        limits=[{"name": "both", "kind": "quota", "at_least_agents": 1}],
    )
    change = solver.explain(solver.solve(problem), "a").change
    assert change == "y would win if it scored 2 more, or cost 2 less"

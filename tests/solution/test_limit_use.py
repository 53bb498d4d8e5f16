"""Plans under limits: use and price of each limit, who is kept out by which, and why nothing is feasible."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from solver.clock import Deadline
from solver.interfaces.cli import main
from solver.problem.compile import compile_problem
from solver.solution.infeasibility import explain_infeasibility
from solver.solution.verification import verify_assignments

if TYPE_CHECKING:
    from pathlib import Path

SCORES = [[9.0, 1.0], [8.0, 2.0], [7.0, 3.0], [6.0, 4.0]]
TOKENS = [200_000, 200_000, 100_000, 100_000]


def document(*limits: dict[str, Any], slots: int = 4, **objective: Any) -> dict[str, Any]:
    return {
        "agents": [
            {"id": f"a{i}", "tenant": "red" if i < 2 else "blue", "input_tokens": TOKENS[i]} for i in range(4)
        ],
        "models": [
            {
                "id": name,
                "provider": f"{name} provider",
                "capacity": {"max_concurrent": slots},
                "usd_per_million_input_tokens": usd,
                "usd_per_million_output_tokens": usd,
            }
            for name, usd in (("big", 5.0), ("small", 1.0))
        ],
        "scores": SCORES,
        "limits": list(limits),
        "objective": objective,
    }


def solved(*limits: dict[str, Any], **facts: Any) -> solver.Plan:
    return solver.solve(solver.Problem.model_validate(document(*limits, **facts)))


BUDGET = {"name": "daily", "kind": "budget", "at_most_usd": 1.5}
PROMISE = {"name": "promise", "kind": "commitment", "models": ["big"], "at_least_agents": 3}


def test_use_against_bound_in_the_units_of_the_problem() -> None:
    plan = solved(
        BUDGET,
        {"name": "red", "kind": "quota", "tenants": ["red"], "at_most_agents": 2, "at_least_agents": 1},
        {"name": "big part", "kind": "share", "models": ["big"], "at_most_share": 0.75, "of": "tokens"},
        {"name": "mean usd", "kind": "average", "at_most_usd": 0.5},
        {"name": "mean quality", "kind": "average", "at_least_quality": 4.0},
        {"name": "not both", "kind": "apart", "agents": ["a0", "a1"]},
        {"name": "moves", "kind": "changes", "previous": {"a0": "small"}, "at_most_agents": 1},
    )
    choice = plan.solution.choice
    usd = sum(TOKENS[i] / 1e6 * (5.0, 1.0)[j] for i, j in enumerate(choice))
    reds = int((choice[:2] >= 0).sum())
    big = sum(TOKENS[i] for i in range(4) if choice[i] == 0) / sum(TOKENS)
    quality = sum(SCORES[i][j] for i, j in enumerate(choice)) / 4
    expected = [
        ("daily", "at_most", "usd", usd, 1.5),
        ("red (at most)", "at_most", "agents", reds, 2),
        ("red (at least)", "at_least", "agents", reds, 1),
        ("big part", "at_most", "share", big, 0.75),
        ("mean usd", "at_most", "usd", usd / 4, 0.5),
        ("mean quality", "at_least", "quality", quality, 4.0),
        ("not both (big)", "at_most", "agents", int((choice[:2] == 0).sum()), 1),
        ("not both (small)", "at_most", "agents", int((choice[:2] == 1).sum()), 1),
        ("moves", "at_most", "moves", int(choice[0] == 0), 1),
    ]
    assert (choice >= 0).all()
    for report, (name, side, unit, used, bound) in zip(plan.limits, expected, strict=True):
        assert (report.name, report.side, report.unit, report.bound) == (name, side, unit, bound)
        assert report.used == pytest.approx(used)
    assert [entry["limit"] for entry in plan.summary()["limits"]] == [name for name, *_ in expected]


def test_the_price_of_a_limit_bounds_what_loosening_it_brings() -> None:
    plan = solved(BUDGET)
    (report,) = plan.limits
    assert report.price > 0
    looser = solved(BUDGET | {"at_most_usd": 2.5})
    assert looser.objective <= plan.bound + report.price * 1.0 + 1e-6


def test_the_price_of_a_mean_is_per_unit_of_the_mean() -> None:
    total, mean = solved(BUDGET), solved({"name": "mean", "kind": "average", "at_most_usd": 0.375})
    assert mean.objective == total.objective
    looser = solved({"name": "mean", "kind": "average", "at_most_usd": 0.5})
    assert looser.objective <= mean.objective + mean.limits[0].price * 0.125 + 1e-6


def test_an_agent_kept_out_by_a_limit_is_told_which() -> None:
    plan = solved({"name": "red quota", "kind": "quota", "tenants": ["red"], "at_most_agents": 1})
    left = plan.solution.unassigned
    assert len(left) == 1
    assert left[0] in (0, 1)
    assert plan.reasons[left[0]] == "limit 'red quota' would be broken"


def test_an_agent_kept_out_by_capacity_is_told_so_under_limits_too() -> None:
    plan = solved({"name": "loose", "kind": "quota", "at_most_agents": 4}, slots=1)
    assert set(plan.reasons[plan.solution.unassigned]) == {"capacity of big, small full"}


def test_a_group_that_finds_no_model_is_named() -> None:
    plan = solved({"name": "one job", "kind": "together", "agents": ["a0", "a1", "a2"]}, slots=2)
    assert plan.reasons[:3].tolist() == ["its group 'one job' finds no model for all of it"] * 3


def test_a_better_model_out_of_reach_by_a_limit_is_not_called_in_demand() -> None:
    plan = solved({"name": "few", "kind": "quota", "models": ["big"], "at_most_agents": 2})
    assert plan.reasons.tolist()[2:] == ["big would score higher but the limits keep it away"] * 2


def test_conflicting_limits_are_explained_in_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text(json.dumps(document(PROMISE, BUDGET | {"at_most_usd": 1.0})))
    assert main(["solve", str(path), "--json"]) == 3
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any(
        note.startswith("cannot all hold: ") and "limit 'promise'" in note and "limit 'daily'" in note
        for note in notes
    )
    assert main(["solve", str(path)]) == 3
    assert "limit 'promise'" in capsys.readouterr().out


def test_full_models_are_named_where_all_agents_must_be_served() -> None:
    plan = solved(BUDGET | {"at_most_usd": 100}, slots=1, unassigned_penalty="infinite")
    assert plan.status is solver.Status.INFEASIBLE
    text = " ".join(plan.solution.notes)
    assert "capacity of big" in text
    assert "capacity of small" in text


def test_an_explanation_without_time_says_so() -> None:
    instance = compile_problem(solver.Problem.model_validate(document(PROMISE, BUDGET | {"at_most_usd": 1})))
    passed = Deadline(0.0, 0.0)
    assert passed.expired()
    conflict = explain_infeasibility(instance, deadline=passed)
    assert conflict.cut_short
    assert conflict.sentences() == ("what conflicts was not found out in the time left",)


def test_verifying_an_assignment_sees_the_limits() -> None:
    problem = solver.Problem.model_validate(document(BUDGET))
    found = verify_assignments(problem, dict.fromkeys(("a0", "a1", "a2", "a3"), "big"))
    assert not found.feasible
    assert any(line.startswith("limit daily") for line in found.violations)
    plan = solver.solve(problem)
    kept = {one.agent_id: one.model_id for one in plan.assignments}
    assert verify_assignments(problem, kept).feasible


def test_the_report_prints_limits_and_their_prices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text(json.dumps(document(BUDGET)))
    assert main(["solve", str(path)]) == 0
    text = capsys.readouterr().out
    assert "at most" in text
    assert "one dollar more in 'daily' adds about" in text
    assert np.isfinite(solved(BUDGET).objective)

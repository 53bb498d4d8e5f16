"""Limits in words: what each kind means, against every assignment there is, and what is refused."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from solver.interfaces.cli import main
from solver.problem.limit_specs import BudgetSpec

if TYPE_CHECKING:
    from pathlib import Path

SCORES = [[9.0, 1.0], [8.0, 2.0], [7.0, 3.0], [6.0, 4.0]]
TOKENS = [200_000, 200_000, 100_000, 100_000]
USD = [5.0, 1.0]  # per million tokens
LATENCY_S = [1.0, 0.5]
AGENTS = [{"id": f"a{i}", "tenant": "red" if i < 2 else "blue", "input_tokens": TOKENS[i]} for i in range(4)]
MODELS = [
    {
        "id": name,
        "provider": provider,
        "region": "eu" if j else "us",
        "capacity": {"max_concurrent": 4},
        "usd_per_million_input_tokens": USD[j],
        "usd_per_million_output_tokens": 2 * USD[j],
        "latency_s": LATENCY_S[j],
        "output_tokens_per_second": 50,
    }
    for j, (name, provider) in enumerate((("big", "acme"), ("small", "bolt")))
]
EVERYONE_SMALL = {f"a{i}": "small" for i in range(4)}


def problem(*limits: object, **objective: object) -> solver.Problem:
    return solver.Problem.model_validate(
        {"agents": AGENTS, "models": MODELS, "scores": SCORES, "limits": limits, "objective": objective}
    )


def spent(choice: tuple[int, ...]) -> float:
    return sum(TOKENS[i] / 1e6 * USD[j] for i, j in enumerate(choice))


CASES: list[tuple[dict[str, Any], Any]] = [
    ({"kind": "budget", "at_most_usd": 1.5}, lambda c: spent(c) <= 1.5),
    (
        {"kind": "budget", "at_most_usd": 1.0, "tenants": ["red"], "providers": ["acme"]},
        lambda c: sum(TOKENS[i] * 5e-6 for i in (0, 1) if c[i] == 0) <= 1.0,
    ),
    (
        {"kind": "quota", "tenants": ["red"], "models": ["big"], "at_most_agents": 1},
        lambda c: c[:2].count(0) <= 1,
    ),
    (
        {"kind": "quota", "regions": ["eu"], "at_least_tokens": 250_000},
        lambda c: sum(TOKENS[i] for i in range(4) if c[i] == 1) >= 250_000,
    ),
    ({"kind": "share", "providers": ["acme"], "at_most_share": 0.5}, lambda c: c.count(0) <= 2),
    (
        {"kind": "share", "models": ["small"], "at_least_share": 0.6, "of": "tokens"},
        lambda c: sum(TOKENS[i] for i in range(4) if c[i] == 1) >= 0.6 * sum(TOKENS),
    ),
    ({"kind": "commitment", "models": ["small"], "at_least_agents": 3}, lambda c: c.count(1) >= 3),
    (
        {"kind": "commitment", "models": ["small"], "at_least_usd": 0.3},
        lambda c: spent_small(c) >= 0.3 - 1e-12,
    ),
    ({"kind": "average", "at_most_usd": 0.5}, lambda c: spent(c) <= 0.5 * 4),
    ({"kind": "average", "at_most_latency_s": 0.8}, lambda c: sum(LATENCY_S[j] for j in c) <= 0.8 * 4),
    (
        {"kind": "average", "tenants": ["blue"], "at_most_quality": 5.0},
        lambda c: SCORES[2][c[2]] + SCORES[3][c[3]] <= 10.0,
    ),
    (
        {"kind": "apart", "agents": ["a0", "a1", "a3"], "at_most_agents": 2},
        lambda c: len({c[0], c[1], c[3]}) > 1,
    ),
    ({"kind": "changes", "previous": EVERYONE_SMALL, "at_most_agents": 2}, lambda c: c.count(0) <= 2),
]


def spent_small(choice: tuple[int, ...]) -> float:
    return sum(TOKENS[i] / 1e6 for i, j in enumerate(choice) if j == 1)


@pytest.mark.parametrize(("limit", "holds"), CASES, ids=[str(k) for k in range(len(CASES))])
def test_a_limit_means_what_it_says(limit: dict[str, Any], holds: Any) -> None:
    plan = solver.solve(problem({"name": "limit", **limit}))
    everything = itertools.product(range(2), repeat=4)
    best = max(sum(SCORES[i][j] for i, j in enumerate(c)) for c in everything if holds(c))
    assert plan.status is solver.Status.OPTIMAL
    assert plan.objective == pytest.approx(best)
    assert best < 30  # else the limit would not have been tested
    assert holds(tuple(plan.solution.choice.tolist()))


def test_agents_that_move_together_share_a_model() -> None:
    plan = solver.solve(
        problem(
            {"kind": "together", "name": "one conversation", "agents": ["a0", "a3"]},
            {"kind": "quota", "name": "three", "models": ["big"], "at_most_agents": 3},
        )
    )
    assert plan.solution.choice.tolist() == [0, 0, 1, 0]


def test_staying_put_is_charged_to_the_score() -> None:
    plan = solver.solve(
        problem({"kind": "stay_put", "name": "cache", "previous": EVERYONE_SMALL, "cost_per_move": 4.5})
    )
    assert (plan.solution.choice.tolist(), plan.objective) == ([0, 0, 1, 1], 15.0)


def test_a_problem_with_limits_survives_being_written_down() -> None:
    asked = problem(*({"name": str(k), **limit} for k, (limit, _) in enumerate(CASES)))
    again = solver.Problem.model_validate(json.loads(json.dumps(asked.model_dump())))
    assert again == asked
    assert problem(BudgetSpec(name="x", at_most_usd=1)) == problem(
        {"kind": "budget", "name": "x", "at_most_usd": 1}
    )


BAD: list[tuple[list[Any], str]] = [
    ([{"kind": "budget", "name": "x", "at_most_usd": -1}], "limits[0].at_most_usd: expected >= 0, got -1"),
    ([{"kind": "budget", "name": "x"}], "limits[0].at_most_usd: required, but missing"),
    ([{"kind": "qota", "name": "x"}], "got 'qota'; did you mean 'quota'?"),
    ([{"name": "x"}], "limits[0].kind: required"),
    ([7], "limits[0]: expected a mapping of field names to values, got 7"),
    (
        [{"kind": "budget", "name": "x", "at_most": 1}],
        "limits[0].at_most: expected a resource beside it, or the unit in the name of the field",
    ),
    ([{"kind": "quota", "name": "x"}], "limits[0].at_most_agents: expected at_most_agents or"),
    (
        [{"kind": "quota", "name": "x", "at_most_agents": 1, "at_least_tokens": 1}],
        "limits[0].at_most_agents: expected amounts in one unit, got at_most_agents and at_least_tokens",
    ),
    (
        [{"kind": "quota", "name": "x", "at_most_agents": 1, "at_least_agents": 2}],
        "limits[0].at_least_agents: expected no more than at_most_agents (1), got 2",
    ),
    ([{"kind": "share", "name": "x", "at_most_share": 50}], "limits[0].at_most_share: expected <= 1, got 50"),
    (
        [{"kind": "budget", "name": "x", "at_most_usd": 1, "models": ["bigg"]}],
        "limits[0].models[0]: expected the id of a model, got 'bigg'; did you mean 'big'?",
    ),
    (
        [{"kind": "budget", "name": "x", "at_most_usd": 1, "tenants": ["reed"]}],
        "limits[0].tenants[0]: expected the tenant of an agent, got 'reed'; did you mean 'red'?",
    ),
    (
        [{"kind": "budget", "name": "x", "at_most_usd": 1, "providers": ["acne"]}],
        "limits[0].providers[0]: expected the provider of a model, got 'acne'; did you mean 'acme'?",
    ),
    (
        [{"kind": "budget", "name": "x", "at_most_usd": 1, "agents": []}],
        "limits[0].agents: expected at least one, or nothing for all, got none",
    ),
    (
        [{"kind": "budget", "name": "x", "at_most_usd": 1, "agents": ["a0"], "tenants": ["blue"]}],
        "limits[0]: expected at least one agent, got none that meets both agents and tenants",
    ),
    (
        [{"kind": "budget", "name": "x", "at_most_usd": 1}] * 2,
        "limits[1].name: expected unique names, got 'x' again, first at limits[0]",
    ),
    (
        [{"kind": "together", "name": n, "agents": ["a0", "a1"]} for n in "xy"],
        "limits[1].agents[0]: expected an agent of no other group, got 'a0' of 'x'",
    ),
    ([{"kind": "together", "name": "x", "agents": ["a0"]}], "limits[0].agents: expected at least two, got 1"),
    (
        [{"kind": "changes", "name": "x", "previous": {"a0": "bag"}, "at_most_agents": 1}],
        "limits[0].previous.a0: expected the id of a model, got 'bag'; did you mean 'big'?",
    ),
]


@pytest.mark.parametrize(("limits", "rule"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_a_limit_is_refused_in_its_own_words(limits: list[Any], rule: str) -> None:
    with pytest.raises(solver.SpecError) as caught:
        problem(*limits)
    assert rule in str(caught.value)


def test_all_errors_come_at_once() -> None:
    with pytest.raises(solver.SpecError) as caught:
        problem(
            {"kind": "quota", "name": "x", "models": ["bigg"], "at_most_agents": 1, "at_least_agents": 2},
            {"kind": "quota", "name": "x", "tenants": ["reed"]},
        )
    assert len(caught.value.violations) == 5


def test_what_is_counted_must_be_known() -> None:
    bare = [{"id": "m", "capacity": {"max_concurrent": 1}}]
    agents = [{"id": "a"}]
    limits = [{"kind": "budget", "name": "usd", "at_most_usd": 1}]
    with pytest.raises(solver.SpecError) as caught:
        solver.Problem.model_validate({"agents": agents, "models": bare, "limits": limits})
    assert caught.value.violations == (
        "limits[0]: counts usd, but usd_per_million_input_tokens is missing in m",
        "limits[0]: counts usd, but usd_per_million_output_tokens is missing in m",
        "limits[0]: counts usd, but no agent it concerns states input_tokens or output_tokens",
    )


def test_a_file_with_limits_solves_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text(
        json.dumps({"agents": AGENTS, "models": MODELS, "scores": SCORES})[:-1]
        + ',\n"limits": [\n{"kind": "budget",\n"name": "daily", "at_most_usd": 1.5}]}'
    )
    assert main(["solve", str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    best = max(
        sum(SCORES[i][j] for i, j in enumerate(c))
        for c in itertools.product(range(2), repeat=4)
        if spent(c) <= 1.5
    )
    assert summary["status"] == "optimal"
    assert np.isclose(summary["objective"], best)


def test_a_faulty_limit_in_a_file_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text(
        json.dumps({"agents": AGENTS, "models": MODELS})[1:-1].join(("{", ","))
        + '\n"limits": [\n{"kind": "budget", "name": "daily",\n"models": ["bigg"],\n"at_most_usd": 1.5}]}'
    )
    assert main(["solve", str(path)]) == 2
    assert "batch.yaml:4: limits[0].models[0]: expected the id of a model" in capsys.readouterr().err


def test_names_in_limits_are_not_blamed_where_the_agents_could_not_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "batch.yaml"
    limits = [{"kind": "budget", "name": "daily", "tenants": ["red"], "at_most_usd": 1.5}]
    path.write_text(json.dumps({"agents": "missing.csv", "models": MODELS, "limits": limits}))
    assert main(["solve", str(path)]) == 2
    printed = capsys.readouterr().err
    assert "missing.csv" in printed
    assert "limits[0]" not in printed

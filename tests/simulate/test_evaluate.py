"""The evidence finds a gain where there is one, and none where there is none."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from solver import UNASSIGNED, SpecError, assign
from solver.interfaces.cli import main
from solver.simulate.evaluate import EvaluationParams, evaluate
from solver.simulate.matched_plans import BASELINES, Audit, feasible, matched_plan, simple_plan, total_of
from tests.gain_coverage import breadth, gains_of, missed

if TYPE_CHECKING:
    from pathlib import Path

FEW = EvaluationParams(capacities=(0.8, 1.0), repeats=6, folds=2, seed=1)


def test_a_gain_that_is_there_is_found_and_the_control_has_none() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=240)
    strength = np.array([[0.9, 0.8, 0.1], [0.8, 0.3, 0.2], [0.5, 0.45, 0.4]])
    scores = strength[group] + rng.normal(0, 0.05, (240, 3))
    found = evaluate(scores, group=group, params=FEW)
    for row in found["results"]:
        if row["policy"] in ("first-come", "random"):
            assert row["gain_low"] > 0
        if row["policy"] == "shuffled":
            assert row["gain_low"] <= 0 <= row["gain_high"]
    assert {row["policy"] for row in found["results"]} == {*BASELINES, "joint", "shuffled"}


def test_without_anything_to_predict_from_there_is_no_gain() -> None:
    scores = np.random.default_rng(1).random((200, 4))
    found = evaluate(scores, params=FEW)
    assert all(row["gain_low"] <= 0 <= row["gain_high"] for row in found["results"])
    assert all(row["gain_low"] > 0 for row in found["ceiling"] if row["policy"] == "random")


@pytest.mark.parametrize("seed", range(8))
def test_matched_keeps_served_and_cost_and_is_nearly_the_best_that_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, cost, slots = rng.random((5, 3)), rng.random((5, 3)), np.array([2, 1, 2])
    free = np.asarray(assign(known, slots).choice)
    rival = simple_plan("random", known, slots, rng)
    audit = Audit()
    joint = matched_plan(known, slots, cost, free, rival, audit)
    audit.matched(joint, rival, cost)
    assert audit.broken == 0
    assert audit.plans == audit.proven
    served = (rival != UNASSIGNED).sum()
    assert (joint != UNASSIGNED).sum() == served
    assert total_of(cost, joint) <= total_of(cost, rival) * (1 + 1e-6)
    best = -np.inf
    for choice in map(np.array, itertools.product(range(3), repeat=5)):
        if (np.bincount(choice, minlength=3) <= slots).all() and total_of(cost, choice) <= total_of(
            cost, rival
        ):
            best = max(best, total_of(known, choice))
    assert total_of(known, rival) <= total_of(known, joint) <= best + 1e-9


def test_the_audit_notices_what_is_broken() -> None:
    rival, cost = np.array([0, 1, UNASSIGNED]), np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    for choice in ([1, 1, UNASSIGNED], [0, UNASSIGNED, UNASSIGNED], [0, 1, 0]):
        audit = Audit()
        audit.matched(np.array(choice), rival, cost)
        assert audit.broken == 1, choice
    assert not feasible(np.array([0, 0]), np.ones((2, 1)), np.array([1]))
    assert not feasible(np.array([0]), np.full((1, 1), -np.inf), np.array([1]))


def test_bad_parameters_are_named() -> None:
    with pytest.raises(SpecError, match="capacities"):
        EvaluationParams(capacities=(0.0,))
    with pytest.raises(SpecError, match="at least 2 models"):
        evaluate(np.ones((9, 1)))


def test_the_command_writes_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(2)
    table, prompts, out = tmp_path / "scores.csv", tmp_path / "prompts.csv", tmp_path / "out.json"
    lines = [f"p{i},m{j},{rng.random():.3f},{10 + j}" for i in range(30) for j in range(3)]
    table.write_text("\n".join(["prompt_id,model,win_prob,cost_usd", *lines]) + "\n")
    prompts.write_text("\n".join(["prompt_id,dataset", *(f"p{i},d{i % 2}" for i in range(30))]) + "\n")
    arguments = ["evaluate", str(table), "--groups", str(prompts), "--repeats", "2", "--json", str(out)]
    assert main([*arguments, "--capacities", "0.5,1"]) == 0
    assert "greedy" in capsys.readouterr().out
    keys = {"capacity", "policy", "quality", "cost_usd", "served", "gain", "gain_low", "gain_high"}
    results = json.loads(out.read_text())["results"]
    assert {row["capacity"] for row in results} == {0.5, 1.0}
    assert all(set(row) == keys for row in results)
    assert main(arguments) == 2
    assert main(["evaluate", str(tmp_path / "none.csv")]) == 2
    assert main(["evaluate", str(table), "--capacities", "a"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_table_of_few_agents() -> None:
    for seed in range(20):
        scores = np.random.default_rng(seed).random((5, 2))
        found = evaluate(scores, params=EvaluationParams(repeats=3, seed=seed, capacities=(0.5, 1.0)))
        assert found["verification"]["broken"] == 0
        assert all(np.isfinite(row["gain"]) and row["served"] >= 1 for row in found["results"])


def test_intervals_are_as_wide_as_gains_scatter() -> None:
    """``python -m tests.gain_coverage`` is the long version; 0.5 and 2 are far outside the error of forty draws."""
    params = EvaluationParams(capacities=(0.8,), repeats=3, folds=2)
    for gains in gains_of(40, 40, params).values():
        assert missed(gains) <= 0.2
        assert 0.5 < breadth(gains) < 2.0

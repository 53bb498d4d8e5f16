from __future__ import annotations

import gc
import sys
import time

import numpy as np
import pytest

import solver
from benchmarks import random_deadlines
from solver import SpecError, Status
from solver.clock import Deadline
from solver.engines import kernels
from solver.engines.base import Claim, Engine, load_engine
from solver.engines.certificate import certify
from solver.engines.flow.laminar import recognition_seconds
from solver.engines.lagrangian import LagrangianEngine
from solver.engines.portfolio import PortfolioParams, call, run
from solver.problem.build import build_instance
from solver.problem.generate import generate_scores
from solver.solution import solving


@pytest.mark.parametrize(("n", "m"), [(10, 3), (1_000, 10), (20_000, 30)])
def test_a_deadline_always_brings_a_verified_answer(processor_time: None, n: int, m: int) -> None:
    solver.warm_up()
    scores, capacity = generate_scores(n, m, seed=0)
    started = time.process_time()
    solution = solver.assign(scores, capacity, deadline_ms=100)
    elapsed_ms = (time.process_time() - started) * 1e3
    assert solution.status in (Status.OPTIMAL, Status.FEASIBLE)
    assert (solution.load <= capacity).all()
    assert len(solution.unassigned) == 0
    assert solution.bound >= solution.objective
    assert elapsed_ms < 400  # a busy machine; the benchmark holds the real limit


def test_only_a_warm_up_that_imports_something_collects_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    solver.warm_up()
    collections = []
    monkeypatch.setattr(gc, "collect", lambda: collections.append(1))
    solver.warm_up()
    assert collections == []
    engine = load_engine("greedy")

    def loaded(_name: str) -> Engine:
        monkeypatch.setitem(sys.modules, "imported_by_an_engine", sys)
        return engine

    monkeypatch.setattr(solving, "load_engine", loaded)
    solver.warm_up("greedy")
    assert collections == [1]


def test_an_impossible_deadline_still_answers() -> None:
    scores, capacity = generate_scores(50_000, 20, seed=0)
    solution = solver.assign(scores, capacity, deadline_ms=0.001)
    assert solution.status is Status.FEASIBLE
    assert any(note.startswith("skipped ") for note in solution.notes)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), "soon", True])
def test_a_deadline_must_be_positive(bad: object) -> None:
    with pytest.raises(SpecError, match="deadline_ms: expected a number > 0"):
        solver.assign([[1.0]], [1], deadline_ms=bad)  # type: ignore[arg-type]


def test_unknown_engine() -> None:
    with pytest.raises(SpecError, match="engine: expected auto, greedy"):
        solver.assign([[1.0]], [1], engine="magic")


def test_infeasible_is_a_status_and_can_be_raised() -> None:
    solution = solver.assign([[1.0], [2.0]], [1], unassigned_penalty=np.inf)
    assert solution.status is Status.INFEASIBLE
    assert solution.objective == -np.inf
    with pytest.raises(solver.UnsolvedError, match="infeasible"):
        solution.raise_for_status()


def test_raise_for_status_returns_a_good_solution() -> None:
    solution = solver.assign([[1.0]], [1])
    assert solution.raise_for_status() is solution


def test_each_shape_gets_its_engine() -> None:
    tiny, tiny_capacity = generate_scores(12, 3, seed=0)
    assert solver.assign(tiny, tiny_capacity).engine == ("transport" if kernels.available() else "lsap")
    demand = np.arange(1.0, 13.0)
    assert solver.assign(tiny, tiny_capacity * 20, demand=demand).engine == "enumeration"
    small, small_capacity = generate_scores(60, 4, seed=0)
    many = np.arange(1.0, 61.0)
    answer = solver.assign(small, small_capacity * 30, demand=many)
    assert answer.engine in ("cpsat", "lagrangian")


def test_a_warm_start_of_another_shape_is_no_obstacle() -> None:
    scores, capacity = generate_scores(40, 4, seed=0)
    other = solver.assign(*generate_scores(30, 6, seed=1))
    warm = solver.assign(scores, capacity, warm_start=other)
    assert warm.objective == solver.assign(scores, capacity).objective


def test_a_sentinel_for_forbidden_pairs_still_ends_in_a_proof() -> None:
    """Whole-number costs cannot hold 1 and 1e12 at once; floats can."""
    rng = np.random.default_rng(0)
    scores = rng.random((300, 8))
    forbidden = rng.random(scores.shape) < 0.2
    slots = np.full(8, 38)
    masked = solver.assign(np.where(forbidden, -np.inf, scores), slots)
    sentinel = solver.assign(np.where(forbidden, -1e12, scores), slots)
    assert sentinel.status is Status.OPTIMAL
    assert sentinel.objective == pytest.approx(masked.objective)


def test_the_last_resort_takes_no_time_that_a_deadline_has_not() -> None:
    scores, capacity = generate_scores(50_000, 20, seed=0)
    solution = solver.assign(scores, capacity, deadline_ms=0.001)
    assert solution.status is Status.FEASIBLE
    assert not any("lsap" in note for note in solution.notes)


def test_an_engine_asked_for_by_name_has_all_the_time_there_is() -> None:
    instance = build_instance(*generate_scores(200, 5, seed=0))
    params = PortfolioParams(lsap_last_resort_s=0.0)
    answer = run(instance, deadline=Deadline.after(60_000), engine="lsap", params=params)
    assert answer.engine == "lsap"


def test_thresholds_out_of_range_are_named() -> None:
    with pytest.raises(
        solver.SpecError, match=r"PortfolioParams\.service_share: expected a number from 0 to 1, got 2"
    ):
        PortfolioParams(service_share=2.0)


def test_an_answer_under_a_deadline_is_never_worse_than_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an engine comes before greedy and falls short of it, greedy's answer is taken."""
    rng = np.random.default_rng(0)
    scores, demand = rng.uniform(0, 100, (60, 8)), rng.uniform(1, 10, (60, 8))
    instance = build_instance(scores, np.full(8, 60.0), demand=demand, unassigned_penalty=np.inf)
    greedy = load_engine("greedy").solve(instance, deadline=Deadline.after(None))
    assert greedy is not None
    poor = Claim(choice=np.arange(60) % 8)
    assert certify(instance, poor).objective < certify(instance, greedy).objective
    monkeypatch.setattr(LagrangianEngine, "solve", lambda self, instance, **options: poor)
    monkeypatch.setattr(call, "answers_before_greedy", lambda *arguments: True)
    answer = call.run(instance, deadline=Deadline.after(60_000), engine="lagrangian")
    assert answer.engine == "greedy"
    assert answer.certificate.objective == certify(instance, greedy).objective


def test_random_deadlines(processor_time: None) -> None:
    """A small share of `python -m benchmarks.random_deadlines`: the clock counts processor time."""
    faults = [random_deadlines.check(number, np.random.default_rng([3, number])) for number in range(12)]
    assert [fault for fault in faults if fault is not None] == []


def test_rows_by_the_thousand_are_not_looked_at_past_the_deadline(processor_time: None) -> None:
    """Eight teams apart on 5,680 models are 45,440 rows: recognising a network among them took 60 ms of 30."""
    scores = np.random.default_rng(0).uniform(0, 100, (10, 5_680))
    teams = [solver.Apart(name=f"t{k}", agents=[k, k + 1, k + 2]) for k in range(8)]
    answer = solver.assign(scores, np.ones(5_680), limits=teams, unassigned_penalty=np.inf, deadline_ms=30)
    assert (answer.choice >= 0).all()
    assert recognition_seconds(build_instance(scores, np.ones(5_680), limits=teams)) > 0.05

"""The compiled kernels against their numpy twins, and the loader."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import solver
from solver import SpecError
from solver.engines import kernels
from solver.engines.certificate import best_response
from solver.engines.lagrangian.ejection_chains import EjectionChains
from solver.engines.price.agent_rows import DenseRows
from solver.engines.standard_form import build_form
from solver.problem.build import build_instance
from solver.problem.generate import generate_scores
from solver.problem.instance import Instance
from solver.problem.sparse import CompressedScores
from tests import fuzz_kernels
from tests.kernel_equality import difference, numpy_only

compiled = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")


@compiled
def test_answers_do_not_depend_on_the_kernels() -> None:
    assert [line for seed in range(400) if (line := difference(seed))] == []


@compiled
def test_no_argument_makes_a_kernel_leave_its_arrays() -> None:
    """Under the sanitizers a read outside ends the process; otherwise wrong shapes and types are refused."""
    assert [line for seed in range(1_500) if (line := fuzz_kernels.fault(seed))] == []
    scores, out = np.ones((3, 2)), np.zeros(3)
    for refused in (
        {"rows": slice(0, 4)},
        {"rows": slice(-1, 2)},
        {"model": np.zeros(2, np.int64)},
        {"model": np.zeros(3, np.int32)},
        {"value": np.zeros(3, np.float32)},
        {"prices": np.zeros(1)},
        {"score": scores.astype(int)},
    ):
        given = {"score": scores, "prices": np.zeros(2), "rows": slice(0, 3), "value": out}
        with pytest.raises(ValueError, match="expected"):
            kernels.best_models(**(given | {"model": np.zeros(3, np.int64)} | refused))  # type: ignore[arg-type]


@compiled
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_box_pass_equals_numpy_bit_for_bit(dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 400)), int(rng.integers(1, 70))
    score: Any = rng.choice([rng.random((n, m)), rng.integers(0, 3, (n, m)).astype(float)])
    score = score.astype(dtype)
    score[rng.random((n, m)) < 0.2] = -np.inf
    outside = rng.random(n) if seed % 2 else None
    closed = rng.random(m) < 0.2
    if outside is None:
        closed[0] = False
        score[:, 0] = 0.5
    among = rng.integers(0, n, n // 2 + 1) if seed % 3 == 0 else None
    low = rng.random(m) * 0.3
    high = low + rng.random(m) * 0.05
    rows = DenseRows(score, None if among is not None else outside, closed, 1, among)
    ours = rows.reduce(low, high)
    with numpy_only():
        twin = rows.reduce(low, high)
    settled = np.setdiff1d(np.arange(rows.n), twin.agent)
    assert (ours.agent == twin.agent).all()
    assert (ours.choice[settled] == twin.choice[settled]).all()
    assert (ours.contested.model == twin.contested.model).all()
    assert (ours.contested.value == twin.contested.value).all()
    assert (ours.contested.settled == twin.contested.settled).all()


@compiled
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_best_models_equal_numpy_bit_for_bit(dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 300)), int(rng.integers(1, 70))
    score: Any = rng.integers(0, 3, (n, m)).astype(dtype) if seed % 2 else rng.random((n, m)).astype(dtype)
    score[rng.random((n, m)) < 0.3] = -np.inf
    instance = Instance(score=score, capacity=np.ones((m, 1)))
    prices = rng.random(m)
    ours = best_response(instance, prices)
    with numpy_only():
        twin = best_response(instance, prices)
    assert (ours.model == twin.model).all()
    assert (ours.score == twin.score).all()


@compiled
def test_large_instances_are_judged_alike() -> None:
    scores, capacity = generate_scores(60_000, 40, seed=0)
    ours = solver.assign(scores.astype(np.float32), capacity)
    with numpy_only():
        twin = solver.assign(scores.astype(np.float32), capacity)
    assert ours.status is twin.status is solver.Status.OPTIMAL
    assert (ours.choice == twin.choice).all()
    assert (ours.prices == twin.prices).all()
    assert ours.bound == pytest.approx(twin.bound, rel=1e-12)


@compiled
def test_the_kernel_looks_at_the_clock() -> None:
    scores = np.random.default_rng(0).integers(0, 3, (3_000, 300)).astype(float)
    found = kernels.transport(scores, np.full(3_000, -np.inf), np.full(300, 10), until_s=time.monotonic())
    assert found.outcome is kernels.Outcome.OUT_OF_TIME


@compiled
@pytest.mark.parametrize("copies", [None, np.full(8, 2, np.int64)])
def test_the_kernel_looks_at_the_clock_within_a_few_long_searches(copies: Any) -> None:
    scores = np.random.default_rng(0).random((8, 600)) + np.arange(600)
    supplied = None if copies is None else kernels.Supplied(copies=copies)
    slots = np.ones(600, np.int64)
    found = kernels.transport(scores, None, slots, supplied=supplied, until_s=0.0)
    assert found.outcome is kernels.Outcome.OUT_OF_TIME


def _matching_optimum(scores: Any, outside: Any, slots: Any) -> float | None:
    """Return the optimum by scipy on replicated models, None where there is none."""
    n = len(scores)
    value = scores[:, np.repeat(np.arange(scores.shape[1]), slots)]
    if outside is not None:
        value = np.hstack([value, np.where(np.eye(n, dtype=bool), outside[:, None], -np.inf)])
    if value.shape[1] < n:
        return None
    try:
        rows, columns = linear_sum_assignment(value, maximize=True)
    except ValueError:
        return None
    return float(value[rows, columns].sum())


@compiled
@pytest.mark.parametrize("seed", range(120))
def test_the_matching_is_optimal_and_its_prices_are_what_one_more_slot_is_worth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = (int(size) for size in rng.integers(1, 20, 2))
    m = n if seed % 4 == 0 else m
    scores = rng.uniform(size=(n, m)) if seed % 3 else rng.integers(0, 4, (n, m)).astype(float)
    if rng.random() < 0.5:
        scores[rng.random((n, m)) < rng.choice([0.1, 0.5, 0.8])] = -np.inf
    slots = rng.integers(0, 4, m) if seed % 2 else np.ones(m, np.int64)
    outside = None if rng.random() < 0.5 else np.where(rng.random(n) < 0.3, -np.inf, rng.uniform(-1, 1, n))
    optimum = _matching_optimum(scores, outside, slots)
    row, model = np.nonzero(np.isfinite(scores))
    stored = CompressedScores(scores[row, model], model, np.searchsorted(row, np.arange(n + 1)), m)
    for given in (scores, stored):
        found = kernels.match(given, outside, slots)
        if optimum is None:
            assert found.outcome is kernels.Outcome.INFEASIBLE
            continue
        assert found.outcome is kernels.Outcome.SOLVED
        served = np.flatnonzero(found.choice >= 0)
        value = float(scores[served, found.choice[served]].sum())
        value += 0.0 if outside is None else float(outside[found.choice < 0].sum())
        assert value == pytest.approx(optimum, rel=1e-9, abs=1e-9)
        assert (np.bincount(found.choice[served], minlength=m) <= slots).all()
        for j in range(m):
            more = _matching_optimum(scores, outside, slots + (np.arange(m) == j))
            assert more is not None
            assert more - optimum == pytest.approx(found.prices[j], abs=1e-9)


@compiled
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e308])
def test_no_value_makes_the_matching_leave_its_arrays_or_loop(bad: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((30, 30))
    scores[rng.random(scores.shape) < 0.3] = bad
    for outside in (None, np.full(30, bad)):
        found = kernels.match(scores, outside, np.ones(30, np.int64))
        if found.outcome is kernels.Outcome.SOLVED:
            assert ((found.choice >= -1) & (found.choice < 30)).all()


@compiled
def test_a_matching_refuses_rows_that_do_not_fit() -> None:
    data, model = np.ones(3), np.zeros(3, np.int64)
    ones = np.ones(1, np.int64)
    found = kernels.match(CompressedScores(data, model + 7, np.array([0, 2, 3]), 1), None, ones)
    assert found.outcome is kernels.Outcome.BAD_INPUT
    found = kernels.match(CompressedScores(data, model, np.array([0, 5, 3]), 1), None, ones)
    assert found.outcome is kernels.Outcome.BAD_INPUT
    with pytest.raises(ValueError, match="row starts"):
        kernels.match(CompressedScores(data, model, np.array([0, 2, 4]), 1), None, ones)
    found = kernels.match(
        np.random.default_rng(0).random((900, 900)), None, np.ones(900, np.int64), until_s=0.0
    )
    assert found.outcome is kernels.Outcome.OUT_OF_TIME


@compiled
def test_wrong_input_is_refused_not_read() -> None:
    scores = np.ones((3, 2))
    with pytest.raises(ValueError, match="expected outside"):
        kernels.transport(scores, np.zeros(2), np.ones(2, np.int64))
    found = kernels.transport(scores, np.zeros(3), np.array([-1, 2]))
    assert found.outcome is kernels.Outcome.BAD_INPUT


@compiled
@pytest.mark.parametrize("seed", range(4))
def test_medium_instances_have_the_same_prices(seed: int) -> None:
    """Large enough for samples and for a core of the arcs; some models serve nobody."""
    rng = np.random.default_rng(seed)
    n, m = 700, 60
    scores = rng.uniform(size=(n, 1)) * rng.uniform(size=(1, m))
    capacity = np.full(m, n // m + 1 if seed % 2 else 2 * n // m)
    given: dict[str, Any] = {"min_load": rng.integers(0, n // m, m) * (rng.random(m) < 0.5)}
    if seed > 1:
        given["load_cost"] = np.sort(rng.uniform(0, 0.4, (m, 3)), axis=1)
    ours = solver.assign(scores, capacity, **given)
    assert ours.engine == "transport"
    with numpy_only():
        twin = solver.assign(scores, capacity, **given)
    assert ours.status is twin.status is solver.Status.OPTIMAL
    assert ours.multipliers == pytest.approx(twin.multipliers, abs=1e-9)


@compiled
def test_scores_of_four_bytes_are_read_as_they_are() -> None:
    scores, slots = generate_scores(3_000, 20, seed=0)
    scores = scores.astype(np.float32)
    outside = np.full(3_000, -np.inf)
    ours = kernels.transport(scores, outside, slots)
    twin = kernels.transport(scores.astype(np.float64), outside, slots)
    assert (ours.choice == twin.choice).all()
    assert (ours.prices == twin.prices).all()


def _supplied(**given: Any) -> kernels.Supplied:
    return kernels.Supplied(**{name: np.asarray(values) for name, values in given.items()})


@compiled
@pytest.mark.parametrize(
    "given",
    [
        {"floor": [-1, 0]},
        {"width": [1, 0, 1]},
        {"copies": [2**41, 1, 1]},
        {"width": [2**39] * 3, "copies": [4, 4, 4]},
        {"tier_cost": [[0.0, 1.0]] * 2, "tier_end": [[2, 1]] * 2},
        {"tier_cost": [[0.0, 1.0]] * 2, "tier_end": [[1, 9]] * 2},
    ],
    ids=str,
)
def test_wrong_supplies_are_refused_not_read(given: dict[str, Any]) -> None:
    found = kernels.transport(np.ones((3, 2)), np.zeros(3), np.array([2, 2]), supplied=_supplied(**given))
    assert found.outcome is kernels.Outcome.BAD_INPUT
    short = _supplied(**{name: values[:1] for name, values in given.items()})
    with pytest.raises(ValueError, match="expected"):
        kernels.transport(np.ones((3, 2)), np.zeros(3), np.array([2, 2]), supplied=short)


@compiled
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_no_value_makes_a_network_leave_its_arrays(bad: float) -> None:
    rng = np.random.default_rng(0)
    n, m = 60, 7
    scores = rng.random((n, m))
    scores[rng.random(scores.shape) < 0.5] = bad
    cost = np.sort(rng.choice([0.0, 0.3, bad], (m, 3)), axis=1)
    slots = np.full(m, 60)
    supplied = _supplied(
        floor=rng.integers(0, 30, m),
        tier_cost=cost,
        tier_end=np.tile([20, 40, 60], (m, 1)),
        width=rng.integers(1, 5, n),
        copies=rng.integers(1, 4, n),
    )
    for outside in (np.full(n, bad), np.zeros(n), np.full(n, -np.inf)):
        found = kernels.transport(scores, outside, slots, supplied=supplied, bounded=True)
        if found.outcome is kernels.Outcome.SOLVED:
            assert found.units is not None
            assert (found.units >= 0).all()
            assert (found.units[:, :m].sum(axis=0) <= slots).all()


@compiled
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_no_value_makes_a_kernel_leave_its_arrays(bad: float) -> None:
    """Instances are checked before; a kernel stays inside its arrays all the same."""
    rng = np.random.default_rng(0)
    scores = rng.random((60, 7))
    scores[rng.random(scores.shape) < 0.5] = bad
    found = kernels.transport(scores, np.full(60, bad), np.full(7, 9))
    if found.outcome is kernels.Outcome.SOLVED:
        assert ((found.choice >= -1) & (found.choice < 7)).all()


@compiled
def test_threads_share_nothing() -> None:
    scores, capacity = generate_scores(2_000, 20, seed=0)
    expected = solver.assign(scores, capacity).choice
    answers: list[Any] = [None] * 4

    def work(k: int) -> None:
        answers[k] = solver.assign(scores, capacity).choice

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all((answer == expected).all() for answer in answers)


def test_without_kernels_the_engine_says_so() -> None:
    with numpy_only(), pytest.raises(SpecError, match="needs the compiled kernels"):
        solver.assign([[1.0]], [1], engine="transport")


def test_an_environment_variable_switches_them_off() -> None:
    code = (
        "import solver; from solver.engines import kernels;"
        "print(kernels.available(), solver.assign([[1]], [1]).engine)"
    )
    environment = {**os.environ, "SOLVER_PURE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "lsap"]


@compiled
@pytest.mark.parametrize("seed", range(10))
def test_moves_change_the_penalised_loss_by_what_they_say(seed: int) -> None:
    """And the compiled beam finds moves as good as its numpy twin when it may keep everything."""
    rng = np.random.default_rng(seed)
    n, m, r = 14, 4, int(rng.integers(1, 3))
    penalty = None if seed % 3 else float(rng.uniform(10, 40))
    instance = build_instance(
        rng.integers(1, 50, (n, m)).astype(float),
        np.full((m, r), 30.0),
        demand=rng.integers(3, 20, (n, m, r)).astype(float),
        unassigned_penalty=np.inf if penalty is None else penalty,
    )
    form = build_form(instance, leave=penalty is not None)
    price = rng.uniform(0, 1, (r, form.columns))
    columns = rng.integers(0, form.columns, n)

    def penalised(chains: EjectionChains) -> float:
        chains.refresh()
        loss = float(chains.priced[np.arange(n), chains.column[:-1]].sum())
        return loss + float((chains.penalty * np.maximum(chains.use - chains.room, 0)).sum())

    def start(width: int) -> EjectionChains:
        chains = EjectionChains(
            form,
            form.loss,
            price,
            nearest=form.columns,
            width=width,
            depth=4,
            rng=np.random.default_rng(0),
        )
        chains.penalty = np.full(chains.room.shape, 0.05, np.float32)
        chains.place(columns)
        return chains

    chains = start(100_000)
    before = penalised(chains)
    moves = chains.moves(64)
    with numpy_only():
        twins = start(100_000).moves(64)
    assert moves[0].value == pytest.approx(twins[0].value, abs=1e-5)
    for move in moves[:10]:
        trial = start(100)
        trial.apply(move)
        assert penalised(trial) - before == pytest.approx(move.value, abs=1e-4)
    stop, _ = chains.improve(crossed=False, local=np.inf, tolerance=1e-9, until_s=time.monotonic() + 10)
    assert stop in (kernels.Stop.LOCAL_OPTIMUM, kernels.Stop.BETTER)
    assert penalised(chains) < before
    assert (
        np.sort(chains.members[chains.members < n]) == np.flatnonzero(chains.column[:-1] < form.models)
    ).all()

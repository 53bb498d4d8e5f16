"""One suite, every engine: a new engine is one more name in the fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import solver
from solver import SpecError, Status
from solver.engines import base, kernels
from solver.engines.cpsat.engine import CpSatEngine
from solver.engines.enumeration import EnumerationEngine
from solver.engines.flow.engine import FlowEngine
from solver.engines.greedy import GreedyEngine
from solver.engines.lagrangian import LagrangianEngine
from solver.engines.lsap import LsapEngine
from solver.engines.price.engine import PriceEngine
from solver.engines.transport import TransportEngine
from solver.problem.generate import generate_scores
from tests.oracles import assert_optimal, dual_value, random_case

if TYPE_CHECKING:
    from tests.oracles import Case

ENGINES = [name for name in base.ENGINES if name != "transport" or kernels.available()]
EXACT_FOR_SLOTS = sorted(set(ENGINES) - {"greedy", "lagrangian"})


ENGINE_TYPES: tuple[type[base.Engine], ...] = (  # the type checker holds each to the protocol
    GreedyEngine,
    LsapEngine,
    TransportEngine,
    FlowEngine,
    EnumerationEngine,
    CpSatEngine,
    LagrangianEngine,
    PriceEngine,
)


def test_the_registry_knows_every_engine_by_its_name() -> None:
    assert {name: type(base.load_engine(name)) for name in base.ENGINES} == {
        kind.name: kind for kind in ENGINE_TYPES
    }


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=EXACT_FOR_SLOTS)
def exact(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sized(engine: str) -> str:
    """Engines for more than a handful of pairs."""
    if engine == "enumeration":
        pytest.skip("enumeration takes tiny instances only")
    return engine


@pytest.fixture
def priced(exact: str) -> str:
    """Exact engines whose answers come with prices of slots."""
    if exact == "enumeration":
        pytest.skip("enumeration has no prices")
    return exact


def solve(case: Case, engine: str) -> solver.Solution:
    return solver.assign(
        case.scores,
        case.capacity,
        priority=case.priority,
        unassigned_penalty=case.penalty,
        engine=engine,
    )


@pytest.mark.parametrize("seed", range(500))
def test_exact_engines_agree_with_enumeration(seed: int) -> None:
    case = random_case(np.random.default_rng(seed), most_agents=5)
    for exact in EXACT_FOR_SLOTS:
        assert_optimal(solve(case, exact), case)


@pytest.mark.parametrize("seed", range(40))
def test_every_engine_is_feasible_and_within_its_bound(engine: str, seed: int) -> None:
    case = random_case(np.random.default_rng(1000 + seed), most_agents=5)
    solution = solve(case, engine)
    best = case.best()
    if best is None:
        assert solution.status in (Status.INFEASIBLE, Status.UNKNOWN)
        return
    if solution.status is Status.UNKNOWN:
        assert engine in ("greedy", "lagrangian")
        return
    value = case.value(solution.choice)
    assert value is not None
    assert value <= (best[0], best[1] + 1e-9)
    assert solution.objective == pytest.approx(value[1], abs=1e-9)
    if value[0] == best[0]:
        assert best[1] <= solution.bound + 1e-9


@pytest.mark.parametrize("seed", range(200))
def test_exact_engines_agree_on_medium_instances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(30, 200)), int(rng.integers(2, 12))
    scores, capacity = generate_scores(n, m, seed=seed, fill=float(rng.choice([0.5, 0.95, 1.0, 1.3])))
    if seed % 3 == 0:
        scores = np.round(scores, 1)
    if seed % 4 == 0:
        scores[rng.random((n, m)) < 0.6] = -np.inf
    penalty = [None, 0.2, None][seed % 3]
    names = [name for name in EXACT_FOR_SLOTS if name not in ("cpsat", "enumeration")]
    solutions = [solver.assign(scores, capacity, unassigned_penalty=penalty, engine=name) for name in names]
    for solution in solutions:
        assert solution.status is Status.OPTIMAL
        assert solution.objective == pytest.approx(solutions[0].objective, rel=1e-9, abs=1e-9)
        assert len(solution.unassigned) == len(solutions[0].unassigned)


@pytest.mark.parametrize("seed", range(5))
def test_cpsat_in_limited_time_never_contradicts_the_exact_engines(seed: int) -> None:
    scores, capacity = generate_scores(60, 4, seed=seed, fill=[0.5, 1.0, 1.3][seed % 3])
    exact = solver.assign(scores, capacity, engine="flow")
    limited = solver.assign(scores, capacity, engine="cpsat", deadline_ms=500)
    assert len(limited.unassigned) >= len(exact.unassigned)
    if len(limited.unassigned) == len(exact.unassigned):
        assert limited.objective <= exact.objective + 1e-9
        assert exact.objective <= limited.bound + 1e-9


def test_prices_are_what_one_more_slot_adds(priced: str) -> None:
    for seed, fill in enumerate((0.7, 1.0, 1.3)):
        scores, capacity = generate_scores(40, 4, seed=seed, fill=fill)
        solution = solver.assign(scores, capacity, engine=priced)
        for j in range(4):
            more = capacity.copy()
            more[j] += 1
            gain = solver.assign(scores, more, engine=priced).objective - solution.objective
            assert solution.prices[j] == pytest.approx(gain, abs=1e-7), (fill, j)


def test_the_bound_follows_from_the_prices(priced: str) -> None:
    scores, capacity = generate_scores(150, 6, seed=3, fill=0.95)
    solution = solver.assign(scores, capacity, engine=priced)
    assert dual_value(scores, capacity, solution.prices) == pytest.approx(solution.objective, rel=1e-9)
    assert (solution.prices * (capacity - solution.load) < 1e-9).all()


def test_same_input_and_seed_give_the_same_answer(sized: str) -> None:
    scores, capacity = generate_scores(80, 5, seed=1)
    first = solver.assign(scores, capacity, engine=sized, seed=7)
    again = solver.assign(scores, capacity, engine=sized, seed=7)
    assert np.array_equal(first.choice, again.choice)
    assert np.array_equal(first.multipliers, again.multipliers)


def test_float32_scores_are_certified_in_float64(priced: str) -> None:
    scores, capacity = generate_scores(60, 4, seed=2)
    narrow = scores.astype(np.float32)
    solution = solver.assign(narrow, capacity, engine=priced)
    assert solution.status is Status.OPTIMAL
    own = narrow[np.arange(60), solution.choice].astype(np.float64)
    assert solution.objective == pytest.approx(float(own.sum()), rel=1e-15)


@pytest.mark.parametrize(
    ("scores", "capacity"),
    [
        ([[1.0]], [1]),
        ([[1.0]], [0]),
        ([[-np.inf]], [3]),
        ([[0.0, 0.0, 0.0]], [0, 0, 1]),
        ([[5.0], [5.0], [5.0]], [2]),
        ([[1e9, 1.0], [1e9, 1.0]], [1, 1]),
        ([[1e-9, 2e-9], [3e-9, 1e-9]], [1, 1]),
        ([[-5.0, -7.0], [-6.0, -6.0]], [1, 0]),
    ],
)
def test_edges(engine: str, scores: list[list[float]], capacity: list[int]) -> None:
    solution = solver.assign(scores, capacity, engine=engine)
    assert solution.status in (Status.OPTIMAL, Status.FEASIBLE)
    if engine in EXACT_FOR_SLOTS:
        assert solution.status is Status.OPTIMAL
    reachable = np.isfinite(scores) & (np.array(capacity) > 0)
    assert int(solution.load.sum()) == min(int(np.sum(capacity)), int(reachable.any(axis=1).sum()))


def test_an_engine_says_why_it_cannot(engine: str) -> None:
    demand = np.array([2.0, 1.0])
    try:
        solution = solver.assign([[3.0, 1.0], [2.0, 2.0]], [2, 1], demand=demand, engine=engine)
    except SpecError as error:
        assert "engine: cannot solve this instance" in str(error)  # noqa: PT017 - either outcome is right
        assert engine in ("lsap", "transport", "flow", "price")
    else:
        assert solution.choice.tolist() == [0, 1]
        assert solution.objective == 5.0

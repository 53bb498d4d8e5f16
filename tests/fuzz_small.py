"""Random tiny instances of every kind against enumeration, and medium ones against HiGHS.

Run ``python -m tests.fuzz_small --count 100000 --seed 0``, and with ``--medium`` for HiGHS. The oracles read the
arguments of ``solver.assign`` and share no code with the package.
A new kind of input is one more entry of ``FEATURES``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

import solver
from solver import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Row = tuple["NDArray[np.float64]", float]  # (n, m) coefficients, right-hand side of <=


@dataclass
class Sample:
    """Arguments of ``solver.assign``, and the same as plain arrays for an oracle."""

    scores: NDArray[np.float64]
    capacity: NDArray[np.float64]
    whole: bool  # all numbers are whole
    arguments: dict[str, Any] = field(default_factory=dict)
    demand: NDArray[np.float64] | None = None  # (n, m, r)
    penalty: NDArray[np.float64] | None = None
    priority: NDArray[np.float64] | None = None
    limits: list[solver.Limit] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    soft: list[tuple[Row, float]] = field(
        default_factory=list
    )  # rows that may be exceeded, at a price per unit
    together: list[NDArray[np.int64]] = field(default_factory=list)

    @property
    def units(self) -> NDArray[np.float64]:
        """(m, r) capacity."""
        return self.capacity.reshape(len(self.capacity), -1)

    def solve(self) -> solver.Solution:
        """Run the package."""
        return solver.assign(self.scores, self.capacity, limits=self.limits, **self.arguments)


def _numbers(
    rng: np.random.Generator, shape: tuple[int, ...], most: int, *, whole: bool
) -> NDArray[np.float64]:
    drawn = rng.integers(0, most + 1, shape) if whole else most * rng.random(shape)
    return np.asarray(drawn, dtype=np.float64)


def add_forbidden(sample: Sample, rng: np.random.Generator) -> None:
    """Forbid pairs, by score or by eligibility."""
    mask = rng.random(sample.scores.shape) < rng.choice([0.15, 0.5])
    if rng.random() < 0.5:
        sample.arguments["eligible"] = ~mask
    given = sample.scores
    sample.scores = np.where(mask, -np.inf, given)


def add_demand(sample: Sample, rng: np.random.Generator) -> None:
    """Let agents take amounts of one or two resources."""
    n, m = sample.scores.shape
    r = int(rng.integers(1, 3))
    whole = sample.whole
    shape = (n, 1, r) if rng.random() < 0.5 else (n, m, r)
    demand = _numbers(rng, shape, 5, whole=whole)
    sample.capacity = _numbers(rng, (m, r), int(rng.integers(1, 12)), whole=whole)
    sample.arguments["demand"] = np.broadcast_to(demand, (n, m, r)).copy()
    sample.demand = np.broadcast_to(demand, (n, m, r))


def add_penalty(sample: Sample, rng: np.random.Generator) -> None:
    """Charge for agents left out, forbid it, or both by agent."""
    n = len(sample.scores)
    kind = int(rng.integers(4))
    penalty = np.full(n, [0.0, float(rng.integers(1, 8)), np.inf, 0.0][kind])
    if kind == 3:
        penalty = np.where(rng.random(n) < 0.3, np.inf, _numbers(rng, (n,), 8, whole=sample.whole))
    sample.penalty = penalty
    sample.arguments["unassigned_penalty"] = penalty if kind == 3 else float(penalty[0])


def add_priority(sample: Sample, rng: np.random.Generator) -> None:
    """Give agents priorities."""
    sample.priority = rng.integers(1, 4, len(sample.scores)).astype(float)
    sample.arguments["priority"] = sample.priority


def add_limits(sample: Sample, rng: np.random.Generator) -> None:
    """Add one to three limits of any kind."""
    for at in range(int(rng.integers(1, 4))):
        before = len(sample.rows), len(sample.limits)
        _LIMITS[int(rng.integers(len(_LIMITS)))](sample, rng, f"l{at}")
        if len(sample.rows) > before[0] and rng.random() < 0.35:
            soften(sample, rng, before[0])


def soften(sample: Sample, rng: np.random.Generator, first: int) -> None:
    """Let the last limit, whose rows begin at ``first``, be exceeded at a price."""
    price = 0.0 if rng.random() < 0.05 else float(_numbers(rng, (1,), 6, whole=sample.whole)[0])
    sample.soft += [(row, price) for row in sample.rows[first:]]
    del sample.rows[first:]
    sample.limits[-1] = replace(cast("Any", sample.limits[-1]), violation_price=price)


def add_shift(sample: Sample, rng: np.random.Generator) -> None:
    """Move and scale the scores: negative ones, large offsets, tiny differences."""
    if sample.whole:
        sample.scores = sample.scores - float(rng.integers(0, 12))
    else:
        sample.scores = sample.scores * rng.choice([1e-4, 1.0, 1e4]) - rng.choice([0.0, 3.0, 1e3])


FEATURES: tuple[tuple[float, Callable[[Sample, np.random.Generator], None]], ...] = (
    (0.3, add_shift),
    (0.4, add_forbidden),
    (0.6, add_demand),
    (0.6, add_penalty),
    (0.35, add_priority),
    (0.6, add_limits),
)
"""How often each kind of input occurs, and what adds it."""


def _scope(sample: Sample, rng: np.random.Generator) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    n, m = sample.scores.shape
    mask = np.ones((n, m), bool)
    scope: dict[str, Any] = {}
    if rng.random() < 0.5:
        agents = np.flatnonzero(rng.random(n) < 0.6)
        if len(agents):
            scope["agents"] = agents.tolist()
            mask[np.setdiff1d(np.arange(n), agents)] = False
    if rng.random() < 0.5:
        models = np.flatnonzero(rng.random(m) < 0.6)
        if len(models):
            scope["models"] = models.tolist()
            mask[:, np.setdiff1d(np.arange(m), models)] = False
    return scope, mask


def _use(sample: Sample, rng: np.random.Generator) -> NDArray[np.float64]:
    n, m = sample.scores.shape
    shape = [(n, m), (n, 1), (m,)][int(rng.integers(3))]
    return _numbers(rng, shape, 4, whole=sample.whole)


def _bound(sample: Sample, rng: np.random.Generator, most: float) -> float:
    drawn = rng.integers(0, int(most) + 1) if sample.whole else most * rng.random()
    return 0.0 if rng.random() < 0.1 else float(drawn)


def _budget(sample: Sample, rng: np.random.Generator, name: str) -> None:
    scope, mask = _scope(sample, rng)
    cost, amount = _use(sample, rng), _bound(sample, rng, 10)
    sample.limits.append(solver.Budget(name=name, amount=amount, cost=cost, **scope))
    sample.rows.append((np.where(mask, cost, 0.0), amount))


def _quota(sample: Sample, rng: np.random.Generator, name: str) -> None:
    scope, mask = _scope(sample, rng)
    counted = rng.random() < 0.5
    use = np.ones((1, 1)) if counted else _use(sample, rng)
    low = None if rng.random() < 0.5 else _bound(sample, rng, 3)
    high = None if low is not None and rng.random() < 0.5 else (low or 0.0) + _bound(sample, rng, 4)
    given = None if counted else use
    sample.limits.append(solver.Quota(name=name, at_least=low, at_most=high, use=given, **scope))
    if high is not None:
        sample.rows.append((np.where(mask, use, 0.0), high))
    if low is not None:
        sample.rows.append((np.where(mask, -use, 0.0), -low))


def _commitment(sample: Sample, rng: np.random.Generator, name: str) -> None:
    scope, mask = _scope(sample, rng)
    use, low = _use(sample, rng), _bound(sample, rng, 4)
    sample.limits.append(solver.Commitment(name=name, at_least=low, use=use, **scope))
    sample.rows.append((np.where(mask, -use, 0.0), -low))


def _share(sample: Sample, rng: np.random.Generator, name: str) -> None:
    scope, mask = _scope(sample, rng)
    use = _use(sample, rng)
    part = float(rng.choice([0.0, 0.25, 0.3, 0.5, 1.0]))
    if rng.random() < 0.5:
        sample.limits.append(solver.Share(name=name, at_most=part, use=use, **scope))
        sample.rows.append((use * (mask - part), 0.0))
    else:
        sample.limits.append(solver.Share(name=name, at_least=part, use=use, **scope))
        sample.rows.append((use * (part - mask), 0.0))


def _average(sample: Sample, rng: np.random.Generator, name: str) -> None:
    scope, mask = _scope(sample, rng)
    value, level = _use(sample, rng), float(rng.choice([0.3, 1.0, 2.0, 2.5]))
    if rng.random() < 0.5:
        sample.limits.append(solver.Average(name=name, value=value, at_most=level, **scope))
        sample.rows.append((np.where(mask, value - level, 0.0), 0.0))
    else:
        sample.limits.append(solver.Average(name=name, value=value, at_least=level, **scope))
        sample.rows.append((np.where(mask, level - value, 0.0), 0.0))


def _apart(sample: Sample, rng: np.random.Generator, name: str) -> None:
    scope, mask = _scope(sample, rng)
    most = int(rng.integers(0, 3))
    sample.limits.append(solver.Apart(name=name, at_most=most, **scope))
    for j in range(sample.scores.shape[1]):
        if mask[:, j].any():
            only = np.zeros_like(sample.scores)
            only[:, j] = mask[:, j]
            sample.rows.append((only, float(most)))


def _together(sample: Sample, rng: np.random.Generator, name: str) -> None:
    n = len(sample.scores)
    free = np.setdiff1d(np.arange(n), np.concatenate([*sample.together, np.zeros(0, np.int64)]))
    if len(free) < 2:
        return
    group = np.sort(rng.choice(free, int(rng.integers(2, min(3, len(free)) + 1)), replace=False))
    sample.limits.append(solver.Together(name=name, agents=group.tolist()))
    sample.together.append(np.asarray(group, np.int64))


def _changes(sample: Sample, rng: np.random.Generator, name: str) -> None:
    n, m = sample.scores.shape
    before = np.asarray(rng.integers(-1, m, size=(n,)), dtype=np.int64)
    moved = ((before[:, None] >= 0) & (before[:, None] != np.arange(m))).astype(float)
    if rng.random() < 0.5:
        most = float(rng.integers(0, n))
        sample.limits.append(solver.Changes(name=name, previous=before, at_most=most))
        sample.rows.append((moved, most))
    else:
        cost = float(rng.integers(0, 4))
        sample.limits.append(solver.StayPut(name=name, previous=before, cost=cost))
        sample.arguments.setdefault("_charge", np.zeros((n, m)))
        sample.arguments["_charge"] = sample.arguments["_charge"] + cost * moved


_LIMITS = (_budget, _quota, _commitment, _share, _average, _apart, _together, _changes)


def draw(rng: np.random.Generator, *, most_agents: int = 5, most_models: int = 3, least: int = 1) -> Sample:
    """Return one random sample."""
    n, m = int(rng.integers(least, most_agents + 1)), int(rng.integers(1, most_models + 1))
    whole = bool(rng.random() < 0.5)
    sample = Sample(
        scores=_numbers(rng, (n, m), 9, whole=whole),
        capacity=rng.integers(0, 4 if most_agents < 8 else n, m).astype(float),
        whole=whole,
    )
    for share, add in FEATURES:
        if rng.random() < share:
            add(sample, rng)
    return sample


@cache
def _plans(n: int, m: int) -> NDArray[np.int64]:
    return np.array(list(itertools.product(range(-1, m), repeat=n)), dtype=np.int64)


def _feasible(sample: Sample, plans: NDArray[np.int64]) -> NDArray[np.bool_]:
    n, m = sample.scores.shape
    served, at = plans >= 0, np.maximum(plans, 0)
    agents = np.arange(n)
    fine: NDArray[np.bool_] = np.all(~served | np.isfinite(sample.scores[agents, at]), axis=1)
    demand = np.ones((n, m, 1)) if sample.demand is None else sample.demand
    for j in range(m):
        mine = served & (plans == j)
        for k in range(demand.shape[2]):
            load = (mine * demand[:, j, k]).sum(axis=1)
            fine &= load <= sample.units[j, k] * (1 + 1e-9) + 1e-12
    for coefficient, bound in sample.rows:
        terms = np.where(served, np.broadcast_to(coefficient, (n, m))[agents, at], 0.0)
        fine &= terms.sum(axis=1) <= bound + 1e-9 * (abs(bound) + np.abs(terms).sum(axis=1))
    for group in sample.together:
        fine &= (plans[:, group] == plans[:, group[:1]]).all(axis=1)
    if sample.penalty is not None:
        fine &= np.all(served | ~np.isposinf(sample.penalty), axis=1)
    return fine


def _values(sample: Sample, plans: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (p, k) sort keys, the objective last."""
    n = len(sample.scores)
    served, at = plans >= 0, np.maximum(plans, 0)
    worth = sample.scores - sample.arguments.get("_charge", 0.0)
    total = np.where(served, worth[np.arange(n), at], 0.0).sum(axis=1)
    for (coefficient, bound), price in sample.soft:
        terms = np.where(served, np.broadcast_to(coefficient, sample.scores.shape)[np.arange(n), at], 0.0)
        total -= price * np.maximum(terms.sum(axis=1) - bound, 0.0)
    if sample.penalty is not None:
        priority = np.ones(n) if sample.priority is None else sample.priority
        finite = np.isfinite(sample.penalty)
        charge = np.where(finite, sample.penalty, 0.0) * priority
        return np.asarray(total - (~served * charge).sum(axis=1))[:, None]
    keys = [served.sum(axis=1).astype(float)]
    if sample.priority is not None:
        levels = sorted(set(sample.priority.tolist()), reverse=True)
        keys += [(served & (sample.priority == level)).sum(axis=1).astype(float) for level in levels]
    return np.stack([*keys, total], axis=1)


def wrong_with(sample: Sample, answer: solver.Solution) -> str | None:
    """Return what is wrong with an answer according to enumeration, None if nothing is."""
    n, m = sample.scores.shape
    plans = _plans(n, m)
    plans = plans[_feasible(sample, plans)]
    if answer.status is Status.INFEASIBLE:
        return None if not len(plans) else "called infeasible"
    if answer.status is Status.UNKNOWN:
        return None if not len(plans) else "nothing found"
    if not len(plans):
        return "a plan where there is none"
    own = answer.choice[None, :]
    if not _feasible(sample, own)[0]:
        return "plan breaks a rule"
    keys, mine = _values(sample, plans), _values(sample, own)[0]
    best = keys[np.lexsort(keys.T[::-1])[-1]]
    close = 1e-9 * max(
        1.0, abs(best[-1]), float(np.abs(sample.scores[np.isfinite(sample.scores)]).max(initial=0))
    )
    if abs(mine[-1] - answer.objective) > close:
        return f"objective {answer.objective}, recomputed {mine[-1]}"
    as_good = keys[(keys[:, :-1] == mine[:-1]).all(axis=1), -1].max()
    if answer.bound < as_good - close:
        return f"bound {answer.bound} below {as_good}"
    if sample.penalty is None:
        worth = np.sort((sample.scores - sample.arguments.get("_charge", 0.0)).max(axis=1))[::-1]
        most = float(worth[: int(mine[0])].sum())
        if answer.bound > most + close:
            return f"bound {answer.bound} above {most}, the sum of the best scores"
    if answer.status is Status.OPTIMAL and (
        tuple(mine[:-1]) < tuple(best[:-1]) or mine[-1] < best[-1] - close
    ):
        return f"optimal {mine}, enumeration {best}"
    return None


def by_highs(sample: Sample) -> tuple[str, float]:
    """Return status and objective by HiGHS through scipy: service first, then the score among those."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    n, m = sample.scores.shape
    worth = sample.scores - sample.arguments.get("_charge", 0.0)
    usable = np.isfinite(worth)
    matrix, least, most = [], [], []
    excess = len(sample.soft)  # columns after those of the pairs, one for each row that may be exceeded

    def add(row: NDArray[np.float64], low: float, high: float, beyond: int | None = None) -> None:
        matrix.append(np.append(row.ravel(), -1.0 * (np.arange(excess) == beyond)))
        least.append(low)
        most.append(high)

    must = np.zeros(n, bool) if sample.penalty is None else np.isposinf(sample.penalty)
    for i in range(n):
        row = np.zeros((n, m))
        row[i] = 1
        add(row, float(must[i]), 1.0)
    demand = np.ones((n, m, 1)) if sample.demand is None else sample.demand
    for j in range(m):
        for k in range(demand.shape[2]):
            row = np.zeros((n, m))
            row[:, j] = demand[:, j, k]
            add(row, -np.inf, float(sample.units[j, k]))
    for coefficient, bound in sample.rows:
        add(np.broadcast_to(coefficient, (n, m)), -np.inf, bound)
    for k, ((coefficient, bound), _) in enumerate(sample.soft):
        add(np.broadcast_to(coefficient, (n, m)), -np.inf, bound, beyond=k)
    for group in sample.together:
        for i in group[1:]:
            for j in range(m):
                row = np.zeros((n, m))
                row[i, j], row[group[0], j] = 1, -1
                add(row, 0.0, 0.0)

    paid = np.array([price for _, price in sample.soft])

    def best(value: NDArray[np.float64], *, charged: bool = False) -> Any:
        return milp(
            np.append(-np.where(usable, value, 0.0).ravel(), paid if charged else 0.0 * paid),
            constraints=LinearConstraint(np.array(matrix), least, most),
            integrality=np.append(np.ones(n * m), np.zeros(excess)),
            bounds=Bounds(0, np.append(usable.astype(float).ravel(), np.full(excess, np.inf))),
            options={"mip_rel_gap": 0.0, "time_limit": 20},
        )

    priority = np.ones(n) if sample.priority is None else sample.priority
    stages = [worth]
    offset = 0.0
    if sample.penalty is None:
        levels = sorted(set(priority.tolist()), reverse=True) if sample.priority is not None else []
        stages = [
            np.ones((n, m)),
            *(np.broadcast_to((priority == v)[:, None], (n, m)) * 1.0 for v in levels),
            worth,
        ]
    else:
        charge = np.where(must, 0.0, sample.penalty) * priority
        stages, offset = [worth + charge[:, None]], -float(charge.sum())
    for stage in stages[:-1]:
        found = best(stage)
        if found.status != 0:
            return ("infeasible" if found.status == 2 else "open"), -np.inf
        add(stage, round(-found.fun) - 0.5, np.inf)
    found = best(stages[-1], charged=True)
    if found.status != 0:
        return ("infeasible" if found.status == 2 else "open"), -np.inf
    return "optimal", float(-found.fun) + offset


def disagreement(sample: Sample, answer: solver.Solution) -> str | None:
    """Return how an answer contradicts HiGHS, None if it does not."""
    status, value = by_highs(sample)
    if status == "open":
        return None
    if status == "infeasible":
        bad = (
            answer.status in (Status.OPTIMAL, Status.FEASIBLE)
            and not _feasible(sample, answer.choice[None])[0]
        )
        return "a plan where HiGHS finds none" if bad else None
    if answer.status is Status.INFEASIBLE:
        return "called infeasible"
    if answer.status is Status.UNKNOWN:
        return None
    if not _feasible(sample, answer.choice[None])[0]:
        return "plan breaks a rule"
    finite = np.abs(sample.scores[np.isfinite(sample.scores)]).max(initial=0)
    close = 2e-6 * max(1.0, abs(value), float(finite))  # HiGHS's own tolerances
    if answer.status is Status.OPTIMAL and answer.objective < value - close:
        return f"optimal {answer.objective}, HiGHS {value}"
    if sample.penalty is not None and answer.bound < value - close:
        return f"bound {answer.bound}, HiGHS {value}"
    return None


@dataclass
class Tally:
    """What a run of samples brought."""

    statuses: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0  # processor seconds of a call: a busy machine does not show in them
    wrong: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)


def samples(count: int, seed: int, *, medium: bool) -> Iterator[tuple[str, Sample]]:
    """Yield samples with their names; each can be drawn again by seed and number."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        sizes = {"most_agents": 20, "most_models": 5, "least": 8} if medium else {}
        yield f"seed {seed} number {number}", draw(rng, **sizes)


def run(count: int, seed: int, *, medium: bool = False, deadline_ms: float | None = None) -> Tally:
    """Solve and judge samples."""
    tally = Tally()
    judge = disagreement if medium else wrong_with
    for name, sample in samples(count, seed, medium=medium):
        charge = sample.arguments.pop("_charge", None)
        if deadline_ms is not None:
            sample.arguments["deadline_ms"] = deadline_ms
        started = time.process_time()
        try:
            answer = sample.solve()
        except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
            tally.wrong.append(f"{name}: {type(error).__name__}: {error}")
            continue
        seconds = time.process_time() - started
        tally.worst = max(tally.worst, seconds)
        if charge is not None:
            sample.arguments["_charge"] = charge
        tally.statuses[answer.status.value] += 1
        verdict = judge(sample, answer)
        if verdict is not None:
            tally.wrong.append(f"{name}: {verdict} ({answer.engine})")
        if seconds > 1.0:
            tally.slow.append(f"{name}: {seconds:.1f} s ({answer.engine}, {answer.status.value})")
        if answer.status in (Status.FEASIBLE, Status.UNKNOWN):
            tally.unproven.append(f"{name}: {answer.status.value} ({answer.engine})")
    return tally


def main() -> int:
    """Run from the command line; exit code 1 when an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--medium", action="store_true", help="8 to 20 agents, against HiGHS")
    parser.add_argument("--deadline-ms", type=float, default=None)
    given = parser.parse_args()
    solver.warm_up()
    started = time.perf_counter()
    tally = run(given.count, given.seed, medium=given.medium, deadline_ms=given.deadline_ms)
    spent = time.perf_counter() - started
    print(f"{given.count:,} samples in {spent:,.0f} s: {dict(tally.statuses)}")
    print(f"worst call: {tally.worst:.2f} s of processor time")
    for title, lines in (("wrong", tally.wrong), ("over 1 s", tally.slow), ("not proven", tally.unproven)):
        print(f"{title}: {len(lines):,}")
        for line in lines[:10]:
            print(f"  {line}")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Random instances whose limits are network structure, against HiGHS; the flow engine has to prove every one.

    python -m tests.fuzz_laminar --count 2000 --seed 0

Quotas nest as in an organisation chart: over teams, squads and everybody, on one model, on those of a provider, or on
all. A quota may count in units of its own, allow part of an agent, forbid, be exceeded at a price, or cross others only
where no pair is allowed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

import solver
from tests.fuzz_small import Sample, by_highs, soften

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["check", "draw", "main"]


def draw(rng: np.random.Generator, *, largest: int = 12) -> Sample:
    """Return one random sample."""
    n, m = int(rng.integers(1, largest)), int(rng.integers(1, 6))
    whole = bool(rng.random() < 0.5)
    scores = rng.integers(-3, 9, (n, m)).astype(float) if whole else rng.normal(size=(n, m)) * 4
    if rng.random() < 0.4:
        scores[rng.random((n, m)) < 0.25] = -np.inf
    sample = Sample(scores=scores, capacity=rng.integers(0, 2 + 2 * n // m, m).astype(float), whole=whole)
    kind = int(rng.integers(4))
    if kind:
        penalty = [np.full(n, np.inf), np.full(n, 2.0), rng.choice([0.0, 3.0, np.inf], n)][kind - 1]
        sample.penalty = penalty
        sample.arguments["unassigned_penalty"] = penalty
    if rng.random() < 0.3:
        sample.priority = rng.integers(1, 4, n).astype(float)
        sample.arguments["priority"] = sample.priority
    order, cut = rng.permutation(n), int(rng.integers(0, n + 1))
    teams = [part for part in (order[:cut], order[cut:], order[: cut // 2], np.arange(n)) if len(part)]
    half = int(rng.integers(1, m + 1))
    for at in range(int(rng.integers(1, 6))):
        team = teams[int(rng.integers(len(teams)))]
        models: list[int] | None = [int(rng.integers(m))]
        served = rng.random() < 0.2
        if served or rng.random() < 0.2:  # all models, or those of one provider: of everybody then
            models = None if served else list(range(half))
            team = team if served else np.arange(n)
        first = len(sample.rows)
        _add(sample, rng, f"q{at}", team, models)
        if rng.random() < 0.25:
            soften(sample, rng, first)
    if rng.random() < 0.3 and cut > 1:
        _add_apart(sample, rng, order[:cut])
    if rng.random() < 0.2:
        _forbid(sample, rng)
    return sample


def _mask(sample: Sample, agents: NDArray[Any], models: list[int] | None) -> NDArray[Any]:
    mask = np.zeros(sample.scores.shape)
    columns = np.arange(len(sample.capacity)) if models is None else np.array(models)
    mask[np.ix_(agents, columns)] = 1.0
    return mask


def _add(
    sample: Sample,
    rng: np.random.Generator,
    name: str,
    agents: NDArray[Any],
    models: list[int] | None,
) -> None:
    mask = _mask(sample, agents, models)
    unit = float(rng.choice([1.0, 1.0, 0.1, 3.0]))
    part = float(rng.choice([0.0, 0.0, 0.5]))
    low = unit * float(rng.integers(0, 3)) if rng.random() < 0.4 else None
    high = (
        (low or 0.0) + unit * (float(rng.integers(0, 4)) + part)
        if low is None or rng.random() < 0.5
        else None
    )
    use = None if unit == 1.0 else unit
    given = np.flatnonzero(mask.any(axis=1)).tolist()
    sample.limits.append(
        solver.Quota(name=name, agents=given, models=models, at_least=low, at_most=high, use=use)
    )
    if high is not None:
        sample.rows.append((unit * mask, high))
    if low is not None:
        sample.rows.append((-unit * mask, -low))


def _add_apart(sample: Sample, rng: np.random.Generator, agents: NDArray[Any]) -> None:
    most = int(rng.integers(1, 3))
    if rng.random() < 0.4:  # pair by pair
        most = 1
        for a, b in itertools.combinations(np.sort(agents).tolist(), 2):
            sample.limits.append(solver.Apart(name=f"{a} and {b}", agents=[a, b]))
    else:
        sample.limits.append(solver.Apart(name="apart", agents=np.sort(agents), at_most=most))
    first, grouped = len(sample.rows), sample.limits[-1].name == "apart"
    for j in range(sample.scores.shape[1]):
        sample.rows.append((_mask(sample, agents, [j]), float(most)))
    if grouped and rng.random() < 0.25:
        soften(sample, rng, first)


def _forbid(sample: Sample, rng: np.random.Generator) -> None:
    n, m = sample.scores.shape
    cost = rng.integers(0, 3, (n, m)) * (rng.random((n, m)) < 0.2)
    sample.limits.append(solver.Budget(name="nothing", amount=0.0, cost=cost))
    sample.rows.append((cost.astype(float), 0.0))


def check(sample: Sample) -> str | None:
    """Return what is wrong with the answer to a sample, or None."""
    try:
        answer = solver.assign(
            sample.scores, sample.capacity, limits=sample.limits, engine="flow", **sample.arguments
        )
    except solver.SpecError as error:
        return f"not recognised: {error}" if "nested" in str(error) else str(error)
    status, value = by_highs(sample)
    if status == "open":
        return None
    if (answer.status is solver.Status.INFEASIBLE) != (status == "infeasible"):
        return f"{answer.status.value}, HiGHS {status}"
    if status == "infeasible":
        return None
    close = 2e-6 * max(1.0, abs(value))
    if answer.status is not solver.Status.OPTIMAL or abs(answer.objective - value) > close:
        return f"{answer.status.value} {answer.objective}, bound {answer.bound}, HiGHS {value}"
    short = (answer.choice < 0).any() and sample.penalty is None
    pairwise = any(" and " in limit.name for limit in sample.limits)
    partial = any(bound % np.abs(row).max(initial=1.0) for (row, bound), _ in sample.soft)
    if answer.bound_is_claimed and not (short or pairwise or partial):
        return "the bound is not recomputed"
    return None


def main() -> int:
    """Run from the command line; exit code 1 when an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--largest", type=int, default=12)
    given = parser.parse_args()
    started = time.perf_counter()
    crossing, wrong = 0, []
    for number in range(given.count):
        sample = draw(np.random.default_rng([given.seed, number]), largest=given.largest)
        verdict = check(sample)
        if verdict is not None and verdict.startswith("not recognised"):
            crossing += 1
        elif verdict is not None:
            wrong.append(f"seed {given.seed} number {number}: {verdict}")
    print(
        f"{given.count:,} samples in {time.perf_counter() - started:.0f} s, {crossing} not nested; wrong: {len(wrong)}"
    )
    for line in wrong[:10]:
        print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Does joint assignment pay on a score table? Against simpler rules, at matched cost and matched number served."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from solver.errors import SpecError, Violation
from solver.problem.instance import UNASSIGNED
from solver.simulate.matched_plans import BASELINES, Audit, matched_plan, simple_plan
from solver.simulate.quality import group_means

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["BASELINES", "EvaluationParams", "evaluate", "seconds_per_step"]


@dataclass(frozen=True, kw_only=True)
class EvaluationParams:
    """What an evaluation sweeps and repeats."""

    capacities: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 1.0, 1.5)
    """Slots of all models together, as shares of the agents, each > 0. Every model has equally many."""
    folds: int = 3
    """Parts of the agents; the scores of each are predicted from the others, >= 2."""
    repeats: int = 10
    """Random partitions, arrival orders and shuffles that every figure is the mean of, >= 2."""
    seed: int = 0
    """Of them."""

    def __post_init__(self) -> None:
        problems = [
            Violation(f"capacities[{k}]", "expected a share > 0", share)
            for k, share in enumerate(self.capacities)
            if not 0 < share < np.inf
        ]
        if not self.capacities:
            problems.append(Violation("capacities", "expected at least one", shown="none"))
        if not self.folds >= 2:
            problems.append(Violation("folds", "expected >= 2", self.folds))
        if not self.repeats >= 2:
            problems.append(Violation("repeats", "expected >= 2", self.repeats))
        if problems:
            raise SpecError(*problems)


def evaluate(
    scores: NDArray[np.float64],
    *,
    cost: NDArray[np.float64] | None = None,
    group: NDArray[np.int64] | None = None,
    params: EvaluationParams | None = None,
    on_step: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Compare the joint assignment with simpler rules, on what is known before and by what came out after.

    Parameters
    ----------
    scores : (n, m) float64
        Outcome of each agent on each model; NaN where unknown, which forbids the pair.
    cost : (n, m) float64, optional
        Of each pair, >= 0; NaN counts as the model's mean.
    group : (n,) int64, optional
        Task type of each agent, which predictions may use.
    params : EvaluationParams, optional
        Sweep, folds, repeats.
    on_step : callable, optional
        Told after each step how many of how many are done.

    Returns
    -------
    dict
        ``results``: decisions on predicted scores; rows of ``capacity``, ``policy``, ``quality`` (mean outcome of
        the served), ``cost_usd``, ``served``, and ``gain`` with ``gain_low`` and ``gain_high``, which is what the
        joint assignment gains over that policy, at no more than its cost and with as many served. The policy
        ``joint`` is the assignment without regard to cost, its gain that over ``greedy``; ``shuffled`` is the
        control: the gain over ``greedy`` when predictions are those of other agents. ``ceiling``: the same with
        true scores in place of predictions, which are not known in advance. ``verification``: how many ``plans`` were
        made, how many are ``proven_optimal`` for the scores they were made for, and how many are ``broken``, which
        is none.

    Raises
    ------
    SpecError
        With fewer agents than folds, or a single model.

    Notes
    -----
    Each fold is decided on alone, with its share of the slots: its predictions are the mean outcome per model and
    task type over the other folds. (Folds placed together would look worse than they are: where the others are
    better, the fold itself is worse, and the placement would follow that difference.) Each repeat draws other folds,
    and another order of arrival. A gain is a sum over agents, of what each gets by one plan less what it gets by the
    other, in the mean over the repeats; an interval is that sum ± Student's 97.5 % quantile times its standard error.
    As predictions were learned from agents too, the error is that of as many agents as they were learned from (Nadeau
    and Bengio 2003). ``tests.gain_coverage`` counts how often such intervals hold.
    """
    params = params or EvaluationParams()
    group = _checked(scores, group, params)
    rows: dict[tuple[str, float, str], _Repeated] = {}
    audit = Audit()
    steps = params.repeats * len(params.capacities)
    for repeat in range(params.repeats):
        rng, parts = _parts(scores, cost, group, params, repeat)
        for step, share in enumerate(params.capacities):
            for (kind, policy), gain in _step(parts, share, scores.shape[1], rng, audit).items():
                rows.setdefault((kind, share, policy), _Repeated(len(scores), params.folds)).add(gain)
            if on_step is not None:
                on_step(repeat * len(params.capacities) + step + 1, steps)
    ordered: list[tuple[tuple[str, float, str], _Repeated]] = sorted(
        rows.items(), key=lambda item: float(item[0][1])
    )
    return {
        "results": [
            gains.row(share, "shuffled" if name == "shuffled" else policy)
            for (name, share, policy), gains in ordered
            if name == "predicted" or (name == "shuffled" and policy == "greedy")
        ],
        "ceiling": [gains.row(share, policy) for (name, share, policy), gains in ordered if name == "true"],
        "verification": audit.to_dict(),
    }


def seconds_per_step(
    scores: NDArray[np.float64],
    *,
    cost: NDArray[np.float64] | None = None,
    group: NDArray[np.int64] | None = None,
    params: EvaluationParams | None = None,
) -> float:
    """Return the measured seconds of one step of :func:`evaluate`, whose parameters and errors it shares."""
    params = params or EvaluationParams()
    group = _checked(scores, group, params)
    began = perf_counter()
    rng, parts = _parts(scores, cost, group, params, 0)
    _step(parts, sorted(params.capacities)[len(params.capacities) // 2], scores.shape[1], rng, Audit())
    return perf_counter() - began


def _checked(
    scores: NDArray[np.float64], group: NDArray[np.int64] | None, params: EvaluationParams
) -> NDArray[np.int64]:
    """Return the task types, after a look at the size of the table."""
    n, m = scores.shape
    if n < params.folds:
        raise SpecError(Violation("scores", f"expected at least {params.folds} agents, one per fold", n))
    if m < 2:
        raise SpecError(Violation("scores", "expected at least 2 models to choose from", m))
    return np.zeros(n, np.int64) if group is None else group


def _parts(
    scores: NDArray[np.float64],
    cost: NDArray[np.float64] | None,
    group: NDArray[np.int64],
    params: EvaluationParams,
    repeat: int,
) -> tuple[np.random.Generator, list[_Part]]:
    """Return the folds of one partition, their agents in the order in which they arrive, and what drew it."""
    rng = np.random.default_rng([params.seed, repeat])
    order = rng.permutation(len(scores))
    return rng, [_part(scores, cost, group, order[k :: params.folds], rng) for k in range(params.folds)]


def _step(
    parts: list[_Part], share: float, models: int, rng: np.random.Generator, audit: Audit
) -> dict[tuple[str, str], _Gain]:
    """Return the gains at one capacity, by what is known and by policy, over all folds."""
    found: dict[tuple[str, str], list[_Gain]] = {}
    for part in parts:
        slots = _slots(share, len(part.outcome), models)
        for name in ("predicted", "true", "shuffled"):
            wanted = ("greedy",) if name == "shuffled" else BASELINES
            for policy, gain in _gains(part, name, slots, wanted, rng, audit).items():
                found.setdefault((name, policy), []).append(gain)
    return {key: _combined(gains) for key, gains in found.items()}


@dataclass(frozen=True, eq=False)
class _Part:
    """The agents of one fold: who, what came out, and what the other folds let one expect."""

    agents: NDArray[np.int64]
    outcome: NDArray[np.float64]
    cost: NDArray[np.float64] | None
    expected_cost: NDArray[np.float64] | None
    known: dict[str, NDArray[np.float64]]


def _part(
    scores: NDArray[np.float64],
    cost: NDArray[np.float64] | None,
    group: NDArray[np.int64],
    agents: NDArray[np.int64],
    rng: np.random.Generator,
) -> _Part:
    others = np.ones(len(scores), np.bool_)
    others[agents] = False
    means = group_means(scores[others], group[others], int(group.max()) + 1)
    predicted, outcome = means[group[agents]], scores[agents]
    allowed = ~np.isnan(outcome)
    known = {
        "predicted": np.where(allowed, predicted, -np.inf),
        "true": np.where(allowed, outcome, -np.inf),
        "shuffled": np.where(allowed, predicted[rng.permutation(np.arange(len(agents)))], -np.inf),
    }
    if cost is None:
        return _Part(agents, outcome, None, None, known)
    mean_cost = np.nanmean(cost[others], axis=0)
    own = cost[agents]
    return _Part(
        agents, outcome, np.where(np.isnan(own), mean_cost, own), np.broadcast_to(mean_cost, own.shape), known
    )


@dataclass(frozen=True, eq=False)
class _Gain:
    """What a policy gets, and what the joint assignment gets beyond it: in all, and by agent (sums of the served)."""

    quality: float
    cost: float
    served: int
    agents: NDArray[np.int64]
    gained: NDArray[np.float64]


def _combined(gains: list[_Gain]) -> _Gain:
    """Return the folds as one: means per served agent, sums of cost and served."""
    served = sum(each.served for each in gains)
    return _Gain(
        sum(each.served * each.quality for each in gains) / max(served, 1),
        sum(each.cost for each in gains),
        served,
        np.concatenate([each.agents for each in gains]),
        np.concatenate([each.gained for each in gains]) / max(served, 1),
    )


class _Repeated:
    """A comparison over the repeats: means, and the mean share of every agent in the gain."""

    def __init__(self, agents: int, folds: int) -> None:
        self._count = 0
        self._learned_from = 1.0 - 1.0 / folds
        self._totals = np.zeros(3)
        self._gained = np.zeros(agents)

    def add(self, gain: _Gain) -> None:
        """Take one more repeat into the means."""
        self._count += 1
        self._totals += (gain.quality, gain.cost, gain.served)
        self._gained[gain.agents] += gain.gained

    def row(self, share: float, policy: str) -> dict[str, Any]:
        """Return the row of a report."""
        quality, cost, served = (self._totals / self._count).tolist()
        gained = self._gained / self._count
        n = len(gained)
        error = gained.std(ddof=1) * np.sqrt(n / self._learned_from)
        gain, half = float(gained.sum()), float(stdtrit(n - 1, 0.975) * error)
        return {
            "capacity": share,
            "policy": policy,
            "quality": quality,
            "cost_usd": cost,
            "served": served,
            "gain": gain,
            "gain_low": gain - half,
            "gain_high": gain + half,
        }


def _slots(share: float, n: int, m: int) -> NDArray[np.int64]:
    """Return equally many slots per model, the remainder to the first, ``share`` of the agents in total."""
    total = max(1, round(share * n))
    return np.array([total // m + (j < total % m) for j in range(m)], np.int64)


def _gains(
    part: _Part,
    name: str,
    slots: NDArray[np.int64],
    policies: Sequence[str],
    rng: np.random.Generator,
    audit: Audit,
) -> dict[str, _Gain]:
    """Return what the joint assignment gains over each policy, decided on what is known, judged by outcomes."""
    known = part.known[name]
    free = audit.assigned(known, slots)
    gains: dict[str, _Gain] = {}
    for policy in policies:
        choice = simple_plan(policy, known, slots, rng)
        joint = matched_plan(known, slots, part.expected_cost, free, choice, audit)
        audit.matched(joint, choice, part.expected_cost)
        gained = _by_agent(joint, part.outcome) - _by_agent(choice, part.outcome)
        gains[policy] = _Gain(*_judged(choice, part), part.agents, gained)
        if policy == "greedy":
            gains["joint"] = _Gain(*_judged(free, part), part.agents, gained)
    return gains


def _by_agent(choice: NDArray[np.int64], outcome: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each agent gets over the mean of the table, 0 where it is not served.

    Two plans that serve as many differ by the same sum whatever is subtracted; without the mean, who is served would
    seem to matter more than it does.
    """
    served = choice != UNASSIGNED
    value = np.zeros(len(choice))
    value[served] = outcome[served, choice[served]] - np.nanmean(outcome)
    return value


def _judged(choice: NDArray[np.int64], part: _Part) -> tuple[float, float, int]:
    """Return mean outcome, total cost and number of the served."""
    rows = np.flatnonzero(choice != UNASSIGNED)
    if not len(rows):
        return 0.0, 0.0, 0
    cost = 0.0 if part.cost is None else float(part.cost[rows, choice[rows]].sum())
    return float(part.outcome[rows, choice[rows]].mean()), cost, len(rows)

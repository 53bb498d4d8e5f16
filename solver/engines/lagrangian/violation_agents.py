"""Soft limits as hard ones: for every soft row a few more agents, each of which may take a part of its excess.

Such an agent has two models to choose from: one that changes nothing, and one that adds ``-step`` to the row and costs
``step`` times the price of a violation. Steps double, so that some of the agents together are any whole number of
the smallest step. In the linear relaxation they are the elastic variable of the row, which caps its multiplier at the
price of a violation. What the search knows of hard rows then holds for soft ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.problem.instance import Instance
from solver.problem.limit_rows import NO_ROW, Layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.base import Claim
    from solver.problem.limit_rows import LimitRows

_EXCESS_STEPS = 12
"""Agents per row whose coefficients are no whole numbers: steps of 1/4095 of the largest excess."""

_MAX_EXCESS_STEPS = 30
"""Agents per row at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViolationAgents:
    """An instance without soft rows whose optimum, on the original agents, is that of the original instance.

    Parameters
    ----------
    original : Instance
        With soft rows.
    instance : Instance
        With more agents, after the original ones, and one more model, after the original ones.
    row : (k,) int64
        Limit row of each additional agent.
    step : (k,) float64
        How much of the excess it takes.
    rounding : float
        What the optimum may lose by excess in steps, in score.
    """

    original: Instance
    instance: Instance
    row: NDArray[np.int64]
    step: NDArray[np.float64]
    rounding: float

    def extended(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a choice of the original agents together with what the additional ones have to take."""
        limits = self.original.limits
        models = np.full(len(self.row), self.instance.m - 1, np.int64)
        if limits is None:
            return choice
        excess = np.maximum(limits.usage(choice) - limits.bound, 0.0)
        for g in np.unique(self.row).tolist():
            own = np.flatnonzero(self.row == g)
            smallest = float(self.step[own[0]])
            units = int(np.ceil(excess[g] / smallest - 1e-9))
            models[own[[(units >> bit) & 1 == 1 for bit in range(len(own))]]] = 0
        return np.concatenate([choice, models])

    def reduced(self, claim: Claim) -> Claim:
        """Return a claim about the instance as one about the original."""
        original = self.original
        prices = original.limits.violation_price if original.limits is not None else None

        def capped(given: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            return given if given is None or prices is None else np.minimum(given, prices)

        return replace(
            claim,
            choice=claim.choice[: original.n],
            prices=None if claim.prices is None else claim.prices[: original.m],
            score_prices=None if claim.score_prices is None else claim.score_prices[: original.m],
            limit_prices=capped(claim.limit_prices),
            score_limit_prices=capped(claim.score_limit_prices),
            bound=None if claim.bound is None else claim.bound + self.rounding,
            progress=tuple((ms, value, bound + self.rounding) for ms, value, bound in claim.progress),
        )


def with_violation_agents(original: Instance) -> ViolationAgents | None:
    """Return an instance with soft rows as one without, None where it has none. O(n m) time and memory per layer."""
    limits = original.limits
    if limits is None or limits.violation_price is None:
        return None
    most, whole = _largest_excess(original, limits)
    row, step, rounding = [], [], 0.0
    for g in np.flatnonzero(~limits.hard).tolist():
        if most[g] <= 0:
            continue
        bits = min(int(np.ceil(np.log2(most[g] + 1.0))), _MAX_EXCESS_STEPS) if whole[g] else _EXCESS_STEPS
        smallest = max(1.0, most[g] / (2.0**bits - 1)) if whole[g] else most[g] / (2.0**bits - 1)
        rounding += 0.0 if whole[g] and smallest == 1.0 else smallest * float(limits.violation_price[g])
        row += [g] * bits
        step += (smallest * 2.0 ** np.arange(bits)).tolist()
    rows, steps = np.array(row, np.int64), np.array(step, np.float64)
    return ViolationAgents(
        original=original,
        instance=_extended(original, limits, rows, steps),
        row=rows,
        step=steps,
        rounding=rounding,
    )


def _largest_excess(original: Instance, limits: LimitRows) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the most that each row may be exceeded by, and whether it is a whole number in every plan."""
    most, whole = -limits.bound, np.floor(limits.bound) == limits.bound
    allowed = np.isfinite(np.asarray(original.score))
    for layer in limits.layers:
        touched = allowed & (layer.row != NO_ROW)
        agent, model = np.nonzero(touched)
        row, weight = layer.row[agent, model], layer.coefficient[agent, model]
        order = np.lexsort((-weight, agent, row))
        row, weight, agent = row[order], weight[order], agent[order]
        first = np.ones(len(row), bool)
        first[1:] = (np.diff(row) != 0) | (np.diff(agent) != 0)
        most = most + np.bincount(row[first], weights=np.maximum(weight[first], 0.0), minlength=limits.count)
        fraction = np.bincount(row, weights=np.floor(weight) != weight, minlength=limits.count)
        whole &= fraction == 0
    return most, whole


def _extended(
    original: Instance, limits: LimitRows, row: NDArray[np.int64], step: NDArray[np.float64]
) -> Instance:
    n, m, more = original.n, original.m, len(row)
    prices = np.zeros(limits.count) if limits.violation_price is None else limits.violation_price
    score = np.full((n + more, m + 1), -np.inf)
    score[:n, :m] = original.score
    score[n:, 0], score[n:, m] = -prices[row] * step, 0.0
    demand = np.zeros((n + more, m + 1, original.r))
    demand[:n, :m] = 1.0 if original.demand is None else original.demand
    penalty = original.penalty
    layers = [
        Layer(
            row=np.pad(layer.row, ((0, more), (0, 1)), constant_values=NO_ROW),
            coefficient=np.pad(layer.coefficient, ((0, more), (0, 1))),
        )
        for layer in limits.layers
    ]
    layers[0].row[n:, 0] = row
    layers[0].coefficient[n:, 0] = -step
    return Instance(
        score=score,
        capacity=np.vstack([original.capacity, np.ones((1, original.r))]),
        demand=demand,
        penalty=None if penalty is None else np.concatenate([penalty, np.full(more, np.inf)]),
        rank=None if original.rank is None else np.concatenate([original.rank, np.zeros(more, np.int64)]),
        limits=replace(limits, layers=tuple(layers), violation_price=None),
        sense=original.sense,
    )

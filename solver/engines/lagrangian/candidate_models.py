"""The few models that each of many agents may want: what remains of a large instance once prices are about right.

One pass over all pairs finds every agent's best models under some prices. After that most agents cannot
change their mind while prices move a little; the others, with their few near models, are the only part of
the instance whose loads still depend on the prices, and a tenth of the pairs or less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.certificate import reduced_scores
from solver.problem.blocks import chunks
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIN_PAYMENT_SHARE = 0.01
"""Payment assumed of an agent that pays nothing, relative to the mean payment."""

_GOLDEN = 0.6180339887498949
"""The golden ratio less one: its multiples, modulo one, are spread evenly and with no period that data have."""

_MARGIN_SHARE = 0.25
"""Payment assumed of a row of average use where no agent pays anything, relative to the mean margin."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """Every agent's best models under some prices.

    Parameters
    ----------
    prices : (m, r) float64
        Prices of the capacities.
    limit_prices : (g,) float64
        Prices of the limit rows.
    model : (k, n) int64
        Best model first; m stands for staying unassigned.
    reduced : (k, n) float64
        Score less all charges, non-increasing along the first axis; ``-inf`` where there is no such model.
    bound : float
        No assignment of the agents that some model can serve is worth more.
    """

    prices: NDArray[np.float64]
    limit_prices: NDArray[np.float64]
    model: NDArray[np.int64]
    reduced: NDArray[np.float64]
    bound: float

    @property
    def margin(self) -> NDArray[np.float64]:
        """(n,) what each agent prefers its best model by; ``inf`` where it has no other."""
        second = self.reduced[1] if len(self.reduced) > 1 else np.full(self.reduced.shape[1], -np.inf)
        return np.where(
            np.isneginf(second), np.inf, self.reduced[0] - np.where(np.isneginf(second), 0, second)
        )

    @property
    def unservable(self) -> NDArray[np.bool_]:
        """(n,) agents that no model can serve and that may not stay unassigned."""
        nowhere: NDArray[np.bool_] = self.reduced[0] == -np.inf
        return nowhere


def survey(
    instance: Instance,
    prices: NDArray[np.float64],
    limit_prices: NDArray[np.float64],
    *,
    nearest: int,
    leave: bool,
) -> Survey:
    """Find every agent's best models. O(n m (r + layers + nearest)), one pass in blocks that stay in cache.

    Parameters
    ----------
    instance : Instance
        The problem.
    prices : (m, r) float64
        Prices of the capacities, >= 0.
    limit_prices : (g,) float64
        Prices of the limit rows, >= 0.
    nearest : int
        Most models per agent.
    leave : bool
        Whether staying unassigned counts as a model; among more than two it is always one, if need be
        the last.
    """
    n, m = instance.n, instance.m
    nearest = min(nearest, m + leave)
    model = np.empty((nearest, n), np.int64)
    reduced = np.empty((nearest, n))
    charged = limit_prices if len(limit_prices) else None
    oversized = instance.has_oversized
    for rows in chunks(n, m):
        value = reduced_scores(instance, rows, prices, limit_prices=charged)
        if oversized:
            value[instance.oversized(rows)] = -np.inf
        if leave:
            value = np.column_stack([value, instance.unserved[rows]])
        flat, first = value.ravel(), np.arange(len(value)) * value.shape[1]
        for k in range(nearest):
            pick = value.argmax(axis=1)
            model[k, rows] = pick
            at = first + pick
            reduced[k, rows] = flat[at]
            flat[at] = -np.inf
    if leave and nearest > 2:  # two are for margins
        # However far away, staying unassigned is what ends the rise of prices where capacity is short.
        missing = (model != m).all(axis=0)
        model[-1, missing] = m
        reduced[-1, missing] = instance.unserved[missing]
    best = reduced[0]
    total = float(best[best > -np.inf].sum() + (prices * instance.capacity).sum())
    if instance.limits is not None:
        total += float(limit_prices @ instance.limits.bound)
    return Survey(prices=prices, limit_prices=limit_prices, model=model, reduced=reduced, bound=total)


def coupling_entries(
    instance: Instance, agents: NDArray[np.int64], model: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the coupling rows that agents touch at some models, and by how much.

    Parameters
    ----------
    instance : Instance
        The problem.
    agents : (a,) int64
        Rows.
    model : (..., a) int64
        A model of each agent; m for staying unassigned.

    Returns
    -------
    row : (r + layers, ..., a) int64
        ``model · r + resource`` for capacities, ``m · r + row`` for limit rows, one past the last for none.
    amount : (r + layers, ..., a) float64
    """
    r, cells = instance.r, instance.capacity.size
    layers = () if instance.limits is None else instance.limits.layers
    none = cells + (0 if instance.limits is None else instance.limits.count)
    row = np.empty((r + len(layers), *model.shape), np.int64)
    amount = np.empty(row.shape)
    served = model < instance.m
    real = np.minimum(model, instance.m - 1)
    for k in range(r):
        row[k] = np.where(served, real * r + k, none)
        amount[k] = (
            served if instance.demand is None else np.where(served, instance.demand[agents, real, k], 0)
        )
    for at, layer in enumerate(layers, start=r):
        touched = layer.row[agents, real]
        counts = served & (touched >= 0)
        row[at] = np.where(counts, cells + touched, none)
        amount[at] = np.where(counts, layer.coefficient[agents, real], 0.0)
    return row, amount


def typical_prices(instance: Instance, seen: Survey) -> NDArray[np.float64]:
    """Return a price > 0 for every coupling row that says how far one step may move it.

    Of capacities what a unit costs on average, of limit rows their own price; at least the price at which a
    typical contribution would take up a part of the agents' mean margin.
    """
    all_agents = np.arange(instance.n)
    cells, count = instance.capacity.size, instance.capacity.size + len(seen.limit_prices)
    row, amount = coupling_entries(instance, all_agents, seen.model[:2])
    row, amount = row.ravel(), np.abs(amount).ravel()
    use = np.bincount(row, weights=amount, minlength=count + 1)[:count]
    touched = np.bincount(row, minlength=count + 1)[:count].astype(np.float64)
    local = use[:cells].reshape(-1, instance.r)
    total = np.maximum(local.sum(axis=0), np.finfo(np.float64).tiny)
    own = np.concatenate([np.tile((seen.prices * local).sum(axis=0) / total, instance.m), seen.limit_prices])
    # Rows of a kind are alike: one that no near pair touches is taken for a mean one.
    kind = np.concatenate([np.tile(np.arange(instance.r), instance.m), np.full(count - cells, instance.r)])
    of_kind = np.bincount(kind, weights=use) / np.maximum(np.bincount(kind, weights=touched), 1.0)
    typical = np.where(touched > 0, use / np.maximum(touched, 1.0), of_kind[kind])
    typical[:cells] = of_kind[kind[:cells]]
    margin = seen.margin
    sure = np.isfinite(margin)
    stake = _MARGIN_SHARE * float(margin[sure].mean() if sure.any() else 1.0)
    least = np.where(typical > 0, stake / np.where(typical > 0, typical, 1.0), 1.0)
    scale: NDArray[np.float64] = np.maximum(np.maximum(own, least), np.finfo(np.float64).tiny)
    return scale


class NearArcs:
    """The agents whose model prices may still change, with their near models; all others count as decided.

    Parameters
    ----------
    instance : Instance
        The problem.
    seen : Survey
        Under prices that are about right.
    scale : (K,) float64
        See :func:`typical_prices`.
    reach : float
        Agents whose margin exceeds this part of what they pay are decided: they are right as long as no price
        moves by more than half of it, in parts of itself or of its scale.
    """

    def __init__(self, instance: Instance, seen: Survey, *, scale: NDArray[np.float64], reach: float) -> None:
        n = instance.n
        self.leaving = instance.m
        self.price = np.concatenate([seen.prices.ravel(), seen.limit_prices])
        self.right = instance.capacity.ravel()
        if instance.limits is not None:
            self.right = np.concatenate([self.right, instance.limits.bound])
        all_agents = np.arange(n)
        row, amount = coupling_entries(instance, all_agents, seen.model[:2])
        least = np.append(np.maximum(self.price, scale), 0.0)
        paid = (least[row] * np.abs(amount)).sum(axis=0).mean(axis=0)
        paid = np.maximum(paid, _MIN_PAYMENT_SHARE * float(paid.mean()) + np.finfo(np.float64).tiny)
        margin = seen.margin
        near = margin < reach * paid
        far = ~near & ~seen.unservable
        self.agents = np.flatnonzero(near)
        self.unit = paid[near]
        self.reduced = seen.reduced[:, near]
        self.model = seen.model[:, near]
        self.row, self.amount = coupling_entries(instance, self.agents, self.model)
        self.favourite = np.where(seen.unservable, UNASSIGNED, seen.model[0])
        self.favourite[self.favourite == instance.m] = UNASSIGNED
        self.decided_load = self._sums(row[:, 0, far], amount[:, 0, far])
        self.decided_value = float(seen.reduced[0, far].sum() + self.price @ self.decided_load)

    def _sums(self, row: NDArray[np.int64], amount: NDArray[np.float64]) -> NDArray[np.float64]:
        count = len(self.price)
        sums: NDArray[np.float64] = np.zeros(count + 1)
        sums += np.bincount(row.ravel(), weights=amount.ravel(), minlength=count + 1)
        return sums[:count]

    def perturb(self, jitter: float, rng: np.random.Generator) -> None:
        """Add noise to the reduced scores, up to a part of what each agent pays, so that few remain equal."""
        self.reduced = self.reduced + jitter * self.unit * rng.random(self.reduced.shape)

    def tighten(self, units: float) -> None:
        """Take so many typical contributions off every right-hand side, but never more than half of it."""
        size, touched = (
            self._sums(self.row, np.abs(self.amount)),
            self._sums(self.row, np.ones_like(self.amount)),
        )
        slack = units * size / np.maximum(touched, 1.0)
        self.right = self.right - np.minimum(slack, 0.5 * np.abs(self.right))

    def at(self, price: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (k, a) reduced scores under (K,) prices of all coupling rows."""
        change = np.append(price - self.price, 0.0)
        value = self.reduced.copy()
        for row, amount in zip(self.row, self.amount, strict=True):
            value -= change[row] * amount
        return value

    def dual(self, price: NDArray[np.float64]) -> float:
        """Return the dual value of (K,) prices, as far as near arcs tell: never above the true one."""
        best = float(self.at(price).max(axis=0, initial=-np.inf).sum()) if len(self.agents) else 0.0
        return best + self.decided_value + float(price @ (self.right - self.decided_load))

    def load(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the (K,) left-hand sides when near agents divide themselves by (k, a) weights."""
        return self.decided_load + self._sums(self.row, weight * self.amount)

    def drawn(self, weight: NDArray[np.float64], start: float) -> NDArray[np.int64]:
        """Return a choice that gives every near agent one model, so that loads stay close to the divided ones.

        Agents are sorted by their two best models and by weight, and models drawn by the points of a
        golden-ratio sequence: among agents alike, the numbers drawn differ from the expected ones by about
        one, where independent draws would be off by the root of their number.

        Parameters
        ----------
        weight : (k, a) float64
            Probabilities, summing to 1 for each agent.
        start : float
            First point of the sequence.

        Returns
        -------
        (n,) int64
            Decided agents at their best model.
        """
        choice = self.favourite.copy()
        if not len(self.agents):
            return choice
        order = np.lexsort((weight[0], self.model[1 if len(weight) > 1 else 0], self.model[0]))
        point = np.empty(len(order))
        point[order] = (start + _GOLDEN * np.arange(len(order))) % 1.0
        below = np.cumsum(weight, axis=0) <= point
        pick = np.minimum(below.sum(axis=0), len(weight) - 1)
        drawn = self.model[pick, np.arange(len(pick))]
        choice[self.agents] = np.where(drawn == self.leaving, UNASSIGNED, drawn)
        return choice

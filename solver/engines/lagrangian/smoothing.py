"""Newton steps on the smoothed dual of a large instance, one pass over the pairs each.

Prices from a sample leave models a fifth over or under their capacity, because many agents hardly prefer
their best model to their second. Let an agent divide itself between these two by a logistic function of the
margin; then loads are smooth in the prices, their derivatives come from n margins alone, and a few Newton
steps with a shrinking temperature bring every load to its capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance

__all__ = ["Preferences", "newton_step"]

_REACH = 3.0  # temperatures that a price may move in one step
_UNDECIDED = 2e-3  # firmness × (1 − firmness) above which an agent bends the loads
_LEAST_REACH = 0.05  # of a price: cold steps must still be able to correct one that is far off
_DAMPING = 1e-2  # of the diagonal


@dataclass(frozen=True, slots=True)
class Preferences:
    """What every agent prefers under some prices.

    Parameters
    ----------
    first, second : (n,) int64
        Its two best models.
    margin : (n,) float64
        How much it prefers the first, >= 0; ``inf`` where there is no second.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    margin: NDArray[np.float64]


def newton_step(
    instance: Instance,
    likes: Preferences,
    prices: NDArray[np.float64],
    limit_prices: NDArray[np.float64],
    temperature: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, NDArray[np.float64]]:
    """Move all prices towards loads that equal capacities. O(n (r + layers)² + K³) for K coupling rows.

    Parameters
    ----------
    instance : Instance
        The problem.
    likes : Preferences
        Under the present prices.
    prices : (m, r) float64
        Present prices of the capacities.
    limit_prices : (g,) float64
        Present prices of the limit rows.
    temperature : float
        Relative price change over which an agent changes its mind.

    Returns
    -------
    prices : (m, r) float64
    limit_prices : (g,) float64
    violation : float
        Sum of what exceeds a capacity, or is left of one that has a price, in parts of all capacity of that
        resource; the largest of the resources.
    firmness : (n,) float64
        Weight of the first model, 0.5 to 1.
    """
    price = np.concatenate([prices.ravel(), limit_prices])
    right = instance.capacity.ravel()
    if instance.limits is not None:
        right = np.concatenate([right, instance.limits.bound])
    rows_1, take_1 = _entries(instance, likes.first)
    rows_2, take_2 = _entries(instance, likes.second)
    padded = np.append(price, 0.0)
    paid = 0.5 * ((padded[rows_1] * take_1).sum(axis=0) + (padded[rows_2] * take_2).sum(axis=0))
    heat = temperature * np.maximum(paid, 1e-3 * float(paid.mean()) + 1e-300)
    firmness = 1.0 / (1.0 + np.exp(-np.minimum(likes.margin / heat, 500.0)))
    count = len(price)
    load = np.zeros(count + 1)
    for rows, take, weight in ((rows_1, take_1, firmness), (rows_2, take_2, 1.0 - firmness)):
        for row, amount in zip(rows, take, strict=True):
            load += np.bincount(row, weights=amount * weight, minlength=count + 1)
    load = load[:-1]
    curve = firmness * (1.0 - firmness) / heat
    near = np.flatnonzero(curve * heat > _UNDECIDED)
    matrix = np.zeros((count + 1) ** 2)
    entries = [(row[near], amount[near]) for row, amount in zip(rows_1, take_1, strict=True)]
    entries += [(row[near], -amount[near]) for row, amount in zip(rows_2, take_2, strict=True)]
    bend = curve[near]
    for at, (row, amount) in enumerate(entries):
        for other, (other_row, other_amount) in enumerate(entries[: at + 1]):
            weights = bend * amount * other_amount * (0.5 if other == at else 1.0)
            index = row * (count + 1) + other_row
            matrix += np.bincount(index, weights=weights, minlength=(count + 1) ** 2)
    square = matrix.reshape(count + 1, count + 1)
    hessian = (square + square.T)[:-1, :-1]
    excess = load - right
    idle = (price <= 1e-12) & (excess < 0)
    typical = _group_means(instance, price)
    wrong = np.where(price > 1e-6 * typical, np.abs(excess), np.maximum(excess, 0.0))
    cells = instance.capacity.size
    off = wrong[:cells].reshape(instance.capacity.shape).sum(axis=0) / np.maximum(
        instance.capacity.sum(axis=0), 1e-300
    )
    violation = float(off.max())
    free = np.flatnonzero(~idle)
    block = hessian[np.ix_(free, free)].copy()
    diagonal = block.diagonal().copy()
    block[np.arange(len(free)), np.arange(len(free))] += _DAMPING * diagonal + 1e-9 * diagonal.max(
        initial=1e-300
    )
    step = np.zeros(count)
    step[free] = np.linalg.lstsq(block, excess[free], rcond=None)[0]
    reach = max(_REACH * temperature, _LEAST_REACH) * np.maximum(price, typical)
    moved = np.maximum(price + np.clip(step, -reach, reach), 0.0)
    return moved[:cells].reshape(prices.shape), moved[cells:], violation, firmness


def _entries(instance: Instance, model: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the (r + layers, n) coupling rows, and amounts, that each agent touches at a model."""
    n, r = instance.n, instance.r
    agents = np.arange(n)
    layers = () if instance.limits is None else instance.limits.layers
    cells = instance.capacity.size
    nothing = cells + (0 if instance.limits is None else instance.limits.count)
    rows = np.empty((r + len(layers), n), np.int64)
    take = np.empty((r + len(layers), n))
    for k in range(r):
        rows[k] = model * r + k
        take[k] = 1.0 if instance.demand is None else instance.demand[agents, model, k]
    for at, layer in enumerate(layers, start=r):
        row = layer.row[agents, model]
        rows[at] = np.where(row < 0, nothing, cells + row)
        take[at] = np.where(row < 0, 0.0, layer.coefficient[agents, model])
    return rows, take


def _group_means(instance: Instance, price: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean price of each resource for its capacities, and the own price for limit rows."""
    cells = instance.capacity.size
    means = price[:cells].reshape(instance.m, instance.r).mean(axis=0)
    own = np.maximum(price[cells:], 1e-3 * float(price[cells:].mean()) if len(price) > cells else 0.0)
    return np.concatenate([np.tile(means, instance.m), own])

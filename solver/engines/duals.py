"""Prices of a slot assignment, read off the graph of models.

An optimal assignment with few models needs no solver to be priced: complementary slackness leaves one
inequality per ordered pair of models, ``p_k >= p_j − W_jk``, where ``W_jk`` is the least any agent of model j
would lose by moving to model k. The smallest non-negative solution is a longest-path problem on m nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.problem.instance import UNASSIGNED, Instance, chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["minimal_prices", "supporting_prices"]

_ROUNDING = 1e-13  # of the largest score that counts, or price: what sums of losses along a path are off by


def minimal_prices(instance: Instance, choice: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the smallest multipliers that support an optimal slot assignment.

    The smallest dual solution of a transportation problem is the right derivative of its optimum with
    respect to each capacity (Shapley and Shubik 1971; Leonard 1983): ``p_j`` is exactly what one more slot
    of model j is worth.

    Parameters
    ----------
    instance : Instance
        With slot capacities.
    choice : (n,) int64
        An optimal assignment. For any other the result is still a valid vector of multipliers (finite and
        non-negative), it only proves a looser bound.

    Returns
    -------
    (m, 1) float64

    Notes
    -----
    O(n m + m³) time, O(m²) memory beyond one block of rows. Bellman (1958) on the graph of models.
    """
    return _longest_paths(_least_losses(instance, choice))[:-1, None]


def supporting_prices(instance: Instance, choice: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return the smallest multipliers of a feasible slot assignment, or None if it is not optimal.

    By complementary slackness it is if and only if they keep everybody where they are, drive nobody out, and cost
    nothing where slots are left. That no model is over-used is taken for granted. As :func:`minimal_prices` otherwise.
    """
    loss = _least_losses(instance, choice)
    price = _longest_paths(loss)
    served = np.flatnonzero(choice != UNASSIGNED)
    model = choice[served]
    own = instance.scores_of(served, model)
    rounding = _ROUNDING * max(float(np.abs(own).max(initial=0.0)), float(price.max()))
    idle = np.bincount(model, minlength=instance.m) < instance.slots
    if price[:-1][idle].max(initial=0.0) > rounding or (price[:, None] - loss - price).max() > rounding:
        return None
    if not instance.serve_first or len(served) < instance.n:  # otherwise nobody may leave
        earned = own - price[model] - instance.unserved[served]
        if earned.min(initial=0.0) < -rounding:
            return None
    return price[:-1, None]


def _longest_paths(loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest non-negative prices with ``p_k >= p_j − loss_jk``, node m fixed at 0, if there are any."""
    price = np.zeros(len(loss))
    for _ in range(len(loss)):  # a longest path visits every node at most once
        raised = (price[:, None] - loss).max(axis=0)  # never lower: the diagonal is 0
        if (raised == price).all():
            break
        price = raised
    return price


def _least_losses(instance: Instance, choice: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return W, (m + 1, m + 1): least loss of an agent of j moved to k; node m, unassigned, is no way out."""
    n, m = instance.n, instance.m
    loss = np.full((m + 1, m + 1), np.inf)
    everyone = bool(choice.min() >= 0)
    node = choice if everyone else np.where(choice == UNASSIGNED, m, choice)
    order = np.argsort(node, kind="stable")
    for block in chunks(n, m):
        agents = order[block]
        at = node[agents]
        score = instance.score[agents].astype(np.float64, copy=False)
        own = score[np.arange(len(agents)), at if everyone else np.minimum(at, m - 1)]
        if not everyone:
            left = np.flatnonzero(at == m)
            own[left] = instance.unserved[agents[left]]
        first = np.append(0, np.flatnonzero(at[1:] != at[:-1]) + 1)
        least = np.minimum.reduceat(own[:, None] - score, first, axis=0)
        np.minimum.at(loss[:, :m], at[first], least)
    loss.flat[:: m + 2] = 0.0
    return loss

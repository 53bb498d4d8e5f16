"""Prices of a slot assignment, read off the graph of models.

An optimal assignment needs no solver to be priced: complementary slackness leaves one inequality per agent
and model, ``p_k >= p_j − loss``, where the loss is what an agent of model j would lose by moving to model k.
The smallest non-negative solution is a longest-path problem whose nodes are the models without a free slot,
as all others cost nothing. Where these are few, the least loss for every ordered pair of them is a small dense
matrix; where they are many, only the moves that lose less than the highest price can matter, and these are few.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.engines.price_moves import PATH_ROUNDING, Moves, earned_values
from solver.problem.blocks import chunks
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline

_TABULATED_AT_ONCE = 150
"""Full models up to which the least loss between each two is tabulated at once."""

_NEAR_PAIRS = 12
"""Pairs per agent considered first where models are many."""

_SAMPLED_AGENTS = 32
"""Agents whose losses tell which pairs are considered first."""

_TABULATED_AT_LAST = 1_200
"""Full models up to which all least losses are tabulated where a few pairs do not give the prices."""

_PASSES_BEFORE_TABLE = 1
"""Passes over all pairs before all least losses are tabulated."""

_VISITS_PER_MOVE = 20
"""Visits of each known move after which the choice is taken not to be optimal."""


def minimal_prices(
    instance: Instance,
    choice: NDArray[np.int64],
    *,
    deadline: Deadline | None = None,
    tabulated: int = _TABULATED_AT_ONCE,
) -> NDArray[np.float64]:
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
    deadline : Deadline, optional
        Checked between passes; what is known by then is returned, and proves a looser bound.
    tabulated : int
        Full models up to which the least loss between each two is tabulated at once.

    Returns
    -------
    (m, 1) float64

    Notes
    -----
    O(n f + f³) time for f models without a free slot, at most; a few passes of O(n m) where f is large.
    Bellman (1958) on the graph of models.
    """
    prices = priced_claim(instance, choice, deadline=deadline, tabulated=tabulated).prices
    assert prices is not None
    return prices


def priced_claim(
    instance: Instance,
    choice: NDArray[np.int64],
    *,
    deadline: Deadline | None = None,
    tabulated: int = _TABULATED_AT_ONCE,
) -> Claim:
    """Return the claim of an optimal slot assignment with its smallest multipliers, see :func:`minimal_prices`."""
    m = instance.m
    load = np.bincount(choice[choice != UNASSIGNED], minlength=m)
    full = np.flatnonzero((load >= instance.slots) & (load > 0))
    price, response = np.zeros(m), None
    if len(full) <= tabulated and not isinstance(instance.score, CompressedScores):
        price[full] = _longest_paths(_least_losses(instance, choice, full))[:-1]
    else:
        graph = Moves.between(instance, choice, full, _near_pairs(instance, choice))
        tabulable = len(full) <= _TABULATED_AT_LAST and not isinstance(instance.score, CompressedScores)
        most = _VISITS_PER_MOVE * (len(graph.loss) + len(full)) if tabulable else np.inf
        for passes in count():
            if not graph.raise_prices(price, deadline, work=most) or (
                passes > _PASSES_BEFORE_TABLE and tabulable
            ):
                break
            if not graph.add_missed(price) or (deadline is not None and deadline.expired()):
                tabulable = False
                break
        response = graph.response
        if tabulable:
            price[full] = _longest_paths(_least_losses(instance, choice, full), price[full], deadline)[:-1]
    closed = np.flatnonzero(instance.slots < 1)
    if len(closed):
        price[closed] = _worth_of_first_slots(instance, choice, price, closed)
    return Claim(choice=choice, prices=price[:, None], response=response)


def supported_claim(
    instance: Instance,
    choice: NDArray[np.int64],
    pairs: CompressedScores,
    *,
    deadline: Deadline | None = None,
    known: NDArray[np.float64] | None = None,
    passes: int = 5,
) -> tuple[Claim, bool]:
    """Return an optimum of some pairs with its smallest multipliers, and whether they support it over all pairs.

    Parameters
    ----------
    instance : Instance
        With slots.
    choice : (n,) int64
        Optimal among ``pairs``.
    pairs : CompressedScores
        Some of the allowed pairs.
    deadline : Deadline, optional
        Checked between passes.
    known : (m,) float64, optional
        The smallest prices that support it among ``pairs``, if they are known.
    passes : int
        Passes over all pairs, beyond which the choice is taken not to be optimal.

    Returns
    -------
    Claim
        The choice with multipliers that are valid in any case.
    bool
        Whether they prove the choice optimal.
    """
    load = np.bincount(choice[choice != UNASSIGNED], minlength=instance.m)
    full = np.flatnonzero((load >= instance.slots) & (load > 0))
    price = np.zeros(instance.m) if known is None else known.copy()
    graph = Moves.between(instance, choice, full, pairs)
    for number in range(passes):
        is_raised = number == 0 and known is not None
        if not is_raised and not graph.raise_prices(
            price, deadline, work=_VISITS_PER_MOVE * (len(graph.loss) + len(full))
        ):
            break
        if known is None:
            known = price.copy()
        if graph.drives_out(price):
            break
        missed = graph.add_missed(price)
        if missed is None:
            break
        if not missed:
            closed = np.flatnonzero(instance.slots < 1)
            if len(closed):
                price[closed] = _worth_of_first_slots(instance, choice, price, closed)
            return Claim(choice=choice, prices=price[:, None], response=graph.response), True
    return Claim(choice=choice, prices=(price if known is None else known)[:, None]), False


def core_prices(
    instance: Instance, choice: NDArray[np.int64], pairs: CompressedScores, aside: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (m,) smallest prices of an optimum of some pairs where staying out is worth ``aside`` to the agents.

    The scores are those of ``pairs``, whatever the instance says.
    """
    served = np.flatnonzero(choice != UNASSIGNED)
    load = np.bincount(choice[served], minlength=instance.m)
    full = np.flatnonzero((load >= instance.slots) & (load > 0))
    own = aside.copy()
    own[served] = pairs[served, choice[served]]
    price = np.zeros(instance.m)
    graph = Moves.between(instance, choice, full, pairs, own)
    graph.raise_prices(price, None, work=_VISITS_PER_MOVE * (len(graph.loss) + len(full)))
    return price


def supporting_prices(instance: Instance, choice: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return the smallest multipliers of a feasible slot assignment, or None if it is not optimal.

    By complementary slackness it is if and only if every agent's model is its best choice at them, and they
    are zero where slots are left. That no model is over-used is taken for granted. As :func:`minimal_prices` otherwise.
    """
    loss = _least_losses(instance, choice, np.arange(instance.m))
    price = _longest_paths(loss)
    served = np.flatnonzero(choice != UNASSIGNED)
    model = choice[served]
    own = instance.scores_of(served, model)
    rounding = PATH_ROUNDING * max(float(np.abs(own).max(initial=0.0)), float(price.max()))
    idle = np.bincount(model, minlength=instance.m) < instance.slots
    if price[:-1][idle].max(initial=0.0) > rounding or (price[:, None] - loss - price).max() > rounding:
        return None
    if not instance.serve_first or len(served) < instance.n:  # otherwise all agents stay served
        earned = own - price[model] - instance.unserved[served]
        if earned.min(initial=0.0) < -rounding:
            return None
    return price[:-1, None]


def _longest_paths(
    loss: NDArray[np.float64],
    start: NDArray[np.float64] | None = None,
    deadline: Deadline | None = None,
) -> NDArray[np.float64]:
    """Return the smallest non-negative prices with ``p_k >= p_j − loss_jk``, the last node at 0, if there are any.

    ``start`` are lower bounds of the others. Each round goes on from the nodes whose price has just risen.
    """
    price = np.zeros(len(loss))
    if start is not None:
        price[:-1] = start
    risen = np.arange(len(loss))
    for _ in range(len(loss)):  # a longest path visits every node at most once
        from_risen = loss if len(risen) == len(loss) else loss[risen]
        raised = np.maximum((price[risen, None] - from_risen).max(axis=0), price)
        risen = np.flatnonzero(raised > price)
        if not len(risen) or (deadline is not None and deadline.expired()):
            break
        price = raised
    return price


def _least_losses(
    instance: Instance, choice: NDArray[np.int64], full: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return W, (f + 1, f + 1): least loss of an agent of one full model moved to another.

    The last node stands for all models that cost nothing, and for staying unassigned: agents move away from there,
    and never to it.
    """
    n, m, f = instance.n, instance.m, len(full)
    loss = np.full((f + 1, f + 1), np.inf)
    position = np.full(m + 1, f)
    position[full] = np.arange(f)
    node = position[choice]  # UNASSIGNED indexes the last entry
    order = np.argsort(node, kind="stable")
    everything = f == m
    for block in chunks(n, f):
        agents = order[block]
        at = node[agents]
        model = choice[agents]
        if everything:
            score = instance.score[agents].astype(np.float64, copy=False)
            own = score[np.arange(len(agents)), np.maximum(model, 0)]
        else:
            score = instance.score[agents[:, None], full].astype(np.float64, copy=False)
            own = instance.scores_of(agents, np.maximum(model, 0))
        left = np.flatnonzero(model == UNASSIGNED)
        if len(left):
            own[left] = instance.unserved[agents[left]]
        first = np.append(0, np.flatnonzero(at[1:] != at[:-1]) + 1)
        least = np.minimum.reduceat(own[:, None] - score, first, axis=0)
        met = at[first]  # each once
        loss[met, :f] = np.minimum(loss[met, :f], least)
    loss.flat[:: f + 2] = 0.0
    return loss


def _near_pairs(instance: Instance, choice: NDArray[np.int64]) -> CompressedScores:
    """Return the pairs at which agents lose least against what they have: about a dozen each."""
    score = instance.score
    if isinstance(score, CompressedScores):
        return score
    n, m = instance.n, instance.m
    own = earned_values(instance, choice)
    sample = np.unique(np.linspace(0, n - 1, min(n, _SAMPLED_AGENTS)).astype(np.int64))
    kept = min(_NEAR_PAIRS, m - 1)
    reach = float(np.median(np.partition(own[sample, None] - score[sample], kept, axis=1)[:, kept]))
    found, values = [], []
    for rows in chunks(n, m):
        block = score[rows]
        pair = np.flatnonzero(block >= (own[rows] - max(reach, 0.0))[:, None])
        found.append(pair + rows.start * m)
        values.append(block.ravel()[pair])
    pair = np.concatenate(found)
    first = np.searchsorted(pair, np.arange(n + 1) * m)
    return CompressedScores(np.concatenate(values).astype(np.float64), pair % m, first, m)


def _worth_of_first_slots(
    instance: Instance, choice: NDArray[np.int64], price: NDArray[np.float64], closed: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return what the first slot of models without any would be worth, the least price that deters every agent."""
    value = earned_values(instance, choice) - np.append(price, 0.0)[choice]
    worth = np.zeros(len(closed))
    if isinstance(instance.score, CompressedScores):
        pairs = instance.score
        gain = pairs.data - np.repeat(value, pairs.degree)
        first = np.zeros(instance.m)
        np.maximum.at(first, pairs.models, gain)
        return first[closed]
    for rows in chunks(instance.n, instance.m):
        gain = instance.score[rows][:, closed] - value[rows, None]
        np.maximum(worth, gain.max(axis=0), out=worth)
    return worth

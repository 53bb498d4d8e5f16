"""Greedy at rough prices of the limits, for deadlines in which no search of a large instance can be set up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from solver.engines.base import Claim, load_engine, loading_seconds
from solver.engines.limit_repair import excess, repair_seconds, repaired
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.lagrangian import LagrangianEngine
    from solver.problem.instance import Instance

_SEARCH_S_PER_TERM = 4e-7
"""Seconds per pair and coupling layer from which the Lagrangian engine has a good answer."""

_SEARCH_SHARE = 0.3
"""Share of the time left above which that leaves too little for it."""

_MOST_LIMIT_ROWS = 200
"""Limit rows up to which a sample of agents says something about each."""

_SAMPLE_S = 0.006
_SAMPLE_S_PER_TERM = 2e-7
"""Seconds to relax a sample, and seconds for each of its agents, per model and coupling layer."""

_SAMPLE_SHARE = 0.5
"""Share of the time left for that."""

_LEAST_AGENTS, _MOST_AGENTS = 80, 1000
"""Agents of a sample."""

_PASS_S_PER_TERM = 5e-9
_PASS_S_PER_PAIR = 1e-8
"""Seconds to price all pairs, per coupling layer, and to run greedy on them."""

_ROUNDS = 4
"""Times that prices are raised where limits are exceeded."""

_STEEPNESS = 4.0
"""Relative rise of the price of a limit, per relative excess."""


def priced_greedy(instance: Instance, deadline: Deadline, seed: int) -> Claim | None:
    """Return greedy's answer at the prices of a sample of agents, put right where limits are exceeded, or None.

    None as well where the Lagrangian engine has time enough to find a better one, or there is none for this.

    Parameters
    ----------
    instance : Instance
        With limits across models.
    deadline : Deadline
        Nothing is begun that is not expected to end before it.
    seed : int
        Of the sample.

    Notes
    -----
    What a few agents need of a limit differs from what all do by about one over the root of their number: limits are
    made tighter by so much before prices are found, and prices of those that are exceeded are raised afterwards.
    O(n m) a round for every coupling layer.
    """
    limits = instance.limits
    if limits is None or not is_too_large_to_search(instance, deadline):
        return None
    pairs, layers = instance.n * instance.m, instance.r + len(limits.layers)
    left_s = deadline.remaining_s() - loading_seconds("lagrangian")
    round_s = pairs * (layers * _PASS_S_PER_TERM + _PASS_S_PER_PAIR) + repair_seconds(instance)
    sample_s = min(_SAMPLE_SHARE * left_s, left_s - 2 * round_s) - _SAMPLE_S
    agents = min(sample_s / (instance.m * layers * _SAMPLE_S_PER_TERM), _MOST_AGENTS, instance.n)
    if agents < min(_LEAST_AGENTS, instance.n):
        return None
    pricer = cast("LagrangianEngine", load_engine("lagrangian"))
    ease = -1.0 / math.sqrt(agents) if agents < instance.n else 0.0
    found = pricer.rough_prices(instance, agents=int(agents), ease=ease, deadline=deadline, seed=seed)
    if found is None:
        return None
    prices, limit_prices = found.prices, found.limit_prices
    greedy, free = load_engine("greedy"), instance.without_limits()
    for number in range(_ROUNDS):
        priced = replace(free, score=_net(instance, prices, limit_prices))
        claim = cast(
            "Claim", greedy.solve(priced, deadline=deadline)
        )  # without a network, there always is one
        beyond = excess(limits, claim.choice)
        if number == _ROUNDS - 1 or not beyond.any() or deadline.remaining_s() < 2 * round_s:
            break
        relative = np.minimum(beyond / np.maximum(np.abs(limits.bound), 1e-300), 1.0)
        limit_prices = limit_prices * (1.0 + _STEEPNESS * relative)
    choice = repaired(instance, claim.choice, deadline)
    return None if choice is None else Claim(choice=choice, prices=prices, limit_prices=limit_prices)


def is_too_large_to_search(instance: Instance, deadline: Deadline) -> bool:
    """Whether limits and pairs are too many for the Lagrangian engine to have a good answer in the time left."""
    limits = instance.limits
    if limits is None or limits.count > _MOST_LIMIT_ROWS or isinstance(instance.score, CompressedScores):
        return False
    terms = instance.n * instance.m * (instance.r + len(limits.layers))
    return terms * _SEARCH_S_PER_TERM > _SEARCH_SHARE * deadline.remaining_s()


def _net(
    instance: Instance, prices: NDArray[np.float64], limit_prices: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (n, m) scores less what a pair pays at some prices."""
    net = np.array(instance.score, np.float64)
    if instance.demand is None:
        net -= prices[:, 0]
    else:
        net -= np.einsum("ijk,jk->ij", instance.demand, prices)
    assert instance.limits is not None
    padded = np.append(limit_prices, 0.0)  # NO_ROW indexes the last entry
    for layer in instance.limits.layers:
        net -= padded[layer.row] * layer.coefficient
    return net

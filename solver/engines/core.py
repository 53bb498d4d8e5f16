"""The core of a small slot instance: the few arcs that an optimum uses, most likely.

Of the n·m arcs an optimum needs hardly more than n, and good prices tell which (the core-oriented approach of
Volgenant 1996 to assignment problems, after the knapsack cores of Balas and Zemel 1980). The prices are those
of a sample, improved by a Newton step on everybody; whatever is near its agent's best at these prices is
in the core. Nothing here proves anything: an optimum of the core is one of the instance if its own smallest
prices certify it, and nearly always they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.duals import minimal_prices
from solver.engines.network import COARSE_BITS, FINE_BITS, Network
from solver.engines.pricing.smooth import DenseDemand, newton_step
from solver.problem.instance import UNASSIGNED, Instance, row_maxima

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["solve_core"]

_GOLDEN = 0.6180339887498949  # multiples of it modulo one are spread evenly, and in no period that data have
_SAMPLED = 8  # one agent of so many
_LEAST = 10  # sampled agents per model, below which their prices say too little
_MOST = 4  # no more than one agent of so many: beyond, the flow on all arcs is as fast
_WARM = 1 / 30  # of what a typical arc loses: temperature of the Newton step
_TRUST = 4.0  # temperatures that a step may be long
_REACH = 1.25  # lengths of the Newton step that an arc in the core may fall short of its agent's best
_COOL = 0.25  # and temperatures at least
_LEVELS = 32  # whole costs below this have no core
_CROWDED = 2.0  # arcs per agent, above which the flow on all arcs is as fast


def solve_core(instance: Instance) -> NDArray[np.int64] | None:
    """Return an optimum of the core as an (n,) choice, or None where there is no use in one.

    Parameters
    ----------
    instance : Instance
        With slots, and without a load cost.

    Returns
    -------
    (n,) int64 or None
        Feasible. None where the sample would be too small, the core too large, or without a feasible assignment.

    Notes
    -----
    O(n m²), in about the time of ten passes.
    """
    n, m = instance.n, instance.m
    size = max(n // _SAMPLED, _LEAST * m)
    if size > n // _MOST or instance.forbids:
        return None
    slots = instance.slots
    everyone = instance.serve_first and int(slots.sum()) >= n
    if not everyone and not np.isfinite(instance.unserved).all():
        return None
    sampled = _sampled_prices(instance, size, everyone=everyone)
    if sampled is None:
        return None
    value = np.asarray(instance.score, np.float64)
    if (slots == 0).any():
        value = np.where(slots > 0, value, -np.inf)
    if not everyone:
        value = np.column_stack((value, instance.unserved))
    prices, length, temperature = _improved(value, slots, *sampled)
    loss = value - prices
    np.subtract(row_maxima(loss)[:, None], loss, out=loss)
    arc = np.flatnonzero(loss <= max(_REACH * length, _COOL * temperature))
    if len(arc) > _CROWDED * n:
        return None
    agent = arc // value.shape[1]
    column = arc - agent * value.shape[1]
    lone = np.bincount(agent, minlength=n)[agent] == 1
    choice = np.empty(n, np.int64)
    choice[agent[lone]] = column[lone]
    left = slots - np.bincount(column[lone], minlength=m)[:m]
    if left.min() < 0:
        return None
    agent, column = agent[~lone], column[~lone]
    if len(agent):
        first = np.diff(agent, prepend=-1) > 0
        contested = agent[first]
        cost = loss[agent, column] - prices[column] + prices.max()  # from a base of each agent's own, >= 0
        core = Network(len(contested), m, np.cumsum(first) - 1, column + len(contested), cost, left)
        solved = core.solve(COARSE_BITS if everyone else FINE_BITS)  # service is worth many times a score
        if solved is None:
            return None
        choice[contested] = solved
    choice[choice == m] = UNASSIGNED
    return choice


def _sampled_prices(
    instance: Instance, size: int, *, everyone: bool
) -> tuple[NDArray[np.float64], float] | None:
    """Return the prices of some agents with their share of the slots, and a temperature to improve them at.

    None where scores have only a few levels: nearly everything is tied then.
    """
    n = instance.n
    place = np.arange(size)
    rows = ((place + place * _GOLDEN % 1.0) * (n / size)).astype(np.int64)
    share = instance.slots * (size / n)
    slots = np.floor(share)
    missing = round(max(float(share.sum()), float(size if everyone else 0))) - int(slots.sum())
    slots[np.argsort(slots - share)[:missing]] += 1
    sample = Instance(
        score=instance.score[rows],
        capacity=slots[:, None],
        penalty=None if everyone else -instance.unserved[rows],
    )
    network = Network.of(sample)
    typical = float(np.median(network.cost))
    tied = network.is_whole and network.highest < _LEVELS
    choice = None if tied or not typical > 0.0 else network.solve(COARSE_BITS)
    if choice is None:
        return None
    return minimal_prices(sample, choice)[:, 0], _WARM * typical


def _improved(
    value: NDArray[np.float64], slots: NDArray[np.int64], prices: NDArray[np.float64], temperature: float
) -> tuple[NDArray[np.float64], float, float]:
    """Return the prices of all columns after a Newton step on all agents, its length and temperature.

    A column without a limit of slots, where agents stay unassigned, keeps the price 0.
    """
    m, columns = len(slots), value.shape[1]
    prices = np.append(prices, np.zeros(columns - m))
    response = DenseDemand(value, None).respond(prices, temperature)
    reach, excess = np.zeros(columns), np.zeros(columns)
    reach[:m] = _TRUST * temperature
    excess[:m] = response.load[:m] - slots
    step = newton_step(response.curvature, excess, np.maximum(-reach, -prices), reach)
    return prices + step, float(np.abs(step).max()), temperature

"""The core of a small slot instance: the few arcs that an optimum uses, most likely.

Of the n·m arcs an optimum needs hardly more than n, and good prices tell which (the core-oriented approach of
Volgenant 1996 to assignment problems, after the knapsack cores of Balas and Zemel 1980). The prices are those
of a sample, improved by a Newton step on all agents; whatever is near its agent's best at these prices is
in the core. Nothing here proves anything: an optimum of the core is one of the instance if its own smallest
prices certify it, and nearly always they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.duals import minimal_prices
from solver.engines.flow.network import COARSE_BITS, FINE_BITS, Network
from solver.engines.slot_supply import Supply
from solver.engines.smoothed_demand import DenseDemand, newton_step
from solver.problem.blocks import row_maxima
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GOLDEN = 0.6180339887498949
"""The golden ratio less one: its multiples, modulo one, are spread evenly and with no period that data have."""

_AGENTS_PER_SAMPLED = 8
"""One agent of so many is sampled."""

_CORE_SAMPLE_PER_MODEL = 10
"""Sampled agents per model at least, with fewer of which their prices are too uncertain."""

_MIN_AGENTS_PER_SAMPLED = 4
"""At most one agent of so many is sampled: beyond, the flow on all arcs is as fast."""

_MIN_CORE_COST_RANGE = 32
"""Range of whole costs below which there is no core."""

_CORE_TEMPERATURE = 1 / 30
"""Temperature of the Newton step, relative to what a typical arc loses."""

_LONGEST_STEP = 4.0
"""Longest Newton step, in temperatures."""

_CORE_WIDTH = 1.25
"""Width of the core, in lengths of the Newton step."""

_MIN_WIDTH = 0.25
"""Least width of the core, in temperatures."""

_ARCS_PER_AGENT = 2.0
"""Arcs per agent in the core above which the flow on all arcs is as fast."""


def solve_core(instance: Instance) -> NDArray[np.int64] | None:
    """Return an optimum of the core as an (n,) choice, or None where there is no use in one.

    Parameters
    ----------
    instance : Instance
        With slots, and without a load cost.

    Returns
    -------
    (n,) int64 or None
        Feasible. None where pairs are forbidden, agents are too few or tied nearly everywhere, the core comes out
        too large, or nothing in it is feasible; also where some must be served and others need not.

    Notes
    -----
    O(n m²), in about the time of ten passes.
    """
    n, m, slots = instance.n, instance.m, instance.slots
    size = max(n // _AGENTS_PER_SAMPLED, _CORE_SAMPLE_PER_MODEL * m)
    if size > n // _MIN_AGENTS_PER_SAMPLED or instance.forbids or (slots == 0).all():
        return None
    if instance.may_leave and not np.isfinite(instance.unserved).all():
        return None
    sampled = _sampled_prices(instance, size)
    if sampled is None:
        return None
    prices, temperature = sampled
    value = np.asarray(instance.score, np.float64)
    if (slots == 0).any():
        value = np.where(slots > 0, value, -np.inf)
    if instance.may_leave:
        value = np.column_stack((value, instance.unserved))
        prices = np.append(prices, 0.0)
    step = _newton_step(value, slots, prices, temperature)
    prices = prices + step
    width = max(_CORE_WIDTH * float(np.abs(step).max()), _MIN_WIDTH * temperature)
    loss = value - prices
    np.subtract(row_maxima(loss)[:, None], loss, out=loss)
    arc = np.flatnonzero(loss <= width)
    if len(arc) > _ARCS_PER_AGENT * n:
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
        # Where an agent leaves, costs span the value of service, and scores are a small part of that.
        solved = core.solve(FINE_BITS if instance.may_leave else COARSE_BITS)
        if solved is None:
            return None
        choice[contested] = solved
    choice[choice == m] = UNASSIGNED
    return choice


def _sampled_prices(instance: Instance, size: int) -> tuple[NDArray[np.float64], float] | None:
    """Return the prices of some agents with their share of the slots, and a temperature to improve them at.

    None where scores have only a few levels: nearly everything is tied then.
    """
    n = instance.n
    place = np.arange(size)
    rows = ((place + place * _GOLDEN % 1.0) * (n / size)).astype(np.int64)
    share = Supply.of(instance).scaled(size / n).rounded(size)
    sample = Instance(
        score=instance.score[rows],
        capacity=share.slots[:, None],
        penalty=-instance.unserved[rows] if instance.may_leave else None,
    )
    network = Network.of(sample)
    typical = float(np.median(network.cost))
    tied = network.is_whole and network.highest < _MIN_CORE_COST_RANGE
    choice = None if tied or not typical > 0.0 else network.solve(COARSE_BITS)
    if choice is None:
        return None
    return minimal_prices(sample, choice)[:, 0], _CORE_TEMPERATURE * typical


def _newton_step(
    value: NDArray[np.float64], slots: NDArray[np.int64], prices: NDArray[np.float64], temperature: float
) -> NDArray[np.float64]:
    """Return how all agents together would move the prices; a column for staying unassigned keeps its price 0."""
    m = len(slots)
    response = DenseDemand(value, None).respond(prices, temperature)
    longest, excess = np.zeros(len(prices)), np.zeros(len(prices))
    longest[:m] = _LONGEST_STEP * temperature
    excess[:m] = response.load[:m] - slots
    return newton_step(response.curvature, excess, np.maximum(-longest, -prices), longest)

"""Scores with few levels: agents indifferent between many models, handed out instead of solved for.

Where most agents have a dozen equally good models, a flow over all those arcs spends its time on ties. The
smoothed response already splits every agent among its models so that the loads come out right; drawing one
model for each agent from it leaves every load off by chance alone, the square root of its size. What is
left is to move a few agents along ties from where there are too many to where there are too few: a flow on
the models, not the agents. Whether the result is optimal is decided by duals, as for any flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ortools.graph.python import min_cost_flow

from solver.engines.price.box_duals import BoxCosts, BoxedFlow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.price.contested_arcs import Contested
    from solver.engines.slot_supply import Supply

TIE_TEMPERATURE = 1 / 60
"""Temperature, in units of the grid of scores, at which only agents with ties are divided between models."""


def hand_out_ties(
    contested: Contested, supply: Supply, prices: NDArray[np.float64], grid: float
) -> BoxedFlow | None:
    """Assign the contested agents along their best arcs at the nearest prices on the grid.

    Parameters
    ----------
    contested : Contested
        Agents, none merged; scores and costs are whole multiples of ``grid``.
    supply : Supply
        Whole slots.
    prices : (m,) float64
        Near the minimiser of the smoothed dual.
    grid : float
        Unit of the scores.

    Returns
    -------
    BoxedFlow or None
        None if ties at these prices do not settle everything. O(arcs) time.
    """
    m, model, owner = contested.m, contested.model, contested.owner
    price = np.clip(np.rint(prices / grid) * grid, contested.low, contested.high)
    tied = contested.best_arcs(price, 0.5 * grid)
    share = np.where(tied, contested.shares(prices, TIE_TEMPERATURE * grid), 0.0)
    chosen = _draw(share, contested.first)
    lost = np.flatnonzero(~tied[chosen])
    chosen[lost] = np.flatnonzero(tied)[
        np.searchsorted(owner[tied], lost)
    ]  # nothing of it was left by rounding
    low, high = _wanted(supply, price, grid)
    settled = contested.settled.astype(np.int64)
    load = settled + np.bincount(model[chosen], minlength=m + 1)
    pair = model[chosen][owner] * (m + 1) + model
    able = np.bincount(pair[tied], minlength=(m + 1) ** 2).reshape(m + 1, m + 1)
    np.fill_diagonal(able, 0)
    moves = _moves(load, np.append(low, 0), np.append(high, contested.agents), able)
    if moves is None or not _move(
        chosen, np.flatnonzero(tied & (moves.ravel() > 0)[pair]), pair, owner, moves
    ):
        return None
    flow = np.zeros(contested.arcs, np.int64)
    flow[chosen] = 1
    load = settled + np.bincount(model[chosen], minlength=m + 1)
    costs = BoxCosts.of(contested, supply, resolution=grid, grid=grid)
    before = np.zeros(len(costs.tier), np.int64)
    for j in np.flatnonzero(np.bincount(costs.tier_model, minlength=m) > 1):
        tiers = np.flatnonzero(costs.tier_model == j)
        tiers = tiers[np.argsort(costs.tier[tiers], kind="stable")]
        before[tiers] = np.cumsum(costs.tier_slots[tiers]) - costs.tier_slots[tiers]
    sold = np.clip(load[costs.tier_model] - before, 0, costs.tier_slots)
    return costs.duals(flow, sold, np.zeros(m, bool))


def _draw(share: NDArray[np.float64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one arc of each position, drawn with probability proportional to its share."""
    total = np.cumsum(share)
    start = np.concatenate(([0.0], total))[first[:-1]]
    end = total[first[1:] - 1]
    aim = start + (end - start) * np.random.default_rng(0).random(len(start))
    return np.minimum(np.maximum(np.searchsorted(total, aim, side="right"), first[:-1]), first[1:] - 1)


def _wanted(
    supply: Supply, price: NDArray[np.float64], grid: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (m,) smallest and largest loads that complementary slackness allows at these prices."""
    total = supply.total.astype(np.int64)
    if supply.anchor is not None:
        return total, total
    margin = price[supply.model] - supply.cost
    sold = np.bincount(supply.model, supply.slots * (margin > 0.5 * grid), supply.models)
    offered = np.bincount(supply.model, supply.slots * (margin > -0.5 * grid), supply.models)
    return sold.astype(np.int64), offered.astype(np.int64)


def _moves(
    load: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64], able: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Return (m + 1, m + 1) how many agents to move from where to where, as few as possible; None if too few can."""
    if (high < low).any() or load.sum() < low.sum():
        return None
    nodes = len(load)
    source, target = np.nonzero(able)
    network = min_cost_flow.SimpleMinCostFlow()
    add = network.add_arcs_with_capacity_and_unit_cost
    arcs = add(source, target, able[source, target], np.ones(len(source), np.int64))
    add(np.arange(nodes), np.full(nodes, nodes), high - low, np.zeros(nodes, np.int64))
    network.set_nodes_supplies(np.arange(nodes + 1), np.append(load - low, low.sum() - load.sum()))
    if network.solve() != network.OPTIMAL:
        return None
    moves = np.zeros((nodes, nodes), np.int64)
    moves[source, target] = network.flows(arcs)
    return moves


def _move(
    chosen: NDArray[np.int64],
    arcs: NDArray[np.int64],
    pair: NDArray[np.int64],
    owner: NDArray[np.int64],
    moves: NDArray[np.int64],
) -> bool:
    """Carry the moves out on ``chosen``, each by other agents; False if there are not enough of them."""
    arcs = arcs[np.argsort(pair[arcs], kind="stable")]
    code = pair[arcs]
    wanted = np.flatnonzero(moves)
    amount = moves.ravel()[wanted]
    begin, end = np.searchsorted(code, wanted), np.searchsorted(code, wanted, side="right")
    moved = np.zeros(len(chosen), bool)
    for k in np.argsort((end - begin) / amount, kind="stable"):  # the scarcest first
        able = arcs[begin[k] : end[k]]
        able = able[~moved[owner[able]]][: amount[k]]
        if len(able) < amount[k]:
            return False
        moved[owner[able]] = True
        chosen[owner[able]] = able
    return True

"""Duals of a boxed flow, read back from the agents on the arcs.

In whole units of the scaled costs, ``y_j`` above the lower side of the box: a used arc must be a best arc of its
agent, a tier that is sold must be worth its cost, one that is not must not be worth more. The solutions form
a lattice, so there is a smallest one and a largest one, both found as longest or shortest paths over m + 1
nodes (Bellman 1958). That they exist at all proves the flow optimal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.price.contested_arcs import Contested
    from solver.engines.slot_supply import Supply

_SIDES_PER_GRID = 5.0
"""Sides of a box lie on fifths of a grid."""

_NO_PATH = np.int64(1) << 58
"""Length of a path that does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxedFlow:
    """An optimal flow of the reduced problem.

    Parameters
    ----------
    flow : (a,) int64
        Agents on each arc.
    prices : (m,) float64
        The smallest dual prices inside the box.
    centre : (m,) float64
        The middle of the optimal duals inside the box.
    rises, falls : (m,) bool
        Prices that want to leave the box upwards or downwards.
    exact : bool
        Whether the duals prove the flow optimal; if not, it is so for rounded costs.
    """

    flow: NDArray[np.int64]
    prices: NDArray[np.float64]
    centre: NDArray[np.float64]
    rises: NDArray[np.bool_]
    falls: NDArray[np.bool_]
    exact: bool = True

    @property
    def binds(self) -> NDArray[np.bool_]:
        """(m,) bool, prices that want to leave the box."""
        return self.rises | self.falls


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxCosts:
    """A reduced problem in whole numbers.

    Parameters
    ----------
    contested : Contested
        Agents and arcs; slots already taken by settled agents are in ``settled``.
    supply : Supply
        Whole slots.
    scale : float
        Integer costs per unit of score.
    arc : (a,) int64
        What each arc loses against the agent's best at the lower side of the box.
    tier_model, tier_slots, tier : (t,) int64
        Tiers on offer inside the box: model, slots, and cost of a slot above the lower side.
    tier_falls : (t,) bool
        Tiers that cost less than the lower side: left empty, they want the price to fall.
    over : (m,) int64
        Fee for an agent too many, the side of the box.
    """

    contested: Contested
    supply: Supply
    scale: float
    arc: NDArray[np.int64]
    tier_model: NDArray[np.int64]
    tier_slots: NDArray[np.int64]
    tier: NDArray[np.int64]
    tier_falls: NDArray[np.bool_]
    over: NDArray[np.int64]

    @classmethod
    def of(cls, contested: Contested, supply: Supply, *, resolution: float, grid: float | None) -> BoxCosts:
        """Scale the costs of a box to multiples of about ``resolution``, or of a fifth of the grid, exactly."""
        m, groups = contested.m, contested.groups
        side = contested.high - contested.low
        if supply.closed.any():  # no agent may use it, except where only the sample left it without a slot
            asked_for = np.bincount(contested.model, minlength=m + 1)[:m] > 0
            side = np.where(supply.closed & ~asked_for, 0.0, side)
        cost = contested.shortfall
        cost_of_tier = supply.cost if supply.anchor is None else np.full(len(supply.cost), -np.inf)
        offered = np.flatnonzero((supply.slots > 0) & (cost_of_tier <= contested.high[supply.model]))
        model = supply.model[offered]
        fee = np.maximum(cost_of_tier[offered] - contested.low[model], 0.0)
        scale = _scale(max(float(cost.max(initial=0.0)), float(side.max())), groups + m + 2, resolution, grid)
        return cls(
            contested=contested,
            supply=supply,
            scale=scale,
            arc=np.rint(cost * scale).astype(np.int64),
            tier_model=model,
            tier_slots=supply.slots[offered].astype(np.int64),
            tier=np.rint(fee * scale).astype(np.int64),
            tier_falls=cost_of_tier[offered] < contested.low[model],
            over=np.rint(side * scale).astype(np.int64),
        )

    def duals(
        self,
        flow: NDArray[np.int64],
        sold: NDArray[np.int64],
        rises: NDArray[np.bool_],
        *,
        exact: bool = True,
    ) -> BoxedFlow | None:
        """Return a flow with its duals, or None if there are none: the flow is not optimal then.

        Parameters
        ----------
        flow : (a,) int64
            Agents on each arc.
        sold : (t,) int64
            Slots sold of each tier.
        rises : (m,) bool
            Models with agents too many.
        exact : bool
            What the result says of itself.
        """
        contested, supply, m = self.contested, self.supply, self.contested.m
        falls = np.zeros(m, bool)
        falls[self.tier_model[(sold < self.tier_slots) & self.tier_falls]] = True
        least = np.zeros(m, np.int64)
        paid = sold > 0
        np.maximum.at(least, self.tier_model[paid], self.tier[paid])
        least[rises] = self.over[rises]
        most = self.over.copy()
        spare = sold < self.tier_slots
        np.minimum.at(most, self.tier_model[spare], self.tier[spare])
        slack = _least_losses(contested, flow, self.arc)
        lowest = _raise(least, slack)
        padded = np.append(lowest, 0)
        if (lowest > most).any() or (padded[:, None] - padded > slack).any():
            return None
        idle = contested.settled[:m] + np.bincount(contested.model, flow, m + 1)[:m] == 0
        highest = _lower(np.where(idle, lowest, most), slack)
        centre = (lowest + highest) // 2
        if supply.anchor is not None:
            # All prices can fall together until one is 0; the smallest are then those below that one's.
            pinned = least.copy()
            last = int((contested.low + centre / self.scale)[~supply.closed].argmin())
            last = int(np.flatnonzero(~supply.closed)[last])
            pinned[last] = centre[last]
            lowest = _raise(pinned, slack)
        return BoxedFlow(
            flow=flow,
            prices=contested.low + lowest / self.scale,
            centre=contested.low + centre / self.scale,
            rises=rises,
            falls=falls,
            exact=exact,
        )


def _scale(largest: float, nodes: int, resolution: float, grid: float | None) -> float:
    """Return the factor from costs to integers: a power of two, so that scaling itself loses nothing.

    The solver multiplies costs by the number of nodes, which must fit into 62 bits.
    """
    if grid is not None:
        return _SIDES_PER_GRID / grid
    room = 61.0 - math.log2(nodes + 1)
    if largest > 0:
        room -= math.log2(largest)
    return 2.0 ** math.floor(min(room, -math.log2(resolution)))


def _least_losses(
    contested: Contested, flow: NDArray[np.int64], cost: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return (m + 1, m + 1): the least any agent that uses j would lose on k, node m for unassigned.

    Every used arc is a best arc of its agent if and only if ``y_j − y_k`` never exceeds it.
    """
    m = contested.m
    used = np.flatnonzero(flow > 0)
    degree = contested.degree[contested.owner[used]]
    source = np.repeat(used, degree)
    begin = contested.first[contested.owner[used]]
    target = np.arange(len(source)) + np.repeat(begin - (np.cumsum(degree) - degree), degree)
    room = contested.room
    if room is not None:  # an arc that carries all it may does not attract the units of others
        able = np.flatnonzero((flow < room)[target])
        source, target = source[able], target[able]
    slack = np.full((m + 1, m + 1), _NO_PATH)
    pair = contested.model[source] * (m + 1) + contested.model[target]
    np.minimum.at(slack.reshape(-1), pair, cost[target] - cost[source])
    np.fill_diagonal(slack, 0)
    return slack


def _raise(least: NDArray[np.int64], slack: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the smallest y >= least with ``y_j − y_k <= slack``: longest paths (Bellman 1958).

    Optimal duals form a lattice, so there is a smallest one. The unassigned have price 0 for good.
    """
    level = np.append(least, 0)
    for _ in range(len(level) + 1):
        raised = np.maximum(level, (level[:, None] - slack).max(axis=0))
        if (raised == level).all():
            break
        level = raised
    return level[:-1]


def _lower(most: NDArray[np.int64], slack: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the largest y <= most with ``y_j − y_k <= slack``: shortest paths."""
    level = np.append(most, 0)
    for _ in range(len(level) + 1):
        lowered = np.minimum(level, (slack + level).min(axis=1))
        if (lowered == level).all():
            break
        level = lowered
    return level[:-1]

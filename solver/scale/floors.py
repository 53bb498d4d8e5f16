"""Models that must serve at least so many agents: a reward on their first slots, which no other gain outweighs.

Prices know slots in tiers of rising cost. A floor is a first tier that costs ``reward`` less than the others; what
re-assigning agents along a chain of models gains is less than that, so an optimum fills every floor that can be filled.
Costs stay >= 0 by charging the reward for all slots beyond the floors instead, and every unassigned agent as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.slot_supply import Supply
from solver.problem.instance import chain_gain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.scale.first_pass import Survey, Valuation


def floor_reward(shape: Instance, valuation: Valuation, survey: Survey) -> float:
    """Return more than any chain of re-assignments over all models can gain, see ``Instance.serve_step``.

    Where leaving agents out has a price, chains may begin and end outside.
    """
    low, high = shape.score_range
    values = [low, high] if valuation.serve_first else [low, high, *valuation.extremes(survey)]
    max_cost = 0.0 if shape.load_cost is None else float(shape.load_cost.max())
    return chain_gain(min(values), max(values), max_cost, shape.m)


def with_floors(supply: Supply, floor: NDArray[np.int64], reward: float) -> Supply:
    """Return the supply with ``reward`` charged for all slots of a model but its first ``floor``.

    Parameters
    ----------
    supply : Supply
        Tiers by model and then by cost.
    floor : (m,) int64
        Agents that each model has to serve.
    reward : float
        See :func:`floor_reward`.
    """
    end = np.cumsum(supply.slots)
    first = np.flatnonzero(np.diff(supply.model, prepend=-1))
    sizes = np.diff(np.append(first, len(supply.model)))
    before = end - supply.slots - np.repeat((end - supply.slots)[first], sizes)
    below = np.clip(floor[supply.model] - before, 0.0, supply.slots)
    model = np.concatenate([supply.model, supply.model])
    cost = np.concatenate([supply.cost, supply.cost + reward])
    slots = np.concatenate([below, supply.slots - below])
    kept = np.flatnonzero(slots > 0)
    # A model without slots keeps a tier, so that it is known to be closed.
    kept = np.union1d(kept, np.flatnonzero(np.bincount(model, slots, supply.models)[model] == 0))
    order = kept[np.lexsort((cost[kept], model[kept]))]
    return Supply(model=model[order], cost=cost[order], slots=slots[order], models=supply.models)

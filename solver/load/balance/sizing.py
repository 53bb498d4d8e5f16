"""The demands of agents on models with limits on tokens or money, where the length of an answer is unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.load.lease import ONE_SLOT, Demand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from solver.load.balance.fleet import ModelPool
    from solver.load.snapshot import LoadSnapshot
    from solver.load.tracker import LoadTracker
    from solver.problem.spec import Agent

_TOKEN_METER = 1  # position among what is metered


def reserved_demand(
    tracker: LoadTracker, pool: ModelPool, snapshot: LoadSnapshot, agent: Agent, j: int
) -> Demand:
    """Return what to reserve of model j for an agent.

    Where tokens or money are limited, the output is what was learned from answers to such tasks, at most the
    agent's ``output_tokens``. While nothing is known it is those, or all that is left of the limit where the
    agent does not say either: one such request at a time, until the first answer has been settled.
    """
    if not snapshot.metered:
        return pool.demand(agent, j)
    where = pool.positions(snapshot)
    column = j if isinstance(where, slice) else where.item(j)
    limits = snapshot.view.meter_limit[_TOKEN_METER:, column]
    if not np.isfinite(limits).any():
        return pool.demand(agent, j)
    most = agent.output_tokens
    learned = tracker.output_reserve(pool.ids[j], agent.task_type)
    if learned is not None:
        return pool.demand(agent, j, min(learned, most) if most else learned)
    if limits[0] == np.inf:
        return pool.demand(agent, j)
    if most:
        return pool.demand(agent, j, min(most, max(1, int(limits[0]) - agent.input_tokens)))
    left = int(limits[0] - snapshot.view.meter_used.item(_TOKEN_METER, column)) - agent.input_tokens
    return pool.unsized_demand(agent, j, max(1, left))


def usual_demand(
    tracker: LoadTracker, pool: ModelPool, snapshot: LoadSnapshot, agents: Sequence[Agent]
) -> Demand:
    """Return the most that any of some agents is expected to take of any model, each amount by itself."""
    if not snapshot.metered:
        return ONE_SLOT
    sizes = set()
    for agent in agents:
        output, learned = agent.output_tokens, tracker.output_reserve(None, agent.task_type)
        if learned is not None:
            output = min(learned, output) if output else learned
        sizes.add((agent.input_tokens, output))
    return pool.largest_demand(sizes)

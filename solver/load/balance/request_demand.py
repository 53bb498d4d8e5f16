"""What a request reserves of a model: a slot, its tokens and their price, even where its output is unknown."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.load.lease import ONE_SLOT, Demand

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from solver.load.balance.model_pool import ModelPool
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
        return _demand(pool, agent, j)
    where = pool.positions(snapshot)
    column = j if isinstance(where, slice) else where.item(j)
    limits = snapshot.view.meter_limit[_TOKEN_METER:, column]
    if not np.isfinite(limits).any():
        return _demand(pool, agent, j)
    most = agent.output_tokens
    learned = tracker.output_reserve(pool.ids[j], agent.task_type)
    if learned is not None:
        return _demand(pool, agent, j, min(learned, most) if most else learned)
    if limits[0] == np.inf:
        return _demand(pool, agent, j)
    if most:
        return _demand(pool, agent, j, min(most, max(1, int(limits[0]) - agent.input_tokens)))
    left = int(limits[0] - snapshot.view.meter_used.item(_TOKEN_METER, column)) - agent.input_tokens
    return _unsized_demand(pool, agent, j, max(1, left))


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
    return _largest_demand(pool, sizes)


def _demand(pool: ModelPool, agent: Agent, j: int, output_tokens: int | None = None) -> Demand:
    """Return what an agent takes of model j; ``output_tokens``, where given, instead of the agent's own."""
    if output_tokens is None:
        output_tokens = agent.output_tokens
        if not agent.input_tokens and not output_tokens:
            return ONE_SLOT
    return Demand(
        tokens=agent.input_tokens + output_tokens,
        input_tokens=agent.input_tokens,
        cost_usd=pool.scorer.token_prices.cost_on(j, agent.input_tokens, output_tokens),
        task_type=agent.task_type,
    )


def _unsized_demand(pool: ModelPool, agent: Agent, j: int, guess: int) -> Demand:
    """Return what an agent takes of model j when nothing is known of its output; the guess costs nothing."""
    known = _demand(pool, agent, j, 0)
    return replace(known, tokens=known.tokens + guess, guessed_tokens=guess)


def _largest_demand(pool: ModelPool, sizes: Collection[tuple[int, int]]) -> Demand:
    """Return the most that input and output tokens take of any model, each amount by itself."""
    prices = pool.scorer.token_prices
    return Demand(
        tokens=max(taken + given for taken, given in sizes),
        cost_usd=max(prices.cost_usd(taken, given).max().item() for taken, given in sizes),
    )

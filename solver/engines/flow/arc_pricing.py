"""Which pairs are arcs of a core: the best at some prices first, and those that would improve its flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.flow.bounded import Arcs, BoundedFlow
from solver.params import Params
from solver.problem.blocks import chunks, priced_blocks
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance


@dataclass(frozen=True, kw_only=True)
class GenerationParams(Params):
    """What column generation may do."""

    all_pairs: int = 30_000
    """Allowed pairs up to which all of them are arcs from the start."""
    spare_arcs: float = 1.5
    """Arcs of the first core per unit beyond those that carry flow."""
    new_arcs: int = 3
    """Most arcs of one row that join in a round."""
    sample_share: float = 0.125
    """Share of the agents in the sample that first prices come from."""
    sample_per_model: int = 8
    """Least units in a sample, per model: with fewer, shares of slots and floors are mostly rounding."""
    balanced_pairs: int = 200_000
    """Pairs of the rows that prices are balanced on where no sample says anything."""
    balancing_rounds: int = 40
    """Rounds of that balancing."""
    modest_fee: float = 1.0
    """Fee of the first rounds for missing a floor or leaving an agent out, in ranges of the scores."""
    max_rounds: int = 200
    """Rounds after which the best flow so far is returned."""
    most_models: int = 1_500
    """Models up to which prices of floors that could not be raised are taken from all pairs."""
    patience: float = 2.5
    """Times the last flow took that must be left for another round and what follows."""


def count_pairs(instance: Instance) -> int:
    """Return how many pairs of agents and models there are, forbidden ones of a dense matrix included."""
    score = instance.score
    return len(score.data) if isinstance(score, CompressedScores) else instance.n * instance.m


def all_arcs(instance: Instance) -> Arcs:
    """Return every allowed pair."""
    score = instance.score
    if isinstance(score, CompressedScores):
        agent = np.repeat(np.arange(instance.n), np.diff(score.first))
        return Arcs(agent=agent, model=score.models.astype(np.int64), score=score.data.astype(np.float64))
    agent, model = np.nonzero(np.isfinite(score))
    return Arcs(agent=agent, model=model, score=score[agent, model].astype(np.float64))


def core_arcs(instance: Instance, prices: NDArray[np.float64], params: GenerationParams) -> Arcs:
    """Return the arcs that are among the best of their rows at some prices, so many per unit on average."""
    score = instance.score
    if isinstance(score, CompressedScores):
        return all_arcs(instance)
    assert instance.network is not None
    depth = instance.network.depth
    n, m = instance.n, instance.m
    parts = list(chunks(n, m))
    deepest = int(min(depth.max(), m))
    wanted = (float(depth.mean()) + params.spare_arcs) * n
    found_agent, found_model, found_loss = [], [], []
    width = None
    for rows, net in priced_blocks(score, prices, parts):
        place = depth[rows]
        if deepest == 1:
            last = net.max(axis=1)
        else:
            ranked = -np.partition(-net, deepest - 1, axis=1)[:, :deepest]
            ranked = -np.sort(-ranked, axis=1)
            last = ranked[np.arange(len(net)), np.minimum(place, m) - 1]
        last = np.where(np.isneginf(last), net.min(axis=1, initial=np.inf, where=net > -np.inf), last)
        loss = last[:, None] - net
        if width is None:  # the first block says how wide: rows are in no particular order, mostly
            share = wanted / n * len(net)
            flat = loss[np.isfinite(loss)]
            rank = min(len(flat) - 1, int(share))
            width = max(float(np.partition(flat, rank)[rank]), 0.0) if len(flat) else 0.0
        row, model = np.nonzero(loss <= width)
        found_agent.append(row + rows.start)
        found_model.append(model)
        found_loss.append(loss[row, model])
    agent, model = np.concatenate(found_agent), np.concatenate(found_model)
    return Arcs(agent=agent, model=model, score=instance.scores_of(agent, model))


def improving_arcs(
    instance: Instance,
    arcs: Arcs,
    solved: BoundedFlow,
    prices: NDArray[np.float64],
    outside: NDArray[np.float64],
    params: GenerationParams,
) -> Arcs:
    """Return the pairs outside the core that would improve the flow at its prices, the best few of each row."""
    n, m = instance.n, instance.m
    used = np.flatnonzero(solved.units)
    worst = np.full(n, np.inf)
    net_used = arcs.score[used] - prices[arcs.model[used]]
    np.minimum.at(worst, arcs.agent[used], net_used)
    worst = np.where(solved.left > 0, np.minimum(worst, outside), worst)
    noise = 8.0 * solved.rounding + 1e-13 * max(map(abs, instance.score_range))
    key = arcs.agent * m + arcs.model
    if isinstance(instance.score, CompressedScores):  # all pairs are in the core
        nothing = np.zeros(0, np.int64)
        return Arcs(agent=nothing, model=nothing, score=np.zeros(0))
    first = np.searchsorted(arcs.agent, np.arange(n + 1))
    found = []
    for rows, net in priced_blocks(instance.score, prices, list(chunks(n, m))):
        flat = net.ravel()
        flat[key[first[rows.start] : first[rows.stop]] - rows.start * m] = -np.inf
        better = net > (worst[rows] + noise)[:, None]
        rate = better.sum(axis=1)
        busy = np.flatnonzero(rate > params.new_arcs)
        if len(busy):
            block = np.where(better[busy], net[busy], -np.inf)
            cut = -np.partition(-block, params.new_arcs - 1, axis=1)[:, params.new_arcs - 1]
            better[busy] &= block >= cut[:, None]
        row, model = np.nonzero(better)
        found.append((row + rows.start) * m + model)
    new = np.concatenate(found)
    agent, model = new // m, new % m
    score = instance.scores_of(agent, model)
    # A price far from the optimum attracts all agents: as many arcs as could carry its slots are enough for a round.
    gain = score - prices[model] - worst[agent]
    order = np.lexsort((-gain, model))
    place = np.arange(len(order)) - np.searchsorted(model[order], model[order])
    kept = np.sort(order[place < np.maximum(params.new_arcs * instance.slots, 16)[model[order]]])
    return Arcs(agent=agent[kept], model=model[kept], score=score[kept])

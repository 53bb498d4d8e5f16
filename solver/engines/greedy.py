"""Greedy by maximum regret: always an answer, in time.

In rounds, every waiting agent bids for its best model that still has room; each model takes the bidders with
the highest rank first and, within a rank, those with the most to lose (regret: best minus second best value,
Martello and Toth 1981), as far as they fit. Who is turned away bids again. Every round is a handful of numpy
passes over the agents still waiting.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.base import Claim
from solver.engines.network_balance import balanced_prices
from solver.engines.network_greedy import greedy_flow, round_seconds
from solver.engines.network_terms import claimed_flow, principal_choice
from solver.problem.blocks import chunks, row_maxima
from solver.problem.instance import UNASSIGNED, Instance
from solver.problem.sparse import CompressedScores, maxima

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.problem.network import NetworkShape

_SECONDS_PER_BID = 4e-7
"""Seconds to sort and accept one bid of a round."""

_BALANCED_PAIRS = 100_000
"""Pairs looked at for the prices at which rows with floors, copies or counts bid, where time allows."""

_BALANCING_ROUNDS = 30
"""Rounds in which these prices are balanced."""

_BALANCING_S_PER_PAIR = 3e-9
"""Seconds per pair and round."""

_BALANCING_SHARE = 0.3
"""Share of the time left for it, where that is too short for all of it."""

_NETWORK_PASSES = 1.5
"""Passes over all pairs that the rounds of a network come to, as a rule."""

_NETWORK_S_PER_MODEL = 8e-6
"""Seconds per model that a network of few agents takes, besides."""

_NETWORK_OVERHEAD_S = 0.0005
"""Seconds of the calls themselves."""

_CLOSING_ROUNDS = 12
"""Rounds in which models short of a floor that counts only if they are opened are closed: each halves their number."""


class GreedyEngine:
    """Maximum-regret greedy. O(n m) per round, at most m rounds for slots; claims no bound."""

    name = "greedy"

    def unsupported_reason(self, instance: Instance, *, remaining_s: float) -> str | None:
        """Return why not: greedy looks at one capacity at a time, not at limits across models."""
        return None if instance.limits is None else "greedy: does not know limits across models"

    def solve(
        self,
        instance: Instance,
        *,
        deadline: Deadline,
        hint: Claim | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> Claim | None:
        """Return a feasible choice; agents not reached before the deadline get whatever slots are left, if any.

        Floors may be missed: nothing is claimed then.
        """
        if instance.network is not None:
            if instance.network.has_openings:
                return _opened_claim(instance, instance.network, deadline)
            return _network_claim(instance, instance.network, deadline)
        choice = np.full(instance.n, UNASSIGNED, np.int64)
        room = instance.capacity.copy()
        waiting = np.arange(instance.n)
        for _ in range(instance.n):  # every round places an agent, or is the last
            if not len(waiting) or deadline.remaining_s() <= len(waiting) * _SECONDS_PER_BID:
                break
            bid, regret = _bids(instance, waiting, room, deadline)
            bidding = bid != UNASSIGNED
            waiting, bid, regret = waiting[bidding], bid[bidding], regret[bidding]
            if not len(waiting):
                break
            taken = _accept(instance, waiting, bid, regret, room)
            if not taken.any():  # rounding of loads: no further agent can be placed
                break
            choice[waiting[taken]] = bid[taken]
            waiting = waiting[~taken]
        if len(waiting) and deadline.limited:
            _hand_out(instance, choice)
        return Claim(choice=choice)


def network_seconds(instance: Instance) -> float:
    """Return about how long an answer with floors, copies or counts needs, to be as good as without a deadline."""
    balanced = min(instance.n * instance.m, _BALANCED_PAIRS)
    passes_s = _NETWORK_PASSES * round_seconds(instance) + _NETWORK_S_PER_MODEL * instance.m
    return balanced * _BALANCING_ROUNDS * _BALANCING_S_PER_PAIR + passes_s + _NETWORK_OVERHEAD_S


def _opened_claim(instance: Instance, shape: NetworkShape, deadline: Deadline) -> Claim | None:
    """Return greedy's answer without costs of opening, models that stay short of their floors closed in rounds.

    Of the models that serve some agents, but too few, the emptier half is closed before the next round.
    """
    zeros = np.zeros(instance.m)
    plain = replace(shape, floor_if_open=np.zeros_like(shape.floor), opening_cost=zeros)
    capacity = instance.capacity
    for number in range(_CLOSING_ROUNDS):
        if number and deadline.expired():
            break
        relaxed = replace(instance, capacity=capacity, network=plain)
        claim = _network_claim(relaxed, plain, deadline)
        if claim is None:
            return None
        load = claimed_flow(claim).load(instance.m)
        short = np.flatnonzero((load > 0) & (load < shape.floor_if_open))
        if not len(short):
            return claim
        filled = load[short] / shape.floor_if_open[short]
        capacity = capacity.copy()
        capacity[short[np.argsort(filled, kind="stable")[: (len(short) + 1) // 2]]] = 0.0
    return None


def _network_claim(instance: Instance, shape: NetworkShape, deadline: Deadline) -> Claim | None:
    pairs, left_s = _BALANCED_PAIRS, deadline.remaining_s()
    if left_s < network_seconds(instance):
        affordable = _BALANCING_SHARE * left_s / (_BALANCING_ROUNDS * _BALANCING_S_PER_PAIR)
        pairs = min(pairs, int(affordable))
    prices = np.zeros(instance.m)
    if pairs >= instance.m:
        prices = balanced_prices(instance, pairs=pairs, rounds=_BALANCING_ROUNDS)
    flow = greedy_flow(instance, shape, deadline, prices)
    if (flow.load(instance.m) < shape.floor).any():
        return None
    return Claim(
        choice=principal_choice(instance, flow),
        prices=prices[:, None],
        flow=None if shape.is_single else flow,
    )


def _bids(
    instance: Instance, waiting: NDArray[np.intp], room: NDArray[np.float64], deadline: Deadline
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each waiting agent's best model with room (UNASSIGNED: none worth it) and its regret.

    Agents that are not reached before the deadline do not bid.
    """
    bid = np.full(len(waiting), UNASSIGNED)
    regret = np.zeros(len(waiting))
    full = np.flatnonzero((room[:, 0] < 1) if instance.demand is None else np.zeros(instance.m, bool))
    if isinstance(instance.score, CompressedScores):
        first, best, second = _two_best(instance.score, waiting, room[:, 0] < 1)
        _regret(instance, waiting, first, best, second, bid, regret)
        return bid, regret
    all_waiting = len(waiting) == instance.n
    for block in chunks(len(waiting), instance.m):
        if block.start and deadline.limited and deadline.expired():
            break
        rows: slice | NDArray[np.intp] = block if all_waiting else waiting[block]
        value = instance.score[rows].astype(np.float64)
        value[:, full] = -np.inf
        if instance.demand is not None:
            for k in range(instance.r):
                value[instance.demand[rows, :, k] > room[:, k]] = -np.inf
        index = np.arange(len(value))
        first = value.argmax(axis=1)
        best = value[index, first]
        value[index, first] = -np.inf
        _regret(instance, rows, first, best, row_maxima(value), bid[block], regret[block])
    return bid, regret


def _regret(
    instance: Instance,
    rows: slice | NDArray[np.intp],
    first: NDArray[np.intp],
    best: NDArray[np.float64],
    second: NDArray[np.float64],
    bid: NDArray[np.int64],
    regret: NDArray[np.float64],
) -> None:
    """Write the bids of some agents and what they would lose without, staying unassigned considered."""
    unserved = instance.unserved[rows]
    second = np.maximum(second, unserved)
    bid[:] = np.where((best >= unserved) & (best > -np.inf), first, UNASSIGNED)
    regret[:] = np.where(np.isneginf(second), np.inf, best - np.maximum(second, -1e300))


def _two_best(
    score: CompressedScores, waiting: NDArray[np.intp], full: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the best model with room of some rows, its score and the second best score. O(stored pairs)."""
    rows = score.rows(waiting)
    value = np.where(full[rows.models], -np.inf, rows.data.astype(np.float64))
    best = maxima(value, rows.degree)
    row = np.repeat(np.arange(len(waiting)), rows.degree)
    at = np.flatnonzero(value == best[row])[::-1]  # of several, the first is written last
    place = np.zeros(len(waiting), np.int64)
    place[row[at]] = at
    some = np.flatnonzero(rows.degree)
    value[place[some]] = -np.inf
    first = np.zeros(len(waiting), np.int64)
    first[some] = rows.models[place[some]]
    return first, best, maxima(value, rows.degree)


def _hand_out(instance: Instance, choice: NDArray[np.int64]) -> None:
    """Give free slots to those who have none, by rank and then in order, where any slot will do. O(n + m)."""
    if not instance.is_slots or instance.forbids or instance.load_cost is not None:
        return
    waiting = np.flatnonzero((choice == UNASSIGNED) & (instance.unserved < instance.score_range[0]))
    if instance.rank is not None:
        waiting = waiting[np.argsort(-instance.rank[waiting], kind="stable")]
    spare = instance.slots - np.bincount(choice[choice != UNASSIGNED], minlength=instance.m)
    free = np.repeat(np.arange(instance.m), np.maximum(spare, 0))
    count = min(len(waiting), len(free))
    choice[waiting[:count]] = free[:count]


def _accept(
    instance: Instance,
    waiting: NDArray[np.intp],
    bid: NDArray[np.int64],
    regret: NDArray[np.float64],
    room: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return who of the bidders is taken, and take it off ``room``."""
    rank = None if instance.rank is None or not instance.serve_first else instance.rank[waiting]
    keys = (-regret, bid) if rank is None else (-regret, -rank, bid)
    order = np.lexsort(keys)
    model = bid[order]
    start = np.flatnonzero(np.diff(model, prepend=-1))
    size = np.diff(np.append(start, len(model)))
    fits = np.ones(len(model), bool)
    for k in range(instance.r):
        amount = np.ones(len(model)) if instance.demand is None else instance.demand[waiting[order], model, k]
        total = np.cumsum(amount)
        before = np.repeat(total[start] - amount[start], size)
        fits &= total - before <= room[model, k]
    # a later, smaller bidder may fit by itself where an earlier one did not; it bids again next round
    for k in range(instance.r):
        amount = np.ones(len(model)) if instance.demand is None else instance.demand[waiting[order], model, k]
        room[:, k] -= np.bincount(model[fits], weights=amount[fits], minlength=instance.m)
    np.maximum(room, 0.0, out=room)
    taken = np.zeros(len(bid), bool)
    taken[order[fits]] = True
    return taken

"""Whole agents from prices: each contested agent at its best model, then moves until every bound holds.

At optimal prices at most as many agents are divided as rows bind, so that rounding exceeds bounds by a few agents. Both
loops are bounded by steps, never by time: equal input, equal answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.params import Params
from solver.problem.tolerances import EXCESS_TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.scale.coupling import Couplings
    from solver.scale.held_arcs import ArcsInBox


@dataclass(frozen=True, kw_only=True)
class RepairParams(Params):
    """Bounds of the loops."""

    steps_a_row: int = 60
    """Moves for each row, on average, to make bounds hold."""
    most_moves: int = 4
    """Moves of one agent among them."""
    rounds: int = 12
    """Rounds of improving moves."""
    tried: int = 2_000
    """Moves tried in a round."""
    paired: int = 600
    """Moves of which every two are tried together: those that lose least at the charges."""
    exchanges: int = 12
    """Rounds of such pairs."""
    attempts: int = 8
    """Attempts at most, the first from the best models of all, the others from choices that differ by lot."""
    arcs_tried: int = 8_000
    """Arcs of all attempts together, about."""
    lot: float = 0.03
    """What arcs differ by at most in the last attempt, in standard deviations of their values; less in earlier ones."""


class _Moves:
    """A choice for contested agents, and what it uses of every row."""

    def __init__(
        self, core: ArcsInBox, couplings: Couplings, charge: NDArray[np.float64], lot: float, seed: int
    ) -> None:
        m = len(charge)
        owner, model, value = core.owner, core.model.astype(np.int64), core.value.astype(np.float64)
        leaves = np.zeros(len(core.agent), bool)
        leaves[owner[model == m]] = True
        added = np.flatnonzero(~leaves & (core.outside > -np.inf))
        self.owner = np.concatenate([owner, added])
        self.model = np.concatenate([model, np.full(len(added), m)])
        self.value = np.concatenate([value, core.outside[added]])
        padded = np.concatenate(
            [couplings.weight, np.zeros((len(couplings.bound), 1, charge.shape[1]))], axis=1
        )
        self.use = np.einsum("ekc,ec->ek", padded.transpose(1, 0, 2)[self.model], core.amount[self.owner])
        paid = (np.vstack([charge, np.zeros(charge.shape[1])])[self.model] * core.amount[self.owner]).sum(
            axis=1
        )
        net = self.value - paid
        if lot:
            drawn = np.random.default_rng(seed).normal(size=len(net))
            net = net + lot * float(np.std(self.value, where=np.isfinite(self.value))) * drawn
        order = np.lexsort((self.model, -net, self.owner))
        self.net = net
        self.current = order[np.flatnonzero(np.diff(self.owner[order], prepend=-1))]  # each agent's best arc
        self.bound = couplings.bound
        self.slack = EXCESS_TOLERANCE * 0.5 * np.maximum(couplings.bound, 1e-300)
        settled = couplings.usage(core.settled[:m])
        self.over = settled + self.use[self.current].sum(axis=0) - self.bound

    def move(self, arc: int) -> None:
        agent = self.owner[arc]
        self.over = self.over + self.use[arc] - self.use[self.current[agent]]
        self.current[agent] = arc


def whole_agents(
    core: ArcsInBox,
    couplings: Couplings,
    charge: NDArray[np.float64],
    params: RepairParams | None = None,
) -> tuple[NDArray[np.int64], float] | None:
    """Return the (g,) models of contested agents, m for unassigned, and the sum of their values.

    None if some bound could not be made to hold.

    Parameters
    ----------
    core : ArcsInBox
        The contested agents, with what all others use.
    couplings : Couplings
        Rows and bounds.
    charge : (m, c) float64
        Charges at optimal prices.
    params : RepairParams, optional
        Bounds of the loops.
    """
    params = params or RepairParams()
    if not len(core.agent):
        over = couplings.usage(core.settled[: len(charge)]) - couplings.bound
        fits = bool((over <= EXCESS_TOLERANCE * 0.5 * np.maximum(couplings.bound, 1e-300)).all())
        return (np.zeros(0, np.int64), 0.0) if fits else None
    found = None
    attempts = min(max(1, params.arcs_tried // len(core.model)), params.attempts)
    for k in range(attempts):
        moves = _Moves(core, couplings, charge, params.lot * k / max(1, attempts - 1), k)
        if not _make_fit(moves, params):
            continue
        _improve(moves, params)
        for _ in range(params.exchanges):
            if not _exchange(moves, params):
                break
            _improve(moves, params)
        value = float(moves.value[moves.current].sum())
        if found is None or value > found[1]:
            found = moves.model[moves.current], value
    return found


def _make_fit(moves: _Moves, params: RepairParams) -> bool:
    """Move agents off rows that are exceeded, those that lose least for it; return whether all bounds hold."""
    moved = np.zeros(len(moves.current), np.int64)
    for _ in range(params.steps_a_row * len(moves.bound)):
        excess = moves.over - moves.slack
        if (excess <= 0).all():
            return True
        row = int(np.argmax(excess / np.maximum(moves.bound, 1e-300)))
        held = moves.current[moves.owner]
        relief = moves.use[held, row] - moves.use[:, row]
        some = np.flatnonzero((relief > 0) & (moved[moves.owner] < params.most_moves))
        if not len(some):
            return False
        held = held[some]
        loss = np.maximum(moves.net[held] - moves.net[some], 0.0)
        after = moves.over + moves.use[some] - moves.use[held]
        after[:, row] = -np.inf
        worse = (after > np.maximum(moves.over, moves.slack)).any(axis=1)
        ratio = (loss + 1e-12) / np.minimum(relief[some], excess[row])
        free = np.flatnonzero(~worse)
        if len(free):
            pick = int(free[np.argmin(ratio[free])])
        else:  # the excess goes elsewhere, from where another agent moves on
            beyond = (np.maximum(after, 0.0) / np.maximum(moves.bound, 1e-300)).max(axis=1)
            pick = int(np.lexsort((ratio, beyond))[0])
        arc = int(some[pick])
        moved[moves.owner[arc]] += 1
        moves.move(arc)
    return bool((moves.over <= moves.slack).all())


def _improve(moves: _Moves, params: RepairParams) -> None:
    """Make moves that gain score and break no bound, the largest gains first."""
    for _ in range(params.rounds):
        held = moves.current[moves.owner]
        gain = moves.value - moves.value[held]
        better = np.flatnonzero(gain > 0)
        fits = (moves.over + moves.use[better] - moves.use[held[better]] <= moves.slack).all(axis=1)
        better = better[fits]
        if not len(better):
            return
        order = better[np.argsort(-gain[better], kind="stable")][: params.tried]
        for arc in order.tolist():
            held_arc = moves.current[moves.owner[arc]]
            if moves.value[arc] <= moves.value[held_arc]:
                continue
            if (moves.over + moves.use[arc] - moves.use[held_arc] <= moves.slack).all():
                moves.move(arc)


def _exchange(moves: _Moves, params: RepairParams) -> bool:
    """Make two agents' moves at once that gain score together and break no bound; return whether there were any.

    What is left of the bounds is worth little, so no move of a pair that gains loses much at the charges.
    """
    held = moves.current[moves.owner]
    loss = np.where(held == np.arange(len(held)), np.inf, moves.net[held] - moves.net)
    some = np.argsort(loss, kind="stable")[: params.paired]
    some = some[np.isfinite(loss[some])]
    gain = moves.value[some] - moves.value[held[some]]
    use = moves.use[some] - moves.use[held[some]]
    room = moves.slack - moves.over
    least = 1e-12 * float(np.abs(moves.value[np.isfinite(moves.value)]).max(initial=0.0))
    found = []
    for k in range(len(some) - 1):
        better = np.flatnonzero(gain[k] + gain[k + 1 :] > least) + k + 1
        apart = moves.owner[some[better]] != moves.owner[some[k]]
        better = better[apart & (use[k] + use[better] <= room).all(axis=1)]
        if len(better):
            other = int(better[np.argmax(gain[better])])
            found.append((float(gain[k] + gain[other]), int(some[k]), int(some[other])))
    moved = False
    before = moves.current.copy()
    for _, one, other in sorted(found, reverse=True):
        agents = moves.owner[[one, other]]
        if (moves.current[agents] != before[agents]).any():
            continue
        step = moves.use[[one, other]] - moves.use[moves.current[agents]]
        if (moves.over + step.sum(axis=0) <= moves.slack).all():
            moves.move(one)
            moves.move(other)
            moved = True
    return moved

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


class _Moves:
    """A choice for contested agents, and what it uses of every row."""

    def __init__(self, core: ArcsInBox, couplings: Couplings, charge: NDArray[np.float64]) -> None:
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
) -> NDArray[np.int64] | None:
    """Return the (g,) models of contested agents, m for unassigned; None if some bound could not be made to hold.

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
        return np.zeros(0, np.int64) if fits else None
    moves = _Moves(core, couplings, charge)
    if not _make_fit(moves, params):
        return None
    _improve(moves, params)
    return moves.model[moves.current]


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

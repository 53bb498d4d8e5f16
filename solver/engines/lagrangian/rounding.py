"""Fast heuristics that turn any assignment into a feasible one, in milliseconds.

Where agents may be left out: shed what does not fit, then fill what is left. Where all must be served: let
them bid at the prices, those with the most to lose first (the regret greedy of Martello and Toth 1981, in
rounds that are a few numpy passes each), and then use the room that this leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.standard_form import StandardForm

_REPAIR_ROUNDS = 12
"""Rounds of repair at most."""

_RESERVED_S = 0.01
"""Seconds left for returning when a deadline is near."""

_PRICE_FACTORS = (1.0, 1.03, 1.1, 1.3, 2.0, 5.0)
"""Factors on the prices, tried in turn: the larger, the more room is left over."""


def drop_to_fit(form: StandardForm, columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave agents unassigned until no capacity and no upper limit is exceeded. O(n log n) per round.

    Parameters
    ----------
    form : StandardForm
        With a column for the unassigned; agents that may not use it stay where they are.
    columns : (n,) int64
        Any assignment.

    Returns
    -------
    (n,) int64
        A fresh assignment. Drops those first that cost least per unit they free.
    """
    columns = columns.copy()
    leave = form.models
    load = form.load(columns)
    for k, c in np.argwhere(load > form.room):
        members = np.flatnonzero(columns == c)
        freed = form.demand[k, c, members]
        _drop(form, columns, members, freed, float(freed.sum() - form.room[k, c]))
    for _ in range(_REPAIR_ROUNDS if form.rows else 0):
        broken = np.flatnonzero(form.row_load(columns) - form.row_room > 0)
        if not len(broken):
            break
        before = int((columns == leave).sum())
        agent, row, amount = _entries(form, columns, broken)
        for g, start, end in zip(
            broken.tolist(),
            np.searchsorted(row, broken).tolist(),
            np.searchsorted(row, broken, "right").tolist(),
            strict=True,
        ):
            stays = start + np.flatnonzero(columns[agent[start:end]] != leave)
            members, freed = agent[stays], amount[stays]
            _drop(form, columns, members, freed, float(freed.sum() - form.row_room[g]))
        if int((columns == leave).sum()) == before:
            break
    return columns


def _entries(
    form: StandardForm, columns: NDArray[np.int64], rows: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float64]]:
    """Return agent, row and coefficient of what an assignment adds to some rows, by row and then agent."""
    agents, wanted = np.arange(form.n), np.zeros(form.rows + 1, bool)
    wanted[rows] = True
    parts = []
    for layer_row, coefficient in zip(form.row, form.coefficient, strict=True):
        row = layer_row[columns, agents].astype(np.int64)
        some = np.flatnonzero(wanted[row])
        parts.append((some, row[some], coefficient[columns[some], some]))
    agent, row, amount = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    return agent[order], row[order], amount[order]


def _drop(
    form: StandardForm,
    columns: NDArray[np.int64],
    members: NDArray[np.intp],
    freed: NDArray[np.float64],
    excess: float,
) -> None:
    extra = form.loss[form.models, members] - form.loss[columns[members], members]
    able = np.isfinite(extra) & (freed > 0)
    members, freed, extra = members[able], freed[able], extra[able]
    order = np.argsort(extra / freed, kind="stable")
    enough = int(np.searchsorted(np.cumsum(freed[order]), excess * (1 - 1e-12))) + 1
    columns[members[order[:enough]]] = form.models


def insert_unassigned(
    form: StandardForm, columns: NDArray[np.int64], deadline: Deadline | None = None
) -> NDArray[np.int64]:
    """Serve unassigned agents wherever there is room and it lowers the loss. O(rounds · c · left).

    Parameters
    ----------
    form : StandardForm
        With a column for the unassigned.
    columns : (n,) int64
        An assignment; what it exceeds already is left alone.
    deadline : Deadline, optional
        Stops filling shortly before it.
    """
    columns = columns.copy()
    leave = form.models
    for _ in range(_REPAIR_ROUNDS):
        left = np.flatnonzero(columns == leave)
        if not len(left) or _late(deadline):
            break
        spare = form.room - form.load(columns)
        gain = form.loss[leave, left] - form.loss[:leave][:, left]
        fits = (form.demand[:, :leave][:, :, left] <= spare[:, :leave, None]).all(axis=0) & (gain > 0)
        if form.rows:
            fits &= _rows_allow(form, columns, left)
        gain = np.where(fits, gain, -np.inf)
        target = gain.argmax(axis=0)
        worth = gain[target, np.arange(len(left))]
        order = np.argsort(-worth, kind="stable")
        order = order[worth[order] > 0]
        if not len(order):
            break
        if form.rows:
            order = order[: max(1, len(order) // 8)]  # rows are checked once a round: few at a time
        moved = False
        for c in np.unique(target[order]):
            queue = left[order[target[order] == c]]
            used = np.cumsum(form.demand[:, c, queue], axis=1)
            accepted = queue[(used <= spare[:, c, None]).all(axis=0)]
            if form.rows:
                for agent in accepted.tolist():
                    if _late(deadline):
                        return columns
                    columns[agent] = c
                    if (form.row_load(columns) > form.row_room).any():
                        columns[agent] = leave
                    else:
                        moved = True
            else:
                columns[accepted] = c
                moved |= bool(len(accepted))
        if not moved:
            break
    return columns


def _late(deadline: Deadline | None) -> bool:
    return deadline is not None and deadline.remaining_s() < _RESERVED_S


def _rows_allow(form: StandardForm, columns: NDArray[np.int64], left: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which (model, left agent) pairs fit every limit row on their own."""
    spare = np.append(form.row_room - form.row_load(columns), np.inf)
    allowed = np.ones((form.models, len(left)), bool)
    for row, coefficient in zip(form.row, form.coefficient, strict=True):
        allowed &= coefficient[: form.models][:, left] <= np.maximum(spare[row[: form.models][:, left]], 0.0)
    return allowed


def serve_all(
    form: StandardForm, priced: NDArray[np.float64], *, first: NDArray[np.int64] | None = None
) -> NDArray[np.int64] | None:
    """Serve every agent within the capacities, or return None. A few passes over the pairs.

    Parameters
    ----------
    form : StandardForm
        The problem; limit rows are not looked at beyond what they contribute to ``priced``.
    priced : (c, n) float64
        Losses with the prices of what a pair takes. If some agent finds no room at these prices, they are
        raised, up to fivefold, which favours pairs that take little.
    first : (n,) int64, optional
        Model that each agent bids for first, such as a rounded relaxation.
    """
    if first is not None:
        columns = _serve(form, priced, first)
        if columns is not None:
            return columns
    charge = np.where(np.isfinite(priced), priced, 0.0) - np.where(np.isfinite(priced), form.loss, 0.0)
    for emphasis in _PRICE_FACTORS:
        columns = _serve(form, priced + (emphasis - 1.0) * charge, None)
        if columns is not None:
            return columns
    return None


def _serve(
    form: StandardForm, key: NDArray[np.float64], first: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    columns = np.full(form.n, -1)
    spare = form.room.copy()
    waiting = np.arange(form.n)
    for _ in range(form.n + 2):  # every round but one with given bids serves an agent
        if not len(waiting):
            break
        value = np.where(
            (form.demand[:, :, waiting] > spare[:, :, None]).any(axis=0), np.inf, key[:, waiting]
        )
        agents = np.arange(len(waiting))
        bid = value.argmin(axis=0) if first is None else first
        first = None
        best = value[bid, agents]
        if not np.isfinite(value.min(axis=0)).all():
            return None
        value[bid, agents] = np.inf
        regret = value.min(axis=0)
        # Who does not fit where it bids first waits; who has no second choice goes first.
        regret -= np.where(np.isfinite(best), best, 0.0)
        taken = _accepted(form, waiting, bid, regret, spare) & np.isfinite(best)
        columns[waiting[taken]] = bid[taken]
        _take(form, waiting[taken], bid[taken], spare)
        waiting = waiting[~taken]
    return None if len(waiting) else columns


def relocate(
    form: StandardForm, columns: NDArray[np.int64], deadline: Deadline | None = None
) -> NDArray[np.int64]:
    """Move agents to better columns that have room for them, in rounds. O(rounds · c · n).

    Parameters
    ----------
    form : StandardForm
        The problem; its limit rows are not looked at.
    columns : (n,) int64
        An assignment within all capacities.
    deadline : Deadline, optional
        Stops shortly before it.
    """
    columns = columns.copy()
    agents = np.arange(form.n)
    for _ in range(_REPAIR_ROUNDS):
        if _late(deadline):
            break
        spare = form.room - form.load(columns)
        own = columns[agents]
        gain = form.loss[own, agents] - form.loss[:, agents]
        gain[(form.demand[:, :, agents] > spare[:, :, None]).any(axis=0)] = -np.inf
        target = gain.argmax(axis=0)
        worth = gain[target, np.arange(len(agents))]
        eager = (worth > 0) & (target != own)
        agents, target = agents[eager], target[eager]
        if not len(agents):
            break
        moved = _accepted(form, agents, target, worth[eager], spare)
        columns[agents[moved]] = target[moved]
    return columns


def _accepted(
    form: StandardForm,
    agents: NDArray[np.intp],
    bid: NDArray[np.int64],
    rank: NDArray[np.float64],
    spare: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return which of the agents fit where they bid, the highest rank first in each column."""
    order = np.lexsort((-rank, bid))
    column, who = bid[order], agents[order]
    start = np.flatnonzero(np.diff(column, prepend=-1))
    size = np.diff(np.append(start, len(column)))
    fits = np.ones(len(who), bool)
    for k in range(form.resources):
        amount = form.demand[k, column, who]
        total = np.cumsum(amount)
        fits &= total - np.repeat(total[start] - amount[start], size) <= spare[k, column]
    accepted = np.empty(len(who), bool)
    accepted[order] = fits
    return accepted


def _take(
    form: StandardForm, agents: NDArray[np.intp], columns: NDArray[np.int64], spare: NDArray[np.float64]
) -> None:
    for k in range(form.resources):
        spare[k] -= np.bincount(columns, form.demand[k, columns, agents], minlength=form.columns)

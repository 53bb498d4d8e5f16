"""Chains of ejections, level by level on arrays: every open end at once, the best partial moves kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.lagrangian.chain_state import IMPOSSIBLE_LOSS, ChainState, Move

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMPROVEMENT = -3e-5
"""A move must change the penalised loss by less than this; the unit is the mean loss of a pair."""

_LARGEST_LOSS = np.float32(1e8)
"""Losses below this are those of possible moves."""

_MAX_EXPANDED = 12_000
"""Candidate pairs per level above which only the cheapest ejections are considered."""


@dataclass(slots=True)
class _Partial:
    """Partial moves, one per entry of every array."""

    agents: list[NDArray[np.int64]]
    targets: list[NDArray[np.int64]]
    visited: list[NDArray[np.int64]]
    spent: NDArray[np.float32]  # loss so far, without the penalty of the open end
    entering: NDArray[np.float32]  # (r, w) demand that has just entered the open end
    leaving: NDArray[np.float32]  # (r, w) demand that left the first column
    relief: NDArray[np.float32]  # change of the first column's penalty
    credit: NDArray[np.float32]  # relief less the price of what left: the constant part of the key


@dataclass(frozen=True, slots=True, eq=False)
class _Terms:
    """What the moves of one call have in common."""

    over: NDArray[np.float32]  # (r, c) load beyond the capacity, negative where there is room
    held: NDArray[np.float32]  # (c,) penalty that each column pays now
    own_loss: NDArray[np.float32]  # (n + 1,) loss of each agent where it is
    own_demand: NDArray[np.float32]  # (r, n + 1) demand of each agent where it is
    relief: NDArray[np.float32]  # (n + 1,) change of the penalty of an agent's column when it leaves
    credit: NDArray[np.float32]  # (n + 1,) loss and priced demand that leave with an agent
    accept: NDArray[np.float32]  # (n + 1, near) what an agent adds to a column if nothing else changes there
    stay: NDArray[np.bool_]  # (n + 1, near) where an agent is already


def find_moves(state: ChainState, *, width: int, depth: int, most: int) -> list[Move]:
    """Return improving complete moves, at most ``most`` per level, best first.

    O(n near r) for the first level, O(members near r) of the ``width`` columns at the open ends for each further one.
    """
    terms = _terms(state)
    found = _single_moves(state, terms, most)
    exit_key = state.near_key.copy()
    exit_key[terms.stay] = IMPOSSIBLE_LOSS
    cheapest_exit = exit_key.min(axis=1)
    partial = _first_partial(state, terms, exit_key, width)
    for level in range(2, depth + 1):
        if not len(partial.spent):
            break
        kept = 0 if level == depth else width
        partial = _extended(state, terms, partial, cheapest_exit, found, most=most, width=kept)
    found.sort(key=_by_value)
    return found


def _terms(state: ChainState) -> _Terms:
    over = state.use - state.room
    held = (state.penalty * np.maximum(over, 0)).sum(axis=0)
    own = state.own_base + state.column
    own_demand = np.stack([d.ravel()[own] for d in state.demand])
    own_loss = state.priced.ravel()[own]
    relief = -held[state.column]
    credit = own_loss.copy()
    accept = state.near_loss - held[state.near]
    for k in range(len(over)):
        pay, past = state.penalty[k], over[k]
        left = past[state.column] - own_demand[k]
        relief += pay[state.column] * np.maximum(left, 0)
        credit += state.price[k][state.column] * own_demand[k]
        entering = past[state.near]
        entering += state.near_demand[k]
        np.maximum(entering, 0, out=entering)
        entering *= pay[state.near]
        accept += entering
    stay = state.near == state.column[:, None]
    stay[-1] = True
    return _Terms(over, held, own_loss, own_demand, relief, credit, accept, stay)


def _single_moves(state: ChainState, terms: _Terms, most: int) -> list[Move]:
    """Return moves of one agent that improve."""
    value = terms.accept + (terms.relief - terms.own_loss)[:, None]
    value[terms.stay] = IMPOSSIBLE_LOSS
    return [
        state.move(float(value.flat[at]), (at // state.nearest,), (int(state.near.flat[at]),))
        for at in _improving(value, most).tolist()
    ]


def _first_partial(state: ChainState, terms: _Terms, exit_key: NDArray[np.float32], width: int) -> _Partial:
    """Return the best partial moves of one agent."""
    key = exit_key + (terms.relief - terms.credit)[:, None]
    key -= state.gumbel(key.shape)
    if state.form.leave:
        key[state.near == state.form.models] = IMPOSSIBLE_LOSS
    picked = _smallest(key, width)
    mover = picked // state.nearest
    origin = state.column[mover]
    goal = state.near.ravel()[picked]
    leaving = terms.own_demand[:, mover]
    return _Partial(
        agents=[mover],
        targets=[goal],
        visited=[origin, goal],
        spent=state.near_loss.ravel()[picked] - terms.own_loss[mover],
        entering=state.near_demand.reshape(len(leaving), -1)[:, picked],
        leaving=leaving,
        relief=terms.relief[mover],
        credit=terms.relief[mover] - (state.price[:, origin] * leaving).sum(axis=0),
    )


def _extended(
    state: ChainState,
    terms: _Terms,
    partial: _Partial,
    cheapest_exit: NDArray[np.float32],
    found: list[Move],
    *,
    most: int,
    width: int,
) -> _Partial:
    """Eject every member of every open end to every near column; note what completes, keep the ``width`` best."""
    near = state.nearest
    entry, ejected, base = _ejections(state, terms, partial, cheapest_exit)
    to = state.short.take(ejected, axis=0)
    barred = _at(to, partial.visited[-1], entry)
    for column in partial.visited[1:-1]:
        barred |= _at(to, column, entry)
    back = _at(to, partial.visited[0], entry)
    value = terms.accept.take(ejected, axis=0)
    value += (base + partial.relief[entry])[:, None]
    cycle = np.flatnonzero(back)
    if len(cycle):
        value.ravel()[cycle] = _closed(state, terms, partial, cycle, entry, ejected, base)
    np.copyto(value, IMPOSSIBLE_LOSS, where=barred)
    for spot in _improving(value, most).tolist():
        row = spot // near
        first = entry[row]
        agents = (*(int(a[first]) for a in partial.agents), int(ejected[row]))
        targets = (*(int(t[first]) for t in partial.targets), int(to.flat[spot]))
        found.append(state.move(float(value.flat[spot]), agents, targets))
    if not width:
        return partial
    barred |= back
    if state.form.leave:
        barred |= to == state.form.models
    key = state.near_key.take(ejected, axis=0)
    key += (base + partial.credit[entry])[:, None]
    key -= state.gumbel(key.shape)
    np.copyto(key, IMPOSSIBLE_LOSS, where=barred)
    picked = _smallest(key, width)
    row = picked // near
    entry, agent = entry[row], ejected[row]
    pair = agent * near + picked % near
    target = state.near.ravel()[pair]
    return _Partial(
        agents=[*(a[entry] for a in partial.agents), agent],
        targets=[*(t[entry] for t in partial.targets), target],
        visited=[*(v[entry] for v in partial.visited), target],
        spent=base[row] + state.near_loss.ravel()[pair],
        entering=state.near_demand.reshape(len(terms.over), -1)[:, pair],
        leaving=partial.leaving[:, entry],
        relief=partial.relief[entry],
        credit=partial.credit[entry],
    )


def _ejections(
    state: ChainState, terms: _Terms, partial: _Partial, cheapest_exit: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float32]]:
    """Return (partial move, agent ejected from its open end, penalised loss so far), the most promising ones."""
    open_end = partial.visited[-1]
    listed = state.members[open_end]
    place = np.flatnonzero(listed != state.form.n)
    entry = place // listed.shape[1]
    ejected = listed.ravel()[place]
    base = (partial.spent - terms.held[open_end])[entry]
    base -= terms.own_loss[ejected]
    for k in range(len(terms.over)):
        remains = (terms.over[k][open_end] + partial.entering[k])[entry]
        remains -= terms.own_demand[k][ejected]
        np.maximum(remains, 0, out=remains)
        remains *= state.penalty[k][open_end][entry]
        base += remains
    most_ejected = _MAX_EXPANDED // state.nearest
    if len(ejected) > most_ejected:
        promise = base + partial.credit[entry]
        promise += cheapest_exit[ejected]
        chosen = np.argpartition(promise, most_ejected - 1)[:most_ejected]
        entry, ejected, base = entry[chosen], ejected[chosen], base[chosen]
    return entry, ejected, base


def _at(to: NDArray[Any], column: NDArray[np.int64], entry: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return where targets are a column of their partial move."""
    same: NDArray[np.bool_] = to == column.astype(to.dtype)[entry][:, None]
    return same


def _closed(
    state: ChainState,
    terms: _Terms,
    partial: _Partial,
    cycle: NDArray[np.intp],
    entry: NDArray[np.intp],
    ejected: NDArray[np.int64],
    base: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the change of cycles: the first column gets one agent back for the one it lost."""
    row = cycle // state.nearest
    first = entry[row]
    pair = ejected[row] * state.nearest + cycle % state.nearest
    column = partial.visited[0][first]
    closed: NDArray[np.float32] = base[row] + state.near_loss.ravel()[pair] - terms.held[column]
    for k in range(len(terms.over)):
        load = terms.over[k][column] + state.near_demand[k].ravel()[pair] - partial.leaving[k][first]
        closed += state.penalty[k][column] * np.maximum(load, 0)
    return closed


def _by_value(move: Move) -> float:
    return move.value


def _improving(value: NDArray[np.float32], most: int) -> NDArray[np.intp]:
    """Return flat indices of at most ``most`` entries below IMPROVEMENT."""
    flat = value.ravel()
    good = np.flatnonzero(flat < IMPROVEMENT)
    if len(good) > most:
        good = good[np.argpartition(flat[good], most - 1)[:most]]
    return good


def _smallest(key: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return flat indices of the ``count`` smallest possible entries."""
    flat = key.ravel()
    everything = flat.size <= count
    picked = np.arange(flat.size) if everything else np.argpartition(flat, count - 1)[:count]
    return picked[flat[picked] < _LARGEST_LOSS]

"""Compound moves: a price-guided beam over chains of ejections.

A move takes an agent from its column to another, ejects an agent from there, and so on, until the last
agent is accepted (a path) or lands where the first one left (a cycle). No column is visited twice, so the
change of the penalised loss of a complete move is exact. Partial moves are ranked by what they would cost at
the dual prices, which look past the overload that the open end still has. One call of :meth:`Beam.moves`
expands a few dozen partial moves per level, all of them at once.

Compare the ejection chains of M. Yagiura, T. Ibaraki, F. Glover, "An ejection chain approach for the
generalized assignment problem", INFORMS J. Comput. 16 (2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines import kernels
from solver.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.standard_form import Form

__all__ = ["IMPROVEMENT", "Beam", "Move"]

IMPROVEMENT = -3e-5
"""A move must change the penalised loss by less than this; the unit is the mean loss of a pair."""

_IMPOSSIBLE_LOSS = np.float32(1e9)
"""Loss of a move that is not possible."""

_LARGEST_LOSS = np.float32(1e8)
"""Losses below this are those of possible moves."""

_MOST_EXPANDED = 12_000
"""Candidate pairs per level above which only the cheapest ejections are considered."""

_NOISE_DRAWS = 1 << 16
"""Random numbers drawn in advance."""

_MOST_NOISE = np.float32(4.0)
"""Noise is cut off there, one draw in fifty, so that the kernel can prune."""

_EXACT_FLOAT32 = 2**23
"""Whole numbers below this are exact in float32."""


@dataclass(frozen=True, slots=True)
class Move:
    """A complete change of the assignment.

    Parameters
    ----------
    value : float
        Change of the penalised loss.
    agents, targets : tuple of int
        Who goes where, in order.
    columns : frozenset of int
        Every column whose load changes.
    """

    value: float
    agents: tuple[int, ...]
    targets: tuple[int, ...]
    columns: frozenset[int]


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


class Beam:
    """A current assignment, infeasible or not, and the moves that improve it.

    Parameters
    ----------
    form : Form
        The problem.
    reduced : (c, n) float64
        Reduced losses at the dual prices: how good a pair can be.
    price : (r, c) float64
        Dual prices of the capacities.
    nearest : int
        Columns considered per agent: those of the smallest reduced loss.
    rng : numpy.random.Generator
        Breaks ties and varies the moves.
    """

    def __init__(
        self,
        form: Form,
        reduced: NDArray[np.float64],
        price: NDArray[np.float64],
        *,
        nearest: int,
        rng: np.random.Generator,
    ) -> None:
        self.form, self.rng = form, rng
        columns, n = form.loss.shape
        loss = form.loss if form.allowed is None else np.where(form.allowed, form.loss, 0.0)
        self.unit = float(loss[: form.models].mean()) or 1.0
        self.room = _room(form)
        self.price = (price / self.unit).astype(np.float32)
        self.loss = np.zeros((n + 1, columns), np.float32)
        self.loss[:n] = loss.T / self.unit
        if form.allowed is not None:
            self.loss[:n][~form.allowed.T] = _IMPOSSIBLE_LOSS
        self.demand = np.zeros((form.resources, n + 1, columns), np.float32)
        self.demand[:, :n] = form.demand.transpose(0, 2, 1)
        self.nearest = near = min(nearest, columns)
        self.near = np.zeros((n + 1, near), np.int64)
        if columns > near:
            self.near[:n] = np.argpartition(reduced, near - 1, axis=0)[:near].T
        else:
            self.near[:n] = np.arange(columns)
        self.short = self.near.astype(np.int16 if columns < 2**15 else np.int64)
        self.flat = np.arange(n + 1)[:, None] * columns + self.near
        self.near_demand = np.stack([d.ravel()[self.flat] for d in self.demand])
        self.own_base = np.arange(n + 1) * columns
        self.penalty = np.zeros_like(self.room)
        self.width, self.depth = 40, 5
        self.temperature = 0.0
        self._noise: NDArray[np.float32] | None = None
        self._chains: kernels.Chains | None = None
        self.steps = 0
        self.reprice(self.loss)

    def reprice(self, loss: NDArray[np.float32]) -> None:
        """Use other (n + 1, c) losses, such as those with limit rows priced in."""
        self.priced = loss
        self.near_loss = loss.ravel()[self.flat]
        self.near_loss[-1] = _IMPOSSIBLE_LOSS  # the agent that pads the lists of members
        self.near_key = self.near_loss.copy()
        for k in range(len(self.price)):
            self.near_key += self.price[k][self.near] * self.near_demand[k]

    def place(self, columns: NDArray[np.int64]) -> None:
        """Start from an (n,) assignment to columns."""
        n, count = self.form.n, self.form.columns
        self.column = np.append(columns, 0).astype(np.int64)
        size = np.bincount(columns, minlength=count)
        if self.form.leave:
            size[-1] = 0  # nobody is ever ejected from there, so nobody has to be listed
        slots = int(size.max(initial=0)) + 3
        self.members = np.full((count, slots), n, np.int64)
        order = np.argsort(columns, kind="stable")
        if self.form.leave:
            order = order[columns[order] != self.form.models]
        start = np.cumsum(size) - size
        home = columns[order]
        self.members[home, np.arange(len(order)) - start[home]] = order
        self.size = size
        self.refresh()

    def refresh(self) -> None:
        """Recompute loads and loss, which moves update in float32."""
        own = self.own_base[:-1] + self.column[:-1]
        self.use = np.stack(
            [
                np.bincount(self.column[:-1], weights=d.ravel()[own], minlength=self.form.columns)
                for d in self.demand
            ]
        ).astype(np.float32)

    def apply(self, move: Move) -> None:
        """Carry out a move."""
        n, leave = self.form.n, self.form.models if self.form.leave else -1
        for agent, target in zip(move.agents, move.targets, strict=True):
            source = int(self.column[agent])
            if source != leave:
                listed = self.members[source]
                self.size[source] -= 1
                last = self.size[source]
                listed[int((listed == agent).argmax())] = listed[last]
                listed[last] = n
            if target != leave:
                if self.size[target] + 2 >= self.members.shape[1]:
                    self._widen()
                self.members[target, self.size[target]] = agent
                self.size[target] += 1
            self.column[agent] = target
            self.use[:, source] -= self.demand[:, agent, source]
            self.use[:, target] += self.demand[:, agent, target]

    def improve(
        self, *, crossed: bool, local: float, tolerance: float, until_s: float
    ) -> tuple[kernels.Stop, bool]:
        """Make moves with the compiled kernel; only where it is available.

        Parameters
        ----------
        crossed : bool
            Whether an assignment within all capacities has been met since the last local optimum: then only the best
            move is made, otherwise every move that touches no column of a better one.
        local : float
            Loss that an assignment within all capacities must fall below, relatively by ``tolerance``.
        until_s : float
            When to stop, in seconds of ``time.monotonic``.

        Returns
        -------
        tuple
            Why it stopped, and ``crossed`` as it is then.
        """
        chains = self._compiled()
        for _ in range(self.form.n + 1):  # every widening adds places, and n are enough
            stop, crossed, steps = chains.improve(
                self._arrays(),
                width=self.width,
                depth=self.depth,
                crossed=crossed,
                local=local,
                tolerance=tolerance,
                until_s=until_s,
            )
            self.steps += steps
            if stop is not kernels.Stop.MEMBERS_FULL:
                return stop, crossed
            self._widen()
        raise EngineError("ejection chains: expected room for all agents after widening")

    def _compiled(self) -> kernels.Chains:
        """Return the kernel's view of the fixed arrays, made on first use."""
        if self._chains is None:
            form = self.form
            self._chains = kernels.Chains(
                exact_loss=form.loss,
                models=form.models,
                demand=self.demand,
                near=self.near,
                near_demand=self.near_demand,
                price=self.price,
                room=self.room,
                noise=np.minimum(_gumbel_noise(_NOISE_DRAWS), _MOST_NOISE) * np.float32(self.temperature),
                improvement=IMPROVEMENT,
                seed=int(self.rng.integers(1, 2**63)),
            )
        return self._chains

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that change between calls of the kernel."""
        return {
            "loss": self.priced,
            "near_loss": self.near_loss,
            "near_key": self.near_key,
            "penalty": self.penalty,
            "use": self.use,
            "column": self.column,
            "members": self.members,
            "size": self.size,
        }

    def _move(self, value: float, agents: tuple[int, ...], targets: tuple[int, ...]) -> Move:
        return Move(value, agents, targets, frozenset((int(self.column[agents[0]]), *targets)))

    def _widen(self) -> None:
        """Give the list of members of every column more places."""
        extra = np.full((len(self.size), max(4, self.members.shape[1] // 4)), self.form.n)
        self.members = np.concatenate([self.members, extra], axis=1)

    def moves(self, most: int) -> list[Move]:
        """Return improving complete moves, at most ``most`` per level, best first."""
        if kernels.available():
            self.steps += 1
            compiled = self._compiled().find(self._arrays(), width=self.width, depth=self.depth)
            return [self._move(*one) for one in compiled[:most]]
        self.steps += 1
        over = self.use - self.room
        excess = np.maximum(over, 0)
        held = (self.penalty * excess).sum(axis=0)  # penalty that each column pays now
        own = self.own_base + self.column
        own_demand = np.stack([d.ravel()[own] for d in self.demand])
        own_loss = self.priced.ravel()[own]
        relief = -held[self.column]
        credit = own_loss.copy()
        # What an agent adds to a column, overload included, if nothing else changes there.
        accept = self.near_loss - held[self.near]
        for k in range(len(over)):
            pay, past = self.penalty[k], over[k]
            left = past[self.column] - own_demand[k]
            relief += pay[self.column] * np.maximum(left, 0)
            credit += self.price[k][self.column] * own_demand[k]
            entering = past[self.near]
            entering += self.near_demand[k]
            np.maximum(entering, 0, out=entering)
            entering *= pay[self.near]
            accept += entering
        stay = self.near == self.column[:, None]
        stay[-1] = True
        gain = relief - own_loss
        value = accept + gain[:, None]
        value[stay] = _IMPOSSIBLE_LOSS
        found: list[Move] = []
        for at in _improving(value, most):
            agent = int(at) // self.nearest
            target = int(self.near.flat[at])
            both = frozenset((int(self.column[agent]), target))
            found.append(Move(float(value.flat[at]), (agent,), (target,), both))
        exit_key = self.near_key.copy()
        exit_key[stay] = _IMPOSSIBLE_LOSS
        key = exit_key + (relief - credit)[:, None]
        key -= self._gumbel(key.shape)
        if self.form.leave:
            key[self.near == self.form.models] = _IMPOSSIBLE_LOSS
        picked = _smallest(key, self.width)
        mover = picked // self.nearest
        origin = self.column[mover]
        goal = self.near.ravel()[picked]
        leaving = own_demand[:, mover]
        partial = _Partial(
            agents=[mover],
            targets=[goal],
            visited=[origin, goal],
            spent=self.near_loss.ravel()[picked] - own_loss[mover],
            entering=self.near_demand.reshape(len(over), -1)[:, picked],
            leaving=leaving,
            relief=relief[mover],
            credit=relief[mover] - (self.price[:, origin] * leaving).sum(axis=0),
        )
        cheapest_exit = exit_key.min(axis=1)
        for level in range(2, self.depth + 1):
            if not len(partial.spent):
                break
            partial = self._extend(
                partial,
                over,
                held,
                own_loss,
                own_demand,
                accept,
                cheapest_exit,
                most,
                found,
                level == self.depth,
            )
        found.sort(key=_by_value)
        return found

    def _extend(
        self,
        partial: _Partial,
        over: NDArray[np.float32],
        held: NDArray[np.float32],
        own_loss: NDArray[np.float32],
        own_demand: NDArray[np.float32],
        accept: NDArray[np.float32],
        cheapest_exit: NDArray[np.float32],
        most: int,
        found: list[Move],
        last: bool,
    ) -> _Partial:
        """Eject every member of every open end to every near column; note what completes, keep the best."""
        open_end, origin = partial.targets[-1], partial.visited[0]
        near, n = self.nearest, self.form.n
        listed = self.members[open_end]
        place = np.flatnonzero(listed != n)
        entry = place // listed.shape[1]
        ejected = listed.ravel()[place]
        base = (partial.spent - held[open_end])[entry]
        base -= own_loss[ejected]
        for k in range(len(over)):
            remains = (over[k][open_end] + partial.entering[k])[entry]
            remains -= own_demand[k][ejected]
            np.maximum(remains, 0, out=remains)
            remains *= self.penalty[k][open_end][entry]
            base += remains
        most_ejected = _MOST_EXPANDED // near
        if len(ejected) > most_ejected:
            promise = base + partial.credit[entry]
            promise += cheapest_exit[ejected]
            chosen = np.argpartition(promise, most_ejected - 1)[:most_ejected]
            entry, ejected, base = entry[chosen], ejected[chosen], base[chosen]
        to = self.short.take(ejected, axis=0)
        barred = to == open_end.astype(to.dtype)[entry][:, None]
        for column in partial.visited[1:-1]:
            barred |= to == column.astype(to.dtype)[entry][:, None]
        back = to == origin.astype(to.dtype)[entry][:, None]
        value = accept.take(ejected, axis=0)
        value += (base + partial.relief[entry])[:, None]
        cycle = np.flatnonzero(back)
        if len(cycle):  # the first column gets one agent back for the one it lost
            row = cycle // near
            first = entry[row]
            pair = ejected[row] * near + cycle % near
            column = origin[first]
            closed = base[row] + self.near_loss.ravel()[pair] - held[column]
            for k in range(len(over)):
                load = over[k][column] + self.near_demand[k].ravel()[pair] - partial.leaving[k][first]
                closed += self.penalty[k][column] * np.maximum(load, 0)
            value.ravel()[cycle] = closed
        np.copyto(value, _IMPOSSIBLE_LOSS, where=barred)
        for spot in _improving(value, most).tolist():
            row = spot // near
            first = entry[row]
            agents = (*(int(a[first]) for a in partial.agents), int(ejected[row]))
            targets = (*(int(t[first]) for t in partial.targets), int(to.flat[spot]))
            touched = frozenset((*(int(v[first]) for v in partial.visited), targets[-1]))
            found.append(Move(float(value.flat[spot]), agents, targets, touched))
        if last:
            return partial
        barred |= back
        if self.form.leave:
            barred |= to == self.form.models
        key = self.near_key.take(ejected, axis=0)
        key += (base + partial.credit[entry])[:, None]
        key -= self._gumbel(key.shape)
        np.copyto(key, _IMPOSSIBLE_LOSS, where=barred)
        picked = _smallest(key, self.width)
        row = picked // near
        entry, agent = entry[row], ejected[row]
        pair = agent * near + picked % near
        target = self.near.ravel()[pair]
        return _Partial(
            agents=[*(a[entry] for a in partial.agents), agent],
            targets=[*(t[entry] for t in partial.targets), target],
            visited=[*(v[entry] for v in partial.visited), target],
            spent=base[row] + self.near_loss.ravel()[pair],
            entering=self.near_demand.reshape(len(over), -1)[:, pair],
            leaving=partial.leaving[:, entry],
            relief=partial.relief[entry],
            credit=partial.credit[entry],
        )

    def _gumbel(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return noise of the given shape, cut from a pool at a random place."""
        size = math.prod(shape)
        if self._noise is None or size >= self._noise.size:
            self._noise = _gumbel_noise(max(_NOISE_DRAWS, 2 * size)) * np.float32(self.temperature)
        start = int(self.rng.random() * (self._noise.size - size))
        return self._noise[start : start + size].reshape(shape)


@cache
def _gumbel_noise(size: int) -> NDArray[np.float32]:
    """Return a pool of noise, the same for every beam: they differ in where they cut it."""
    noise = np.random.default_rng(size).gumbel(size=size).astype(np.float32)
    noise.flags.writeable = False
    return noise


def _room(form: Form) -> NDArray[np.float32]:
    """Return the (r, c) capacities: exact for moderate whole numbers, else less what float32 sums may be off."""
    largest = float(form.capacity.max(initial=0.0))
    whole = largest < _EXACT_FLOAT32 and all(
        bool((np.floor(part) == part).all()) for part in (form.capacity, form.demand)
    )
    room = form.capacity if whole else form.capacity * (1 - 1e-6)
    return room.astype(np.float32)


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

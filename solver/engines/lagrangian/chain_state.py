"""An assignment as arrays in which chains of ejections are looked for: losses, demands, loads, members of columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.standard_form import StandardForm

IMPOSSIBLE_LOSS = np.float32(1e9)
"""Loss of a move that is not possible."""

LARGEST_LOSS = 1e30
"""Losses and prices at most, in units of the mean loss, so that products of them are finite in float32."""

NOISE_DRAWS = 1 << 16
"""Random numbers drawn in advance."""

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


class ChainState:
    """A current assignment, infeasible or not, all arrays padded with one agent more.

    Parameters
    ----------
    form : StandardForm
        The problem.
    reduced : (c, n) float64
        Reduced losses at the dual prices: how good a pair can be.
    price : (r, c) float64
        Dual prices of the capacities.
    nearest : int
        Columns considered per agent: those of the smallest reduced loss.
    width, depth : int
        Partial chains kept per level, and agents moved by the longest chain.
    rng : numpy.random.Generator
        Breaks ties and varies the moves.
    """

    def __init__(
        self,
        form: StandardForm,
        reduced: NDArray[np.float64],
        price: NDArray[np.float64],
        *,
        nearest: int,
        width: int,
        depth: int,
        rng: np.random.Generator,
    ) -> None:
        self.form, self.rng = form, rng
        self.width, self.depth = width, depth
        columns, n = form.loss.shape
        loss = form.loss if form.allowed is None else np.where(form.allowed, form.loss, 0.0)
        self.unit = float(loss[: form.models].mean()) or 1.0
        self.room = _room(form)
        self.price = np.clip(price / self.unit, -LARGEST_LOSS, LARGEST_LOSS).astype(np.float32)
        self.loss = np.zeros((n + 1, columns), np.float32)
        self.loss[:n] = np.minimum(loss.T / self.unit, LARGEST_LOSS)
        if form.allowed is not None:
            self.loss[:n][~form.allowed.T] = IMPOSSIBLE_LOSS
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
        self.temperature = 0.0
        self._noise: NDArray[np.float32] | None = None
        self.steps = 0
        self.reprice(self.loss)

    def reprice(self, loss: NDArray[np.float32]) -> None:
        """Use other (n + 1, c) losses, such as those with limit rows priced in."""
        self.priced = loss
        self.near_loss = loss.ravel()[self.flat]
        self.near_loss[-1] = IMPOSSIBLE_LOSS  # the agent that pads the lists of members
        self.near_key = self.near_loss.copy()
        for k in range(len(self.price)):
            self.near_key += self.price[k][self.near] * self.near_demand[k]

    def place(self, columns: NDArray[np.int64]) -> None:
        """Start from an (n,) assignment to columns."""
        n, count = self.form.n, self.form.columns
        self.column = np.append(columns, 0).astype(np.int64)
        size = np.bincount(columns, minlength=count)
        if self.form.leave:
            size[-1] = 0  # no agent is ever ejected from there, so none has to be listed
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
                    self.widen()
                self.members[target, self.size[target]] = agent
                self.size[target] += 1
            self.column[agent] = target
            self.use[:, source] -= self.demand[:, agent, source]
            self.use[:, target] += self.demand[:, agent, target]

    def move(self, value: float, agents: tuple[int, ...], targets: tuple[int, ...]) -> Move:
        """Return a complete move, with the columns that it touches."""
        return Move(value, agents, targets, frozenset((int(self.column[agents[0]]), *targets)))

    def widen(self) -> None:
        """Give the list of members of every column more places."""
        extra = np.full((len(self.size), max(4, self.members.shape[1] // 4)), self.form.n)
        self.members = np.concatenate([self.members, extra], axis=1)

    def gumbel(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return noise of the given shape, cut from a pool at a random place."""
        size = math.prod(shape)
        if self._noise is None or size >= self._noise.size:
            self._noise = gumbel_noise(max(NOISE_DRAWS, 2 * size)) * np.float32(self.temperature)
        start = int(self.rng.random() * (self._noise.size - size))
        return self._noise[start : start + size].reshape(shape)


@cache
def gumbel_noise(size: int) -> NDArray[np.float32]:
    """Return a pool of noise, the same for every search: they differ in where they cut it."""
    noise = np.random.default_rng(size).gumbel(size=size).astype(np.float32)
    noise.flags.writeable = False
    return noise


def _room(form: StandardForm) -> NDArray[np.float32]:
    """Return the (r, c) capacities: exact for moderate whole numbers, else less what float32 sums may be off."""
    largest = float(form.capacity.max(initial=0.0))
    whole = largest < _EXACT_FLOAT32 and all(
        bool((np.floor(part) == part).all()) for part in (form.capacity, form.demand)
    )
    room = form.capacity if whole else form.capacity * (1 - 1e-6)
    return room.astype(np.float32)

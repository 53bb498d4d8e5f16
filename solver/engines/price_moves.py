"""Moves of agents between models, from which the smallest prices of an assignment are raised step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.certificate import BestResponse, best_response
from solver.problem.instance import UNASSIGNED, Instance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.problem.sparse import CompressedScores

PATH_ROUNDING = 1e-13
"""Error of sums of losses along a path, relative to the largest score or price on it."""

_MIN_PRICE_STEP = 4e-16
"""Least rise of a price, relative to the same: without it a cycle of zero gain could go on for ever."""


def earned_values(instance: Instance, choice: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n,) the value of each agent's present choice: its score, or the value of staying unassigned."""
    served = np.flatnonzero(choice != UNASSIGNED)
    if len(served) == instance.n:
        return instance.scores_of(served, choice)
    own = np.array(instance.unserved, np.float64)
    own[served] = instance.scores_of(served, choice[served])
    return own


@dataclass(eq=False)
class Moves:
    """Moves of agents from what they have to a full model, grouped by the model they leave.

    Parameters
    ----------
    instance : Instance
        With slots.
    choice : (n,) int64
        Present model of each agent.
    own : (n,) float64
        What it is worth to them.
    full : (m,) bool
        Models without a free slot that serve an agent.
    source, target : (a,) int64
        Model left, m for none, and model entered, for every move.
    loss : (a,) float64
        What the agent loses.
    response : BestResponse or None
        What the last pass over all pairs found.
    """

    instance: Instance
    choice: NDArray[np.int64]
    own: NDArray[np.float64]
    full: NDArray[np.bool_]
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    loss: NDArray[np.float64]
    response: BestResponse | None = None

    def __post_init__(self) -> None:
        scale = float(np.abs(self.own).max(initial=0.0))
        self._step = _MIN_PRICE_STEP * scale
        self._rounding = PATH_ROUNDING * scale
        self._group()

    @classmethod
    def between(
        cls,
        instance: Instance,
        choice: NDArray[np.int64],
        full: NDArray[np.intp],
        pairs: CompressedScores,
        own: NDArray[np.float64] | None = None,
    ) -> Moves:
        """Return the moves along some pairs; ``own`` is the value of each agent's choice, by default computed here."""
        is_full = np.zeros(instance.m, bool)
        is_full[full] = True
        own = earned_values(instance, choice) if own is None else own
        agent = np.repeat(np.arange(instance.n), pairs.degree)
        useful = np.flatnonzero(is_full[pairs.models] & (pairs.models != choice[agent]))
        agent, target = agent[useful], pairs.models[useful]
        source = np.where(choice[agent] == UNASSIGNED, instance.m, choice[agent])
        return cls(instance, choice, own, is_full, source, target, own[agent] - pairs.data[useful])

    def _group(self) -> None:
        order = np.argsort(self.source, kind="stable")
        self.source, self.target, self.loss = self.source[order], self.target[order], self.loss[order]
        self._first = np.searchsorted(self.source, np.arange(self.instance.m + 2))

    def raise_prices(
        self, price: NDArray[np.float64], deadline: Deadline | None, *, work: float = np.inf
    ) -> bool:
        """Raise (m,) prices in place until no known move gains anything; False if that takes too much work.

        Bellman's method, each round from the models whose price has just risen.
        """
        padded = np.append(price, 0.0)
        gain = padded[self.source] - self.loss - padded[self.target]
        moves = np.flatnonzero(gain > self._step)
        for _ in range(int(self.full.sum()) + 2):
            work -= len(moves)
            if not len(moves) or work < 0:
                break
            if deadline is not None and deadline.expired():
                break
            target = self.target[moves]
            before = padded[target]
            np.maximum.at(padded, target, padded[self.source[moves]] - self.loss[moves])
            risen = np.unique(target[padded[target] > before + self._step])
            start, size = self._first[risen], self._first[risen + 1] - self._first[risen]
            work -= int(size.sum())
            moves = np.arange(int(size.sum())) + np.repeat(start - (np.cumsum(size) - size), size)
            moves = moves[
                padded[self.source[moves]] - self.loss[moves] > padded[self.target[moves]] + self._step
            ]
        price[:] = padded[:-1]
        return not len(moves)

    def drives_out(self, price: NDArray[np.float64]) -> bool:
        """Return whether some agent would rather stay unassigned at these prices, where that is an option."""
        instance = self.instance
        all_served = bool(self.choice.min() >= 0)
        if instance.serve_first and all_served:
            return False
        value = self.own - np.append(price, 0.0)[self.choice]
        return bool((instance.unserved > value + self._tolerance(price)).any())

    def _tolerance(self, price: NDArray[np.float64]) -> float:
        return self._rounding + PATH_ROUNDING * float(price.max(initial=0.0))

    def add_missed(self, price: NDArray[np.float64]) -> bool | None:
        """Look at all pairs for moves that gain at these prices and add every agent's best one.

        Returns
        -------
        bool or None
            Whether there were any; None if one leads to a model with a free slot, which proves that the choice
            is not optimal.
        """
        instance, choice = self.instance, self.choice
        asked = np.where(instance.slots < 1, np.inf, price)
        self.response = best_response(instance, asked)
        value = self.own - np.append(price, 0.0)[choice]
        agent = np.flatnonzero(self.response.value > value + self._tolerance(price))
        target = self.response.model[agent].astype(np.int64)
        if not len(agent):
            return False
        if not self.full[target].all():
            return None
        score = instance.scores_of(agent, target)
        source = np.where(choice[agent] == UNASSIGNED, instance.m, choice[agent])
        self.source = np.concatenate([self.source, source])
        self.target = np.concatenate([self.target, target])
        self.loss = np.concatenate([self.loss, self.own[agent] - score])
        self._group()
        return True

"""The features that turn a slot assignment into a network flow: floors, several models per agent, multiplicity.

With floors ``L``, capacities ``C``, supplies ``s_i = copies_i · count_i`` and flows ``0 <= f_ij <= count_i`` this
remains a minimum-cost flow: maximise ``Σ score_ij f_ij`` with ``Σ_j f_ij <= s_i`` and ``L_j <= Σ_i f_ij <= C_j``.
A flow of whole units splits into agents that each have ``copies_i`` different models, because no pair carries more
than ``count_i`` (the wrap-around rule of McNaughton 1959).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkShape:
    """Floors, copies and counts of an instance.

    Parameters
    ----------
    floor : (m,) int64
        Slots that each model must use.
    floor_if_open : (m,) int64
        Slots that each model must use if it serves an agent.
    opening_cost : (m,) float64
        Fixed cost of each model if it serves an agent, in score.
    copies : (n,) int64 or None
        Different models each agent needs; None for one.
    count : (n,) int64 or None
        Equal agents each row stands for; None for one.
    agents : int
        Number of rows n.
    """

    floor: NDArray[np.int64]
    floor_if_open: NDArray[np.int64]
    opening_cost: NDArray[np.float64]
    copies: NDArray[np.int64] | None
    count: NDArray[np.int64] | None
    agents: int

    @property
    def is_single(self) -> bool:
        """Whether every row asks for one slot, so that an answer is one model per row."""
        return self.copies is None and self.count is None

    @cached_property
    def has_openings(self) -> bool:
        """Whether a model's floor or cost depends on its serving an agent, which makes an integer program."""
        return bool(self.opens.any())

    @cached_property
    def opens(self) -> NDArray[np.bool_]:
        """(m,) bool, models whose floor or cost depends on whether they serve an agent."""
        return (self.floor_if_open > np.maximum(self.floor, 1)) | (self.opening_cost > 0)

    @cached_property
    def width(self) -> NDArray[np.int64]:
        """(n,) int64, most units of a row that one model may serve."""
        return np.ones(self.agents, np.int64) if self.count is None else self.count

    @cached_property
    def depth(self) -> NDArray[np.int64]:
        """(n,) int64, different models that a row needs."""
        return np.ones(self.agents, np.int64) if self.copies is None else self.copies

    @cached_property
    def supply(self) -> NDArray[np.int64]:
        """(n,) int64, slots that a row asks for: copies · count."""
        return self.width * self.depth

    @property
    def most_copies(self) -> int:
        """Columns of a choice."""
        return int(self.depth.max(initial=1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitFlow:
    """Units of rows served by models, one entry per pair in use, sorted by agent and then by model.

    Parameters
    ----------
    agent, model, units : (a,) int64
        The pairs, and how many units each carries, >= 1.
    """

    agent: NDArray[np.int64]
    model: NDArray[np.int64]
    units: NDArray[np.int64]

    @classmethod
    def of_choice(cls, choice: NDArray[np.int64]) -> UnitFlow:
        """Return the flow of one unit along every pair of an (n,) or (n, k) choice, -1 for none."""
        table = choice.reshape(len(choice), -1)
        row, column = np.nonzero(table >= 0)
        return cls.of_arcs(row, table[row, column], np.ones(len(row), np.int64))

    @classmethod
    def of_arcs(
        cls, agent: NDArray[np.int64], model: NDArray[np.int64], units: NDArray[np.int64]
    ) -> UnitFlow:
        """Return a flow from arcs in any order, those without units left out."""
        used = np.flatnonzero(units)
        order = used[np.lexsort((model[used], agent[used]))]
        return cls(agent=agent[order], model=model[order], units=units[order])

    def served(self, n: int) -> NDArray[np.int64]:
        """Return the (n,) units of each row that are served."""
        return np.bincount(self.agent, self.units, n).astype(np.int64)

    def load(self, m: int) -> NDArray[np.int64]:
        """Return the (m,) units that each model serves."""
        return np.bincount(self.model, self.units, m).astype(np.int64)

    def dense(self, n: int, m: int) -> NDArray[np.int64]:
        """Return the (n, m) units."""
        table = np.zeros((n, m), np.int64)
        table[self.agent, self.model] = self.units
        return table

    def choice(self, n: int, depth: int, value: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the models of each row as (n, depth), most units first, then highest value, padded with -1.

        Parameters
        ----------
        n, depth : int
            Shape of the result.
        value : (a,) float64
            Score of each pair in use.
        """
        order = np.lexsort((self.model, -value, -self.units, self.agent))
        agent = self.agent[order]
        place = np.arange(len(agent)) - np.searchsorted(agent, agent)
        table = np.full((n, depth), -1, np.int64)
        kept = place < depth
        table[agent[kept], place[kept]] = self.model[order][kept]
        return table

"""The price engine's view of agents in files: samples that were collected ahead, passes by a fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.contested_arcs import Contested
from solver.scale.first_pass import Sample, dense_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.engines.price.agent_rows import DenseRows, Rows
    from solver.scale.first_pass import Survey, Valuation
    from solver.scale.pieces import Piece
    from solver.scale.shard import PieceArcs
    from solver.scale.workers import Fleet


@dataclass(slots=True, kw_only=True)
class PieceChoice:
    """What every agent has, as a rule: its best model at some prices, but for the agents that are named.

    Parameters
    ----------
    low : (m,) float64
        The prices: lower sides of a box outside which nobody named has a tie.
    settled : dict of int to (m + 1,) int64
        Agents of each piece whom the rule settles, by choice.
    agent, model : (g,) int64
        The agents named, ascending, and their models, m for unassigned.
    """

    low: NDArray[np.float64]
    settled: dict[int, NDArray[np.int64]]
    agent: NDArray[np.int64]
    model: NDArray[np.int64]

    def __setitem__(self, agents: NDArray[np.int64], models: NDArray[np.int64], /) -> None:
        """Name all agents that the rule leaves open."""
        self.agent, self.model = agents, np.asarray(models, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceReduction:
    """A pass over all pieces for a box, see :class:`solver.engines.price.agent_rows.Reduction`."""

    choice: PieceChoice
    agent: NDArray[np.int64]
    contested: Contested


class PieceRows:
    """Agents in pieces.

    Parameters
    ----------
    fleet : Fleet
        Carries out the passes.
    pieces : sequence of Piece
        All of them.
    survey : Survey
        What is known of the agents.
    sample : Sample
        The agents that any sample may hold.
    valuation : Valuation or None
        What staying unassigned is worth; None where nobody may.
    closed : (m,) bool
        Models that nobody gets: those without slots, and those that an equal model stands for.
    """

    def __init__(
        self,
        fleet: Fleet,
        pieces: Sequence[Piece],
        survey: Survey,
        sample: Sample,
        valuation: Valuation | None,
        closed: NDArray[np.bool_],
    ) -> None:
        self.n, self.m = survey.agents, survey.m
        self._fleet, self._pieces, self._survey = fleet, pieces, survey
        self._sample, self._valuation, self._closed = sample, valuation, closed
        self._collected = dense_rows(sample, valuation, closed)

    def sample(self, rows: NDArray[np.int64]) -> DenseRows:
        """Return agents that were collected ahead."""
        place = np.searchsorted(self._sample.agent, rows)
        return self._collected.sample(place)

    def dense(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return all agents, of whom there must be few enough to have been collected."""
        return self.sample(np.arange(self.n)).dense()

    def span(self) -> float:
        """Return the range of all finite scores and values of staying unassigned."""
        values = [value for value in (self._survey.low, self._survey.high) if np.isfinite(value)]
        if self._valuation is not None:
            values += self._valuation.extremes(self._survey)
        return max(values) - min(values) if values else 0.0

    def standing(
        self, prices: NDArray[np.float64], apart: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return what agents have, see ``DenseRows.standing``, in memory for a few numbers each."""
        parts = self._fleet.run("standing", prices, apart, self._valuation, self._closed)
        best, outside, worth = (np.concatenate([part[k] for part in parts]) for k in range(3))
        return best, outside, worth

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> PieceReduction:
        """Find the contested arcs for a box, in one pass over all pieces."""
        parts: list[PieceArcs] = self._fleet.run("reduce", low, high, self._valuation, self._closed)
        first = {piece.number: piece.first for piece in self._pieces}
        agent = np.concatenate([part.agent.astype(np.int64) + first[part.number] for part in parts])
        degree = np.concatenate([part.degree for part in parts]).astype(np.int64)
        settled = {part.number: part.settled for part in parts}
        contested = Contested(
            first=np.append(0, np.cumsum(degree)),
            model=np.concatenate([part.model for part in parts]).astype(np.int64),
            value=np.concatenate([part.value for part in parts]).astype(np.float64),
            weight=None,
            settled=np.sum(list(settled.values()), axis=0).astype(np.float64),
            low=low,
            high=high,
        )
        choice = PieceChoice(low=low, settled=settled, agent=agent, model=np.full(len(agent), self.m))
        return PieceReduction(choice=choice, agent=agent, contested=contested)


if TYPE_CHECKING:
    _conforms: type[Rows] = PieceRows

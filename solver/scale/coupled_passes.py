"""What a worker does where agents pay for amounts: passes that leave contested arcs and samples where they are.

Every call carries what it takes to do the passes before it again, so that a worker that dies and starts anew gives
the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.scale.first_pass import Survey
from solver.scale.held_arcs import ArcsInBox, ChargeResponse, PayingAgents, reduce_paying
from solver.scale.piece_reader import PieceReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.scale.first_pass import Valuation
    from solver.scale.held_arcs import Grains
    from solver.scale.pieces import Block, Piece


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PieceFacts:
    """What the first look at a piece says.

    Parameters
    ----------
    number : int
        The piece.
    total, most : (c,) float64
        Sums and maxima of the amounts, the last column 1.
    survey : Survey
        The scores.
    """

    number: int
    total: NDArray[np.float64]
    most: NDArray[np.float64]
    survey: Survey


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleFacts:
    """What the sample of a piece says.

    Parameters
    ----------
    number : int
        The piece.
    total : (c,) float64
        Sums of the amounts.
    moments : (c, c) float64
        Sums of the products of two amounts.
    spread : float
        Sum over all agents of the range of their finite scores.
    """

    number: int
    total: NDArray[np.float64]
    moments: NDArray[np.float64]
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldBox:
    """A box of charges whose contested arcs workers hold, and the agents that it is about.

    Parameters
    ----------
    key : int
        Different for every box of a job.
    low, high : (m, c) float64
        The box; infinite sides keep every arc.
    stride : int
        Which agents: 0 for all; else every so many of the sample.
    sample : int
        Agents of the sample, of all pieces together, about.
    seed : int
        Of the sample.
    agents : int
        All agents.
    valuation : Valuation
        What staying unassigned is worth.
    single : list of (int, (c,) float64, float)
        Rows of one model that single agents may exceed: model, weights, bound.
    jitter : float
        What scores are shifted by at most, by lot, so that equal agents differ.
    """

    key: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    stride: int
    sample: int
    seed: int
    agents: int
    valuation: Valuation
    single: list[tuple[int, NDArray[np.float64], float]]
    jitter: float = 0.0


class CoupledPasses(PieceReader):
    """The passes of a :class:`~solver.scale.shard.Shard` over agents who pay for amounts."""

    _closed: NDArray[np.bool_]

    def __init__(self) -> None:
        self._held: tuple[int, list[ArcsInBox]] | None = None
        self._samples: dict[tuple[int, float], PayingAgents] = {}

    def paying_facts(self, common_penalty: float | None) -> list[PieceFacts]:
        """Check every number, and sum up the amounts, piece by piece."""
        facts = []
        for piece in self._pieces:
            survey = Survey(m=len(self._columns.models), closed=self._closed)
            total, most = [], []
            for block in self._blocks(piece):
                survey.add(block, np.zeros(0, np.int64), common_penalty)
                amount = amounts(block)
                total.append(amount.sum(axis=0))
                most.append(amount.max(axis=0))
            survey.contents[piece.number] = self._contents[piece.number]
            facts.append(
                PieceFacts(
                    number=piece.number,
                    total=np.sum(total, axis=0),
                    most=np.max(most, axis=0),
                    survey=survey,
                )
            )
        return facts

    def sample_facts(self, box: HeldBox) -> list[SampleFacts]:
        """Return what the samples of a box say."""
        facts = []
        for piece in self._pieces:
            agents = self._sampled(piece, box)
            finite = np.isfinite(agents.score)
            top = agents.score.max(axis=1, initial=-np.inf, where=finite).astype(np.float64)
            bottom = agents.score.min(axis=1, initial=np.inf, where=finite).astype(np.float64)
            facts.append(
                SampleFacts(
                    number=piece.number,
                    total=agents.amount.sum(axis=0),
                    moments=agents.amount.T @ agents.amount,
                    spread=float(np.maximum(top - bottom, 0.0).sum()),
                )
            )
        return facts

    def hold(self, box: HeldBox) -> list[int]:
        """Keep the contested arcs of a box; return how many agents of each piece are contested."""
        return [len(part.agent) for part in self._arcs(box)]

    def respond(
        self, box: HeldBox, charge: NDArray[np.float64], temperature: float, grains: Grains
    ) -> list[ChargeResponse]:
        """Return what the agents of a box do at some charges, all pieces together."""
        parts = [part.respond(charge, temperature, grains) for part in self._arcs(box)]
        return [ChargeResponse.total(parts)]

    def count_inside(self, box: HeldBox, low: NDArray[np.float64], high: NDArray[np.float64]) -> list[int]:
        """Return how many agents of each piece a smaller box leaves contested."""
        return [len(part.inside(low, high).agent) for part in self._arcs(box)]

    def gather(self, box: HeldBox, low: NDArray[np.float64], high: NDArray[np.float64]) -> list[ArcsInBox]:
        """Return what a smaller box leaves contested, piece by piece."""
        return [part.inside(low, high) for part in self._arcs(box)]

    def forget_charges(self) -> None:
        """Let go of samples and boxes: prices are known."""
        self._held, self._samples = None, {}

    def _arcs(self, box: HeldBox) -> list[ArcsInBox]:
        if self._held is None or self._held[0] != box.key:
            self._held = None  # two boxes at a time would take twice the memory
            self._held = box.key, [self._arcs_of(piece, box) for piece in self._pieces]
        return self._held[1]

    def _arcs_of(self, piece: Piece, box: HeldBox) -> ArcsInBox:
        if box.stride:
            return reduce_paying(self._sampled(piece, box), box.low, box.high)
        parts = (
            reduce_paying(paying(block, box.valuation, box.single, box.jitter), box.low, box.high)
            for block in self._blocks(piece)
        )
        return ArcsInBox.joined(parts)

    def _sampled(self, piece: Piece, box: HeldBox) -> PayingAgents:
        """Return the sample of a piece: one agent from each of equal stretches."""
        key = piece.number, box.jitter
        if key not in self._samples:
            size = max(1, min(piece.rows, -(-piece.rows * box.sample // box.agents)))
            generator = np.random.default_rng((box.seed, piece.number))
            drawn = ((np.arange(size) + generator.random(size)) * (piece.rows / size)).astype(np.int64)
            drawn = np.minimum(drawn, piece.rows - 1) + piece.first
            parts = [
                _some(paying(block, box.valuation, box.single, box.jitter), drawn)
                for block in self._blocks(piece)
            ]
            self._samples[key] = PayingAgents(
                agent=np.concatenate([part.agent for part in parts]),
                score=np.concatenate([part.score for part in parts]),
                amount=np.concatenate([part.amount for part in parts]),
                outside=np.concatenate([part.outside for part in parts]),
            )
        whole = self._samples[key]
        rows = slice(None, None, max(1, box.stride))
        return PayingAgents(
            agent=whole.agent[rows],
            score=whole.score[rows],
            amount=whole.amount[rows],
            outside=whole.outside[rows],
        )


def _some(agents: PayingAgents, drawn: NDArray[np.int64]) -> PayingAgents:
    begin, end = np.searchsorted(drawn, (agents.agent[0], agents.agent[-1] + 1))
    at = drawn[begin:end] - agents.agent[0]
    return PayingAgents(
        agent=agents.agent[at], score=agents.score[at], amount=agents.amount[at], outside=agents.outside[at]
    )


def amounts(block: Block) -> NDArray[np.float64]:
    """Return the (k, c) amounts of a block, the last column 1."""
    one = np.ones((len(block.score), 1))
    return one if block.amount is None else np.column_stack([block.amount, one])


def paying(
    block: Block,
    valuation: Valuation,
    single: Sequence[tuple[int, NDArray[np.float64], float]],
    jitter: float = 0.0,
) -> PayingAgents:
    """Return the agents of a block, with models forbidden that have less than one of them takes.

    Scores are shifted by up to ``jitter``, the same for a block in every pass.
    """
    amount = amounts(block)
    score: NDArray[Any] = block.score
    if jitter:
        score = score + jitter * np.random.default_rng(block.first).random(score.shape)
    for j, weight, bound in single:
        above = amount @ weight > bound
        if above.any():
            score = score.copy() if score is block.score else score
            score[above, j] = -np.inf
    return PayingAgents(
        agent=block.first + np.arange(len(score)),
        score=score,
        amount=amount,
        outside=valuation.worth(block),
    )

"""What a worker does with its pieces: three kinds of pass, each a pure function of the files and the message.

A worker that dies and starts anew therefore gives the same answer, and so does another number of workers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from solver.engines import kernels
from solver.scale.certificate import PieceCertificate, block_terms
from solver.scale.coupled_certificate import paying_terms
from solver.scale.coupled_passes import CoupledPasses, paying
from solver.scale.first_pass import Survey, dense_rows
from solver.scale.held_arcs import net_scores
from solver.scale.storage import arrow, plan_folder
from solver.scale.unique_ids import note_hashes
from solver.scale.unit_certificate import unit_terms
from solver.scale.unit_passes import UnitPasses
from solver.scale.unit_rows import RowUnits, open_rows
from solver.scale.written_pieces import publish_piece

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from solver.scale.first_pass import Valuation
    from solver.scale.held_arcs import PayingAgents
    from solver.scale.keen_agents import KeenAgents
    from solver.scale.pieces import Block, Piece, ScoreColumns
    from solver.scale.sample_plan import SamplePlan
    from solver.scale.storage import PlanFolder
    from solver.scale.unit_passes import UnitBox
    from solver.scale.written_pieces import PieceAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishOrder:
    """What a piece needs to write its part of the plan.

    Parameters
    ----------
    number : int
        The piece.
    low : (m,) float64
        Lower sides of the last box: every agent that is not named has its best model at these prices.
    closed : (m,) bool
        Models that no agent has by that rule.
    agent : (g,) int64
        Places, within the piece, of the agents that are named, ascending.
    model : (g,) int64
        Their models, m for unassigned.
    shares : dict of int to (start, (s,) int64, (s,) int64)
        For the first of equal models: how many of its agents the pieces before have, and the slots that the equal
        models take, in the order in which agents are handed out: models, and the running totals of their slots.
    """

    number: int
    low: NDArray[np.float64]
    closed: NDArray[np.bool_]
    agent: NDArray[np.int64]
    model: NDArray[np.int64]
    shares: dict[int, tuple[int, NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PayingOrder:
    """What a piece needs to write its part of a plan with resources and budgets.

    Parameters
    ----------
    low : (m, c) float64
        Charges at which every agent that is not named has its best model.
    agent : (g,) int64
        Places, within the piece, of the agents that are named, ascending.
    model : (g,) int64
        Their models, m for unassigned.
    jitter : float
        What scores are shifted by before agents choose.
    """

    low: NDArray[np.float64]
    agent: NDArray[np.int64]
    model: NDArray[np.int64]
    jitter: float


class Shard(UnitPasses, CoupledPasses):
    """Some pieces and how to read them.

    Parameters
    ----------
    pieces : sequence of Piece
        What this worker answers for.
    columns : ScoreColumns
        What the files' columns hold.
    closed : (m,) bool
        Models without slots.
    """

    def __init__(self, pieces: Sequence[Piece], columns: ScoreColumns, closed: NDArray[np.bool_]) -> None:
        super().__init__()
        self._pieces = tuple(pieces)
        self._columns = columns
        self._closed = closed
        self._contents = {}

    def process(self) -> int:
        """Return the id of the process that the worker is."""
        return os.getpid()

    def ready(self) -> list[int]:
        """Return the numbers of the pieces: the worker is there, and has loaded what passes need."""
        arrow()
        kernels.available()
        return [piece.number for piece in self._pieces]

    def survey(self, plan: SamplePlan, common_penalty: float | None) -> list[Survey]:
        """Check every number; return the agents of small samples, and keep those of large ones."""
        survey = Survey(m=len(self._columns.models), closed=self._closed)

        def surveyed() -> Iterator[tuple[int, Block]]:
            for k, block in self._all_blocks():
                survey.add(block, plan.gathered, common_penalty)
                yield k, block

        self._keep(plan, surveyed())
        survey.contents |= self._contents
        return [survey]

    def hash_ids(self, scratch: str, seed: int) -> list[int]:
        """Leave hashes of all ids in files, see :mod:`solver.scale.unique_ids`."""
        for piece in self._pieces:
            note_hashes(piece, self._columns.agent, Path(scratch), seed)
        return self.ready()

    def standing(
        self,
        keen: KeenAgents,
        valuation: Valuation | None,
        closed: NDArray[np.bool_],
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
        """Return what the keenest agents have, see ``Rows.standing``."""
        parts = [
            keen.among([dense_rows(block, valuation, closed).standing(keen.prices, keen.apart)])
            for _, block in self._all_blocks()
        ]
        return [keen.among(parts)]

    def finish(
        self,
        prices: NDArray[np.float64],
        valuation: Valuation,
        may_leave: bool,
        certify_leaving: bool,
        folder: str,
        orders: dict[int, FinishOrder],
    ) -> list[PieceAnswer]:
        """Choose, certify and write the pieces that there are orders for.

        Parameters
        ----------
        prices : (m,) float64
            Optimal prices, at which the certificate measures what agents forgo.
        valuation : Valuation
            What staying unassigned is worth.
        may_leave : bool
            Whether the choice may be to stay unassigned.
        certify_leaving : bool
            Whether the certificate compares with staying unassigned.
        folder : str
            Where the files go.
        orders : dict of int to FinishOrder
            By the number of the piece.
        """
        self.forget_boxes()
        place = plan_folder(folder)
        return [
            self._finish(piece, orders[piece.number], prices, valuation, may_leave, certify_leaving, place)
            for piece in self._pieces
            if piece.number in orders
        ]

    def finish_paying(
        self,
        charge: NDArray[np.float64],
        valuation: Valuation,
        single: Sequence[tuple[int, NDArray[np.float64], float]],
        certify_leaving: bool,
        folder: str,
        orders: dict[int, PayingOrder],
    ) -> list[PieceAnswer]:
        """Choose, certify and write the pieces that there are orders for, where agents pay for amounts.

        Parameters
        ----------
        charge : (m, c) float64
            Charges at optimal prices, at which the certificate measures what agents forgo.
        valuation : Valuation
            What staying unassigned is worth.
        single : sequence of (int, (c,) float64, float)
            See :class:`~solver.scale.coupled_passes.HeldBox`.
        certify_leaving : bool
            Whether the certificate compares with staying unassigned.
        folder : str
            Where the files go.
        orders : dict of int to PayingOrder
            By the number of the piece.
        """
        self.forget_charges()
        place, m = plan_folder(folder), len(self._columns.models)
        answers = []
        for piece in self._pieces:
            if piece.number not in orders:
                continue
            chosen, certificate = np.empty(piece.rows, np.min_scalar_type(m)), PieceCertificate.empty(m)
            for block in self._blocks(piece):
                at = block.first - piece.first
                order = orders[piece.number]
                shifted = paying(block, valuation, single, order.jitter)
                whole = paying(block, valuation, single) if order.jitter else shifted
                for agents, seen in zip(whole.parts(), shifted.parts(), strict=True):
                    choice = _paying_choice(seen, order, at)
                    chosen[at : at + len(choice)] = choice
                    certificate.add(paying_terms(agents, choice, charge, may_leave=certify_leaving))
                    at += len(choice)
            answers.append(publish_piece(piece, self._columns, chosen, certificate, place))
        return answers

    def finish_units(
        self,
        box: UnitBox,
        prices: NDArray[np.float64],
        certify_leaving: bool,
        folder: str,
        flows: dict[int, NDArray[np.int64]],
    ) -> list[PieceAnswer]:
        """Hand the units of classes out to rows, certify and write the pieces that there are flows for.

        Parameters
        ----------
        box : UnitBox
            What the classes are of.
        prices : (m,) float64
            Optimal prices, at which the certificate measures what rows forgo.
        certify_leaving : bool
            Whether the certificate compares with staying unassigned.
        folder : str
            Where the files go.
        flows : dict of int to (a,) int64
            Units along the arcs of the classes, by the number of the piece.
        """
        self.forget_boxes()
        place, m = plan_folder(folder), len(prices)
        answers = []
        for k, piece in enumerate(self._pieces):
            if piece.number not in flows:
                continue
            contested = self._classes_of(k, box).handed_out(flows[piece.number], m)
            certificate, parts = PieceCertificate.empty(m), []
            chosen = np.empty(0 if self._columns.has_units else piece.rows, np.min_scalar_type(m))
            for block in self._blocks(piece):
                at = block.first - piece.first
                _, _, certain = open_rows(block, box.valuation, box.closed, box.low, box.high)
                taken = RowUnits.joined([certain, contested.within(at, at + len(block.score))])
                outside = box.valuation.worth(block)
                if self._columns.has_units:
                    terms = unit_terms(block, taken, prices, self._closed, outside, certify_leaving)
                    parts.append(taken.to_keep(block.score, at, piece.rows))
                else:
                    choice = np.full(len(block.score), m)
                    choice[taken.row] = taken.model
                    chosen[at : at + len(choice)] = choice
                    terms = block_terms(block.score, choice, prices, self._closed, outside, certify_leaving)
                certificate.add(terms)
            answer = RowUnits.stacked(parts) if self._columns.has_units else chosen
            answers.append(publish_piece(piece, self._columns, answer, certificate, place))
        self.forget_units()
        return answers

    def _finish(
        self,
        piece: Piece,
        order: FinishOrder,
        prices: NDArray[np.float64],
        valuation: Valuation,
        may_leave: bool,
        certify_leaving: bool,
        folder: PlanFolder,
    ) -> PieceAnswer:
        m = len(self._columns.models)
        chosen = np.empty(piece.rows, np.min_scalar_type(m))
        certificate = PieceCertificate.empty(m)
        choices = piece_choices(self._blocks(piece), piece, order, valuation if may_leave else None)
        for block, choice in choices:
            chosen[block.first - piece.first :][: len(choice)] = choice
            outside = valuation.worth(block)
            certificate.add(block_terms(block.score, choice, prices, self._closed, outside, certify_leaving))
        return publish_piece(piece, self._columns, chosen, certificate, folder)


def _paying_choice(agents: PayingAgents, order: PayingOrder, at: int) -> NDArray[np.int64]:
    """Return the (k,) models of the agents from a place of a piece, m for unassigned."""
    m = len(order.low)
    net = net_scores(agents.score, agents.amount, order.low)
    choice: NDArray[np.int64] = net.argmax(axis=1)
    choice[agents.outside > net[np.arange(len(net)), choice]] = m
    begin, end = np.searchsorted(order.agent, (at, at + len(net)))
    choice[order.agent[begin:end] - at] = order.model[begin:end]
    return choice


def piece_choices(
    blocks: Iterable[Block],
    piece: Piece,
    order: FinishOrder,
    valuation: Valuation | None,
) -> Iterator[tuple[Block, NDArray[np.int64]]]:
    """Yield the blocks of a piece with the (k,) models of their agents, m for unassigned."""
    handed_out = {first: start for first, (start, _, _) in order.shares.items()}
    for block in blocks:
        choice = dense_rows(block, valuation, order.closed).reduce(order.low, order.low).choice
        at = block.first - piece.first
        begin, end = np.searchsorted(order.agent, (at, at + len(block.score)))
        choice[order.agent[begin:end] - at] = order.model[begin:end]
        shared = choice
        for first, (_, models, totals) in order.shares.items():
            agents = np.flatnonzero(choice == first)
            place = handed_out[first] + np.arange(len(agents))
            shared = choice.copy() if shared is choice else shared
            shared[agents] = models[np.searchsorted(totals, place, side="right")]
            handed_out[first] += len(agents)
        yield block, shared

"""What a worker does where agents take slots: it keeps samples and contested arcs, and answers with sums.

Partial sums are rounded to a common power of two, so that adding them is exact: every number of workers leads to
the same prices. A call carries all that the calls before it left, so that a worker that dies and starts anew can do
it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines.price.contested_arcs import Contested
from solver.scale.first_pass import Sample, dense_rows
from solver.scale.piece_reader import PieceReader
from solver.scale.sample_plan import strided

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from solver.scale.first_pass import Valuation
    from solver.scale.pieces import Block, Piece
    from solver.scale.sample_plan import SamplePlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NestedBoxes:
    """Boxes of prices, each within the one before, and the agents that they are about.

    Parameters
    ----------
    key : int
        Different for every outermost box of a job.
    sides : tuple of ((m,) float64, (m,) float64)
        Lower and upper sides, the outermost box first.
    sample : int
        Size of the sample, 0 for all agents.
    plan : SamplePlan
        What the sample is.
    valuation : Valuation or None
        Value of staying unassigned; None where no agent may.
    closed : (m,) bool
        Models that no agent gets.
    stride : int
        One agent of each stretch of so many instead, by :func:`~solver.scale.sample_plan.strided`; 0 for all.
    """

    key: int
    sides: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    sample: int
    plan: SamplePlan
    valuation: Valuation | None
    closed: NDArray[np.bool_]
    stride: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSize:
    """How much the innermost box leaves contested.

    Parameters
    ----------
    arcs : int
        Arcs of a worker's pieces.
    agents : int
        Its agents, contested and settled.
    """

    arcs: int
    agents: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlotSums:
    """The smoothed response of some agents: see :class:`~solver.engines.smoothed_demand.Response`.

    Parameters
    ----------
    value : float
        Part of the dual.
    load : (m,) float64
        Expected agents of each model.
    bend : (m,) float64
        Diagonal of the curvature.
    moment : (m (m + 1) / 2,) float64
        Upper triangle of the moment, whose other entries are those of the curvature times minus the temperature.
    """

    value: float
    load: NDArray[np.float64]
    bend: NDArray[np.float64]
    moment: NDArray[np.float64]

    @classmethod
    def total(cls, parts: Iterable[SlotSums]) -> SlotSums:
        """Return the sum, exact as all parts are multiples of the same grains."""
        parts = list(parts)
        return cls(
            value=float(sum(part.value for part in parts)),
            load=np.sum([part.load for part in parts], axis=0),
            bend=np.sum([part.bend for part in parts], axis=0),
            moment=np.sum([part.moment for part in parts], axis=0),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PieceArcs:
    """The contested agents of a piece, packed for the way to the driver.

    Parameters
    ----------
    number : int
        The piece.
    agent : (g,) unsigned
        Places within the piece, ascending.
    degree : (g,) unsigned
        Arcs of each.
    model : (a,) unsigned
        Head of each arc, m for staying unassigned.
    value : (a,) float32 or float64
        Scores, float32 where that loses nothing.
    settled : (m + 1,) int64
        Agents whose choice the box leaves no doubt of, by choice.
    """

    number: int
    agent: NDArray[Any]
    degree: NDArray[Any]
    model: NDArray[Any]
    value: NDArray[Any]
    settled: NDArray[np.int64]


@dataclass(slots=True)
class _Nest:
    """Boxes of a key, and what each leaves of every piece."""

    key: int
    sides: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)
    parts: list[list[tuple[NDArray[Any], Contested]]] = field(default_factory=list)


class SlotPasses(PieceReader):
    """The passes of a :class:`~solver.scale.shard.Shard` over agents who take slots."""

    def __init__(self) -> None:
        super().__init__()
        self._nest = _Nest(key=-1)
        self._kept: dict[int, list[Sample | None]] = {}

    def reduce(self, boxes: NestedBoxes) -> list[BoxSize]:
        """Keep the contested arcs of the innermost box; return their number."""
        parts = self._innermost(boxes)
        return [
            BoxSize(arcs=sum(arcs.arcs for _, arcs in parts), agents=sum(arcs.agents for _, arcs in parts))
        ]

    def respond_slots(
        self,
        boxes: NestedBoxes,
        prices: NDArray[np.float64],
        temperature: float,
        grains: tuple[float, float, float],
    ) -> list[SlotSums]:
        """Return the response of the innermost box's agents; grains are those of value, counts and curvature."""
        sums = []
        upper = np.triu_indices(len(prices))
        for _, arcs in self._innermost(boxes):
            found = arcs.respond(prices, temperature)
            sums.append(
                SlotSums(
                    value=float(np.rint(found.value / grains[0]) * grains[0]),
                    load=np.rint(found.load / grains[1]) * grains[1],
                    bend=np.rint(found.curvature.diagonal() / grains[2]) * grains[2],
                    moment=np.rint(found.moment[upper] / grains[1]) * grains[1],
                )
            )
        return [SlotSums.total(sums)]

    def on_grid(self, boxes: NestedBoxes, grid: float) -> list[bool]:
        """Return whether all values are whole multiples of ``grid``."""
        return [all(arcs.on_grid(grid) for _, arcs in self._innermost(boxes))]

    def gather_slots(self, boxes: NestedBoxes) -> list[PieceArcs]:
        """Return what the innermost box leaves contested, piece by piece."""
        return [
            PieceArcs(
                number=piece.number,
                agent=agent,
                degree=_narrow(arcs.degree, arcs.m + 1),
                model=arcs.model,
                value=arcs.value,
                settled=arcs.settled.astype(np.int64),
            )
            for piece, (agent, arcs) in zip(self._pieces, self._innermost(boxes), strict=True)
        ]

    def forget_boxes(self) -> None:
        """Let go of samples and boxes: prices are known."""
        self._nest, self._kept = _Nest(key=-1), {}

    def _innermost(self, boxes: NestedBoxes) -> list[tuple[NDArray[Any], Contested]]:
        """Return agents and arcs of the innermost box, piece by piece, from whatever boxes around it are known."""
        nest = self._nest
        if nest.key != boxes.key:
            nest = self._nest = _Nest(key=boxes.key)
        known = 0
        for mine, asked in zip(nest.sides, boxes.sides, strict=False):
            if not all(np.array_equal(one, other) for one, other in zip(mine, asked, strict=True)):
                break
            known += 1
        del nest.sides[known:], nest.parts[known:]
        for low, high in boxes.sides[known:]:
            if nest.parts:
                parts = [_smaller(agent, arcs, low, high) for agent, arcs in nest.parts[-1]]
            else:
                parts = [self._reduced(k, boxes, low, high) for k in range(len(self._pieces))]
            nest.sides.append((low, high))
            nest.parts.append(parts)
        return nest.parts[-1]

    def _reduced(
        self, place: int, boxes: NestedBoxes, low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> tuple[NDArray[Any], Contested]:
        """Return the contested agents of a piece, or of its part of a sample."""
        piece, m = self._pieces[place], len(low)
        some: Iterable[Block | Sample] = self._blocks(piece)
        if boxes.sample:
            sample = self._sample(boxes.plan, boxes.sample)[place]
            some = [] if sample is None else [sample]
        elif boxes.stride:
            some = self._strided(piece, boxes.plan, boxes.stride)
        found, at = [], 0
        for block in some:
            reduction = dense_rows(block, boxes.valuation, boxes.closed).reduce(low, high)
            arcs = reduction.contested
            found.append(
                (
                    _narrow(reduction.agent + at, piece.rows),
                    _narrow(arcs.degree, m + 1),
                    _narrow(arcs.model, m),
                    _narrow_floats(arcs.value),
                    arcs.settled,
                )
            )
            at += len(block.score)
        kinds = [np.min_scalar_type(most) for most in (piece.rows, m + 1, m)]
        agent, degree, model, value = (
            _joined([part[k] for part in found], kind) for k, kind in enumerate([*kinds, np.float32])
        )
        contested = Contested(
            first=np.append(0, np.cumsum(degree, dtype=np.int64)),
            model=model,
            value=value,
            weight=None,
            settled=np.sum([part[-1] for part in found], axis=0) if found else np.zeros(m + 1),
            low=low,
            high=high,
        )
        return agent, contested

    def _strided(self, piece: Piece, plan: SamplePlan, stride: int) -> Iterator[Sample]:
        """Yield a sample too large to keep, as the pass goes."""
        for block in self._blocks(piece):
            drawn = strided(block.first, len(block.score), stride, plan)
            if len(drawn):
                yield Sample.of(block, drawn)

    def _sample(self, plan: SamplePlan, size: int) -> list[Sample | None]:
        """Return a sample, piece by piece."""
        if size not in self._kept:
            self._keep(plan, self._all_blocks())
        return self._kept[size]

    def _all_blocks(self) -> Iterator[tuple[int, Block]]:
        for k, piece in enumerate(self._pieces):
            for block in self._blocks(piece):
                yield k, block

    def _keep(self, plan: SamplePlan, blocks: Iterable[tuple[int, Block]]) -> None:
        """Keep the agents of all samples that stay here, of some blocks that are numbered by their piece."""
        kept: dict[int, list[list[Sample]]] = {size: [[] for _ in self._pieces] for size in plan.held}
        for k, block in blocks:
            for size, rows in plan.held.items():
                begin, end = np.searchsorted(rows, (block.first, block.first + len(block.score)))
                if end > begin:
                    kept[size][k].append(Sample.of(block, rows[begin:end]))
        for size, pieces in kept.items():
            self._kept[size] = [Sample.joined(parts) if parts else None for parts in pieces]


def _smaller(
    agent: NDArray[Any], arcs: Contested, low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[NDArray[Any], Contested]:
    if not arcs.groups:
        return agent, Contested(
            first=arcs.first,
            model=arcs.model,
            value=arcs.value,
            weight=None,
            settled=arcs.settled,
            low=low,
            high=high,
            settled_value=arcs.settled_value,
        )
    left, _, still = arcs.inside(low, high)
    return agent[still], left


def _joined(parts: Sequence[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def _narrow(values: NDArray[np.int64], most: int) -> NDArray[Any]:
    return values.astype(np.min_scalar_type(most))


def _narrow_floats(values: NDArray[np.float64]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        short = values.astype(np.float32)
    return short if (short == values).all() else values

"""The price engine's view of agents in files: small samples here, everything else with the workers of a fleet."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.contested_arcs import Contested
from solver.engines.price.scarce_prices import NEAR_SHORTAGE, order_statistic
from solver.engines.smoothed_demand import Response
from solver.scale.first_pass import Sample, dense_rows
from solver.scale.held_arcs import grain
from solver.scale.keen_agents import KeenAgents
from solver.scale.slot_passes import NestedBoxes, SlotSums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.engines.price.agent_rows import DenseRows
    from solver.engines.price.row_protocols import Choice, Rows
    from solver.scale.first_pass import Survey, Valuation
    from solver.scale.pieces import Piece
    from solver.scale.sample_plan import SamplePlan
    from solver.scale.slot_passes import BoxSize, PieceArcs
    from solver.scale.workers import Fleet


@dataclass(slots=True, kw_only=True)
class PieceChoice:
    """What every agent has, as a rule: its best model at some prices, but for the agents that are named.

    Parameters
    ----------
    low : (m,) float64
        The prices: lower sides of a box outside which no agent named has a tie.
    settled : dict of int to (m + 1,) int64
        Agents of each piece that the rule settles, by choice.
    agent, model : (g,) int64
        The agents named, ascending, and their models, m for unassigned.
    """

    low: NDArray[np.float64]
    settled: dict[int, NDArray[np.int64]]
    agent: NDArray[np.int64]
    model: NDArray[np.int64]

    def __setitem__(self, agents: NDArray[np.int64], models: NDArray[np.int64], /) -> None:
        """Name all agents that the rule leaves open."""
        order = np.argsort(agents, kind="stable")
        self.agent, self.model = agents[order], np.asarray(models, np.int64)[order]

    def copy(self) -> PieceChoice:
        """Return another that may name other agents."""
        return replace(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredPieces:
    """A box whose contested arcs have come here, see :class:`~solver.engines.price.row_protocols.Gathered`."""

    choice: PieceChoice
    agent: NDArray[np.int64]
    contested: Contested


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldArcs:
    """The contested arcs of a box that workers hold, see :class:`~solver.engines.price.row_protocols.ContestedArcs`.

    Parameters
    ----------
    fleet : Fleet
        The workers.
    boxes : NestedBoxes
        The box, and those around it.
    arcs, agents : int
        Arcs, and agents of all pieces.
    span : float
        Largest absolute value of an arc.
    """

    fleet: Fleet
    boxes: NestedBoxes
    arcs: int
    agents: int
    span: float

    @classmethod
    def of(cls, fleet: Fleet, boxes: NestedBoxes, span: float) -> HeldArcs:
        """Have a box reduced."""
        sizes: list[BoxSize] = fleet.run("reduce", boxes)
        return cls(
            fleet=fleet,
            boxes=boxes,
            arcs=sum(size.arcs for size in sizes),
            agents=sum(size.agents for size in sizes),
            span=span,
        )

    @property
    def low(self) -> NDArray[np.float64]:
        """(m,) float64, lower sides of the box."""
        return self.boxes.sides[-1][0]

    @property
    def high(self) -> NDArray[np.float64]:
        """(m,) float64, upper sides of the box."""
        return self.boxes.sides[-1][1]

    @property
    def m(self) -> int:
        """Number of models."""
        return len(self.low)

    def on_grid(self, grid: float) -> bool:
        """Return whether all values are whole multiples of ``grid``."""
        return all(self.fleet.run("on_grid", self.boxes, grid))

    def respond(self, prices: NDArray[np.float64], temperature: float) -> Response:
        """Return the smoothed response, summed up by the workers."""
        m, largest = self.m, self.span + float(np.abs(prices).max(initial=0.0))
        grains = tuple(float(grain(4.0 * self.agents * size)) for size in (largest, 1.0, 2.0 / temperature))
        total = SlotSums.total(self.fleet.run("respond_slots", self.boxes, prices, temperature, grains))
        upper = np.triu_indices(m)
        moment = np.zeros((m, m))
        moment[upper] = total.moment
        moment = moment + np.triu(moment, 1).T
        curvature = moment * (-1.0 / temperature)
        curvature.flat[:: m + 1] = total.bend
        return Response(value=total.value, load=total.load, curvature=curvature, moment=moment)


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceReduction:
    """A box of prices over pieces, see :class:`~solver.engines.price.row_protocols.Reduced`, and one of nested boxes.

    Parameters
    ----------
    contested : HeldArcs
        What it leaves contested, with the workers.
    pieces : sequence of Piece
        All of them.
    """

    contested: HeldArcs
    pieces: Sequence[Piece] = field(repr=False)

    def whole(self) -> PieceReduction:
        """Return itself: workers know who is settled by the box."""
        return self

    def resolved(self, found: Choice) -> Choice:
        """Return the choice of every agent: the rule found."""
        return found

    def inside(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> PieceReduction:
        """Have a smaller box reduced."""
        outer = self.contested
        boxes = replace(outer.boxes, sides=(*outer.boxes.sides, (low, high)))
        return PieceReduction(contested=HeldArcs.of(outer.fleet, boxes, outer.span), pieces=self.pieces)

    def gathered(self) -> GatheredPieces:
        """Return it with its arcs here."""
        held = self.contested
        parts: list[PieceArcs] = held.fleet.run("gather_slots", held.boxes)
        first = {piece.number: piece.first for piece in self.pieces}
        agent = np.concatenate([part.agent.astype(np.int64) + first[part.number] for part in parts])
        degree = np.concatenate([part.degree for part in parts]).astype(np.int64)
        settled = {part.number: part.settled for part in parts}
        contested = Contested(
            first=np.append(0, np.cumsum(degree)),
            model=np.concatenate([part.model for part in parts]).astype(np.int64),
            value=np.concatenate([part.value for part in parts]).astype(np.float64),
            weight=None,
            settled=np.sum(list(settled.values()), axis=0).astype(np.float64),
            low=held.low,
            high=held.high,
        )
        choice = PieceChoice(low=held.low, settled=settled, agent=agent, model=np.full(len(agent), held.m))
        return GatheredPieces(choice=choice, agent=agent, contested=contested)


class HeldSample:
    """A sample that workers hold.

    Parameters
    ----------
    rows : PieceRows
        What it is of.
    size : int
        Its agents.
    """

    def __init__(self, rows: PieceRows, size: int) -> None:
        self.n, self.m = size, rows.m
        self._rows = rows

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> PieceReduction:
        """Find the contested arcs for a box."""
        return self._rows.reduced(self.n, low, high)

    def sample(self, rows: NDArray[np.int64]) -> Rows:
        """Refuse: samples are drawn from all agents."""
        raise NotImplementedError

    def dense(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Refuse: it is held because it is too large."""
        raise NotImplementedError

    def span(self) -> float:
        """Return the range of the values of all agents."""
        return self._rows.span()

    def standing(
        self, prices: NDArray[np.float64], apart: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Refuse: this pass is over all agents only."""
        raise NotImplementedError


class StridedSample(HeldSample):
    """A sample too large to be held, of one agent of each stretch of so many: every box is a pass over the files."""

    def __init__(self, rows: PieceRows, stride: int) -> None:
        super().__init__(rows, rows.n // stride)
        self._stride = stride

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> PieceReduction:
        """Find the contested arcs for a box."""
        return self._rows.reduced(0, low, high, stride=self._stride)


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
        The agents of small samples.
    plan : SamplePlan
        Which samples there are.
    valuation : Valuation or None
        Value of staying unassigned; None where no agent may.
    closed : (m,) bool
        Models that no agent gets: those without slots, and those that an equal model stands for.

    Attributes
    ----------
    short : int
        Slots that are missing, where they are too few to show in samples: how many agents leave.
    slots : (m,) float64
        Slots of each model.
    """

    def __init__(
        self,
        fleet: Fleet,
        pieces: Sequence[Piece],
        survey: Survey,
        sample: Sample,
        plan: SamplePlan,
        valuation: Valuation | None,
        closed: NDArray[np.bool_],
    ) -> None:
        self.n, self.m = survey.agents, survey.m
        self._fleet, self._pieces, self._survey, self._plan = fleet, pieces, survey, plan
        self._sample, self._valuation, self._closed = sample, valuation, closed
        self._keys = itertools.count()
        self.short, self.slots = 0, np.zeros(self.m)
        self._collected = dense_rows(sample, valuation, closed)

    def sample(self, rows: NDArray[np.int64]) -> DenseRows | HeldSample:
        """Return a sample: its agents if there are few, else what workers hold."""
        if len(rows) in self._plan.held:
            return HeldSample(self, len(rows))
        place = np.searchsorted(self._sample.agent, rows)
        return self._collected.sample(place)

    def dense(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return all agents, which must be few enough to have been collected."""
        return self._collected.sample(np.arange(self.n)).dense()

    def span(self) -> float:
        """Return the range of all finite scores and values of staying unassigned."""
        values = self._extremes()
        return max(values) - min(values) if values else 0.0

    def _extremes(self) -> list[float]:
        values = [value for value in (self._survey.low, self._survey.high) if np.isfinite(value)]
        if self._valuation is not None:
            values += self._valuation.extremes(self._survey)
        return values

    def standing(
        self, prices: NDArray[np.float64], apart: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return what the agents have whom scarce slots are a matter of, see ``DenseRows.standing``."""
        keen = KeenAgents(prices=prices, apart=apart, short=self.short, slots=self.slots[apart])
        found = self._keenest(keen)
        if self.short and len(apart):  # who is keen on slots depends on the level that those set who leave
            level, _ = order_statistic(found[1] - found[0], self.short, near=NEAR_SHORTAGE)
            found = self._keenest(replace(keen, level=level))
        return found

    def _keenest(
        self, keen: KeenAgents
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        return keen.among(self._fleet.run("standing", keen, self._valuation, self._closed))

    def reduce(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> PieceReduction:
        """Find the contested arcs for a box, in one pass over all pieces."""
        return self.reduced(0, low, high)

    def reduced(
        self, sample: int, low: NDArray[np.float64], high: NDArray[np.float64], *, stride: int = 0
    ) -> PieceReduction:
        """Return the contested agents of a sample of that size, or of one of so many agents; 0 for all agents."""
        boxes = NestedBoxes(
            key=2 * next(self._keys) + (self._valuation is None),
            sides=((low, high),),
            sample=sample,
            plan=self._plan,
            valuation=self._valuation,
            closed=self._closed,
            stride=stride,
        )
        span = max(map(abs, self._extremes()), default=1.0)
        return PieceReduction(contested=HeldArcs.of(self._fleet, boxes, span), pieces=self._pieces)

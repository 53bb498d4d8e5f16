"""Prices and flows of rows that take units: flows on samples of growing size, then on what they leave open of all rows.

Every sample is solved exactly within a box around the prices of the one before; how far prices move says how wide the
next box has to be. Workers hold samples and classes of rows that are alike, the driver solves flows on the
classes: some thousand arcs, as many as the square root of the rows.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.contested_arcs import Contested
from solver.engines.price.contested_flow import solve_boxed_flow
from solver.engines.slot_supply import Supply
from solver.errors import EngineError
from solver.params import Params
from solver.scale.first_pass import valuation_of
from solver.scale.floors import floor_reward, with_floors
from solver.scale.unit_passes import UnitBox
from solver.scale.unit_rows import OpenRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.engines.price.box_duals import BoxedFlow
    from solver.problem.instance import Instance
    from solver.scale.first_pass import Sample, Survey, Valuation
    from solver.scale.pieces import Piece
    from solver.scale.sample_plan import SamplePlan
    from solver.scale.workers import Fleet


@dataclass(frozen=True, kw_only=True)
class UnitParams(Params):
    """Constants of the search."""

    first_radius: float = 2.0
    """Half-width of the box around the prices of a sample, in typical ranges of a row's scores, for a sample of one."""
    deviations: float = 4.0
    """The same from the second sample on, in units of what prices moved by, scaled to the sample."""
    least_share: float = 0.25
    """Least half-width, as a share of that by the first rule."""
    least_radius: float = 1e-6
    """Least half-width of all, in typical ranges."""
    widening: float = 8.0
    """Factor where a price wants to leave its box."""
    most_boxes: int = 8
    """Boxes of a sample, and of all rows, before the widest."""
    most_arcs: int = 20_000_000
    """Arcs of classes that the driver holds, some 100 bytes each."""
    exact: float = 1e-13
    """Unit that costs of all rows are rounded to, in typical ranges."""
    coarse: float = 1e-6
    """Unit that costs of samples are rounded to, in typical ranges."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitOptimum:
    """Prices, and the units of every class of rows.

    Parameters
    ----------
    box : UnitBox
        What makes the classes.
    flow : dict of int to (a,) int64
        Units along the arcs of the classes of each piece.
    prices : (m,) float64
        Shadow prices; those of closed models are not known yet.
    left : int
        Units that stay unassigned.
    """

    box: UnitBox
    flow: dict[int, NDArray[np.int64]]
    prices: NDArray[np.float64]
    left: int

    @property
    def valuation(self) -> Valuation:
        """What staying unassigned is worth."""
        return self.box.valuation


def optimise_units(
    fleet: Fleet,
    pieces: Sequence[Piece],
    survey: Survey,
    shape: Instance,
    plan: SamplePlan,
    common_penalty: float | None,
    floor: NDArray[np.int64] | None = None,
    *,
    params: UnitParams | None = None,
) -> UnitOptimum | None:
    """Return the optimum, or None if not everyone who must be served can be, or not every floor is reached.

    Raises
    ------
    SpecError
        For a negative priority where it multiplies a penalty.
    EngineError
        When more rows are contested than the driver may hold.
    """
    valuation, supply = valuation_of(survey, shape, common_penalty), Supply.of(shape)
    if floor is not None:
        reward = floor_reward(shape, valuation, survey)
        supply, valuation = with_floors(supply, floor, reward), replace(valuation, shift=reward)
    if survey.required_units > int(supply.total.sum()) or survey.unservable_required:
        return None
    search = _Search(fleet, survey, supply, valuation, plan, params or UnitParams())
    found, parts, box = search.run()
    if found.rises.any():
        return None
    prices, m = found.prices, shape.m
    ends = np.cumsum([len(part.model) for part in parts])
    flows = np.split(found.flow, ends[:-1])
    load = np.sum([part.settled for part in parts], axis=0)
    for part, flow in zip(parts, flows, strict=True):
        load = load + np.bincount(part.model, flow, m + 1).astype(np.int64)
    if floor is not None and (load[:m] < floor).any():
        return None
    if load[m] == 0 and supply.total.sum() == survey.units:
        # Every slot is sold, only differences of prices matter: as low as the most expensive slots allow.
        prices = prices - (prices - supply.max_slot_cost)[~supply.closed].min()
    prices = np.maximum(prices, 0.0)
    if floor is not None:
        prices = prices - valuation.shift
        prices = np.where(floor > 0, prices, np.maximum(prices, 0.0))  # below zero only where a floor binds
    flow_of = {piece.number: flow for piece, flow in zip(pieces, flows, strict=True)}
    return UnitOptimum(box=box, flow=flow_of, prices=prices, left=int(load[m]))


class _Search:
    def __init__(
        self,
        fleet: Fleet,
        survey: Survey,
        supply: Supply,
        valuation: Valuation,
        plan: SamplePlan,
        params: UnitParams,
    ) -> None:
        self.fleet, self.survey, self.supply, self.plan, self.params = fleet, survey, supply, plan, params
        self.sample = survey.sample()
        self.keys = itertools.count(1)
        finite = np.isfinite(self.sample.score)
        ranges = self.sample.score.max(axis=1, initial=-np.inf, where=finite).astype(np.float64)
        ranges -= self.sample.score.min(axis=1, initial=np.inf, where=finite)
        ranges = ranges[ranges > 0]
        values = [one for one in (survey.low, survey.high, *valuation.extremes(survey)) if math.isfinite(one)]
        span = (max(values) - min(values) if values else 0.0) + float(np.ptp(supply.cost))
        largest = max(map(abs, values), default=1.0)
        self.span = max(span, 1e-9 * largest, 1e-100)
        self.spread = min(self.span, float(np.median(ranges))) if len(ranges) else self.span
        self.lowest = supply.cheapest
        self.ceiling = self.lowest + (survey.m + 2) * 2.0 * self.span
        self.box = UnitBox(
            key=0,
            low=self.lowest,
            high=self.lowest + 1.01 * self.span,
            sample=0,
            plan=plan,
            valuation=valuation,
            closed=supply.closed,
            resolution=self.spread * params.exact,
        )

    def run(self) -> tuple[BoxedFlow, list[OpenRows], UnitBox]:
        """Return the flow on all rows, piece by piece, and the box that it is optimal in if nothing rises."""
        params, before, size = self.params, None, 0
        for rows in self.plan.levels:
            growth, size = len(rows) / max(size, 1), len(rows)
            found, parts, _ = self._solved(size, rows, self.box)
            start = params.first_radius * self.spread / math.sqrt(size / _unevenness(parts))
            radius = np.full(len(self.lowest), start)
            if before is not None:
                moved = np.abs(found.centre - before)[~self.supply.closed]
                typical = math.sqrt(float(np.mean(moved**2))) if len(moved) else 0.0
                moved = np.maximum(np.abs(found.centre - before), typical) / math.sqrt(growth)
                radius = np.maximum(params.deviations * moved, params.least_share * start)
            self.box = self._around(
                found.centre, np.maximum(radius, params.least_radius * self.spread), self.box
            )
            before = found.centre
        return self._solved(0, None, self.box)

    def _around(self, prices: NDArray[np.float64], radius: NDArray[np.float64], box: UnitBox) -> UnitBox:
        low = np.maximum(prices - radius, self.lowest)
        return replace(box, low=low, high=np.clip(prices + radius, low, self.ceiling))

    def _solved(
        self, size: int, rows: NDArray[np.int64] | None, box: UnitBox
    ) -> tuple[BoxedFlow, list[OpenRows], UnitBox]:
        """Solve a sample, or all rows, in boxes that are widened until no price wants to leave."""
        params = self.params
        whole = replace(box, low=self.lowest, high=self.ceiling)
        for attempt in range(params.most_boxes + 1):
            box = replace(box if attempt < params.most_boxes else whole, key=next(self.keys), sample=size)
            parts = self._reduced(box, rows)
            found = self._flow(box, OpenRows.joined(parts), rows is not None)
            wants = (found.rises & (box.high < self.ceiling)) | (found.falls & (box.low > self.lowest))
            if not wants.any():
                break
            radius = (box.high - box.low) / 2
            box = self._around(found.centre, np.where(wants, params.widening * radius, 1.5 * radius), box)
        return found, parts, box

    def _reduced(self, box: UnitBox, rows: NDArray[np.int64] | None) -> list[OpenRows]:
        """Return the classes of a sample that is here or with the workers, or of all rows."""
        if rows is not None and len(rows) not in self.plan.held:
            here: Sample = self.sample.at(np.searchsorted(self.sample.agent, rows))
            return [box.classes([here]).classes]
        arcs = sum(self.fleet.run("count_units", box))
        if arcs > self.params.most_arcs:
            most = f"at most {self.params.most_arcs:,} are held"
            raise EngineError(f"streaming: {arcs:,} pairs of rows and models are contested, {most}")
        parts: list[OpenRows] = self.fleet.run("gather_units", box)
        return parts

    def _flow(self, box: UnitBox, rows: OpenRows, is_sample: bool) -> BoxedFlow:
        weight = rows.width * rows.depth
        contested = Contested(
            first=rows.first,
            model=rows.model,
            value=rows.value,
            weight=weight,
            width=rows.width,
            settled=rows.settled.astype(np.float64),
            low=box.low,
            high=box.high,
        )
        supply, params = self.supply, self.params
        if is_sample:
            units = int(rows.settled.sum() + weight.sum())
            supply = supply.scaled(units / self.survey.units).rounded(units)
        resolution = (params.coarse if is_sample else params.exact) * self.spread
        return solve_boxed_flow(contested, supply, resolution=resolution)


def _unevenness(parts: Sequence[OpenRows]) -> float:
    """Return by which factor counts that differ make a sample worth less: E[w²]/E[w]² of the open classes, >= 1."""
    width = np.concatenate([part.width for part in parts]).astype(np.float64)
    return float((width**2).mean() / width.mean() ** 2) if len(width) else 1.0

"""Prices of several resources and budgets by passes over pieces, and whole agents at them.

Prices of a sample come first, then those of a larger one in a box around them, then those of all agents in a box around
these: workers hold the contested arcs of a box and answer Newton's steps with sums. Of the last box, a few thousand
agents, the arcs come here: whole agents are chosen for them so that every bound holds. All boxes are boxes of
charges, of what agents pay: prices of rows that count the same amounts may move against each other without effect.
"""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.errors import EngineError
from solver.params import Params
from solver.scale.charge_duals import charge_errors, minimise_charges
from solver.scale.coupled_passes import HeldBox
from solver.scale.coupled_rounding import whole_agents
from solver.scale.held_arcs import ArcsInBox, ChargeResponse, Grains

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from solver.scale.charge_duals import ChargeOptimum
    from solver.scale.coupled_passes import PieceFacts, SampleFacts
    from solver.scale.coupling import Couplings
    from solver.scale.first_pass import Survey, Valuation
    from solver.scale.workers import Fleet


@dataclass(frozen=True, kw_only=True)
class CoupledParams(Params):
    """Constants of the method. ``benchmarks/bench_coupled.py`` measures gap, passes and memory against them."""

    sample: int = 160_000
    sample_share: float = 0.05
    """Agents of the large sample, about: so many, or this share of all if that is more."""
    stride: int = 10
    """Which of them make up the small one."""
    hot: float = 0.5
    warm: float = 5e-3
    cool: float = 1e-3
    cold: float = 2e-5
    coldest: float = 1e-8
    """Temperatures, in typical ranges of an agent's scores: the first, the last of the small sample, of the large one,
    of all agents, and of the agents of the last box."""
    sigmas: float = 3.0
    """Half-width of a box, in standard errors."""
    tie_temperatures: float = 1.0
    """Additional half-width, in temperatures."""
    most_error: float = 0.1
    """Largest standard error that is believed, in units of charge."""
    most_boxes: int = 8
    """Most boxes of prices for all agents."""
    core_arcs: int = 4_000_000
    """Numbers that the agents of the last box may take on the driver: arcs times rows."""
    first_core: float = 0.02
    """Half-width of the first attempt at a last box, in units of charge."""
    few_pairs: int = 2_000_000
    """Pairs of agents and models up to which a batch is small: it has a wide last box too, for exchanges."""
    few_core: float = 0.5
    """Half-width of the first attempt at the wide last box of a small batch."""
    few_contested: int = 1_500
    """Agents that the wide last box of a small batch holds at most."""
    least_core: float = 1e-8
    """Half-width at which agents are taken for equal."""
    shrinking: float = 0.7
    """Factor on the half-width from one attempt to the next."""
    equal: float = 1e-7
    most_equal: int = 4
    """Difference of scores within which models are as good, in typical ranges, and agents for each row of which that
    may be: at optimal prices as many as rows are divided."""
    jitter: float = 1e-5
    """What scores are shifted by at most, by lot, where agents are equal, in typical ranges of an agent's scores."""
    widenings: int = 4
    """Times that the last box is widened where its agents cannot make the bounds hold."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoupledOptimum:
    """Prices and the choice of every agent.

    Parameters
    ----------
    prices : (K,) float64
        Of the rows, >= 0.
    low : (m, c) float64
        Charges at which every agent that is not named has its best model.
    agent, model : (g,) int64
        The agents named, ascending, and their models, m for unassigned.
    valuation : Valuation
        What staying unassigned is worth.
    largest : (c,) float64
        Largest amounts.
    jitter : float
        What scores are shifted by at most, by lot, before agents choose.
    leaves : bool
        Whether an agent stays unassigned.
    """

    prices: NDArray[np.float64]
    low: NDArray[np.float64]
    agent: NDArray[np.int64]
    model: NDArray[np.int64]
    valuation: Valuation
    largest: NDArray[np.float64]
    jitter: float
    leaves: bool


def take_facts(fleet: Fleet, common_penalty: float | None) -> tuple[Survey, list[PieceFacts]]:
    """Return the results of one pass over all agents, for all pieces together and for each."""
    facts: list[PieceFacts] = fleet.run("paying_facts", common_penalty)
    survey = facts[0].survey
    for other in facts[1:]:
        survey.merge(other.survey)
    return survey, facts


def optimise_coupled(
    fleet: Fleet,
    couplings: Couplings,
    survey: Survey,
    facts: list[PieceFacts],
    valuation: Valuation,
    *,
    seed: int,
    params: CoupledParams | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> CoupledOptimum | None:
    """Return prices and choices within all bounds, or None where an agent that must be served has no model.

    Raises
    ------
    EngineError
        Where no plan within all bounds was found.
    """
    if survey.unservable_required:
        return None
    search = _Search(fleet, couplings, survey, facts, valuation, seed, params or CoupledParams(), report)
    try:
        found = search.run()
    except _TiesError:
        report("agents are equal: scores are shifted by lot")
        search.shift_scores()
        found = search.run()
    if found is None:
        raise EngineError("streaming: no plan within all bounds was found, but none is proven not to exist")
    return found


class _TiesError(Exception):
    """Too many agents are equal for any box to tell them apart."""


class _Search:
    def __init__(
        self,
        fleet: Fleet,
        couplings: Couplings,
        survey: Survey,
        facts: list[PieceFacts],
        valuation: Valuation,
        seed: int,
        params: CoupledParams,
        report: Callable[[str], None],
    ) -> None:
        self.fleet, self.couplings, self.survey, self.params, self.report = (
            fleet, couplings, survey, params, report,
        )  # fmt: skip
        self.total = np.array(
            [math.fsum(column) for column in zip(*(one.total for one in facts), strict=True)]
        )
        self.largest = np.max([one.most for one in facts], axis=0)
        self.agents = survey.agents
        self.keys = itertools.count(1)
        m, c = couplings.weight.shape[1:]
        self.box = HeldBox(
            key=0,
            low=np.zeros((m, c)),
            high=np.full((m, c), np.inf),
            stride=1,
            sample=min(max(params.sample, int(self.agents * params.sample_share)), self.agents),
            seed=seed,
            agents=self.agents,
            valuation=valuation,
            single=couplings.exceeded(self.largest),
        )
        worths = [survey.low, survey.high, *valuation.extremes(survey)]
        self.highest = max((abs(value) for value in worths if math.isfinite(value)), default=1.0)

    def run(self) -> CoupledOptimum | None:
        """Find prices from samples, then from all agents, then assign whole agents."""
        params, couplings = self.params, self.couplings
        sampled = self._sample_facts(1)
        agents = max(sampled.total[-1], 1.0)
        self.spread = max(sampled.spread / agents, 1e-9 * self.highest, 1e-300)
        mean = np.where(self.total > 0, self.total / self.agents, 1.0)
        self.unit = self.spread / mean
        moments = sampled.moments / agents
        stride = max(1, min(params.stride, int(agents) // 2_000))
        small = self._sample_facts(stride) if stride > 1 else sampled
        self.report("prices of a sample")
        box = self._boxed(stride, self.box.low, self.box.high)
        optimum = self._newton(
            box, small.total, np.zeros(len(couplings.bound)), params.hot, params.warm, None
        )
        if stride > 1:
            error = self._errors(optimum, moments, small.total)
            optimum, box = self._around(1, optimum, error, sampled.total, params.warm, params.cool)
        error = self._errors(optimum, moments, sampled.total)
        self.report("prices of all agents")
        optimum, box = self._around(0, optimum, error, self.total, params.cool, params.cold)
        self.report("whole agents")
        return self._whole(optimum, box)

    def shift_scores(self) -> None:
        """Tell equal agents apart by scores that are shifted a little, the same in every pass."""
        self.box = replace(self.box, jitter=self.params.jitter * self.spread)

    def _sample_facts(self, stride: int) -> SampleFacts:
        parts: list[SampleFacts] = self.fleet.run("sample_facts", replace(self.box, stride=stride))
        return replace(
            parts[0],
            total=np.sum([part.total for part in parts], axis=0),
            moments=np.sum([part.moments for part in parts], axis=0),
            spread=math.fsum(part.spread for part in parts),
        )

    def _boxed(self, stride: int, low: NDArray[np.float64], high: NDArray[np.float64]) -> HeldBox:
        box = replace(self.box, key=next(self.keys), low=low, high=high, stride=stride)
        contested = self.fleet.run("hold", box)
        self.report(f"{sum(contested):,} agents contested")
        return box

    def _newton(
        self,
        box: HeldBox,
        total: NDArray[np.float64],
        prices: NDArray[np.float64],
        temperature: float,
        coldest: float,
        sides: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    ) -> ChargeOptimum:
        bound = self.couplings.bound * self.couplings.shares(total, self.total)

        def respond(charge: NDArray[np.float64], heat: float) -> ChargeResponse:
            grains = self._grains(total, charge)
            return ChargeResponse.total(self.fleet.run("respond", box, charge, heat, grains))

        return self._minimise(respond, bound, prices, temperature, coldest, float(total[-1]), sides)

    def _minimise(
        self,
        respond: Callable[[NDArray[np.float64], float], ChargeResponse],
        bound: NDArray[np.float64],
        prices: NDArray[np.float64],
        temperature: float,
        coldest: float,
        agents: float,
        sides: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    ) -> ChargeOptimum:
        found = minimise_charges(
            respond,
            self.couplings,
            bound,
            prices,
            temperature=temperature * self.spread,
            coldest=coldest * self.spread,
            unit=self.unit,
            density=agents / self.spread,
            box=sides,
        )
        self.report(f"{found.steps} steps to a temperature of {found.temperature / self.spread:.1e}")
        return found

    def _grains(self, total: NDArray[np.float64], charge: NDArray[np.float64]) -> Grains:
        paid = float(total @ charge.max(axis=0))
        return Grains.of(int(total[-1]), self.highest, total, self.largest, paid)

    def _errors(
        self, optimum: ChargeOptimum, moments: NDArray[np.float64], total: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        part = float(total[-1]) / self.agents
        error = charge_errors(optimum, self.couplings, moments, part)
        most: NDArray[np.float64] = self.params.most_error * np.maximum(self.unit, optimum.charge)
        return np.minimum(error, most)

    def _around(
        self,
        stride: int,
        optimum: ChargeOptimum,
        error: NDArray[np.float64],
        total: NDArray[np.float64],
        temperature: float,
        coldest: float,
    ) -> tuple[ChargeOptimum, HeldBox]:
        """Find prices in boxes around those of a sample, until they stop at no side."""
        ties = self.params.tie_temperatures * temperature * self.unit
        radius = self.params.sigmas * error + ties
        for _ in range(self.params.most_boxes):
            low, high = np.maximum(optimum.charge - radius, 0.0), optimum.charge + radius
            box = self._boxed(stride, low, high)
            # The arcs of a box are a fair guess of what is beyond it: where to look next.
            sides = np.maximum(low - radius, 0.0), high + radius
            optimum = self._newton(box, total, optimum.prices, temperature, coldest, sides)
            beyond = (optimum.charge < low) | (optimum.charge > high)
            if not beyond.any() and optimum.temperature <= coldest * self.spread * (1 + 1e-9):
                break
            radius = np.where(beyond | optimum.rises | optimum.falls, 2.0 * radius, radius)
            temperature = max(optimum.temperature / self.spread, coldest)
        return optimum, box

    def _whole(self, optimum: ChargeOptimum, box: HeldBox) -> CoupledOptimum | None:
        """Choose for the agents of a last box; of a small batch, for those of a wide one as well if that is better."""
        params, charge = self.params, optimum.charge
        most = max(2_000, params.core_arcs // max(1, len(self.couplings.bound)) // 3)
        found = self._chosen(optimum, box, params.first_core, most)
        if self.agents * len(charge) <= params.few_pairs and not self.box.jitter:
            radius = params.few_core * self.unit
            wide = self._boxed(0, np.maximum(charge - radius, 0.0), charge + radius)
            with suppress(_TiesError):
                other = self._chosen(optimum, wide, params.few_core, params.few_contested)
                if found is None or (other is not None and other[0] > found[0]):
                    found = other
        return None if found is None else found[1]

    def _chosen(
        self, optimum: ChargeOptimum, box: HeldBox, width: float, most: int
    ) -> tuple[float, CoupledOptimum] | None:
        """Choose for the agents of a box of some half-width, at most so many; return what all agents score with it."""
        params, charge = self.params, optimum.charge
        while True:
            low, high = self._last_box(charge, width, box)
            left = sum(self.fleet.run("count_inside", box, low, high))
            if left <= most:
                break
            if width < params.least_core:
                raise _TiesError
            width *= min(max(params.shrinking * most / left, 0.01), params.shrinking)
        for _ in range(params.widenings):
            parts: list[ArcsInBox] = self.fleet.run("gather", box, low, high)
            core = ArcsInBox.joined(parts)
            grains = self._grains(self.total, high)
            last = self._minimise(
                lambda at, heat, core=core, grains=grains: core.respond(at, heat, grains),  # type: ignore[misc]
                self.couplings.bound,
                optimum.prices,
                optimum.temperature / self.spread,
                params.coldest,
                float(self.agents),
                (low, high),
            )
            if (last.rises | last.falls).any() and sum(len(part.agent) for part in parts) < most:
                width *= 2.0
                low, high = self._last_box(charge, width, box)
                continue
            if not self.box.jitter and self._equal(core, last.charge) > params.most_equal * len(
                self.couplings.bound
            ):
                raise _TiesError
            chosen = whole_agents(core, self.couplings, last.charge)
            if chosen is not None:
                model, value = chosen
                return core.settled_value + value, CoupledOptimum(
                    prices=last.prices,
                    low=low,
                    agent=core.agent,
                    model=model,
                    valuation=self.box.valuation,
                    largest=self.largest,
                    jitter=self.box.jitter,
                    leaves=bool(core.settled[-1, -1] > 0 or (model == len(low)).any()),
                )
            width *= 2.0
            low, high = self._last_box(charge, width, box)
        return None

    def _equal(self, core: ArcsInBox, charge: NDArray[np.float64]) -> int:
        """Return how many agents have several best models at some charges."""
        if not len(core.agent):
            return 0
        net = core.net(charge, core.owner)
        best = np.maximum.reduceat(net, core.first[:-1])
        near = net >= best[core.owner] - self.params.equal * self.spread
        return int((np.add.reduceat(near, core.first[:-1]) > 1).sum())

    def _last_box(
        self, charge: NDArray[np.float64], width: float, box: HeldBox
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        radius = width * self.unit
        return np.maximum(charge - radius, box.low), np.minimum(charge + radius, box.high)

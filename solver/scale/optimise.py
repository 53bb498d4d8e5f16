"""The price engine on pieces: optimal prices and a rule for every agent's choice, its passes done by workers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from solver.clock import Deadline
from solver.engines.price.estimate import estimate_prices, refine_prices
from solver.engines.price.optimum import find_optimum, solve_everything
from solver.engines.price.sample_sizes import probe_scale
from solver.engines.price.scarce_prices import price_scarce, small_slot_shortage
from solver.engines.slot_supply import Supply
from solver.scale.first_pass import Survey, Valuation, dense_rows, valuation_of
from solver.scale.floors import floor_reward, with_floors
from solver.scale.piece_rows import PieceChoice, PieceRows, StridedSample
from solver.scale.shard import FinishOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from solver.problem.instance import Instance
    from solver.scale.pieces import Piece
    from solver.scale.sample_plan import SampleBudget
    from solver.scale.workers import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """Prices and the choice of every agent.

    Parameters
    ----------
    choice : PieceChoice
        The rule; of equal models the first stands for all.
    prices : (m,) float64
        Shadow prices, >= 0; those of closed models are not known yet.
    valuation : Valuation
        What staying unassigned is worth.
    may_leave : bool
        Whether the rule may leave an agent unassigned.
    """

    choice: PieceChoice
    prices: NDArray[np.float64]
    valuation: Valuation
    may_leave: bool


def take_survey(
    fleet: Fleet,
    agents: int,
    closed: NDArray[np.bool_],
    common_penalty: float | None,
    *,
    seed: int,
    budget: SampleBudget,
) -> Survey:
    """Return the facts and the samples of all pieces, in one pass."""
    plan = budget.plan(agents, len(closed), seed)
    first, *rest = fleet.run("survey", plan, common_penalty)
    survey = cast(Survey, first)
    for other in rest:
        survey.merge(other)
    return survey


def optimise(
    fleet: Fleet,
    pieces: Sequence[Piece],
    survey: Survey,
    shape: Instance,
    common_penalty: float | None,
    floor: NDArray[np.int64] | None = None,
    *,
    seed: int,
    budget: SampleBudget,
) -> Optimum | None:
    """Return the optimum, or None if not all agents that must be served can be, or not every floor is reached.

    Raises
    ------
    SpecError
        For a negative priority where it multiplies a penalty.
    """
    valuation = valuation_of(survey, shape, common_penalty)
    may_leave = _may_leave(survey, shape)
    supply = Supply.of(shape)
    if floor is not None:
        reward = floor_reward(shape, valuation, survey)
        supply, valuation = with_floors(supply, floor, reward), replace(valuation, shift=reward)
    n, m = shape.n, shape.m
    must = survey.required_count if may_leave and not shape.serve_first else 0 if may_leave else n
    if must > int(supply.total.sum()) or survey.unservable_required:
        return None
    first_duplicate = survey.first_duplicate
    pooled = supply if first_duplicate is None else supply.pooled(first_duplicate)
    max_slot_cost = pooled.max_slot_cost
    if not may_leave and pooled.total.sum() == n:
        pooled = pooled.anchored()
    sample = survey.sample()
    closed = pooled.closed
    plan = budget.plan(n, m, seed)
    rows = PieceRows(fleet, pieces, survey, sample, plan, valuation if may_leave else None, closed)
    generator = np.random.default_rng(seed)
    scale = probe_scale(rows, generator).with_costs(pooled.cost)
    if n * m * scale.allowed + (n if may_leave else 0) <= budget.few_arcs:
        outcome = solve_everything(rows, pooled, scale)
    else:
        short = small_slot_shortage(n, pooled) if may_leave and not survey.forbids else 0
        all_served = PieceRows(fleet, pieces, survey, sample, plan, None, closed) if short else rows
        enough = pooled.scaled(n / pooled.total.sum()).anchored() if short else pooled
        estimate = estimate_prices(all_served, enough, scale, generator, most=budget.numbers / m)
        for stride in budget.strides(n, m, max(map(len, plan.levels), default=n)):
            part = StridedSample(all_served, stride)
            estimate = refine_prices(part, enough.scaled(part.n / n), scale, estimate, n)
        rows.short, rows.slots = short, pooled.total
        estimate = price_scarce(rows, pooled, estimate, short=short)
        outcome = find_optimum(rows, pooled, scale, estimate, Deadline.after(None))
    if outcome is None:
        return None
    prices = outcome.prices
    if pooled.anchor is not None:
        # Every slot is sold, only differences of prices matter: as low as the most expensive slots allow.
        prices = prices - (prices - max_slot_cost)[~pooled.closed].min()
    if first_duplicate is not None:
        prices = prices[first_duplicate]
    choice, prices = cast(PieceChoice, outcome.choice), np.maximum(prices, 0.0)
    if floor is not None:
        prices = prices - valuation.shift
        prices = np.where(floor > 0, prices, np.maximum(prices, 0.0))  # below zero only where a floor binds
        if not _reaches(choice, floor if first_duplicate is None else np.bincount(first_duplicate, floor, m)):
            return None
    return Optimum(choice=choice, prices=prices, valuation=valuation, may_leave=may_leave)


def has_few_levels(survey: Survey, budget: SampleBudget) -> bool:
    """Whether scores have so few levels that ties matter more than prices: rows that are alike are classes then."""
    if survey.agents * survey.m <= budget.few_arcs:
        return False
    rows = dense_rows(survey.sample(), None, survey.closed)
    return probe_scale(rows, np.random.default_rng(0)).grid is not None


def _reaches(choice: PieceChoice, least: NDArray[Any]) -> bool:
    """Return whether every model serves at least so many agents, (m,)."""
    load = np.sum(list(choice.settled.values()), axis=0) + np.bincount(choice.model, minlength=len(least) + 1)
    return bool((load[:-1] >= least).all())


def _may_leave(survey: Survey, shape: Instance) -> bool:
    """Whether an optimum may need to leave an agent unassigned, see ``Instance.may_leave``."""
    crowded = survey.forbids or shape.n > int(shape.slots.sum())
    if shape.serve_first:
        return crowded
    if crowded:
        return survey.required_count < shape.n
    max_cost = 0.0 if shape.load_cost is None else float(shape.load_cost.max())
    return bool(survey.least_penalty < max_cost - shape.score_range[0])


def finish_orders(
    pieces: Sequence[Piece],
    choice: PieceChoice,
    supply: Supply,
    first_duplicate: NDArray[np.int64] | None,
) -> tuple[dict[int, FinishOrder], NDArray[np.int64]]:
    """Return what every piece needs to write its part, and the (m + 1,) loads of everything together.

    The agents of equal models are handed out in the order of all agents, cheapest slots first.
    """
    m = supply.models
    before = np.zeros(m + 1, np.int64)
    closed = (supply if first_duplicate is None else supply.pooled(first_duplicate)).closed
    ladders = {} if first_duplicate is None else _ladders(supply, first_duplicate)
    orders = {}
    for piece in pieces:
        begin, end = np.searchsorted(choice.agent, (piece.first, piece.first + piece.rows))
        model = choice.model[begin:end]
        orders[piece.number] = FinishOrder(
            number=piece.number,
            low=choice.low,
            closed=closed,
            agent=choice.agent[begin:end] - piece.first,
            model=model,
            shares={first: (int(before[first]), *ladder) for first, ladder in ladders.items()},
        )
        before = before + choice.settled[piece.number] + np.bincount(model, minlength=m + 1)
    return orders, before


def _ladders(
    supply: Supply, first_duplicate: NDArray[np.int64]
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return, for the first of equal models, the models of all their slots by cost, and running totals of the slots."""
    pool = first_duplicate[supply.model]
    found = {}
    for first in np.unique(first_duplicate[first_duplicate != np.arange(len(first_duplicate))]):
        tiers = np.flatnonzero((pool == first) & (supply.slots > 0))
        if len(tiers):
            tiers = tiers[np.argsort(supply.cost[tiers], kind="stable")]
            found[int(first)] = supply.model[tiers], np.cumsum(supply.slots[tiers]).astype(np.int64)
    return found

"""All agents: one reducing pass around the estimated prices, an exact solution of what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.box_descent import OutsideBox, price_box
from solver.engines.price.box_search import solve_in_box, solve_whole_box
from solver.engines.price.estimate import price_radius, start_temperature
from solver.engines.price.params import DEFAULTS
from solver.engines.price.time_left import NO_DEADLINE, OutOfTimeError, take_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.price.params import PriceEngineParams
    from solver.engines.price.row_protocols import Choice, Rows
    from solver.engines.price.sample_sizes import Scale
    from solver.engines.price.smoothed_dual import Estimate
    from solver.engines.slot_supply import Supply


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An assignment of all agents and prices.

    Parameters
    ----------
    choice : Choice or None
        Model of each agent, m for unassigned, in the form that the rows have: an (n,) int64 array where they are in
        memory. None when there was only time for prices.
    prices : (m,) float64
        Optimal prices; the best known when not exact.
    exact : bool
        Whether the prices support the choice. If not, models may be over-used.
    """

    choice: Choice | None
    prices: NDArray[np.float64]
    exact: bool


def find_optimum(
    rows: Rows,
    supply: Supply,
    scale: Scale,
    estimate: Estimate,
    deadline: Deadline,
    params: PriceEngineParams = DEFAULTS,
) -> Outcome | None:
    """Return the optimum, or what is known when the deadline leaves no time for a further pass.

    Boxes that turn out too small are moved and widened. After a bounded number of passes, or once the flows
    have cost more than half of what a flow on all allowed arcs would, that flow is solved instead.

    Parameters
    ----------
    rows : Rows
        All agents.
    supply : Supply
        All slots.
    scale : Scale
        Range and grid of the scores.
    estimate : Estimate
        Prices from samples.
    deadline : Deadline
        No pass, step or flow is begun that would not end before it.

    Returns
    -------
    Outcome or None
        None proves that not all agents that must be served can be.
    """
    radius = price_radius(estimate, rows.n, scale.span, params)
    prices = estimate.prices
    temperature = max(start_temperature(estimate, params.boxes.first_temperature), scale.coolest)
    arcs = scale.allowed * rows.n * rows.m
    spent = 0
    began = deadline.remaining_s()
    for attempt in range(params.boxes.most_passes):
        low, high = price_box(prices, radius, supply.cheapest, np.inf, scale.grid)
        try:
            take_time(deadline, rows.n * rows.m * params.times.reducing_s_per_pair)
            reduction = rows.reduce(low, high)
            found = solve_in_box(
                reduction,
                supply,
                np.clip(prices, low, high),
                temperature,
                span=scale.spread,
                grid=scale.grid,
                may_leave=attempt < params.boxes.recentred_passes
                and scale.grid is None
                and not deadline.limited,
                deadline=deadline,
                params=params,
            )
        except OutOfTimeError:
            return Outcome(choice=None, prices=prices, exact=False)
        if isinstance(found, OutsideBox):
            prices = found.prices
            radius = np.where(found.pressed, params.boxes.widening * radius, radius)
            continue
        choice = reduction.resolved(found.choice)
        binds = found.rises | (found.falls & (low > supply.cheapest))
        if not binds.any():
            return Outcome(choice=choice, prices=found.prices, exact=True)
        spent += found.arcs
        if deadline.limited:
            remaining = deadline.remaining_s()
            if 2.5 * (began - remaining) / (attempt + 1) > remaining:
                return Outcome(choice=choice, prices=found.centre, exact=False)
        if spent > params.boxes.arcs_share * arcs:
            break
        prices = found.centre
        radius = radius * np.where(
            binds, params.boxes.widening, 1.0 if attempt < params.boxes.recentred_passes else 2.5
        )
    try:
        return solve_everything(rows, supply, scale, deadline, params)
    except OutOfTimeError:
        return Outcome(choice=None, prices=prices, exact=False)


def solve_everything(
    rows: Rows,
    supply: Supply,
    scale: Scale,
    deadline: Deadline = NO_DEADLINE,
    params: PriceEngineParams = DEFAULTS,
) -> Outcome | None:
    """Solve one flow on all allowed arcs; None if that proves that not all agents can be served.

    Where every pair is allowed no price exceeds the range of the scores, which a sample gives a good guess of. In
    general none exceeds what a chain of re-assignments through all models can be worth; for that, a proof, the
    range of all scores counts.

    Raises
    ------
    OutOfTimeError
        If it would not end before the deadline.
    """
    low = np.where(np.isfinite(supply.cheapest), supply.cheapest, 0.0)
    extra = float(np.ptp(supply.cost))
    likely = 1.01 * scale.span + extra
    found = _solve_below(rows, supply, low, low + likely, scale.spread, deadline, params)
    if found is None:
        certain = (rows.m + 2) * 2.0 * (rows.span() + extra)
        found = _solve_below(rows, supply, low, low + max(likely, certain), scale.spread, deadline, params)
    return found


def _solve_below(
    rows: Rows,
    supply: Supply,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    span: float,
    deadline: Deadline,
    params: PriceEngineParams,
) -> Outcome | None:
    reduction = rows.reduce(low, high)
    found = solve_whole_box(reduction, supply, span=span, deadline=deadline, params=params)
    if found.rises.any():
        return None
    choice = reduction.resolved(found.choice)
    return Outcome(choice=choice, prices=found.prices, exact=True)

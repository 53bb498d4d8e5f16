"""Finds the optimum inside a box of prices: Newton steps on the contested arcs, nested boxes, one small flow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.box_descent import OutsideBox, descend, price_box
from solver.engines.price.contested_flow import solve_boxed_flow
from solver.engines.price.few_level_ties import hand_out_ties
from solver.engines.price.params import DEFAULTS
from solver.engines.price.time_left import NO_DEADLINE, flow_seconds, take_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.clock import Deadline
    from solver.engines.price.box_duals import BoxedFlow
    from solver.engines.price.params import PriceEngineParams
    from solver.engines.price.row_protocols import Choice, ContestedArcs, Nested, Reduced
    from solver.engines.slot_supply import Supply

RESOLUTION = 1e-13
"""Unit that costs are rounded to where they fit into 61 bits, relative to an agent's range of scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxOptimum:
    """The optimum over a box of prices.

    Parameters
    ----------
    choice : Choice
        Choice of each contested agent, m for unassigned.
    prices : (m,) float64
        The smallest optimal prices.
    centre : (m,) float64
        The middle of the optimal prices.
    arcs : int
        Arcs of all flows solved.
    rises, falls : (m,) bool
        Prices that want to leave the box; none if the optimum over the box is the optimum at large.
    exact : bool
        False if costs were rounded and the result may be off by that.
    """

    choice: Choice
    prices: NDArray[np.float64]
    centre: NDArray[np.float64]
    arcs: int
    rises: NDArray[np.bool_]
    falls: NDArray[np.bool_]
    exact: bool


def solve_in_box(
    reduction: Reduced,
    supply: Supply,
    prices: NDArray[np.float64],
    temperature: float,
    *,
    span: float,
    grid: float | None = None,
    may_leave: bool = False,
    deadline: Deadline = NO_DEADLINE,
    params: PriceEngineParams = DEFAULTS,
) -> BoxOptimum | OutsideBox:
    """Minimise the dual over a box exactly and return an optimal assignment of the contested agents.

    Newton steps on the arcs say where in the box the optimum is, ever more precisely, and the problem is
    reduced to ever smaller boxes around it; the last one, a few arcs per model, is solved by a flow. A small
    box that binds is widened where it does, up to the box given.

    Parameters
    ----------
    reduction : Reduced
        The contested agents of the box.
    supply : Supply
        Whole slots.
    prices : (m,) float64
        Where to start, inside the box.
    temperature : float
        How far that may be from the optimum, roughly.
    span : float
        What one agent's scores typically differ by, which decides how finely costs are counted.
    grid : float, optional
        Unit of the scores if they are whole multiples of one.
    may_leave : bool
        Give up when Newton's method aims well beyond the box or ends at a side of it.
    deadline : Deadline
        No step is begun that would not end before it.

    Raises
    ------
    OutOfTimeError
        Where the next one would not.

    Returns
    -------
    BoxOptimum or OutsideBox
        The optimum over the box, or a better centre for another box.
    """
    if grid is not None and not reduction.contested.on_grid(grid):
        grid = None
    nest = [reduction.whole()]
    descent = descend(
        nest, supply, prices, temperature, grid, may_leave=may_leave, deadline=deadline, params=params.boxes
    )
    if isinstance(descent, OutsideBox):
        return descent
    return _settle(nest, supply, *descent, span=span, grid=grid, deadline=deadline, params=params)


def solve_whole_box(
    reduction: Reduced,
    supply: Supply,
    *,
    span: float,
    deadline: Deadline = NO_DEADLINE,
    params: PriceEngineParams = DEFAULTS,
) -> BoxOptimum:
    """Minimise the dual over a box exactly without an idea where in it the optimum is: by flows alone."""
    box = reduction.contested
    prices = (box.low + box.high) / 2
    radius = (box.high - box.low) / 2
    return _settle(
        [reduction.whole()], supply, prices, radius, span=span, grid=None, deadline=deadline, params=params
    )


def _settle(
    nest: list[Nested],
    supply: Supply,
    prices: NDArray[np.float64],
    radius: NDArray[np.float64],
    *,
    span: float,
    grid: float | None,
    deadline: Deadline,
    params: PriceEngineParams,
) -> BoxOptimum:
    """Solve the innermost box by a flow; where it binds, widen it, up to the outermost one.

    A large flow is solved with rounded costs first, which is faster; if it is not optimal for the true ones it says
    where to draw a small box.
    """
    outer = nest[0]
    arcs = 0
    for attempt in range(params.boxes.most_widenings + 1):
        current = nest[-1]
        box, edge = current.contested, outer.contested
        rough = grid is None and box.arcs > params.boxes.large_flow and attempt == 0
        rounding = params.boxes.rough_unit * float(np.median(box.high - box.low)) if rough else 0.0
        take_time(deadline, flow_seconds(box.arcs, params))
        optimum = _flow(current, supply, prices, span * RESOLUTION, grid, rounding, params)
        arcs += optimum.arcs
        wants = (optimum.rises & (box.high < edge.high)) | (optimum.falls & (box.low > edge.low))
        prices = optimum.centre
        if wants.any():
            wider = (
                np.inf
                if attempt >= params.boxes.most_widenings // 2
                else np.maximum(params.boxes.widening * radius, 1.5 * (grid or 0.0))
            )
            radius = np.where(wants, wider, 1.5 * radius)
        elif not optimum.exact:
            radius = np.full(len(prices), params.boxes.rough_radius * rounding)
        else:
            break
        low, high = price_box(prices, radius, edge.low, edge.high, grid)
        while len(nest) > 1 and not _covers(nest[-1].contested, low, high):
            nest.pop()
        nest.append(outer if attempt == params.boxes.most_widenings - 1 else nest[-1].inside(low, high))
    return replace(optimum, arcs=arcs)


def _covers(box: ContestedArcs, low: NDArray[np.float64], high: NDArray[np.float64]) -> bool:
    return bool((box.low <= low).all() and (box.high >= high).all())


def _flow(
    nested: Nested,
    supply: Supply,
    prices: NDArray[np.float64],
    resolution: float,
    grid: float | None,
    rounding: float,
    params: PriceEngineParams,
) -> BoxOptimum:
    """Solve the flow of a reduction, identical agents merged, and hand the flow out."""
    reduction = nested.gathered()
    contested = reduction.contested
    merged = contested.merged(params.boxes.merged_units * resolution)
    problem, home = (contested, None) if merged is None else merged
    solved: BoxedFlow | None = None
    if (
        grid is not None
        and home is None
        and problem.arcs > max(params.boxes.large_flow, params.boxes.many_ties * problem.groups)
    ):
        solved = hand_out_ties(problem, supply, prices, grid)
    if solved is None:
        solved = solve_boxed_flow(problem, supply, resolution=resolution, grid=grid, rounding=rounding)
    choice = reduction.choice.copy()
    used = np.flatnonzero(solved.flow)
    models = np.repeat(problem.model[used], solved.flow[used])
    if home is None:
        choice[reduction.agent] = models
    else:
        choice[reduction.agent[np.argsort(home, kind="stable")]] = models
    return BoxOptimum(
        choice=choice,
        prices=solved.prices,
        centre=solved.centre,
        arcs=problem.arcs,
        rises=solved.rises,
        falls=solved.falls,
        exact=solved.exact,
    )

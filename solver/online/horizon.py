"""Prices of a finite horizon: slots and money are used up, and a known number of agents is still to come."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from solver.online.window_prices import window_prices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.online.parameters import PriceParams
    from solver.online.window import Sample


class HorizonPrices(NamedTuple):
    """What the next agent is charged.

    Parameters
    ----------
    slot : (m,) float64
        Score a slot of each model costs.
    dollar : float
        Score a US dollar costs.
    unserved : float
        Value of refusing, for agents whose objective names none.
    """

    slot: NDArray[np.float64]
    dollar: float
    unserved: float


def range_of_scores(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Return the lowest finite score, and the distance from it to the highest; (0, 1) where there is none."""
    finite = scores[np.isfinite(scores)]
    if not finite.size:
        return 0.0, 1.0
    lowest = float(finite.min())
    return lowest, float(finite.max()) - lowest or 1.0


def value_of_unassigned(unserved: NDArray[np.float64], lowest: float) -> tuple[NDArray[np.float64], float]:
    """Return the value of refusing each agent, and the one that stands in where none is named."""
    return np.where(np.isnan(unserved), lowest, unserved), lowest


def horizon_prices(
    sample: Sample,
    *,
    slots_left: NDArray[np.float64],
    arrivals_left: int,
    usd_left: float | None,
    before: HorizonPrices,
    params: PriceParams,
) -> HorizonPrices:
    """Solve again for what is left (certainty-equivalent control). O(n m²) a Newton step.

    Parameters
    ----------
    sample : Sample
        Agents that stand for those to come; at least one.
    slots_left : (m,) float64
        Slots left of each model.
    arrivals_left : int
        Agents still to come.
    usd_left : float or None
        Money left; None: no budget.
    before : HorizonPrices
        The last prices, to start from.
    params : PriceParams
        Tuning constants.
    """
    n, m = sample.scores.shape
    lowest, span = range_of_scores(sample.scores)
    unserved, stand_in = value_of_unassigned(sample.unserved, lowest)
    scarcer = 1.0 - params.caution * np.sqrt(m / (n + m))
    left = max(arrivals_left, 1)
    used_up = slots_left < 1.0
    scores = np.where(used_up, -np.inf, sample.scores)
    rates = np.maximum((slots_left - params.held_back_slots) * scarcer, 1e-3) / left
    shared: tuple[NDArray[np.float64], ...] = ()
    start = before.slot
    if usd_left is not None:
        rates = np.append(rates, max(usd_left * scarcer, 1e-12) / left)
        shared = (sample.cost_usd,)
        start = np.append(start, before.dollar)
    found = window_prices(
        scores,
        weights=sample.weights,
        unserved=unserved,
        rates=rates,
        shared=shared,
        start=start,
        temperature=params.smoothing * span,
    )
    dollar = float(found.shared[0]) if shared else 0.0
    return HorizonPrices(np.where(used_up, before.slot, found.of_models[0]), dollar, stand_in)

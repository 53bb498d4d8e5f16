"""How many agents to look at, which ones, and the scale of the values that they show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.contested_arcs import is_on_grid
from solver.engines.price.few_level_ties import TIE_TEMPERATURE
from solver.engines.price.params import DEFAULTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.engines.price.params import PriceEngineParams
    from solver.engines.price.row_protocols import Rows

_EXACT_GRID = 1e-10
"""Share of a grid's unit by which float64 values that are multiples of it differ from them at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a look at a few agents says about the values in play.

    Parameters
    ----------
    span : float
        Range of the finite scores and values of staying unassigned, > 0: prices range as far.
    spread : float
        Typical range of one agent's finite scores, > 0: what decides between models.
    grid : float or None
        Unit they are whole multiples of, if there is one with few levels.
    allowed : float
        Share of the pairs that are allowed.
    rounded : bool
        Whether values are multiples of the grid only to the rounding of float32: see
        :mod:`solver.engines.price.rounded_grid`.
    """

    span: float
    spread: float
    grid: float | None
    allowed: float
    rounded: bool = False

    def with_costs(self, costs: NDArray[np.float64]) -> Scale:
        """Return the scale once slots cost something: prices range further and off the grid."""
        if not costs.any():
            return self
        on_grid = self.grid is not None and is_on_grid(costs, self.grid)
        return replace(self, span=self.span + float(costs.max()), grid=self.grid if on_grid else None)

    @property
    def coolest(self) -> float:
        """Temperature below which nothing is gained: ties are resolved, or float64 is exhausted."""
        return TIE_TEMPERATURE * self.grid if self.grid is not None else 1e-7 * self.spread


def probe_scale(rows: Rows, generator: np.random.Generator, params: PriceEngineParams = DEFAULTS) -> Scale:
    """Look at a few random agents."""
    score, outside = rows.sample(
        stratified(rows.n, min(rows.n, params.sampling.probed_agents), generator)
    ).dense()
    seen = np.isfinite(score)
    finite = score[seen]
    levels = float(np.ptp(finite)) if len(finite) else 0.0
    if outside is not None:
        finite = np.concatenate((finite, outside[np.isfinite(outside)]))
    if not len(finite):
        return Scale(span=1.0, spread=1.0, grid=None, allowed=0.0)
    span = max(float(np.ptp(finite)), 1e-9 * float(np.abs(finite).max()), 1e-100)
    widest = np.where(seen, score, -np.inf).max(axis=1) - np.where(seen, score, np.inf).min(axis=1)
    widest = widest[widest > 0]
    spread = min(span, float(np.median(widest))) if len(widest) else span
    units = (
        unit
        for unit in params.sampling.grid_units
        if levels / unit < params.sampling.most_levels and is_on_grid(finite, unit)
    )
    grid = next(units, None)
    rounded = grid is not None and not is_on_grid(finite, grid, within=_EXACT_GRID)
    return Scale(span=span, spread=spread, grid=grid, allowed=float(seen.mean()), rounded=rounded)


def planned_samples(
    n: int,
    m: int,
    generator: np.random.Generator,
    *,
    most: float = np.inf,
    params: PriceEngineParams = DEFAULTS,
) -> list[NDArray[np.int64]]:
    """Return the rows that :func:`probe_scale` and then :func:`estimate_prices` draw with an equal generator.

    Where rows are expensive to visit, as in files, one pass can then collect all samples.
    """
    first, *larger = sample_sizes(n, m, params)
    sizes = [
        min(n, params.sampling.probed_agents),
        *([] if first == n else [first]),
        *(size for size in larger if size <= most),
    ]
    return [stratified(n, size, generator) for size in sizes]


def sample_sizes(n: int, m: int, params: PriceEngineParams) -> list[int]:
    """Return the sizes of the samples of n agents on m models, ascending; n alone where all are looked at."""
    least, most = params.sampling.first_sample
    first = min(max(params.sampling.agents_per_model * m, least), most)
    if n <= 2 * first:
        return [n]
    sizes = [n // params.sampling.growth]
    while sizes[0] > params.sampling.growth * first:
        sizes.insert(0, sizes[0] // params.sampling.growth)
    return [first, *(size for size in sizes if size > 3 * first)]


def stratified(n: int, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return one random row from each of ``size`` equal stretches: sorted, distinct, O(size)."""
    place = (np.arange(size) + generator.random(size)) * (n / size)
    return np.minimum(place.astype(np.int64), n - 1)

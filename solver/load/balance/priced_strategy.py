"""The load strategy of shadow prices: the score of an agent on a model, less the price of a slot there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.errors import SpecError, Violation
from solver.problem.numbers import finite_array, wrong_shape

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from solver.load.balance.strategies import Work


class Priced:
    """``score − price``: what an agent brings beyond what a slot of the model is worth to others.

    With the shadow prices of a batch, agents that come one by one choose as the batch would place them.

    Parameters
    ----------
    prices : (m,) array_like of float
        Price of a slot of each model, in score, >= 0; in the order of the models that are decided about.

    Raises
    ------
    SpecError
        If a price is negative or not finite.
    """

    name = "priced"
    needs_prediction = False
    values_scores = True

    def __init__(self, prices: ArrayLike) -> None:
        broken: list[Violation] = []
        array = finite_array("prices", prices, broken)
        if array is not None and array.ndim != 1:
            broken.append(wrong_shape("prices", "(models,)", array.shape))
        elif array is not None and not (np.isfinite(array) & (array >= 0)).all():
            j = int(np.flatnonzero(~(np.isfinite(array) & (array >= 0)))[0])
            broken.append(Violation(f"prices[{j}]", "expected a finite number >= 0", array[j]))
        if broken or array is None:
            raise SpecError(*broken)
        self._prices = array.copy()

    def depends_on_slot(self, work: Work) -> bool:
        """Return False: the price of a slot is the same for each."""
        return False

    def values(self, work: Work, active: NDArray[np.float64], rows: int | slice) -> NDArray[np.float64]:
        """Return scores less prices."""
        if len(self._prices) != len(work.slots):
            raise SpecError(wrong_shape("prices", f"({len(work.slots)},)", self._prices.shape))
        return work.scores(rows, work.sign) - self._prices

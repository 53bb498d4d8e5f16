"""Best responses: the model that each agent would choose at given prices if capacities did not bind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.engines import kernels
from solver.problem.blocks import map_blocks, priced_blocks
from solver.problem.sparse import CompressedScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance


@dataclass(frozen=True, eq=False)
class BestResponse:
    """Every agent's best model at some prices, as :func:`best_response` found it.

    Engines hand it on with their claim, so that the certificate does not repeat a pass over all pairs. Only
    :func:`best_response` makes one: it is part of the certificate verifier, not a statement of an engine.

    Parameters
    ----------
    matrix : (n, m) array or CompressedScores
        The scores it was found for.
    prices : (m,) float64
        Shadow prices, ``inf`` for models that may not be chosen.
    model : (n,) integers of any width
        Best model of each agent; staying unassigned is not considered.
    score : (n,) float64
        Score there.
    """

    matrix: NDArray[Any] | CompressedScores
    prices: NDArray[np.float64]
    model: NDArray[Any]
    score: NDArray[np.float64]

    @cached_property
    def value(self) -> NDArray[np.float64]:
        """(n,) float64, score less price."""
        value: NDArray[np.float64] = self.score - self.prices[self.model]
        return value

    def fits(self, instance: Instance) -> bool:
        """Whether it was found for the scores of this instance."""
        return self.matrix is instance.score

    def is_at(self, prices: NDArray[np.float64]) -> bool:
        """Whether it was found at exactly these (m,) prices."""
        return np.array_equal(self.prices, prices)


def best_response(instance: Instance, prices: NDArray[np.float64], *, threads: int = 1) -> BestResponse:
    """Return every agent's best model at some prices. One pass, O(n m).

    Parameters
    ----------
    instance : Instance
        With slots.
    prices : (m,) float64
        Shadow prices.
    threads : int
        Threads that share the pass.
    """
    matrix = instance.score
    prices = prices.copy()
    if isinstance(matrix, CompressedScores):
        model, _ = matrix.best(prices)
        own = matrix[np.arange(instance.n), model].astype(np.float64)
        return BestResponse(matrix, prices, model, own)
    model = np.empty(instance.n, np.int64)
    score = np.empty(instance.n)

    def respond(parts: list[slice]) -> None:
        if kernels.available():
            kernels.best_models(matrix, prices, slice(parts[0].start, parts[-1].stop), model, score)
            return
        for rows, net in priced_blocks(matrix, prices, parts):
            top = net.argmax(axis=1, out=model[rows])
            score[rows] = matrix[rows].ravel()[np.arange(len(net)) * instance.m + top]

    map_blocks(respond, instance.n, instance.m, threads)
    return BestResponse(matrix, prices, model.astype(np.min_scalar_type(instance.m)), score)

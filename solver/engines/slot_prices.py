"""What one more slot is worth in the user's own score, read out of the multipliers of a certificate.

The two differ only in serve-first mode with too little capacity: there one more slot serves one more agent, which is
worth :attr:`Instance.serve_step` or a multiple of it to the engines, while the user asked for the score that this
agent brings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.instance import Instance


def score_prices(instance: Instance, multipliers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what one more unit adds to the score, in the shape of the multipliers. Never negative."""
    if not price_service(instance, multipliers):
        return multipliers
    return np.maximum(slot_changes(instance, multipliers)[0], 0.0)


def price_service(instance: Instance, multipliers: NDArray[np.float64]) -> bool:
    """Whether multipliers of slots carry the value of serving one agent more."""
    slots = instance.demand is None and instance.limits is None
    return instance.serve_first and slots and bool(multipliers.max(initial=0.0) > instance.serve_step / 2)


def slot_changes(
    instance: Instance, multipliers: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return by how much one more slot changes the total score, and whether it serves one agent more.

    The change is negative where the agent that is served then costs more score than it brings. Where no further
    agent is served a slot is worth its price, or nothing to a model whose floor binds.
    """
    if not price_service(instance, multipliers):
        return np.maximum(multipliers, 0.0), np.zeros(multipliers.shape, bool)
    level = np.rint(multipliers / instance.serve_step)
    more = level > 0
    low, _ = instance.score_range
    part = multipliers - level * instance.serve_step + np.where(more, low, 0.0)
    return np.where(more, part, np.maximum(part, 0.0)), more

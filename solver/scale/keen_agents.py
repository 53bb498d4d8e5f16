"""The agents whom a model of a few slots, or a shortage of a few, is a matter of: the keenest, found where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.price.scarce_prices import NEAR_SHORTAGE, near_slots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Standing = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeenAgents:
    """Which agents :func:`solver.engines.price.scarce_prices.price_scarce` looks at.

    Parameters
    ----------
    prices : (m,) float64
        Prices of the models.
    apart : (t,) int64
        Models of few slots.
    short : int
        How many agents have to leave.
    slots : (t,) float64
        Slots of the models apart.
    level : float
        By how much those who leave lower all prices.
    """

    prices: NDArray[np.float64]
    apart: NDArray[np.int64]
    short: int
    slots: NDArray[np.float64]
    level: float = 0.0

    def among(self, parts: Sequence[Standing]) -> Standing:
        """Return those of some agents, given what each has, see ``Rows.standing``. O(agents)."""
        best, outside, worth = (np.concatenate([part[k] for part in parts]) for k in range(3))
        chosen = [np.zeros(0, np.int64)]
        if self.short:
            chosen.append(_largest(outside - best, self.short + NEAR_SHORTAGE + 1))
        held = np.maximum(best + self.level, outside)
        for k, slots in enumerate(self.slots.astype(np.int64).tolist()):
            keen = np.full(len(best), -np.inf)
            allowed = worth[:, k] > -np.inf
            keen[allowed] = worth[allowed, k] - held[allowed]
            chosen.append(_largest(keen, slots + near_slots(slots) + 1))
        rows = np.unique(np.concatenate(chosen))
        return best[rows], outside[rows], worth[rows]


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the places of the largest values."""
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, len(values) - count)[len(values) - count :]

"""Exact transportation: the optimum of a slot instance and its smallest prices in one compiled call."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from solver.engines.kernels.library import loaded, pointer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Outcome", "Transported", "transport"]


class Outcome(enum.IntEnum):
    """How a call ended; the values are those of the C source."""

    SOLVED = 0
    INFEASIBLE = 1
    OUT_OF_TIME = 2
    BAD_INPUT = 3
    NO_MEMORY = 4


@dataclass(frozen=True, slots=True)
class Transported:
    """Optimal choice, (n,) int64 with -1 for unassigned, and the smallest optimal prices, (m,) float64."""

    outcome: Outcome
    choice: NDArray[np.int64]
    prices: NDArray[np.float64]


def transport(
    value: NDArray[np.float64],
    outside: NDArray[np.float64],
    slots: NDArray[np.int64],
    *,
    until_s: float = np.inf,
) -> Transported:
    """Maximise the total value when model j serves at most ``slots[j]`` agents.

    Shortest augmenting paths on m + 1 nodes with a lazily kept exchange matrix, from prices of a sample. O(n m + s m²)
    for s searches, of which a sample's prices leave few.

    Parameters
    ----------
    value : (n, m) float64
        ``-inf`` forbids a pair; no NaN.
    outside : (n,) float64
        Value of staying unassigned; ``-inf`` where an agent must be served.
    slots : (m,) int64
        At least 0.
    until_s : float
        When to give up, in seconds of ``time.monotonic``.

    Returns
    -------
    Transported
        Choice and prices are meaningful only if the outcome is SOLVED.

    Raises
    ------
    ValueError
        If shapes or types do not fit.
    RuntimeError
        If the kernels are not available.
    """
    library = loaded()
    n, m = value.shape
    value = np.ascontiguousarray(value, np.float64)
    outside = np.ascontiguousarray(outside, np.float64)
    slots = np.ascontiguousarray(slots, np.int64)
    if outside.shape != (n,) or slots.shape != (m,):
        raise ValueError(f"expected outside ({n},) and slots ({m},), got {outside.shape} and {slots.shape}")
    choice, prices = np.empty(n, np.int64), np.empty(m)
    code = library.solver_transport(
        n, m, pointer(value), pointer(outside), pointer(slots), until_s, pointer(choice), pointer(prices)
    )
    return Transported(Outcome(code), choice, prices)

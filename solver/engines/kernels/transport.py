"""Exact transportation: the optimum of a slot instance and its smallest prices in one compiled call."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from solver.engines.kernels.library import loaded, pointer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Outcome(enum.IntEnum):
    """How a call ended; the values are those of the C source."""

    SOLVED = 0
    INFEASIBLE = 1
    OUT_OF_TIME = 2
    BAD_INPUT = 3
    NO_MEMORY = 4
    TOO_LONG = 5
    """Rows of several units took more searches than the kernel allows itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplied:
    """What makes slots differ from plain capacities. None wherever they do not.

    Parameters
    ----------
    floor : (m,) int64 or None
        Slots that a model must use.
    tier_cost, tier_end : (m, t) float64 and (m, t) int64, or None
        Cost of a slot in each tier, non-decreasing, and a model's slots up to the end of each tier.
    width : (n,) int64 or None
        Most units of a row that one model may serve.
    copies : (n,) int64 or None
        Units that a row asks for, in widths.
    """

    floor: NDArray[np.int64] | None = None
    tier_cost: NDArray[np.float64] | None = None
    tier_end: NDArray[np.int64] | None = None
    width: NDArray[np.int64] | None = None
    copies: NDArray[np.int64] | None = None


_OUTCOMES = tuple(Outcome)
"""By the number that the C source returns."""


class Transported(NamedTuple):
    """What was found, meaningful only if the outcome is SOLVED.

    Parameters
    ----------
    outcome : Outcome
        How the call ended.
    choice : (n,) int64
        Model of each agent, -1 for unassigned; without meaning where rows have several units.
    prices : (m,) float64
        The smallest optimal prices.
    units : (n, m + 1) int64 or None
        Units of each row on each model and, last, unserved; only where rows have several units.
    """

    outcome: Outcome
    choice: NDArray[np.int64]
    prices: NDArray[np.float64]
    units: NDArray[np.int64] | None = None


def transport(
    value: NDArray[Any],
    outside: NDArray[np.float64] | None,
    slots: NDArray[np.int64],
    *,
    supplied: Supplied | None = None,
    bounded: bool = False,
    until_s: float = np.inf,
) -> Transported:
    """Maximise the total value, less the cost of slots, when model j serves at most ``slots[j]`` units.

    Shortest augmenting paths on m + 1 nodes with a lazily kept exchange matrix, from prices of a sample. O(n m + s m²)
    for s searches, of which a sample's prices leave few.

    Parameters
    ----------
    value : (n, m) float32 or float64
        ``-inf`` forbids a pair; no NaN.
    outside : (n,) float64 or None
        Value of staying unassigned; ``-inf`` where an agent must be served. None: all must.
    slots : (m,) int64
        At least 0.
    supplied : Supplied or None
        Floors, costs of slots, and units of rows.
    bounded : bool
        Whether prices are bounded below by the cost of a model's last slot alone, and may be negative where nothing
        is above a model's floor. Otherwise they are at least 0.
    until_s : float
        When to give up, in seconds of ``time.monotonic``.

    Returns
    -------
    Transported

    Raises
    ------
    ValueError
        If shapes or types do not fit.
    RuntimeError
        If the kernels are not available.
    """
    n, m = value.shape
    if value.dtype != np.float32 or not value.flags.c_contiguous:
        value = np.ascontiguousarray(value, np.float64)
    outside = None if outside is None else np.ascontiguousarray(outside, np.float64)
    slots = _column(slots, "slots", m)
    if outside is not None and outside.shape != (n,):
        raise ValueError(f"expected outside ({n},), got {outside.shape}")
    floor = width = copies = cost = end = units = None
    tiers = 0
    if supplied is not None:
        floor, width, copies = (
            None if given is None else _column(given, name, size)
            for given, name, size in (
                (supplied.floor, "floor", m),
                (supplied.width, "width", n),
                (supplied.copies, "copies", n),
            )
        )
        cost, end = supplied.tier_cost, supplied.tier_end
        if width is not None or copies is not None:
            units = np.zeros((n, m + 1), np.int64)
    if cost is not None and end is not None:
        cost, end = np.ascontiguousarray(cost, np.float64), np.ascontiguousarray(end, np.int64)
        tiers = cost.shape[-1]
        if cost.shape != (m, tiers) or end.shape != (m, tiers):
            raise ValueError(f"expected tiers ({m}, t), got {cost.shape} and {end.shape}")
    choice, prices = np.empty(n, np.int64), np.empty(m)
    code = loaded().solver_transport(
        n, m, pointer(value), value.dtype == np.float32, pointer(outside), pointer(slots), pointer(floor),
        tiers, pointer(cost), pointer(end), pointer(width), pointer(copies), bounded, until_s,
        pointer(choice), pointer(units), pointer(prices),
    )  # fmt: skip
    return Transported(_OUTCOMES[code], choice, prices, units)


def _column(values: NDArray[np.int64], name: str, size: int) -> NDArray[np.int64]:
    column = np.ascontiguousarray(values, np.int64)
    if column.shape != (size,):
        raise ValueError(f"expected {name} ({size},), got {column.shape}")
    return column

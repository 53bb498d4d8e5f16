"""Exact assignment over pairs, for instances with many models: optimum and smallest prices in one compiled call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from solver.engines.kernels.library import loaded, pointer
from solver.engines.kernels.transport import Outcome, Transported

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.problem.sparse import CompressedScores


def match(
    value: NDArray[np.float64] | CompressedScores,
    outside: NDArray[np.float64] | None,
    slots: NDArray[np.int64],
    *,
    until_s: float = np.inf,
) -> Transported:
    """Maximise the total value when model j serves at most ``slots[j]`` agents; fast where models are many.

    Shortest augmenting paths through the agents of full models, from an auction's start. O(n p log m) for p pairs at
    most, usually a small multiple of p.

    Parameters
    ----------
    value : (n, m) float64 or CompressedScores
        ``-inf`` forbids a pair; no NaN.
    outside : (n,) float64 or None
        Value of staying unassigned; ``-inf`` where an agent must be served, None where all must.
    slots : (m,) int64
        At least 0.
    until_s : float
        When to give up, in seconds of ``time.monotonic``.

    Returns
    -------
    Transported
        Choice and the smallest supporting prices, meaningful only if the outcome is SOLVED.

    Raises
    ------
    ValueError
        If shapes or types do not fit.
    RuntimeError
        If the kernels are not available.
    """
    library = loaded()
    n, m = value.shape
    first = model = None
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value, np.float64)
    else:
        first, model = (
            np.ascontiguousarray(value.first, np.int64),
            np.ascontiguousarray(value.models, np.int64),
        )
        data = np.ascontiguousarray(value.data, np.float64)
        if first.shape != (n + 1,) or model.shape != data.shape or first[-1] != len(model):
            raise ValueError(f"expected {n + 1} row starts that end at {len(data)} pairs")
    slots = np.ascontiguousarray(slots, np.int64)
    outside = None if outside is None else np.ascontiguousarray(outside, np.float64)
    if slots.shape != (m,) or (outside is not None and outside.shape != (n,)):
        raise ValueError(f"expected outside ({n},) and slots ({m},)")
    choice, prices = np.empty(n, np.int64), np.empty(m)
    code = library.solver_match(
        n, m, pointer(first), pointer(model), pointer(data), pointer(outside), pointer(slots), until_s,
        pointer(choice), pointer(prices),
    )  # fmt: skip
    return Transported(Outcome(code), choice, prices)

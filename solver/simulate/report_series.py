"""The series that a report draws of a replay: latency distribution, utilization and losses over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.simulate.replay import FAILED, OVERLOADED, REFUSED, SERVED, THROTTLED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from solver.simulate.replay import Replay
    from solver.simulate.scenario import Scene

LOSSES = {"refused": REFUSED, "overload": OVERLOADED, "throttled": THROTTLED, "failed": FAILED}
"""Ways of not being served, by the name they have in reports."""

_BINS = 120
_SHARES = (*(k / 100 for k in range(1, 100)), 0.995, 0.999, 1.0)


def series_of(scene: Scene, result: Replay) -> dict[str, Any]:
    """Return a replay's curves, as plain lists.

    Returns
    -------
    dict
        ``latency_s``: latency of the served at each of ``shares``; ``time_s``: left ends of equal bins between the
        first and the last arrival; ``utilization``: by model, the share of its slot time used in each bin;
        ``lost``: by way of not being served, how many of the arrivals of each bin.

    Notes
    -----
    O(n log n + m × bins): busy time up to a moment is a sum over starts before it, minus one over ends before it.
    """
    latency = np.sort(result.latency_s[result.outcome == SERVED])
    span = max(scene.traffic.span_s, 1e-9)
    edges = np.linspace(0.0, span, _BINS + 1)
    arrived = np.minimum((result.arrival_s / span * _BINS).astype(np.int64), _BINS - 1)
    return {
        "shares": list(_SHARES),
        "latency_s": [] if not len(latency) else _rounded(np.quantile(latency, _SHARES)),
        "time_s": _rounded(edges[:-1]),
        "utilization": {
            model: _rounded(_busy_share(result, j, edges, int(scene.fleet.slots[j])))
            for j, model in enumerate(scene.fleet.ids)
        },
        "lost": {
            name: np.bincount(arrived[result.outcome == code], minlength=_BINS).tolist()
            for name, code in LOSSES.items()
        },
    }


def _busy_share(result: Replay, column: int, edges: NDArray[np.float64], slots: int) -> NDArray[np.float64]:
    mine = (result.column == column) & ~np.isnan(result.start_s)
    busy = _total_until(result.start_s[mine], edges) - _total_until(result.end_s[mine], edges)
    return np.diff(busy) / np.diff(edges) / max(slots, 1)


def _total_until(times: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of ``edge − time`` over all times before each edge."""
    times = np.sort(times)
    before = np.searchsorted(times, edges)
    sums = np.concatenate([[0.0], np.cumsum(times)])
    total: NDArray[np.float64] = before * edges - sums[before]
    return total


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]

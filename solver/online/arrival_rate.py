"""The arrival rate of agents, measured over the last few groups of them."""

from __future__ import annotations

from collections import deque
from typing import Any

_GROUP_S = 1e-3
"""Seconds within which arrivals count as one group."""

_MIN_SHORT_SPAN_GROUPS = 5
"""Groups below which an arrival rate is measured over a whole service time at least."""


class ArrivalRate:
    """Arrivals of the last groups over the time they span. O(1) an arrival.

    Parameters
    ----------
    groups : int
        Groups whose time span counts; those of one millisecond came together and are one.
    services : float
        Shortest such span, in mean service times.
    """

    def __init__(self, groups: int, services: float) -> None:
        self._most, self._services = groups, services
        self._groups: deque[list[Any]] = deque(maxlen=8 * max(1, int(groups)))

    def arrived(self, now_s: float) -> None:
        """Count an arrival."""
        if self._groups and now_s - self._groups[-1][0] < _GROUP_S:
            self._groups[-1][1] += 1
        else:
            self._groups.append([now_s, 1])

    def per_s(self, now_s: float, mean_service_s: float) -> float:
        """Return arrivals a second over the last few groups, and over at least a part of a service time."""
        groups = self._groups
        if not groups:
            return 1.0
        used = min(len(groups), self._most)
        shortest = mean_service_s * (self._services if used >= _MIN_SHORT_SPAN_GROUPS else 1.0)
        span = max(now_s - groups[-used][0], shortest, 1e-6)
        count = -0.5 * groups[-used][1] if used > 1 else 0.0  # the first group opens the span
        for at in range(1, len(groups) + 1):
            if at > used and groups[-at][0] < now_s - span:
                break
            count += groups[-at][1]
        return float(max(count, 1.0) / span)

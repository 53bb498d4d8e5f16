"""When to ask again, spread by place in line, so that those refused together do not return together."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from solver.load.refusal import Refusal, RefusalReason
from solver.load.store.base import WINDOW_PARTS
from solver.load.store.usage_limits import Calendar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from solver.load.lease import Demand
    from solver.load.store.base import Limits

_LONGEST_LINE_S = 600.0
"""A line longer than this, in seconds, begins again at its front: most callers in it have given up."""
_CALLERS_IN_LINE = 100
"""As many have a place in it, however long that makes it."""
_SHORTEST_GAP_S = 0.01
"""Seconds between the retry times of two callers where the pace at which capacity is released is not known."""

_RESOURCE_OF = {
    RefusalReason.REQUESTS: "requests",
    RefusalReason.TOKENS: "tokens",
    RefusalReason.BUDGET: "cost_usd",
}


class RetryLine:
    """Gives each refused request a time of its own, at the pace at which room comes back.

    A limit of 20 requests a minute frees one place every three seconds: of those refused at once, the first
    is given the time at which the first place comes free, and each further one three seconds later. O(1). Thread-safe.
    The line is this process's own.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._last_s: dict[tuple[str, str | None, RefusalReason], float] = {}

    def placed(
        self, refusal: Refusal, demand: Demand, limits: Limits | None, latency_s: float | None, now: float
    ) -> Refusal:
        """Return a refusal with the time to ask again at the end of its line.

        Parameters
        ----------
        refusal : Refusal
            As the store gave it.
        demand : Demand
            What was asked for.
        limits : Limits or None
            Of the model, or of the pool that refused it, where they are known here.
        latency_s : float or None
            Mean latency of the model, seconds.
        now : float
            Reading of the tracker's clock, seconds.
        """
        wait_s = refusal.retry_after_s
        gap_s = _gap_s(refusal.reason, demand, limits, latency_s, wait_s or 0.0)
        if wait_s is None:
            if refusal.reason not in (RefusalReason.CONCURRENCY, RefusalReason.QUEUE) or latency_s is None:
                return refusal
            wait_s = gap_s
        first_s = now + wait_s
        key = ("" if refusal.pool else refusal.model, refusal.pool, refusal.reason)
        with self._lock:
            due_s = max(first_s, self._last_s.get(key, -math.inf) + gap_s)
            if due_s - first_s > max(_LONGEST_LINE_S, _CALLERS_IN_LINE * gap_s):
                due_s = first_s
            self._last_s[key] = due_s
        return replace(refusal, retry_after_s=wait_s + (due_s - first_s))  # exact where there is no line

    def forget(self, model: str) -> None:
        """Forget the lines of a model."""
        with self._lock:
            self._last_s = {key: last for key, last in self._last_s.items() if key[0] != model}


def _gap_s(
    reason: RefusalReason, demand: Demand, limits: Limits | None, latency_s: float | None, wait_s: float
) -> float:
    """Return seconds in which room for one such request comes back."""
    if limits is not None and reason in _RESOURCE_OF:
        # Which of several limits refused is not reported: its window, and the step that ends it, last until then.
        windows = [
            (window_s, most)
            for window_s, most in _windows(limits, reason)
            if (1.0 + 1.0 / WINDOW_PARTS) * window_s >= wait_s
        ]
        if windows:
            window_s, most = min(windows)
            return window_s * float(getattr(demand, _RESOURCE_OF[reason])) / most
    elif limits is not None and latency_s is not None and limits.max_concurrent > 0:
        return max(_SHORTEST_GAP_S, latency_s * demand.slots / limits.max_concurrent)
    return _SHORTEST_GAP_S


def _windows(limits: Limits, reason: RefusalReason) -> Iterator[tuple[float, float]]:
    """Yield seconds and most of each sliding window on what was refused."""
    if reason is RefusalReason.REQUESTS and limits.requests:
        yield 60.0, limits.requests
    elif reason is RefusalReason.TOKENS and limits.tokens:
        yield 60.0, limits.tokens
    elif reason is RefusalReason.BUDGET and limits.budget_nano_usd and limits.budget_period_s:
        yield limits.budget_period_s, limits.budget_nano_usd / 1e9
    for limit in limits.further:
        window = limit.window
        if limit.resource == _RESOURCE_OF[reason] and limit.amount > 0 and not isinstance(window, Calendar):
            yield window, limit.amount

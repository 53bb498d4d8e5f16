"""When to ask again, spread by place in line, so that those refused together do not return together."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from solver.load.fork import renewed_after_fork
from solver.load.refusal import Refusal, RefusalReason
from solver.load.stops import StopOwner
from solver.load.store.base import WINDOW_PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from solver.load.lease import Demand
    from solver.load.store.base import StoreRow

_LONGEST_LINE_S = 600.0
"""A line longer than this, in seconds, begins again at its front: most callers in it have given up."""
_CALLERS_IN_LINE = 100
"""As many have a place in it, however long that makes it."""
_SHORTEST_GAP_S = 0.01
"""Seconds between the retry times of two callers who could return at once."""
_SPREAD_OF_ENDS = 0.6
"""By how much the gap between two callers exceeds the mean time between two ends of requests, times the square root of
how many run at once: fewer than a fifth of the callers find no slot, even where durations are exponential."""
_LONGEST_PERIOD_S = {"day": 25 * 3600.0, "week": 169 * 3600.0, "month": 745 * 3600.0}
"""Longest of each period of the calendar, with the hour that the clocks may be set back."""

_AT_SLOTS = frozenset({RefusalReason.CONCURRENCY, RefusalReason.QUEUE})
SPREAD_OUT = _AT_SLOTS | {
    RefusalReason.REQUESTS,
    RefusalReason.TOKENS,
    RefusalReason.BUDGET,
    RefusalReason.NOT_ACCEPTING,
}
"""Refusals whose callers have a place in a line each."""


_Name = str | tuple[str, float | str | None]


class _Pace(NamedTuple):
    """How room comes back: at once for ``free`` callers, after ``then_s`` for the next, then each ``gap_s``.

    ``per_turn`` callers share each of these times.
    """

    name: _Name
    gap_s: float
    free: int
    then_s: float
    per_turn: int = 1


class _Place(NamedTuple):
    """The time of a caller, how many more may have the same, and whether it is that of those who had room at once."""

    at_s: float
    left: int
    had_room: bool


class RetryLine:
    """Gives each refused request a time of its own, at the pace at which room comes back.

    A limit of 20 requests a minute frees one place every three seconds: of those refused at once, the first
    is given the time at which the first place comes free, and each further one three seconds later. Where several
    limits hold, a caller has a place in the line of each, and is given the latest of their times. O(limits).
    Thread-safe. The lines are this process's own.
    """

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock", threading.RLock)
        self._last: dict[tuple[object, ...], tuple[float, dict[_Name, _Place]]] = {}
        """Of each line: the time of its last caller, and the caller's place by each pace."""

    def placed(
        self, refusal: Refusal, demand: Demand, row: StoreRow | None, duration_s: float | None, now: float
    ) -> Refusal:
        """Return a refusal with the time to ask again at the end of its line.

        Parameters
        ----------
        refusal : Refusal
            As the store gave it.
        demand : Demand
            What was asked for.
        row : StoreRow or None
            Of the model, or of the pool that refused it, where it is known.
        duration_s : float or None
            Mean duration of the model's requests, seconds.
        now : float
            Reading of the tracker's clock, seconds.
        """
        if refusal.reason not in SPREAD_OUT:
            return refusal
        paces = [] if row is None else list(_paces(refusal, demand, row, duration_s))
        wait_s = refusal.retry_after_s
        if wait_s is None:
            if refusal.reason not in _AT_SLOTS or not paces or paces[0].name != "slots":
                return refusal
            wait_s = paces[0].gap_s
        first_s = now + wait_s
        steady = [pace.gap_s for pace in paces if pace.per_turn == 1]
        paces.append(_Pace("turn", min(steady, default=_SHORTEST_GAP_S), 0, 0.0))
        used_up = tuple(pace.name for pace in paces if pace.free <= 0)
        key = ("" if refusal.pool else refusal.model, refusal.pool, refusal.reason, used_up)
        longest_s = max(_LONGEST_LINE_S, _CALLERS_IN_LINE * max(pace.gap_s / pace.per_turn for pace in paces))
        with self._lock:
            last_s, last = self._last.get(key, (-math.inf, {}))
            for known in (last, {}) if last_s > now else ({},):  # nobody is in line any more: it begins anew
                places = {pace.name: _next_place(pace, known.get(pace.name), first_s, now) for pace in paces}
                due_s = max(first_s, *(place.at_s for place in places.values()))
                if due_s - first_s <= longest_s:
                    break
            self._last[key] = due_s, places
        return replace(refusal, retry_after_s=wait_s + (due_s - first_s))  # exact where there is no line

    def forget(self, model: str) -> None:
        """Forget the lines of a model."""
        with self._lock:
            self._last = {key: last for key, last in self._last.items() if key[0] != model}


def _next_place(pace: _Pace, last: _Place | None, first_s: float, now: float) -> _Place:
    """Return the place of the caller after the last one."""
    if last is not None:
        if last.left > 0:
            return last._replace(left=last.left - 1)
        at_s = last.at_s + (pace.then_s if last.had_room else pace.gap_s)
        return _Place(max(at_s, first_s if pace.free <= 0 else now), pace.per_turn - 1, had_room=False)
    if pace.free <= 0:  # room comes back at first_s
        return _Place(first_s, pace.per_turn - 1, had_room=False)
    return _Place(first_s if pace.name == "slots" else now, pace.free - 1, had_room=True)


def _paces(refusal: Refusal, demand: Demand, row: StoreRow, duration_s: float | None) -> Iterator[_Pace]:
    """Yield the paces at which room comes back: of slots first, where they matter, then of each limit on usage."""
    slots = row.limits.max_concurrent
    stopped = refusal.reason is RefusalReason.NOT_ACCEPTING
    if (stopped or refusal.reason in _AT_SLOTS) and duration_s is not None and slots > 0:
        at_once = max(1, slots // demand.slots)
        gap_s = duration_s / at_once * (1.0 + _SPREAD_OF_ENDS / math.sqrt(at_once))
        probed = any(stop.owner is StopOwner.BREAKER for stop in refusal.stops)
        free = 0 if not stopped else 1 if probed else at_once
        yield _Pace("slots", max(_SHORTEST_GAP_S, gap_s), free, duration_s)
    amounts = {"requests": demand.requests, "tokens": demand.tokens, "cost_usd": demand.cost_usd}
    for meter in row.meters:
        amount = amounts[meter.resource]
        if amount <= 0 or meter.period is None or meter.limit <= 0:
            continue
        fits = max(1, math.floor(meter.limit / amount + 1e-9))
        free = max(0, math.floor((meter.limit - meter.used) / amount + 1e-9))
        name = (meter.resource, meter.period)
        if isinstance(meter.period, str):
            period_s = _LONGEST_PERIOD_S[meter.period]
            yield _Pace(name, period_s, free, period_s, per_turn=fits)
        else:  # what is used leaves the window with the step after its end
            window_s = (1.0 + 1.0 / WINDOW_PARTS) * meter.period
            yield _Pace(name, window_s / fits, free, window_s)

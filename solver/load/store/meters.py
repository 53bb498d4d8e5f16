"""Usage of metered resources in one process: requests, tokens and money of many models over sliding windows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from solver.load.refusal import Refusal, RefusalReason
from solver.load.store.base import UNLIMITED, WINDOW_PARTS, Limits, MeterRow, nano_usd
from solver.load.store.calendar_window import CalendarWindow
from solver.load.store.sliding_window import SlidingWindow
from solver.load.store.usage_limits import RESOURCES, Calendar, UsageLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.lease import Demand

_METERED_REASONS = (RefusalReason.REQUESTS, RefusalReason.TOKENS, RefusalReason.BUDGET)
"""Reason of a refusal by each meter."""

Window = SlidingWindow | CalendarWindow
"""Where usage is counted."""

Charge = tuple[int, Window, int, int]
"""(kind, window, amount, step) of one resource that a lease was charged with; kinds as in METER_NAMES."""


class Meters:
    """What models have used of the resources that they limit. Not thread-safe: its store's lock guards it.

    Models are numbered by the store. All models that meter a resource over the same period share one
    :class:`~solver.load.store.sliding_window.SlidingWindow`.
    """

    def __init__(self, wall_s: Callable[[], float]) -> None:
        self._wall_s = wall_s
        self._windows: dict[float | Calendar, dict[int, Window]] = {}
        self.moving: tuple[Window, ...] = ()
        """Windows that usage leaves again."""
        self._of: list[list[tuple[Window, int]]] = []
        self._former: list[list[Window]] = []  # over which a budget that has another period now was counted
        self.limited: list[list[tuple[int, Window, int]]] = []
        """(kind, window, limit) of each resource of a model that has a limit: only these are charged."""

    def add(self, limits: Limits) -> None:
        """Make room for one more model, without limits until :meth:`configure`."""
        self.limited.append([])
        self._former.append([])
        for kinds in self._windows.values():
            for window in kinds.values():
                window.grow()
        self._of.append(
            [
                (self._window(kind, math.inf if period is None else period, len(self.limited)), UNLIMITED)
                for kind, (_, period) in enumerate(limits.meters())
            ]
        )

    def configure(self, i: int, limits: Limits, now_s: float) -> None:
        """Set the limits of a model; what was spent over another budget period counts from now on."""
        before = self._of[i]
        self._of[i] = [
            (
                self._window(kind, math.inf if period is None else period, len(self.limited)),
                UNLIMITED if limit is None else limit,
            )
            for kind, (limit, period) in enumerate(limits.meters())
        ]
        for (old, _), (new, _) in zip(before, self._of[i], strict=True):
            if old is not new:
                new.charge(i, old.take(i), now_s)
                self._former[i] = [*(each for each in self._former[i] if each is not new), old]
        counted: dict[Window, tuple[int, int]] = {}
        for kind, (window, limit) in enumerate(self._of[i]):
            if limit != UNLIMITED:
                counted[window] = kind, limit
        for kind, window, limit in map(self._further, limits.further):
            window.advance(now_s)
            counted[window] = kind, min(limit, counted.get(window, (kind, limit))[1])  # charged once
        self.limited[i] = [(kind, window, limit) for window, (kind, limit) in counted.items()]

    def _further(self, limit: UsageLimit) -> tuple[int, Window, int]:
        kind = RESOURCES.index(limit.resource)
        amount = nano_usd(limit.amount) if limit.resource == "cost_usd" else int(limit.amount)
        return kind, self._window(kind, limit.window, len(self.limited)), amount

    def reset(self, i: int) -> None:
        """Count what a model has used from nothing again."""
        for kinds in self._windows.values():  # also over periods that are not limited now
            for window in kinds.values():
                window.take(i)

    def remove(self, i: int) -> None:
        """Forget a model; the models after it move up by one."""
        del self._of[i], self._former[i], self.limited[i]
        for kinds in self._windows.values():
            for window in kinds.values():
                window.remove(i)

    def _window(self, kind: int, period: float | Calendar, models: int) -> Window:
        """Return the window shared by all models that meter this resource over this period."""
        kinds = self._windows.setdefault(period, {})
        if kind not in kinds:
            if isinstance(period, Calendar):
                kinds[kind] = CalendarWindow(period, self._wall_s)
            else:
                kinds[kind] = SlidingWindow(period, WINDOW_PARTS)
            for _ in range(models):
                kinds[kind].grow()
            if period != math.inf:
                self.moving = (*self.moving, kinds[kind])
        return kinds[kind]

    def advance(self, now_s: float) -> None:
        """Forget what has left the windows. O(windows) when nothing has."""
        for window in self.moving:
            if window.leaves_s <= now_s:
                window.advance(now_s)

    def charge(self, i: int, model: str, demand: Demand, now_s: float) -> list[Charge] | Refusal:
        """Charge a model with all that it limits, or with nothing and say why not."""
        limited = self.limited[i]
        amounts = (demand.requests, demand.tokens, nano_usd(demand.cost_usd))
        for kind, window, limit in limited:
            if window.used[i] + amounts[kind] > limit:
                return self._refusal(i, model, amounts, now_s)
        return [
            (kind, window, amounts[kind], window.charge(i, amounts[kind], now_s))
            for kind, window, _ in limited
        ]

    def _refusal(self, i: int, model: str, amounts: tuple[int, int, int], now_s: float) -> Refusal:
        """Return why amounts do not fit: the limit that lasts longest of those of the first resource."""
        over = [
            _over(window, i, model, _METERED_REASONS[kind], amounts[kind], limit, now_s)
            for kind, window, limit in self.limited[i]
            if window.used[i] + amounts[kind] > limit
        ]
        lasting = [refusal for refusal in over if refusal.reason is over[0].reason]
        return max(lasting, key=lambda refusal: _wait(refusal.retry_after_s))

    def settle(
        self, i: int, charges: list[Charge], tokens: int | None, nano_usd: int | None, now_s: float
    ) -> None:
        """Replace the estimates of tokens and money by what was really used, where that is known."""
        actuals = (None, tokens, nano_usd)
        for kind, window, estimate, step in charges:
            actual = actuals[kind]
            if actual is not None and actual > estimate:
                self._now_counted(i, window).charge(i, actual - estimate, now_s)
            elif actual is not None:
                window.refund(i, estimate - actual, step)

    def rows(self, i: int) -> tuple[MeterRow, ...]:
        """Return every limit of a model with what is used of it."""
        rows = []
        for kind, window, limit in self.limited[i]:
            period = next(
                period
                for period, kinds in self._windows.items()
                if any(each is window for each in kinds.values())
            )
            over = period.period if isinstance(period, Calendar) else None if period == math.inf else period
            unit = 1e9 if kind == 2 else 1.0
            rows.append(MeterRow(RESOURCES[kind], over, limit / unit, window.used[i] / unit))
        return tuple(rows)

    def _now_counted(self, i: int, window: Window) -> Window:
        """Return where what was charged to a window counts now: a budget may have another period since."""
        if any(each is window for each in self._former[i]):
            return self._of[i][2][0]
        return window

    def refund(self, i: int, charges: list[Charge]) -> list[Charge]:
        """Take charges back as if they had never been made; return what of them was still counted."""
        return [
            (kind, window, window.refund(i, amount, step), step) for kind, window, amount, step in charges
        ]

    def put_back(self, i: int, refunded: list[Charge]) -> None:
        """Undo a refund of the same instant."""
        for _, window, amount, step in refunded:
            window.put_back(i, amount, step)


def _wait(retry_after_s: float | None) -> float:
    return math.inf if retry_after_s is None else retry_after_s


def _over(
    window: Window, i: int, model: str, reason: RefusalReason, amount: int, limit: int, now_s: float
) -> Refusal:
    """Return the refusal of an amount that a meter has no room for."""
    if amount > limit:
        return Refusal(model=model, reason=RefusalReason.TOO_LARGE)
    return Refusal(model=model, reason=reason, retry_after_s=window.wait_s(i, amount, limit, now_s))

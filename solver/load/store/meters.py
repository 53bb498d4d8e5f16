"""Usage of metered resources in one process: requests, tokens and money of many models over sliding windows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from solver.load.refusal import Refusal, RefusalReason
from solver.load.store.base import UNLIMITED, WINDOW_PARTS, Limits, nano_usd
from solver.load.store.sliding_window import SlidingWindow

if TYPE_CHECKING:
    from solver.load.lease import Demand

__all__ = ["Charge", "Meters"]

_REASONS = (RefusalReason.REQUESTS, RefusalReason.TOKENS, RefusalReason.BUDGET)

Charge = tuple[int, SlidingWindow, int, int]
"""(kind, window, amount, step) of one resource that a lease was charged with; kinds as in METER_NAMES."""


class Meters:
    """What models have used of the resources that they limit. Not thread-safe: its store's lock guards it.

    Models are numbered by the store. All models that meter a resource over the same period share one
    :class:`~solver.load.store.sliding_window.SlidingWindow`.
    """

    def __init__(self) -> None:
        self._windows: dict[float, dict[int, SlidingWindow]] = {}
        self._moving: tuple[SlidingWindow, ...] = ()  # those that usage leaves again
        self._of: list[list[tuple[SlidingWindow, int]]] = []
        self.limited: list[list[tuple[int, SlidingWindow, int]]] = []
        """(kind, window, limit) of each resource of a model that has a limit: only these are charged."""

    def add(self, limits: Limits) -> None:
        """Make room for one more model, without limits until :meth:`configure`."""
        self.limited.append([])
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
        self.limited[i] = [
            (kind, window, limit) for kind, (window, limit) in enumerate(self._of[i]) if limit != UNLIMITED
        ]

    def remove(self, i: int) -> None:
        """Forget a model; the models after it move up by one."""
        del self._of[i], self.limited[i]
        for kinds in self._windows.values():
            for window in kinds.values():
                window.remove(i)

    def _window(self, kind: int, window_s: float, models: int) -> SlidingWindow:
        """Return the window shared by all models that meter this resource over this period."""
        kinds = self._windows.setdefault(window_s, {})
        if kind not in kinds:
            kinds[kind] = SlidingWindow(window_s, WINDOW_PARTS)
            for _ in range(models):
                kinds[kind].grow()
            if window_s < math.inf:
                self._moving = (*self._moving, kinds[kind])
        return kinds[kind]

    def advance(self, now_s: float) -> None:
        """Forget what has left the windows. O(windows) when nothing has."""
        for window in self._moving:
            if window.leaves_s <= now_s:
                window.advance(now_s)

    def charge(self, i: int, model: str, demand: Demand, now_s: float) -> list[Charge] | Refusal:
        """Charge a model with all that it limits, or with nothing and say why not."""
        limited = self.limited[i]
        amounts = (demand.requests, demand.tokens, nano_usd(demand.cost_usd))
        for kind, window, limit in limited:
            if window.used[i] + amounts[kind] > limit:
                return _over(window, i, model, _REASONS[kind], amounts[kind], limit, now_s)
        return [
            (kind, window, amounts[kind], window.charge(i, amounts[kind], now_s))
            for kind, window, _ in limited
        ]

    def settle(
        self, i: int, charges: list[Charge], tokens: int | None, nano_usd: int | None, now_s: float
    ) -> None:
        """Replace the estimates of tokens and money by what was really used, where that is known."""
        actuals = (None, tokens, nano_usd)
        for kind, window, estimate, step in charges:
            actual = actuals[kind]
            if actual is not None and actual > estimate:
                window.charge(i, actual - estimate, now_s)
            elif actual is not None:
                window.refund(i, estimate - actual, step)

    def refund(self, i: int, charges: list[Charge]) -> None:
        """Take charges back as if they had never been made."""
        for _, window, amount, step in charges:
            window.refund(i, amount, step)


def _over(
    window: SlidingWindow, i: int, model: str, reason: RefusalReason, amount: int, limit: int, now_s: float
) -> Refusal:
    """Return the refusal of an amount that a meter has no room for."""
    if amount > limit:
        return Refusal(model=model, reason=RefusalReason.TOO_LARGE)
    return Refusal(model=model, reason=reason, retry_after_s=window.wait_s(i, amount, limit, now_s))

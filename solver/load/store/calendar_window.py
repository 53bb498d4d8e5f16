"""Usage in the current day, week or month of a calendar."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.store.usage_limits import Calendar


class CalendarWindow:
    """Amounts used by many models in the current period of a calendar; all comes back at its end.

    The counterpart of :class:`~solver.load.store.sliding_window.SlidingWindow`, with the same operations.

    Parameters
    ----------
    calendar : Calendar
        Which periods.
    wall_s : callable
        Returns Unix time in seconds. A reading that goes back into the period before is disregarded; one that
        goes back further says that the clock had been wrong: what was used stays so until the period ends that it
        is in.
    """

    def __init__(self, calendar: Calendar, wall_s: Callable[[], float]) -> None:
        self._calendar = calendar
        self._wall_s = wall_s
        self._period = -1
        self._begins_s = self._ends_s = -math.inf  # Unix time
        self.used = array("q")
        self.leaves_s = -math.inf
        """When the period has to be looked at next, by the store's clock."""

    def grow(self) -> None:
        """Make room for one more model."""
        self.used.append(0)

    def remove(self, model: int) -> None:
        """Forget one model; the numbers of the models after it go down by one."""
        del self.used[model]

    def advance(self, now_s: float) -> None:
        """Begin a new period where the last one has ended. O(models) then, else O(1)."""
        wall_s = self._wall_s()
        is_over = wall_s >= self._ends_s
        if is_over or wall_s < 2.0 * self._begins_s - self._ends_s:
            self._begins_s, self._ends_s = self._calendar.around(wall_s)
            self._period += 1
        if is_over:
            self.used = array("q", bytes(self.used.itemsize * len(self.used)))
        # At most a minute ahead, since the two clocks may drift or be set apart.
        self.leaves_s = now_s + min(self._ends_s - wall_s, _ROLLOVER_CHECK_S)

    def charge(self, model: int, amount: int, now_s: float) -> int:
        """Count an amount as used now; return the period to refund it to."""
        self.used[model] += amount
        return self._period

    def refund(self, model: int, amount: int, step: int) -> int:
        """Take back an amount charged in a period; return how much: nothing when that has ended."""
        taken = min(amount, self.used[model]) if step == self._period else 0
        self.used[model] -= taken
        return taken

    def put_back(self, model: int, amount: int, step: int) -> None:
        """Undo a refund of the same instant; nothing happens when its period has ended."""
        if step == self._period:
            self.used[model] += amount

    def take(self, model: int) -> int:
        """Forget all that one model has used, and return how much that was."""
        used, self.used[model] = self.used[model], 0
        return used

    def wait_s(self, model: int, amount: int, limit: int, now_s: float) -> float | None:
        """Return seconds until ``amount`` more fits under ``limit``: the end of the period."""
        if self.used[model] + amount <= limit:
            return 0.0
        return max(0.0, self._ends_s - self._wall_s())


_ROLLOVER_CHECK_S = 60.0
"""Seconds between two checks of whether a calendar period has ended."""
